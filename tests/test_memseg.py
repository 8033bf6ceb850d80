"""The whole network: shapes, parameters, what is trained, what is handed back, and what survives a save."""
import io
from copy import deepcopy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from memseg_nb.model.attention import attention_maps, up
from memseg_nb.model.encoder import Features, initialise
from memseg_nb.model.memory import Match
from memseg_nb.model.memseg import STAGES, Decoder, Explained, build_model, probability
from memseg_nb.model.weights import NETWORK, SHIPPED, WARM, load_encoder, warm_start
from memseg_nb.files import MemSegError
from memseg_nb.recipe import load_recipe

SIZE = 64, 96


def images(count, size=SIZE, seed=0):
    "Smooth coloured noise, (count, 3, H, W)"
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size, mode="bicubic").clamp(0, 1)


@cache
def random_encoder(seed):
    return load_encoder("random", seed=seed)[0]


def network(*overrides, encoder_seed=0, remember=True):
    model = build_model(load_recipe(overrides=overrides), deepcopy(random_encoder(encoder_seed)))
    if remember:
        model.remember(images(5).split(2))
    return model


@pytest.fixture(scope="module")
def shared():
    "In evaluation mode; not to be changed"
    return network().eval()


def test_parameters(shared):
    def count(module):
        return sum(p.numel() for p in module.parameters())
    assert count(shared.encoder) == 11_176_512 and count(shared.encoder.layer4) == 8_393_728
    assert count(shared.fusion) == 5_827_264 and count(shared.decoder) == 3_991_218
    assert count(shared.memory) == 0
    assert sum(p.numel() for p in shared.parameters() if p.requires_grad) == 18_212_210
    stages = [count(a) + count(b) for a, b in zip(shared.decoder.widen, shared.decoder.merge)]
    assert stages == [2_950_656, 738_048, 184_704, 80_896, 36_480]


@pytest.mark.parametrize("size", [(128, 128), (256, 256), (96, 160), (32, 64)])
def test_sizes(size):
    model = network(remember=False)
    model.remember([images(2, size)])
    with torch.no_grad():
        explained = model.eval().explain(images(1, size, 1))
    height, width = size
    assert explained.logits.shape == (1, 2, *size) and explained.probability.shape == (1, *size)
    assert explained.deepest.shape == (1, 512, height // 32, width // 32)
    shapes = [tuple(stage.shape[1:]) for stage in explained.stages]
    assert shapes == [(stage[-1], (height << k) // 16, (width << k) // 16) for k, stage in enumerate(STAGES)]
    assert [m.shape[2:] for m in explained.maps] == [(height // s, width // s) for s in (4, 8, 16)]


def test_names(shared):
    with torch.no_grad():
        explained = shared.explain(images(2, seed=1))
    named = explained.named()
    groups = {"match.difference": 3, "maps": 3, "fused.concatenated": 3, "fused.attended": 3,
              "fused.fused": 3, "fused.weights": 3, "fused.merged": 3, "stages": 5}
    expected = {f"{group}.{k}" for group, many in groups.items() for k in range(1, many + 1)}
    expected |= {"features.stem", "features.layer1", "features.layer2", "features.layer3", "match.index",
                 "match.distances", "deepest", "logits", "probability"}
    assert set(named) == expected
    assert named["maps.3"] is explained.maps[2] and named["match.index"] is explained.match.index
    assert torch.equal(named["probability"], explained.logits.softmax(1)[:, 1])


def test_names_where_the_memory_has_no_number_of_a_sample():
    "A memory of patches answers with patches of many samples"
    model = network("memory.match=patch").eval()
    with torch.no_grad():
        named = model.explain(images(2, seed=1)).named()
    assert "match.index" not in named and {"match.distances.3", "match.difference.3", "logits"} <= set(named)


@pytest.mark.parametrize("normalise", ["memory", "fixed", "none"])
@pytest.mark.parametrize("difference", ["absolute", "squared"])
@pytest.mark.parametrize("match", ["joint", "level"])
def test_is_its_parts_one_after_the_other(normalise, difference, match):
    model = network(f"fusion.normalise={normalise}", f"memory.difference={difference}",
                    f"memory.match={match}").eval()
    batch = images(2, seed=1)
    with torch.no_grad():
        explained = model.explain(batch)
        features = model.encoder(batch)
        matched = model.memory(features)
        unit = (model.unit1, model.unit2, model.unit3) if normalise == "memory" else None
        maps = attention_maps(matched.difference, unit)
        fused = model.fusion(features[1:], matched.difference, maps, model.memory.spread(), unit)
        _, logits = model.decoder(model.encoder.layer4(features.layer3), fused.fused, features.stem)
        assert torch.equal(model(batch), explained.logits)
    assert torch.equal(logits, explained.logits)
    assert torch.equal(explained.match.index, matched.index)
    assert explained.match.index.shape == ((2,) if match == "joint" else (2, 3))
    for a, b in zip(explained.maps, maps):
        assert torch.equal(a, b)


def test_each_image_may_be_judged_by_a_memory_of_its_own():
    "Two networks' memories, and the same answers in one pass as in two"
    model, batch = network().eval(), images(2, seed=1)
    alone, features, matches, spreads, units = ([] for _ in range(5))
    with torch.no_grad():
        for k in range(2):
            model.remember([images(5, seed=k)])
            found = model.explain(batch[k:k + 1])
            alone.append(found.logits)
            features.append(found.features)
            matches.append(found.match.difference)
            spreads.append(model.memory.spread())
            units.append([unit.clone() for unit in (model.unit1, model.unit2, model.unit3)])
        features = Features(*map(torch.cat, zip(*features)))
        match = Match(None, None, tuple(map(torch.cat, zip(*matches))))
        together = model.judge(features, match, *([torch.stack(level) for level in zip(*each)]
                                                  for each in (spreads, units)))
    torch.testing.assert_close(together.logits, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_index_forces_the_memory_sample(shared):
    batch = images(3, seed=1)
    with torch.no_grad():
        free = shared.explain(batch)
        same = shared.explain(batch, free.match.index)
        other = shared.explain(batch, (free.match.index + 1) % 5)
    assert torch.equal(free.logits, same.logits) and not torch.equal(free.logits, other.logits)


def decoder_inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    fused = [torch.rand(1, c, s, s + s // 2, generator=generator) for c, s in ((64, 16), (128, 8), (256, 4))]
    deepest = torch.rand(1, 512, 2, 3, generator=generator)
    return deepest, fused, torch.rand(1, 64, 32, 48, generator=generator)


def test_decoder_uses_every_input():
    decoder = initialise(Decoder(), torch.Generator().manual_seed(0)).eval()
    deepest, fused, stem = decoder_inputs()
    with torch.no_grad():
        stages, logits = decoder(deepest, fused, stem)
        joined = torch.cat([decoder.widen[0](up(deepest)), fused[2]], 1)
        torch.testing.assert_close(stages[0], decoder.merge[0](joined))
        torch.testing.assert_close(logits, decoder.head(stages[4]))
        changed = [decoder(deepest + 1, fused, stem), decoder(deepest, fused, stem + 1)]
        changed += [decoder(deepest, [f + (k == level) for k, f in enumerate(fused)], stem)
                    for level in range(3)]
    assert all(not torch.allclose(logits, other) for _, other in changed)
    assert decoder.head.bias is not None


def test_what_is_trained_gets_a_gradient_and_nothing_else():
    model = network().train()
    loss = model(images(4, seed=1)).square().mean()
    loss.backward()
    frozen = {"conv1", "bn1", "layer1", "layer2", "layer3"}
    for name, parameter in model.named_parameters():
        is_frozen = name.startswith("encoder.") and name.split(".")[1] in frozen
        assert parameter.requires_grad != is_frozen, name
        assert (parameter.grad is None) == is_frozen, name
        if not is_frozen:
            assert parameter.grad.abs().max() > 0, name


def test_a_training_step_leaves_the_frozen_half_as_it_was():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=.1)
    for seed in (1, 2):
        model(images(4, seed=seed)).square().mean().backward()
        optimiser.step()
    after = model.state_dict()
    kept = ("encoder.conv1", "encoder.bn1", "encoder.layer1", "encoder.layer2", "encoder.layer3",
            "encoder.exposure", "memory", "unit")
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith(kept), name


def test_state_dict_round_trip():
    model = network().train()
    with torch.no_grad():
        model(images(4, seed=1))  # moves the trained half's statistics
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = network("training.seed=3", encoder_seed=3, remember=False)
    other.load_state_dict(torch.load(file, weights_only=True))
    batch = images(3, seed=2)
    assert torch.equal(model.anomaly_map(batch), other.anomaly_map(batch))
    assert torch.equal(model.explain(batch).match.distances, other.explain(batch).match.distances)
    names = {f"memory.layer{k}" for k in (1, 2, 3)} | {f"unit{k}" for k in (1, 2, 3)}
    assert names <= set(model.state_dict())


# a warm start

def trained_part(model):
    "What a warm start sets, as it lies in a file"
    return {name: value.clone() for name, value in model.state_dict().items()
            if name.startswith(WARM) and not name.endswith("num_batches_tracked")}


def moved(model):
    "The same network with other weights and statistics in its trained part"
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if name.startswith(WARM) and value.is_floating_point():
            value.add_(.01 * torch.rand(value.shape, generator=generator))
    return model


def test_warm_start_round_trip(tmp_path):
    model, path = moved(network()), tmp_path / "network.safetensors"
    save_file(trained_part(model), path)
    other = network("training.seed=3")
    before = {name: value.clone() for name, value in other.state_dict().items()}
    digest = warm_start(other, path)
    assert len(digest) == 64 and digest == warm_start(other, str(path))
    for name, value in other.state_dict().items():
        kept = not name.startswith(WARM) or name.endswith("num_batches_tracked")
        assert torch.equal(value, before[name] if kept else model.state_dict()[name]), name
    batch = images(2, seed=4)
    assert torch.equal(model.anomaly_map(batch), other.anomaly_map(batch))
    assert all(p.requires_grad for p in other.decoder.parameters())


def test_warm_start_from_half_precision(tmp_path):
    model, path = moved(network()), tmp_path / "network.safetensors"
    save_file({name: value.half() for name, value in trained_part(model).items()}, path)
    other = network("training.seed=3")
    warm_start(other, path)
    assert all(value.dtype == torch.float32 for value in trained_part(other).values())
    for name, value in trained_part(other).items():
        torch.testing.assert_close(value, trained_part(model)[name], rtol=1e-3, atol=1e-4)


def misfit(kind, state):
    "A file's content that does not fit"
    if kind == "lacks": state.pop("decoder.head.bias")
    if kind == "more": state["decoder.extra.weight"] = torch.zeros(1)
    if kind == "shape": state["fusion.levels.0.attention.squeeze.0.weight"] = torch.zeros(3, 128, 1, 1)
    if kind == "nan": state["decoder.head.bias"][0] = torch.nan
    if kind == "encoder": state = {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    if kind == "empty": state = {}
    return state


@pytest.mark.parametrize("kind", ["lacks", "more", "shape", "nan", "encoder", "empty"])
def test_files_that_do_not_fit_change_nothing(kind, tmp_path):
    model, path = network(), tmp_path / "network.safetensors"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    content = misfit(kind, trained_part(moved(network())))
    assert kind != "shape" or "fusion.levels.0.attention.squeeze.0.weight" in before
    save_file(content, path)
    with pytest.raises(MemSegError, match="not finite" if kind == "nan" else "does not fit this network"):
        warm_start(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_files_that_are_none_change_nothing(tmp_path):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (tmp_path / "cut.safetensors").write_bytes(b"12345678")
    for path in (tmp_path / "none.safetensors", tmp_path / "cut.safetensors", tmp_path / "network.onnx"):
        with pytest.raises(MemSegError, match=path.name):
            warm_start(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_attention_of_another_width_is_no_place_for_the_shipped_weights():
    with pytest.raises(MemSegError, match="attention"):
        warm_start(network("attention.reduction=16"), SHIPPED / NETWORK)


def test_the_units_come_with_the_memory():
    model = network(remember=False)
    assert all((unit == 1).all() for unit in (model.unit1, model.unit2, model.unit3))
    model.remember(iter([images(3), images(2, seed=1)]))
    assert len(model.memory.layer1) == 5 and not (model.unit1 == 1).any()
    first = model.unit1.clone()
    model.remember([images(4, seed=2)])
    assert len(model.memory.layer1) == 4 and not torch.equal(first, model.unit1)


@pytest.mark.parametrize("match", ["joint", "patch"])
def test_units_do_not_depend_on_the_size_of_the_batches(match):
    many, found = images(20), []
    for size in (1, 3, 20):
        model = network(f"memory.match={match}", remember=False).eval()
        model.remember(iter(many.split(size)))
        found.append((model.unit1, model.unit2, model.unit3))
    for units in found[1:]:
        for a, b in zip(units, found[0]): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("match, factors", [("joint", (1e3, 1e3, 1e3)), ("joint", (1e-3, 1e-3, 1e-3)),
                                             ("level", (1e3, 1., 1e-3))])
@pytest.mark.parametrize("difference", ["absolute", "squared"])
def test_what_is_trained_sees_nothing_of_the_encoder_s_scale(match, factors, difference):
    found = []
    for scale in ((1., 1., 1.), factors):
        model = network(f"memory.match={match}", f"memory.difference={difference}", remember=False).eval()
        plain = model.encoder.forward
        model.encoder.forward = lambda batch: Features(
            plain(batch).stem, *(f * maps for f, maps in zip(scale, plain(batch)[1:])))
        with torch.no_grad():
            model.remember([images(5)])
            found.append(model.explain(images(2, seed=1)))
    for a, b in zip(found[0].maps + found[0].fused.fused, found[1].maps + found[1].fused.fused):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


def test_anomaly_map():
    model, batch = network().train(), images(3, seed=1)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = model.anomaly_map(batch), model.anomaly_map(batch)
    assert torch.equal(first, second) and not first.requires_grad and first.dtype == torch.float32
    assert first.shape == (3, *SIZE) and first.min() >= 0 and first.max() <= 1
    assert model.training and model.decoder.training and not model.encoder.layer1.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model.eval()
    torch.testing.assert_close(model.anomaly_map(batch[1:2]), first[1:2], rtol=1e-4, atol=1e-5)
    assert not model.training
    with pytest.raises(MemSegError):
        model.train().anomaly_map(batch[:, :, :50])
    assert model.training


def test_probability():
    logits = torch.tensor([0., 2.]).view(1, 2, 1, 1)
    assert probability(logits).item() == pytest.approx(.880797, abs=1e-6)
    assert probability(torch.tensor([-1e4, 1e4]).view(1, 2, 1, 1)).item() == 1
    assert probability(logits.half()).dtype == torch.float32


def test_seeds():
    state = torch.get_rng_state()
    models = [network(f"training.seed={seed}", remember=False) for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    flat = [torch.cat([p.flatten() for part in (model.fusion, model.decoder) for p in part.parameters()])
            for model in models]
    assert torch.equal(flat[0], flat[1]) and not torch.equal(flat[0], flat[2])


def test_the_recipe_reaches_every_part():
    model = network("memory.match=level", "memory.difference=squared", "memory.pooling=5",
                    "fusion.normalise=fixed", "fusion.scale=50", "attention.reduction=16",
                    "attention.smallest_width=4", remember=False)
    assert (model.memory.match, model.memory.difference, model.memory.pooling) == ("level", "squared", 5)
    assert (model.fusion.normalise, model.fusion.scale) == ("fixed", 50)
    assert model.fusion.levels[0].attention.squeeze[0].out_channels == 8


def test_channels_last_and_mixed_precision(shared):
    batch = images(2, seed=1)
    with torch.no_grad():
        plain = shared(batch)
        last = shared(batch.to(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            mixed = shared(batch)
    torch.testing.assert_close(plain, last, rtol=1e-3, atol=1e-3)
    assert mixed.isfinite().all() and (probability(mixed) - probability(plain)).abs().mean() < .05


def test_errors(shared):
    with pytest.raises(MemSegError, match="multiples of 32"):
        shared(images(1, (64, 80)))
    with pytest.raises(MemSegError):
        shared(images(1, (64, 64)))  # another size than the memory's
    with pytest.raises(MemSegError):
        network(remember=False)(images(1))
    with pytest.raises(MemSegError):
        network(remember=False).remember([])


def test_learns_one_batch_by_heart():
    model, batch = network(remember=False).train(), images(4, (32, 64), seed=1)
    model.remember([images(3, (32, 64))])
    masks = torch.zeros(4, 32, 64, dtype=torch.long)
    masks[:2, 10:20, 20:44] = 1
    batch = torch.where(masks[:, None].bool(), 1 - batch, batch)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(model(batch), masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < .4 * losses[0]


def test_explained_is_plain(shared):
    with torch.no_grad():
        explained = shared.explain(images(1, seed=1))
    assert isinstance(explained, Explained) and explained._fields == (
        "features", "match", "maps", "fused", "deepest", "stages", "logits")
