"""Simulation: masks that are never empty, the blend, the sources, and draws that the generator decides"""
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from memseg_nb.simulation.foreground import foreground
from memseg_nb.products.catalogue import render_product
from memseg_nb.files import MemSegError
from memseg_nb.recipe import load_recipe
from memseg_nb.simulation.perlin import uniform
from memseg_nb.simulation.anomalies import (Simulation, Simulator, blend, draw_masks, draw_source,
                                            shuffle_grid, structure)
from memseg_nb.simulation.extensions import match_tone, recolour, vary_light, with_flaws
from memseg_nb.simulation.textures import ProceduralTextures

RECIPE = load_recipe()


class Plain:
    "A texture source that is one colour, and counts what it was asked for"
    def __init__(self, value=1.): self.value, self.asked = value, 0

    def sample(self, count, size, generator, device="cpu"):
        self.asked += count
        return torch.full((count, 3, *size), self.value, device=device)


class Steps(Dataset):
    "Item k is a batch that depends on k alone"
    def __init__(self, simulator, images): self.simulator, self.images = simulator, images
    def __len__(self): return 6

    def __getitem__(self, k):
        made = self.simulator(self.images, generator(k))
        return made.images, made.masks


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def products(size=(64, 64)):
    names = "hex_nut", "tablet", "woven_fabric", "wood"
    return torch.stack([render_product(name, size)[0] for name in names])


def simulator(textures=None, **overrides):
    recipe = load_recipe(overrides=[f"{key.replace('__', '.')}={value}" for key, value in overrides.items()])
    return Simulator(recipe.perlin, recipe.simulation, textures or Plain())


# Masks

@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_no_mask_is_empty_in_thousands_of_draws(size):
    images, draw, make = products(size).repeat(8, 1, 1, 1), generator(), simulator()
    areas = torch.cat([make(images, draw).masks.flatten(1).sum(1) for _ in range(64)])
    assert len(areas) == 2048 and areas.min() > 0


@pytest.mark.parametrize("pixels", [1, 9])
def test_no_mask_is_empty_on_the_smallest_of_products(pixels):
    product = torch.zeros(1000, 48, 48, dtype=torch.bool)
    product[torch.arange(1000)[:, None], 7, torch.arange(pixels) + 30] = True
    masks, _, noise_mask, tries = draw_masks(product, generator(), RECIPE.perlin)
    assert masks.flatten(1).any(1).all() and torch.equal(masks, noise_mask & product)
    assert tries.min() == 1 and tries.max() == RECIPE.perlin.tries
    fallen_back = noise_mask.all(2).all(1)
    assert (tries[fallen_back] == RECIPE.perlin.tries).all() and fallen_back.any()


def test_noise_that_is_always_empty_ends_in_the_whole_foreground():
    images = products()
    made = simulator(perlin__threshold=1.0)(images, generator())
    assert torch.equal(made.masks, foreground(images)) and made.noise_mask.all()
    assert (made.tries == RECIPE.perlin.tries).all()


def test_only_the_samples_concerned_are_drawn_again():
    product = torch.zeros(2, 48, 48, dtype=torch.bool)
    product[0], product[1, 5, 5] = True, True
    for seed in range(20):
        _, noise, _, tries = draw_masks(product, generator(seed), RECIPE.perlin)
        if tries[0] == 1 and tries[1] > 1:
            _, again, _, _ = draw_masks(product[:1].repeat(2, 1, 1), generator(seed), RECIPE.perlin)
            assert torch.equal(noise[0], again[0])
            return
    raise AssertionError("no case in which only the second sample was drawn again")


def test_the_steps_belong_together():
    images = products()
    made = simulator(ProceduralTextures(bank=2, size=64))(images, generator(3))
    assert torch.equal(made.masks, made.noise_mask & made.foreground)
    assert torch.equal(made.noise_mask, made.noise > RECIPE.perlin.threshold)
    assert torch.equal(made.foreground, foreground(images))
    assert torch.equal(made.images, blend(images, made.source, made.masks, made.opacity))
    assert made.images.dtype == torch.float32 and made.masks.dtype == torch.bool


def test_areas_are_mostly_small_and_sometimes_large():
    images, draw, make = products().repeat(8, 1, 1, 1), generator(), simulator()
    areas = torch.cat([make(images, draw).masks.float().mean((1, 2)) for _ in range(30)])
    assert .005 < areas.median() < .06 and areas.max() > .1 and areas.min() < .002


def test_a_foreground_method_can_be_set():
    images = products()
    nut = dataclasses.replace(simulator(), foreground_method=">150")(images[:1], generator())
    whole = dataclasses.replace(simulator(), foreground_method="off")(images[:1], generator())
    assert nut.foreground.float().mean() < .4 and whole.foreground.all()


# Blend

@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
def test_blend_is_the_equation_of_the_paper(size):
    draw = generator()
    image, source = torch.rand(2, 3, *size, generator=draw), torch.rand(2, 3, *size, generator=draw)
    mask, opacity = torch.rand(2, *size, generator=draw) > .5, torch.tensor([.15, .9])
    expected = np.zeros(image.shape)
    for b, c, y, x in itertools.product(*map(range, image.shape)):
        m, delta = float(mask[b, y, x]), float(opacity[b])
        i, n = float(image[b, c, y, x]), float(source[b, c, y, x])
        expected[b, c, y, x] = (1 - m) * i + delta * m * n + (1 - delta) * m * i
    assert np.abs(blend(image, source, mask, opacity).numpy() - expected).max() < 1e-6


def test_outside_the_mask_nothing_changes_and_inside_something_does():
    images = products()
    made = simulator(ProceduralTextures(bank=4, size=64))(images, generator(1))
    outside = ~made.masks[:, None].expand_as(images)
    assert torch.equal(made.images[outside], images[outside])
    assert ((made.images - images).abs().amax(1) > 0)[made.masks].float().mean() > .95


def test_opacity_stays_within_its_range_and_fills_it():
    make = simulator(simulation__opacity_min=.3, simulation__opacity_max=.6)
    opacity = torch.cat([make(products().repeat(25, 1, 1, 1), generator(k)).opacity for k in range(5)])
    assert .3 <= opacity.min() < .31 and .59 < opacity.max() <= .6


def test_images_stay_within_0_and_1():
    images = torch.rand(8, 3, 64, 64, generator=generator()).round()
    made = simulator(ProceduralTextures(bank=4, size=64), simulation__brightness=.9)(images, generator())
    for values in (made.images, made.source):
        assert values.min() >= 0 and values.max() <= 1


# Sources

@pytest.mark.parametrize("share", [0., .5, .8, 1.])
def test_share_of_textures(share):
    textures, draw = Plain(), generator()
    make = simulator(textures, simulation__texture_share=share)
    textural = torch.cat([make(products().repeat(8, 1, 1, 1), draw).is_texture for _ in range(16)])
    assert abs(textural.float().mean() - share) < .08
    assert textures.asked == textural.sum(), "textures are made only for the samples that use them"


def test_each_sample_gets_its_own_source():
    images, is_texture = products(), torch.tensor([True, False, False, True])
    source = draw_source(images, is_texture, Plain(.25), generator(), RECIPE.simulation)
    assert (source[is_texture] == .25).all() and not (source[~is_texture] == .25).all()
    assert torch.equal(source[~is_texture], structure(images[1:3], generator(), RECIPE.simulation))


def test_toned_textures_are_grey_on_grey_products_and_keep_their_pattern():
    grey = torch.rand(64, 1, 32, 32, generator=generator()).mul(.2).add(.3).expand(-1, 3, -1, -1)
    textures = torch.rand(64, 3, 32, 32, generator=generator())
    toned = match_tone(textures, grey, generator())
    assert (toned[:, 0] - toned[:, 1]).abs().max() < 1e-6, "no colour where the product has none"
    levels = toned.mean((1, 2, 3)) / grey.mean((1, 2, 3))
    assert .15 < levels.min() < .5 and 1.5 < levels.max() < 1.9
    pattern, seen = textures.mean(1).flatten(1), toned[:, 0].flatten(1)
    assert all(np.corrcoef(a, b)[0, 1] > .99 for a, b in zip(pattern[:8], seen[:8]) if b.std() > .005)


@pytest.mark.parametrize("tone", [0., .5, 1.])
def test_share_of_toned_textures(tone):
    grey = torch.full((400, 3, 16, 16), .2)
    recipe = load_recipe(overrides=[f"simulation.tone={tone}"]).simulation
    source = draw_source(grey, torch.ones(400, dtype=torch.bool), Plain(.9), generator(), recipe)
    assert abs((source < .8).flatten(1).all(1).float().mean() - tone) < .08


def cells(images, rows, columns):
    batch, channels, height, width = images.shape
    grid = images.view(batch, channels, rows, height // rows, columns, width // columns)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)


@pytest.mark.parametrize("rows, columns", [(4, 8), (8, 4), (1, 2), (2, 2)])
@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_shuffle_permutes_cells(rows, columns, size):
    images = torch.rand(3, 3, *size, generator=generator())
    shuffled = shuffle_grid(images, generator(7), rows, columns)
    before, after = cells(images, rows, columns), cells(shuffled, rows, columns)
    for k in range(3):
        order = [(before[k] == cell).all(1).nonzero().item() for cell in after[k]]
        assert sorted(order) == list(range(rows * columns))


def test_every_cell_gets_to_every_place_and_each_image_its_own_order():
    images = torch.arange(32.).view(1, 1, 4, 8).expand(2000, 1, 4, 8)
    shuffled = shuffle_grid(images, generator())
    visits = torch.zeros(32, 32)
    for place in range(32):
        visits[place] = torch.bincount(shuffled.flatten(1)[:, place].long(), minlength=32)
    assert visits.min() > 2000 / 32 * .5 and visits.max() < 2000 / 32 * 1.6
    assert len(shuffled.flatten(1).unique(dim=0)) == 2000


def test_a_grid_that_does_not_divide_the_image_is_refused():
    with pytest.raises(MemSegError, match="grid of 5 x 8 cells: does not divide 64 x 64 pixels; set"):
        shuffle_grid(torch.rand(1, 3, 64, 64), generator(), rows=5)


def test_structure_is_the_image_itself_where_nothing_may_change():
    still = load_recipe(overrides=[f"simulation.{key}=0" for key in
                                   ("mirror", "rotation", "brightness", "saturation", "hue")]).simulation
    images = products((64, 96))
    before, after = cells(images, 4, 8), cells(structure(images, generator(), still), 4, 8)
    for k in range(len(images)):
        distance = torch.cdist(after[k], before[k], compute_mode="donot_use_mm_for_euclid_dist")
        assert distance.min(1).values.max() < 1e-3


@pytest.mark.parametrize("key, value", [("mirror", 1), ("rotation", 90), ("brightness", .5),
                                        ("saturation", .9), ("hue", .5)])
def test_each_change_of_the_structural_source_does_something(key, value):
    keys = ("mirror", "rotation", "brightness", "saturation", "hue")
    overrides = ["simulation.grid_rows=1", "simulation.grid_columns=1"]
    overrides += [f"simulation.{name}={value if name == key else 0}" for name in keys]
    images = products()[1:2]
    changed = structure(images, generator(), load_recipe(overrides=overrides).simulation)
    assert (changed - images).abs().mean() > .005


def test_mirror_flips_both_axes_when_it_is_certain():
    overrides = [f"simulation.{key}=0" for key in ("rotation", "brightness", "saturation", "hue")]
    overrides += ["simulation.mirror=1", "simulation.grid_rows=1", "simulation.grid_columns=1"]
    images = products((32, 64))
    mirrored = structure(images, generator(), load_recipe(overrides=overrides).simulation)
    assert torch.allclose(mirrored, images.flip(2, 3), atol=1e-4)


def test_colours_turn_about_the_axis_of_greys():
    draw, one = generator(), torch.ones(1)
    colour, grey = torch.rand(3, generator=draw), torch.full((3,), .4)
    assert torch.allclose(recolour(one, one, 0 * one) @ colour, colour[None], atol=1e-6)
    assert torch.allclose(recolour(one, one, one / 3) @ colour, colour.roll(1)[None], atol=1e-6)
    assert torch.allclose(recolour(1.5 * one, .3 * one, .7 * one) @ grey, 1.5 * grey[None], atol=1e-6)
    assert torch.allclose(recolour(one, 0 * one, one) @ colour, colour.mean().expand(1, 3), atol=1e-6)


# Flaws in place of noise

def simulation_of_the_paper(make, images, draw):
    "Noise, coin, opacity, source, blend: the steps without flaws, one after the other"
    recipe, product = make.simulation, foreground(images)
    masks, noise, noise_mask, tries = draw_masks(product, draw, make.perlin)
    is_texture = uniform((len(images),), 0, 1, draw, images.device) < recipe.texture_share
    opacity = uniform((len(images),), recipe.opacity_min, recipe.opacity_max, draw, images.device)
    source = draw_source(images, is_texture, make.textures, draw, recipe)
    return Simulation(blend(images, source, masks, opacity), masks, noise, noise_mask, product, source,
                      opacity, is_texture, tries)


def same(one, two):
    return all(torch.equal(getattr(one, f.name), getattr(two, f.name))
               for f in dataclasses.fields(Simulation))


def test_without_flaws_the_simulation_is_the_papers_to_the_bit():
    images, make = products(), simulator(ProceduralTextures(bank=4, size=64), simulation__flaws=0)
    assert RECIPE.simulation.flaws == 0 and make.simulation == RECIPE.simulation
    for seed in range(4):
        ours, draw = generator(seed), generator(seed)
        assert same(make(images, ours), simulation_of_the_paper(make, images, draw))
        assert torch.equal(ours.get_state(), draw.get_state()), "not one draw more"


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_flaws_lie_on_the_product_and_no_mask_is_empty(size):
    images, make, draw = products(size), simulator(simulation__flaws=1), generator()
    for _ in range(24):
        made = make(images, draw)
        assert made.masks.flatten(1).sum(1).min() >= 3 and made.masks.dtype == torch.bool
        assert not (made.masks & ~made.foreground).any()
        off_the_product = ~made.foreground[:, None].expand_as(images)
        assert torch.equal(made.images[off_the_product], images[off_the_product])
        assert 0 <= made.images.min() and made.images.max() <= 1
        change = (made.images - images).abs().mean(1)
        for one, mask in zip(change, made.masks):
            assert one[mask].mean() > .01 and one[mask].mean() > 5 * one[~mask].mean()


@pytest.mark.parametrize("share", [0., .3, .5, 1.])
def test_share_of_flaws(share):
    images, make, draw = products((32, 32)).repeat(32, 1, 1, 1), simulator(), generator()
    made = make(images, draw)
    flawed = with_flaws(made, images, draw, share)
    changed = (flawed.masks != made.masks).flatten(1).any(1)
    assert abs(changed.float().mean() - share) < .12
    assert torch.equal(flawed.images[~changed], made.images[~changed])
    assert torch.equal(flawed.source, made.source) and torch.equal(flawed.foreground, made.foreground)
    if share == 0:
        assert same(flawed, made)


def test_a_product_too_small_for_any_flaw_keeps_its_anomaly():
    images, make = products(), simulator()
    made = make(images, generator())
    small = torch.zeros_like(made.foreground)
    small[:, 20, 30:32] = True
    made = dataclasses.replace(made, foreground=small, masks=small)
    assert same(with_flaws(made, images, generator(), 1.), made)


def test_seeds_of_flaws_repeat_and_nothing_given_is_changed():
    images, make = products(), simulator(ProceduralTextures(bank=2, size=64), simulation__flaws=.5)
    before, state = images.clone(), torch.get_rng_state()
    first, second, other = (make(images, generator(seed)) for seed in (5, 5, 6))
    assert same(first, second) and not torch.equal(first.masks, other.masks)
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)
    made = simulator()(images, generator())
    kept = made.images.clone(), made.masks.clone()
    with_flaws(made, images, generator(), 1.)
    assert torch.equal(made.images, kept[0]) and torch.equal(made.masks, kept[1])


def test_flaws_in_worker_processes_are_the_same():
    steps = Steps(simulator(simulation__flaws=1), products())
    runs = [list(DataLoader(steps, batch_size=None, num_workers=workers)) for workers in (0, 2)]
    for (images, masks), (others, other_masks) in zip(*runs):
        assert torch.equal(images, others) and torch.equal(masks, other_masks)


# Draws

def test_the_generator_decides_and_no_global_state_is_touched():
    images, make = products(), simulator(ProceduralTextures(bank=4, size=64))
    make(images, generator())  # the bank is rendered once
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = make(images, generator(5))
    assert torch.equal(torch.get_rng_state(), state) and (np.random.get_state()[1] == numpy_state).all()
    torch.manual_seed(1)
    second, other = make(images, generator(5)), make(images, generator(6))
    for field in dataclasses.fields(first):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name)), field.name
    assert not torch.equal(first.images, other.images) and not torch.equal(first.masks, other.masks)


def test_the_images_given_are_not_changed():
    images = products()
    before = images.clone()
    simulator()(images, generator())
    assert torch.equal(images, before)


def test_number_of_workers_makes_no_difference():
    steps = Steps(simulator(ProceduralTextures(bank=2, size=64)), products())
    runs = [list(DataLoader(steps, batch_size=None, num_workers=workers)) for workers in (0, 1, 2)]
    for other in runs[1:]:
        for (images, masks), (others, other_masks) in zip(runs[0], other):
            assert torch.equal(images, others) and torch.equal(masks, other_masks)


def test_number_of_threads_makes_no_difference():
    images, make = products((128, 128)), simulator(ProceduralTextures(bank=2, size=64))
    threads, runs = torch.get_num_threads(), []
    try:
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            runs.append([make(images, generator(seed)) for seed in range(6)])
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        for ours, theirs in zip(runs[0], other):
            assert torch.equal(ours.masks, theirs.masks) and torch.equal(ours.images, theirs.images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_simulates_the_same():
    images, make = products(), simulator(ProceduralTextures(bank=2, size=64))
    here, there = make(images, generator()), make(images.cuda(), generator())
    assert there.images.is_cuda and (here.masks == there.masks.cpu()).float().mean() > .999
    assert (here.images - there.images.cpu()).abs().mean() < 1e-3


# Light

def test_light_is_left_alone_when_all_is_off():
    images = products()
    assert torch.equal(vary_light(images, generator()), images)


@pytest.mark.parametrize("size", [(32, 48), (64, 64)])
def test_gain_gradient_and_gamma_stay_within_their_ranges(size):
    grey = torch.full((400, 3, *size), .4)
    gain = vary_light(grey, generator(), gain=.25)[:, 0, 0, 0] / .4
    assert .75 <= gain.min() < .76 and 1.24 < gain.max() <= 1.2501
    slopes = vary_light(grey, generator(), gradient=.3)[:, 0] / .4
    assert slopes.min() >= .7 - 1e-4 and slopes.max() <= 1.3 + 1e-4 and slopes.max() > 1.25
    middle = slopes[:, size[0] // 2 - 1:size[0] // 2 + 1, size[1] // 2 - 1:size[1] // 2 + 1].mean((1, 2))
    assert torch.allclose(middle, torch.ones(400), atol=1e-4)
    exponent = vary_light(grey, generator(), gamma=.5)[:, 0, 0, 0].log() / torch.tensor(.4).log()
    assert 1 / 1.5 - 1e-4 <= exponent.min() < .68 and 1.48 < exponent.max() <= 1.5001


def test_light_is_smooth_the_same_for_all_colours_and_within_0_and_1():
    images = torch.rand(20, 3, 64, 64, generator=generator())
    lit = vary_light(images, generator(), gain=.5, gradient=.5, gamma=.5)
    assert lit.min() >= 0 and lit.max() <= 1
    slopes = vary_light(torch.full((20, 3, 64, 64), .5), generator(), gradient=.5)
    assert torch.equal(slopes[:, 0], slopes[:, 2])
    assert slopes.diff(dim=3).diff(dim=3).abs().max() < 1e-5 and slopes.diff(dim=2).abs().max() < .02
