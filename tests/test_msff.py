"""The fusion: what is concatenated, weighed, handed down and multiplied; nothing of it is missing."""
import pytest
import torch
from torch import nn

from memseg_nb.model.attention import up
from memseg_nb.model.encoder import initialise
from memseg_nb.model.msff import CHANNELS, FeatureFusion, LevelFusion, TopDown, concatenate, conv_block
from memseg_nb.files import MemSegError


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(batch=2, size=(4, 6), seed=0):
    "Features, difference, maps, spread, unit"
    sides = [(4 * size[0] >> k, 4 * size[1] >> k) for k in range(3)]
    features = [draw(batch, c, *side, seed=seed) for c, side in zip(CHANNELS, sides)]
    difference = [draw(batch, c, *side, seed=seed + 1) for c, side in zip(CHANNELS, sides)]
    maps = [draw(batch, 1, *side, seed=seed + 2) for side in sides]
    spread = [.5 + draw(c, 1, 1, seed=seed + 3) for c in CHANNELS]
    unit = [.1 + draw(c, 1, 1, seed=seed + 4) for c in CHANNELS]
    return features, difference, maps, spread, unit


def fusion(normalise="memory", seed=0, **settings):
    return initialise(FeatureFusion(normalise, **settings), torch.Generator().manual_seed(seed))


def test_concatenate():
    features, difference, _, spread, unit = inputs()
    for k, level in enumerate(concatenate(features, difference, "memory", spread=spread, unit=unit)):
        torch.testing.assert_close(level, torch.cat([features[k] / spread[k], difference[k] / unit[k]], 1))
    for k, level in enumerate(concatenate(features, difference, "memory", spread=spread)):
        both = torch.cat([features[k], difference[k]], 1)
        torch.testing.assert_close(level, both / torch.cat([spread[k], spread[k]]))
    for k, level in enumerate(concatenate(features, difference, "fixed", 7.)):
        torch.testing.assert_close(level, 7 * torch.cat([features[k], difference[k]], 1))
    for k, level in enumerate(concatenate(features, difference, "none", 7.)):
        assert torch.equal(level, torch.cat([features[k], difference[k]], 1))


def test_level_is_convolution_times_weights_then_halved():
    level = initialise(LevelFusion(64), torch.Generator().manual_seed(0)).eval()
    information = draw(2, 128, 8, 12)
    weights, attended, result = level(information)
    torch.testing.assert_close(weights, level.attention(information))
    torch.testing.assert_close(attended, level.mix(information) * weights)
    torch.testing.assert_close(result, level.halve(attended))
    assert result.shape == (2, 64, 8, 12)


def test_top_down():
    top_down = initialise(TopDown(), torch.Generator().manual_seed(0)).eval()
    levels = [draw(2, c, side, side + 2 * (side // 4), seed=c) for c, side in zip(CHANNELS, (16, 8, 4))]
    level1, level2, level3 = top_down(levels)
    assert torch.equal(level3, levels[2])
    torch.testing.assert_close(level2, levels[1] + top_down.align3(up(levels[2])))
    torch.testing.assert_close(level1, levels[0] + top_down.align2(up(level2)))


def test_whole_fusion_step_by_step():
    model, (features, difference, maps, spread, unit) = fusion().eval(), inputs()
    fused = model(features, difference, maps, spread, unit)
    information = concatenate(features, difference, "memory", spread=spread, unit=unit)
    results = [level(maps) for level, maps in zip(model.levels, information)]
    merged = model.top_down([result for _, _, result in results])
    for k in range(3):
        torch.testing.assert_close(fused.concatenated[k], information[k])
        torch.testing.assert_close(fused.weights[k], results[k][0])
        torch.testing.assert_close(fused.attended[k], results[k][1])
        torch.testing.assert_close(fused.merged[k], merged[k])
        torch.testing.assert_close(fused.fused[k], merged[k] * maps[k])
        assert fused.fused[k].shape == features[k].shape


def test_the_fine_level_hears_of_the_coarse_ones():
    model, (features, difference, maps, spread, unit) = fusion().eval(), inputs()
    before = model(features, difference, maps, spread, unit)
    for level in (1, 2):
        changed = [d + 2 * (k == level) for k, d in enumerate(difference)]
        after = model(features, changed, maps, spread, unit)
        for k in range(3):
            assert torch.equal(after.fused[k], before.fused[k]) == (k > level)


def test_maps_are_multiplied_last():
    model, (features, difference, maps, spread, unit) = fusion().eval(), inputs()
    dark = [maps[0], maps[1], torch.zeros_like(maps[2])]  # M3 silences F3, not what F3 hands down
    before, after = (model(features, difference, m, spread, unit) for m in (maps, dark))
    assert after.fused[2].abs().max() == 0
    assert torch.equal(before.fused[0], after.fused[0]) and torch.equal(before.fused[1], after.fused[1])


@pytest.mark.parametrize("normalise", ["memory", "fixed", "none"])
def test_each_normalisation_is_used(normalise):
    features, difference, maps, spread, unit = inputs()
    fused = fusion(normalise, scale=7.)(features, difference, maps, spread, unit)
    expected = concatenate(features, difference, normalise, 7., spread, unit)
    for a, b in zip(fused.concatenated, expected):
        assert torch.equal(a, b)


def test_batch_norm_takes_out_the_fixed_factor():
    features, difference, maps, _, _ = inputs()
    none, fixed = (fusion(normalise)(features, difference, maps) for normalise in ("none", "fixed"))
    for a, b in zip(none.fused, fixed.fused):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_errors():
    with pytest.raises(MemSegError, match="batch.*memory, fixed or none"):
        FeatureFusion("batch")
    features, difference, maps, _, _ = inputs()
    with pytest.raises(MemSegError, match="memory.spread"):
        fusion()(features, difference, maps)


def test_parameters_and_the_attention_s_settings():
    model = fusion()
    counts = [sum(p.numel() for p in level.parameters()) for level in model.levels]
    assert counts == [261_904, 1_039_888, 4_156_448]
    assert sum(p.numel() for p in model.top_down.parameters()) == 369_024
    assert sum(p.numel() for p in model.parameters()) == 5_827_264
    narrow = FeatureFusion(reduction=16, smallest_width=4)
    assert [level.attention.squeeze[0].out_channels for level in narrow.levels] == [8, 16, 32]


def test_convolutions_before_a_batch_norm_have_no_bias():
    for module in (conv_block(3, 4), LevelFusion(64), TopDown()):
        for part in module.modules():
            if isinstance(part, nn.Sequential) and isinstance(part[0], nn.Conv2d):
                assert part[0].bias is None and isinstance(part[1], nn.BatchNorm2d)


def test_initialise():
    models = [fusion(seed=seed) for seed in (0, 0, 1)]
    states = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    weight = models[0].levels[2].mix[0].weight
    assert abs(weight.std().item() - (2 / (9 * 512)) ** .5) < 1e-4
    state = torch.get_rng_state()
    initialise(models[0], torch.Generator().manual_seed(3))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("factor", [1e-3, 1., 1e3])
def test_sizes_at_the_start_are_those_of_the_maps(factor):
    "With the memory's units, features of any scale give F of a scale that the decoder can use"
    features, difference, maps, spread, unit = inputs(4)
    scaled = [[factor * level for level in group] for group in (features, difference, spread, unit)]
    fused = fusion()(scaled[0], scaled[1], maps, scaled[2], scaled[3])
    for level in fused.fused:
        assert .05 < level.std() < 2
