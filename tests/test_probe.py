"Probe: the comparison against loops and against the memory, the loss pixel by pixel, statistics that settle"
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from memseg_nb.model.encoder import Encoder, Features
from memseg_nb.pretraining.episodes import Episode
from memseg_nb.model.msff import CHANNELS
from memseg_nb.model.memory import Memory, pool
from memseg_nb.model.memseg import build_model
from memseg_nb.recipe import load_recipe
from memseg_nb.model.losses import balanced_loss
from memseg_nb.pretraining.probe import Scout, compare, network_logits, scout_logits, settle
from memseg_nb.training.processes import freeze_norms


def generator(seed=0): return torch.Generator().manual_seed(seed)


def some_levels(images, seed=0):
    shapes = (4, 8, 12), (6, 4, 6), (8, 2, 3)
    return [torch.rand(images, *shape, generator=generator(seed)) for shape in shapes]


def some_episode(products=2, samples=2, queries=3, size=(32, 32), seed=0):
    memory, others = [torch.rand(products, count, 3, *size, generator=generator(seed + count))
                      for count in (samples, queries)]
    masks = torch.rand(products, queries, *size, generator=generator(seed)) > .9
    return Episode(memory, others, masks)


def naive_compare(levels, products, samples):
    each = len(levels[0]) // products
    ours, gaps = [[] for _ in levels], [[] for _ in levels]
    for first in range(0, products * each, each):
        for query in range(first + samples, first + each):
            apart = []
            for sample in range(first, first + samples):
                apart.append([(pool(level[query, None]) - pool(level[sample, None])).abs()[0]
                              for level in levels])
            sums = [sum(gap.sum().item() for gap in gaps_of_one) for gaps_of_one in apart]
            for k, level in enumerate(levels):
                ours[k].append(level[query])
                gaps[k].append(apart[sums.index(min(sums))][k])
    return [torch.stack(maps) for maps in ours], [torch.stack(maps) for maps in gaps]


@pytest.mark.parametrize("products, samples, queries", [(1, 1, 1), (3, 2, 5), (2, 4, 1), (2, 1, 3)])
def test_compare_is_the_loop(products, samples, queries):
    levels = some_levels(products * (samples + queries))
    for ours, naive in zip(compare(levels, products, samples), naive_compare(levels, products, samples)):
        assert len(ours) == 3
        for a, b in zip(ours, naive): assert a.shape == b.shape and torch.allclose(a, b, atol=1e-6)


def test_compare_is_the_memory_of_memseg_for_each_product():
    levels = [torch.rand(2 * 5, channels, side, side, generator=generator(side))
              for channels, side in zip(CHANNELS, (8, 4, 2))]
    ours, gaps = compare(levels, 2, 2)
    for product in range(2):
        stem, own = torch.zeros(5, 1, 1, 1), [level[5 * product:5 * product + 5] for level in levels]
        memory = Memory()
        memory.fill(Features(stem[:2], *(level[:2] for level in own)))
        match = memory(Features(stem[2:], *(level[2:] for level in own)))
        for k in range(3):
            assert torch.equal(ours[k][3 * product:3 * product + 3], own[k][2:])
            assert torch.allclose(gaps[k][3 * product:3 * product + 3], match.difference[k], atol=1e-6)


def test_gradients_reach_queries_and_the_sample_that_was_chosen():
    levels = [level.requires_grad_() for level in some_levels(1 * (2 + 1))]
    _, gaps = compare(levels, 1, 2)
    sum(gap.sum() for gap in gaps).backward()
    for level in levels:
        touched = level.grad.flatten(1).any(1).tolist()
        assert touched[2] and sorted(touched[:2]) == [False, True]


def test_the_scout_is_light():
    def operations(run):
        with FlopCounterMode(display=False) as counter: run()
        return counter.get_total_flops()
    recipe = load_recipe()
    model, features = build_model(recipe, Encoder()).eval(), Encoder()(torch.rand(1, 3, 64, 64))
    maps = [torch.rand(1, 1, *level.shape[2:]) for level in features[1:]]
    ones = [torch.ones(channels, 1, 1) for channels in CHANNELS]

    def whole():
        fused = model.fusion(features[1:], features[1:], maps, ones, ones)
        model.decoder(model.encoder.layer4(features.layer3), fused.fused, features.stem)

    with torch.no_grad():
        light = operations(lambda: Scout().eval()(features.stem, features[1:], features[1:]))
        assert 0 < light < operations(whole) / 8


@pytest.mark.parametrize("size", [(32, 32), (32, 64)], ids=str)
def test_scout_logits_of_a_product_are_its_own(size):
    backbone, scout, episode = Encoder(frozen=False).eval(), Scout().eval(), some_episode(size=size)
    together = scout_logits(backbone, scout, episode)
    assert together.shape == (6, *size)
    for k in range(2):
        alone = Episode(episode.memory[k:k + 1], episode.queries[k:k + 1], episode.masks[k:k + 1])
        assert torch.allclose(scout_logits(backbone, scout, alone), together[3 * k:3 * k + 3], atol=1e-4)


def test_scouting_trains_the_encoder():
    backbone, scout, episode = Encoder(frozen=False), Scout(), some_episode()
    balanced_loss(scout_logits(backbone, scout, episode), episode.masks.flatten(0, 1)).backward()
    without = [name for name, value in backbone.named_parameters() if value.grad is None]
    assert without and all(name.startswith("layer4.") for name in without)  # the scout does without it
    assert all(value.grad is not None for value in scout.parameters())


def test_network_logits_are_the_model_s():
    model, episode = build_model(load_recipe(), Encoder(seed=1)).eval(), some_episode(size=(32, 64))
    with torch.no_grad():
        logits = network_logits(model, episode)
        for k, (good, queries) in enumerate(zip(episode.memory, episode.queries)):
            model.remember([good])
            normal, anomalous = model(queries).unbind(1)
            assert torch.allclose(logits[3 * k:3 * k + 3], anomalous - normal, atol=1e-4)


def test_network_logits_leave_the_encoder_alone():
    model, episode = build_model(load_recipe(), Encoder(seed=1)).train(), some_episode()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    balanced_loss(network_logits(model, episode), episode.masks.flatten(0, 1)).backward()
    trained = {name for name, value in model.named_parameters() if value.grad is not None}
    assert trained == {name for name, value in model.named_parameters()
                       if name.startswith(("encoder.layer4.", "fusion.", "decoder."))}
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items()
               if not name.startswith("layer4."))


def naive_loss(logits, masks, hardest):
    missed, alarms, worst = [], [], []
    for logit, mask in zip(logits, masks):
        flaw, normal = [], []
        for value, flawed in zip(logit.flatten().tolist(), mask.flatten().tolist()):
            (flaw if flawed else normal).append(math.log1p(math.exp(-value if flawed else value)))
        if flaw: missed.append(sum(flaw) / len(flaw))
        alarms += [sum(normal) / logit.numel()]
        count = max(1, round(hardest * logit.numel()))
        worst.append(sum(sorted(normal + [0.] * len(flaw), reverse=True)[:count]) / count)
    found = .5 * sum(missed) / max(1, len(missed))
    return found + sum(alarms) / len(alarms) + .1 * sum(worst) / len(worst)


@pytest.mark.parametrize("hardest", [0., .012, .3])
@pytest.mark.parametrize("flawed", [0., .1, 1.])
def test_balanced_loss_is_the_loop(hardest, flawed):
    logits = 2 * torch.randn(3, 12, 20, generator=generator())
    masks = torch.rand(3, 12, 20, generator=generator(1)) < flawed
    masks[0] = flawed == 1.  # an image without a flaw
    assert abs(balanced_loss(logits, masks, hardest).item() - naive_loss(logits, masks, hardest)) < 1e-5


def test_balanced_loss_by_hand():
    logits, masks = torch.zeros(1, 2, 2), torch.tensor([[[True, False], [False, False]]])
    assert abs(balanced_loss(logits, masks).item() - (.5 + .75 + .1) * math.log(2)) < 1e-6


def test_a_small_flaw_weighs_as_much_as_a_large_one():
    pulls = []
    for rows in (1, 30):
        logits, masks = (torch.full((1, 64, 64), -2., requires_grad=True),
                         torch.zeros(1, 64, 64, dtype=torch.bool))
        masks[:, :rows, :3 * rows] = True
        balanced_loss(logits, masks).backward()
        pulls.append(logits.grad[masks].sum().item())
    assert abs(pulls[0] - pulls[1]) < 1e-5 and pulls[0] < -.4


def test_settle_takes_the_mean_over_the_episodes_and_freezes():
    network, batches = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2)), []
    network[1].eval()  # frozen before: keeps what it has
    for seed in range(5):
        batches.append(seed + (1 + seed) * torch.randn(4, 2, 6, 6, generator=generator(seed)))
    for value in network[0].parameters(): value.requires_grad_()
    network(100 + batches[0])  # statistics of the last few, to be forgotten
    settle(network, network, batches)
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    variance = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    assert torch.allclose(network[0].running_mean, mean, atol=1e-5)
    assert torch.allclose(network[0].running_var, variance, rtol=1e-4)
    assert torch.equal(network[1].running_mean, torch.zeros(2)) and network[1].num_batches_tracked == 0
    assert network.training and not any(norm.training for norm in network) and network[0].momentum == .1
    network(batches[0])
    assert torch.allclose(network[0].running_mean, mean, atol=1e-5)


def test_freeze_norms_freezes_norms_only():
    scout = Scout().train()
    freeze_norms(scout)
    kinds = {isinstance(part, nn.BatchNorm2d): part.training for part in scout.modules()}
    assert kinds == {True: False, False: True}
