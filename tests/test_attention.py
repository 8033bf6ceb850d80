"""Attention maps against plain sums, their unit against leave-one-out, coordinate attention and einsum."""
import pytest
import torch
import torch.nn.functional as F

from memseg_nb.model.attention import CoordinateAttention, attention_maps, unit_difference, up
from memseg_nb.model.encoder import Features
from memseg_nb.model.memory import Memory


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def difference(batch=2, size=(8, 12), seed=0):
    return [draw(batch, 64 * 2 ** k, 4 * size[0] >> k, 4 * size[1] >> k, seed=seed + k) for k in range(3)]


def filled(samples=6, seed=0, match="joint", kind="absolute", factor=1.):
    memory = Memory(match, kind)
    memory.fill(Features(None, *(factor * maps for maps in difference(samples, (2, 3), seed))))
    return memory


def test_up_by_hand():
    assert up(torch.tensor([[[[0., 8.]]]])).tolist() == [[[[0, 2, 6, 8], [0, 2, 6, 8]]]]
    maps = draw(2, 3, 5, 7)
    assert up(maps).shape == (2, 3, 10, 14)
    torch.testing.assert_close(F.avg_pool2d(up(torch.ones_like(maps)), 2), torch.ones_like(maps))


def test_maps_are_the_products_of_means_from_the_top_down():
    given = difference()
    map1, map2, map3 = attention_maps(given)
    torch.testing.assert_close(map3, given[2].mean(1, keepdim=True))
    torch.testing.assert_close(map2, given[1].mean(1, keepdim=True) * up(map3))
    torch.testing.assert_close(map1, given[0].mean(1, keepdim=True) * up(map2))
    assert map1.shape == (2, 1, 32, 48)


def test_a_zero_in_a_coarse_level_silences_the_finer_ones():
    given = difference()
    given[2][:, :, 2:6, 3:8] = 0
    map1, map2, _ = attention_maps(given)
    assert map1[:, :, 12:20, 16:28].abs().max() == 0 and map2[:, :, 6:10, 8:14].abs().max() == 0
    assert (map1[:, :, :4] > 0).all()


def test_unit_divides_each_channel():
    given = difference()
    unit = [.5 + draw(maps.shape[1], 1, 1, seed=9) for maps in given]
    expected = attention_maps([maps / one for maps, one in zip(given, unit)])
    for a, b in zip(attention_maps(given, unit), expected):
        torch.testing.assert_close(a, b)
    assert not torch.allclose(attention_maps(given, unit)[0], attention_maps(given)[0])


@pytest.mark.parametrize("match", ["joint", "level"])
@pytest.mark.parametrize("kind", ["absolute", "squared"])
def test_unit_is_twice_the_difference_to_the_nearest_other(match, kind):
    memory = filled(5, match=match, kind=kind)
    levels = memory.layer1, memory.layer2, memory.layer3
    pooled = [memory(Features(None, *(maps[k:k + 1] for maps in levels)), index=j)
              for k in range(5) for j in range(5)]  # every pair, through the memory's own difference
    sums = torch.tensor([[float(d.double().sum()) for d in pair.difference] for pair in pooled]).view(5, 5, 3)
    if match == "joint":
        sums = sums.sum(-1, keepdim=True).expand(5, 5, 3)
    for level, unit in enumerate(unit_difference(memory)):
        nearest = [min((j for j in range(5) if j != k), key=lambda j: sums[k, j, level]) for k in range(5)]
        gaps = [pooled[5 * k + j].difference[level][0] for k, j in enumerate(nearest)]
        usual = torch.stack(gaps).mean((0, 2, 3))
        torch.testing.assert_close(unit[:, 0, 0], 2 * usual.maximum(.1 * usual.mean()))
    for a, b in zip(unit_difference(memory, times=3), unit_difference(memory)):
        torch.testing.assert_close(a, 1.5 * b)


@pytest.mark.parametrize("kind, power", [("absolute", 1), ("squared", 2)])
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_maps_in_units_do_not_depend_on_the_encoder_s_scale(kind, power, factor):
    new = Features(None, *difference(2, (2, 3), seed=50))
    results = []
    for f in (1., factor):
        memory = filled(kind=kind, factor=f)
        match = memory(Features(None, *(f * maps for maps in new[1:])))
        results.append(attention_maps(match.difference, unit_difference(memory)))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert .05 < results[0][0].mean() < 1


def test_unit_of_odd_memories_is_finite_and_positive():
    one, equal = filled(1), filled(1)
    for level in ("layer1", "layer2", "layer3"):
        assert len(getattr(one, level)) == 1
    equal.fill(Features(None, *(maps.expand(3, -1, -1, -1) for maps in (one.layer1, one.layer2, one.layer3))))
    dead = filled()
    dead.fill(Features(None, *(maps * (torch.arange(maps.shape[1]) != 3).view(-1, 1, 1)
                               for maps in (dead.layer1, dead.layer2, dead.layer3))))
    for memory in (one, equal, dead):
        for unit, channels in zip(unit_difference(memory), (64, 128, 256)):
            assert unit.shape == (channels, 1, 1) and (unit > 0).all() and unit.isfinite().all()
    for unit in unit_difference(dead):
        assert unit[3] > .05 * unit.mean()  # a channel that good images don't use must not drown the others


def trained_like(channels, seed=0, **settings):
    "A coordinate attention with weights and statistics that are all different from the initial ones"
    attention = CoordinateAttention(channels, **settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in attention.state_dict().items():
            if value.is_floating_point():
                low = 0 if name.endswith("var") else -.5
                value.copy_(low + torch.rand(value.shape, generator=generator))
    return attention.eval()


def test_coordinate_attention_against_einsum():
    attention, x = trained_like(64), draw(3, 64, 6, 10) - .5
    state = {name: value for name, value in attention.state_dict().items()}
    norm = [state[f"squeeze.1.{name}"][None, :, None]
            for name in ("running_mean", "running_var", "weight", "bias")]

    def squeezed(pooled):  # (B, C, length)
        maps = torch.einsum("wc,bcl->bwl", state["squeeze.0.weight"][:, :, 0, 0], pooled)
        maps = (maps - norm[0]) / (norm[1] + 1e-5).sqrt() * norm[2] + norm[3]
        return maps * (maps + 3).clamp(0, 6) / 6

    def widened(name, maps):
        wide = torch.einsum("cw,bwl->bcl", state[f"{name}.weight"][:, :, 0, 0], maps)
        return wide + state[f"{name}.bias"][:, None]

    rows = widened("rows", squeezed(x.mean(3))).sigmoid()
    columns = widened("columns", squeezed(x.mean(2))).sigmoid()
    torch.testing.assert_close(attention(x), rows[:, :, :, None] * columns[:, :, None, :])


def test_returns_weights_not_weighted_maps():
    attention, x = trained_like(64), 5 * (draw(2, 64, 4, 6) - .5)
    for factor in (0, 1, 1000, -1000):
        weights = attention(factor * x)
        assert weights.shape == x.shape and weights.min() >= 0 and weights.max() <= 1
    assert attention(0 * x).min() > 0


def test_height_is_not_width():
    attention, x = trained_like(32), draw(1, 32, 4, 8)
    torch.testing.assert_close(attention(x.roll(2, 3)), attention(x).roll(2, 3))
    torch.testing.assert_close(attention(x.roll(1, 2)), attention(x).roll(1, 2))
    turned = attention(x.transpose(2, 3)).transpose(2, 3)
    assert not torch.allclose(attention(x), turned)  # rows and columns have weights of their own


@pytest.mark.parametrize("channels, settings, width, count", [
    (128, {}, 8, 3344), (256, {}, 8, 6672), (512, {}, 16, 25632), (64, {"smallest_width": 4}, 4, 904),
    (128, {"reduction": 8}, 16, 6432)])
def test_width_and_parameters(channels, settings, width, count):
    attention = CoordinateAttention(channels, **settings)
    assert attention.squeeze[0].out_channels == width and attention.squeeze[0].bias is None
    assert sum(p.numel() for p in attention.parameters()) == count
