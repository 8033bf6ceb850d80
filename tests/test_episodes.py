"Episodes: nuisances that are no defects, masks that belong to their images, numbers that decide everything"
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from memseg_nb.pretraining import episodes
from memseg_nb.pretraining.episodes import HELD_OUT, NUISANCES, Episodes, Nuisance, draw_nuisance, vary
from memseg_nb.files import MemSegError

SMALL = dict(size=(64, 64), shapes=60)


def generator(seed=0): return torch.Generator().manual_seed(seed)


def same(one, two):
    return all(torch.equal(getattr(one, part), getattr(two, part)) for part in ("memory", "queries", "masks"))


def test_no_nuisance_changes_next_to_nothing():
    images = torch.rand(3, 32, 48, generator=generator())
    assert torch.allclose(vary(images, Nuisance(), generator()), images, atol=1.1e-4)


@pytest.mark.parametrize("name", [name for name in NUISANCES if name != "direction"])
@pytest.mark.parametrize("size", [(32, 32), (40, 96), (96, 40), (256, 256)], ids=str)
def test_each_nuisance_changes_images_and_keeps_them_in_range(name, size):
    images = .2 + .6 * torch.rand(4, *size, generator=generator())
    before = images.clone()
    result = vary(images, Nuisance(**{name: NUISANCES[name][2]}), generator(1))
    assert torch.equal(images, before) and result.shape == images.shape
    assert result.min() >= 0 and result.max() <= 1 and (result - images).abs().mean() > 5e-4
    again = vary(images, Nuisance(**{name: NUISANCES[name][2]}), generator(1))
    assert torch.equal(result, again)


def test_tone_exposure_and_slopes_are_as_written():
    images, (height, width) = .2 + .6 * torch.rand(2, 40, 56, generator=generator()), (40, 56)
    strengths = Nuisance(gamma=.6, gain=.4, gradient=.5)
    draw = generator(2)
    gamma, gain = torch.rand(2, 2, generator=draw)
    change = torch.rand(4, 2, generator=draw) - .5
    result = vary(images, strengths, generator(2))
    for b, i, j in ((0, 0, 0), (0, 39, 10), (1, 20, 55), (1, 7, 30)):
        y, x = 2 * i / (height - 1) - 1, 2 * j / (width - 1) - 1
        slope = change[0, b] * x + change[1, b] * y + change[2, b] * x * x + change[3, b] * y * y
        value = images[b, i, j] ** (1 + .6 * (gamma[b] - .5)) * (1 + .4 * (1.6 * gain[b] - 1)) * (
            1 + .5 * slope)
        assert torch.isclose(result[b, i, j], value.clamp(0, 1), atol=1e-5)


def test_streaks_are_light_that_black_swallows():
    black, grey = torch.zeros(1, 64, 64), torch.full((1, 64, 64), .5)
    assert vary(black, Nuisance(streaks=.4), generator()).max() < .01
    assert vary(grey, Nuisance(streaks=.4), generator()).min() >= .499  # they only add


def test_images_vary_each_in_its_own_way():
    images = torch.full((2, 32, 32), .5)
    for name in ("gamma", "gain", "gradient", "lowfrequency", "streaks", "noise"):
        one, two = vary(images, Nuisance(**{name: .3}), generator())
        assert not torch.equal(one, two), name


def test_streaks_run_down_or_across():
    images = torch.full((1, 32, 48), .5)
    down, across = [vary(images, Nuisance(streaks=.4, direction=d), generator())[0] for d in (.2, .8)]
    assert down.std(0).max() < 1e-6 < .01 < down.std(1).max()
    assert across.std(1).max() < 1e-6 < .01 < across.std(0).max()


def test_blur_keeps_the_mean_and_scales_with_the_size():
    spot = torch.zeros(2, 64, 64)
    spot[:, 32, 32] = 1
    for side in (64, 256):
        spot = torch.zeros(1, side, side)
        spot[:, side // 2, side // 2] = 1
        soft = vary(spot, Nuisance(blur=1.1), generator())[0]
        assert abs(soft.sum() - 1 - 1e-4 * side**2) < .2  # black is lifted to 1e-4 before the tone curve
        width = (soft > soft.max() / 2).sum().item()
        assert (width < 5) == (side == 64)


def test_nuisances_come_as_often_and_as_strong_as_the_table_says():
    drawn = [draw_nuisance(np.random.default_rng(k)) for k in range(2000)]
    for name, (chance, low, high) in NUISANCES.items():
        values = np.array([getattr(nuisance, name) for nuisance in drawn])
        assert abs((values > 0).mean() - chance) < .04 and values.max() <= high, name
        assert (values[values > 0].min() >= low
                and abs(values[values > 0].mean() - (low + high) / 2) < .05 * high), name


def test_ease_makes_nuisances_weaker():
    hard, easy = [draw_nuisance(np.random.default_rng(3), ease) for ease in (0., 1.)]
    assert (easy.gain == pytest.approx(.2 * hard.gain) and easy.direction == hard.direction
            and easy.blur == hard.blur)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 4), (4, 3, 5)], ids=str)
@pytest.mark.parametrize("size", [(64, 64), (64, 96)], ids=str)
def test_shapes_of_an_episode(shape, size):
    products, memory, queries = shape
    plan = Episodes(products=products, memory=memory, queries=queries, size=size, shapes=20)
    for k in range(4):
        episode = plan.episode(k, ease=.5)
        assert episode.memory.shape == (products, memory, 3, *size)
        assert episode.queries.shape == (products, queries, 3, *size)
        assert episode.masks.shape == (products, queries, *size) and episode.masks.dtype == torch.bool
        for images in (episode.memory, episode.queries):
            assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1
            assert torch.isfinite(images).all()


def test_half_of_the_queries_have_flaws_and_none_is_empty():
    plan = Episodes(**SMALL)
    flawed = torch.stack([plan.episode(k).masks.flatten(2).sum(2) for k in range(30)])
    counts = (flawed > 0).sum(2)
    assert set(counts.unique().tolist()) == {2, 3} and abs(counts.float().mean() - 2.5) < .2
    assert (flawed[..., 3:] == 0).all() and flawed[flawed > 0].min() >= 3


def test_flaws_are_where_the_masks_are(monkeypatch):
    "Without nuisances and colours, queries differ from the good specimens they were made of within soft masks only"
    monkeypatch.setattr(episodes, "draw_nuisance", lambda rng, ease: Nuisance())
    kept, add = [], episodes.add_flaws

    def watched(images, shapes, *rest):
        result = add(images, shapes, *rest)
        kept.append((images[:, 0], shapes, *result))
        return result
    monkeypatch.setattr(episodes, "add_flaws", watched)
    episode = Episodes(colour=0., **SMALL).episode(1)
    good, shapes, bad, masks = kept[0]
    assert torch.equal(episode.masks[episode.masks.flatten(2).any(2)], masks)
    shown = episode.queries[episode.masks.flatten(2).any(2)][:, 0]
    assert torch.allclose(shown, bad[:, 0], atol=2e-4)
    change = (shown - good).abs()
    assert change[shapes == 0].max() < 2e-4
    assert all(c[m].mean() > .015 for c, m in zip(change, masks))


def test_the_number_decides_and_nothing_else():
    plan, other = Episodes(seed=7, **SMALL), Episodes(seed=7, **SMALL)
    wanted = [plan.episode(k) for k in (0, 1, 64, 300)]
    # another order, another state of the cache
    for k, episode in reversed(list(zip((0, 1, 64, 300), wanted))):
        assert same(other.episode(k), episode)
        assert same(pickle.loads(pickle.dumps(other)).episode(k), episode)
    assert not same(wanted[0], wanted[1])
    assert not same(wanted[0], Episodes(seed=8, **SMALL).episode(0))
    state = torch.get_rng_state()
    np.random.seed(1)
    torch.manual_seed(5)
    assert same(plan.episode(1), wanted[1])
    torch.set_rng_state(state)


def test_a_pose_is_one_for_all_images_of_a_product():
    image = torch.linspace(0, .3, 64 * 64).view(1, 64, 64)
    inverted, different = 0, set()
    for seed in range(400):
        posed = episodes._pose(image.expand(3, -1, -1), np.random.default_rng(seed))
        assert (posed.shape == (3, 64, 64) and torch.equal(posed[0], posed[1])
                and torch.equal(posed[0], posed[2]))
        inverted += bool(posed.mean() > .5)
        different.add(posed[0].numpy().tobytes())
    assert .1 < inverted / 400 < .2 and len(different) > 100


def test_any_specimen_may_be_remembered(monkeypatch):
    "Three episodes of the same rendered images don't all remember the same ones"
    monkeypatch.setattr(episodes, "draw_nuisance", lambda rng, ease: Nuisance())
    monkeypatch.setattr(episodes, "_pose", lambda images, rng: images)
    plan = Episodes(colour=0., reuse=4, **SMALL)
    remembered = [plan.episode(k).memory for k in (0, 64, 128, 192)]
    assert not all(torch.equal(remembered[0], other) for other in remembered)


def test_rendered_images_are_forgotten_with_their_block():
    plan = Episodes(reuse=2, **SMALL)
    for k in (0, 1, 65, 500, 5000): plan.episode(k)
    assert len(plan._rendered) == 1


def test_reuse_saves_rendering_and_still_asks_new_questions(monkeypatch):
    seeds, make = [], episodes.formula_product
    monkeypatch.setattr(episodes, "formula_product",
                        lambda seed, size: seeds.append(seed) or make(seed, size))
    plan, asked, made = Episodes(reuse=3, **SMALL), [], []
    for k in (0, 64, 128, 192):
        asked.append(plan.episode(k))
        made.append(len(seeds))
    assert made[0] == made[1] == made[2] == made[3] / 2  # the first set three times, then the next one
    assert not same(asked[0], asked[1])
    second = seeds[made[0]:]
    Episodes(reuse=1, **SMALL).episode(64)
    assert seeds[made[3]:] == second


def test_held_out_products_are_never_trained_on(monkeypatch):
    seeds, make = [], episodes.formula_product
    monkeypatch.setattr(episodes, "formula_product",
                        lambda seed, size: seeds.append(seed) or make(seed, size))
    Episodes(**SMALL).episode(0)
    assert min(seeds) >= HELD_OUT
    seeds.clear()
    Episodes(held_out=True, **SMALL).episode(0)
    assert max(seeds) < HELD_OUT


def test_colour_is_a_share():
    def coloured(share):
        episode = Episodes(products=8, memory=1, queries=1, colour=share, **SMALL).episode(0)
        return (episode.memory.std(2) > 1e-4).flatten(1).any(1).float().mean()
    assert coloured(0.) == 0 and coloured(1.) == 1 and 0 < coloured(.5) < 1


def test_easy_flaws_are_larger():
    areas = []
    for ease in (0., 1.):
        plan = Episodes(**SMALL)
        masks = torch.cat([plan.episode(k, ease).masks.flatten(0, 1) for k in range(12)])
        areas.append(masks.float().mean((1, 2)))
    hard, easy = [area[area > 0] for area in areas]
    assert easy.min() >= .009 > hard.min() and easy.median() > hard.median()


@pytest.mark.parametrize("change", [{"products": 0}, {"memory": 0}, {"queries": 0}, {"reuse": 0}], ids=str)
def test_nothing_to_learn_from_is_refused(change):
    with pytest.raises(MemSegError, match="1 at least"):
        Episodes(**change)


class Numbers(Dataset):
    "Episodes as a data set, as training has it"
    def __init__(self, plan): self.plan = plan
    def __len__(self): return 4
    def __getitem__(self, k): return self.plan.episode(k).queries


def test_worker_processes_make_the_same_episodes():
    plan = Episodes(**SMALL)
    here = [plan.episode(k).queries for k in range(4)]
    there = list(DataLoader(Numbers(plan), batch_size=None, num_workers=2))
    assert all(torch.equal(one, two) for one, two in zip(here, there))
