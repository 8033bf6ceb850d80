"""Flaws: shapes of every kind and size, fills that can be seen, and draws that the generator decides"""
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import ndimage

from memseg_nb.simulation import flaws
from memseg_nb.simulation.flaws import (FILLS, KINDS, SOLID, THIN, ShapeBank, add_flaws, assure, blob,
                                        choose_fills,
                             draw_shape, draw_strength, fill, relight, splat, wander)
from memseg_nb.products.catalogue import render_product
from memseg_nb.files import MemSegError

SIZES = [(128, 128), (32, 32), (96, 64), (64, 160), (256, 256)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def bank():
    return ShapeBank(400, (64, 64))


@pytest.fixture(scope="module")
def products():
    names = "hex_nut", "tablet", "bottle_cap", "woven_fabric", "brushed_metal", "wood"
    return torch.stack([render_product(name, (64, 64))[0] for name in names])


def surfaces(size=(64, 64)):
    "What is hard to change visibly: black, white, grey, colours, black and white, noise"
    flat = [torch.tensor(rgb).float().view(3, 1, 1).expand(3, *size)
            for rgb in ((0, 0, 0), (1, 1, 1), (.5, .5, .5), (1, 0, 0), (0, 1, 0), (1, 1, 0), (.02, 0, 0),
                        (1, .99, 1))]
    checker = ((torch.arange(size[0])[:, None] + torch.arange(size[1])) % 2).float().expand(3, *size)
    return torch.stack([*flat, checker, torch.rand(3, *size, generator=generator())])


def areas(kind, size, count):
    "Shares of the image"
    return [(draw_shape(np.random.default_rng(k), size, kind)[0] > SOLID).mean() for k in range(count)]


def inside(values, masks):
    return (values * masks).flatten(1).sum(1) / masks.flatten(1).sum(1)


# Shapes

@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_every_size(kind, size):
    rng = np.random.default_rng(0)
    for _ in range(25):
        mask, name = draw_shape(rng, size, kind)
        solid = (mask > SOLID).sum()
        assert name == kind and mask.shape == size and mask.dtype == np.float32
        assert mask.min() >= 0 and mask.max() <= 1 and 3 <= solid <= .6 * mask.size


def test_kinds_are_drawn_with_their_probabilities():
    rng = np.random.default_rng(0)
    drawn = [draw_shape(rng)[1] for _ in range(3000)]
    shares = dict(crack=.22, scratch=.13, spot=.17, spots=.08, stain=.13, cloud=.12, band=.07, chip=.08)
    assert tuple(shares) == KINDS and THIN == ("crack", "scratch", "spot", "spots")
    for kind, share in shares.items():  # shapes drawn again, too small or too large, shift them a little
        assert abs(drawn.count(kind) / 3000 - share) < .035, kind


def test_the_same_seed_gives_the_same_shape():
    first, second, other = [draw_shape(np.random.default_rng(seed))[0] for seed in (1, 1, 2)]
    assert np.array_equal(first, second) and not np.array_equal(first, other)


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_scale_with_the_size(kind):
    small, large = [np.mean(areas(kind, (side, side), 250)) for side in (128, 256)]
    assert .6 < large / small < 1.5


def test_a_line_has_no_gaps_in_large_images():
    cracks = [draw_shape(np.random.default_rng(k), (384, 384), "crack")[0] for k in range(20)]
    assert np.median([ndimage.label(crack > .2, np.ones((3, 3)))[1] for crack in cracks]) == 1


def test_thin_kinds_are_thin_and_large_ones_large():
    area = {kind: np.median(areas(kind, (128, 128), 60)) for kind in KINDS}
    assert max(area[kind] for kind in THIN) < .01 < min(area[kind] for kind in ("stain", "cloud", "band"))


def test_a_chip_lies_at_a_side_and_narrows_inwards():
    for k in range(40):
        chip = draw_shape(np.random.default_rng(k), (64, 96), "chip")[0] > SOLID
        sides = [np.rot90(chip, turn).sum(1) for turn in range(4)]
        assert any((np.diff(side) <= 0).all() and 0 < side[0] <= 41 for side in sides)


def test_clouds_keep_all_of_their_islands_or_a_quarter():
    clouds = [draw_shape(np.random.default_rng(k), (128, 128), "cloud")[0] for k in range(150)]
    islands = [ndimage.label(cloud > .5)[1] for cloud in clouds]
    assert max(islands) > 15 and np.mean(np.array(islands) <= 2) > .3


def test_cracks_branch_and_scratches_are_nearly_straight(monkeypatch):
    walks = []
    monkeypatch.setattr("memseg_nb.simulation.flaws.wander",
                        lambda *args: walks.append(args) or wander(*args))
    for k in range(80):
        draw_shape(np.random.default_rng(k), (128, 128), "scratch")
    assert max(restless for _, _, _, restless, *_ in walks) <= .03 and 1.5 < len(walks) / 80 < 2.5
    walks.clear()
    for k in range(80):
        draw_shape(np.random.default_rng(k), (128, 128), "crack")
    assert min(restless for _, _, _, restless, *_ in walks) >= .1 and len(walks) / 80 > 1.4


def test_a_straight_walk():
    points, headings = wander(np.random.default_rng(0), np.array([1., 2.]), math.pi / 2, 0, 5, 2.)
    assert np.allclose(points, [[1 + 2 * k, 2] for k in range(1, 6)]) and np.allclose(headings, math.pi / 2)


def test_splat_shares_the_ink_of_a_point_and_leaves_none_outside():
    ink = splat(np.array([[1.25, 2.5], [-.75, 0], [9, 9]]), (4, 5))
    assert ink[1, 2] == ink[1, 3] == .375 and ink[2, 2] == ink[2, 3] == .125 and ink[0, 0] == .25
    assert np.isclose(ink.sum(), 1.25) and splat(np.zeros((7, 2)), (4, 5)).max() == 1


def test_a_blob_keeps_to_its_radius_and_to_the_image():
    for seed in range(40):
        mask = blob(np.random.default_rng(seed), (64, 96), 6, 1.)
        assert mask.shape == (64, 96) and (mask > .5).sum() < math.pi * (1.6 * 6) ** 2


@pytest.mark.parametrize("size, kind, message", [((128, 128), "dent", "dent.*crack"),
                                                 ((16, 64), None, "16 x 64.*32 x 32")])
def test_wishes_that_cannot_be_met(size, kind, message):
    with pytest.raises(MemSegError, match=message):
        draw_shape(np.random.default_rng(0), size, kind)


# The bank

def test_a_bank_holds_what_is_drawn_to_the_last_bit():
    small = ShapeBank(1, (64, 64), seed=5)
    shapes, kinds = small.sample(64, generator())
    mask, kind = draw_shape(np.random.default_rng([5, 0]), (64, 64))
    mask = torch.from_numpy(mask)
    views = [upright.flip(sides) for upright in (mask, mask.T) for sides in ((), (0,), (1,), (0, 1))]
    found = [[torch.equal(shape, view) for view in views] for shape in shapes]
    assert all(map(any, found)) and torch.tensor(found).any(0).all()
    assert (kinds == KINDS.index(kind)).all() and kinds.dtype == torch.long


def test_masks_of_the_bank_are_never_empty(bank):
    shapes, kinds = bank.sample(1000, generator())
    solid = (shapes > SOLID).float().flatten(1)
    assert solid.sum(1).min() >= 3 and solid.mean(1).max() <= .6 and len(kinds.unique()) == len(KINDS)


def test_the_smallest_area_and_when_there_is_none(bank):
    shapes, _ = bank.sample(200, generator(), smallest_area=.02)
    assert (shapes > SOLID).float().mean((1, 2)).min() >= .02
    with pytest.raises(MemSegError, match="70%"):
        bank.sample(1, generator(), smallest_area=.7)


def test_the_same_samples_after_pickling_and_without_the_pictures():
    bank = ShapeBank(100, (64, 96), seed=7)
    expected, kinds = bank.sample(20, generator(3))
    data = pickle.dumps(bank)
    again, same_kinds = pickle.loads(data).sample(20, generator(3))
    assert len(data) < 1000 and torch.equal(expected, again) and torch.equal(kinds, same_kinds)


def test_shapes_are_rendered_when_asked_for_and_only_once(monkeypatch):
    lazy, rendered = ShapeBank(5000, (64, 64)), []
    monkeypatch.setattr(flaws, "draw_shape", lambda *given: rendered.append(given) or draw_shape(*given))
    first, _ = lazy.sample(10, generator())
    assert 0 < len(rendered) <= 10 and len(lazy) == 5000
    before = len(rendered)
    again, _ = lazy.sample(10, generator())
    assert len(rendered) == before and torch.equal(first, again)


def test_a_bank_of_sizes_that_are_not_square():
    shapes, _ = ShapeBank(20, (64, 96)).sample(30, generator())
    assert shapes.shape == (30, 64, 96)


def test_an_empty_bank():
    with pytest.raises(MemSegError, match="0 shapes"):
        ShapeBank(0)


# Fills

def test_thin_and_large_kinds_get_the_fills_they_should():
    expected = {True: (.8, .05, .05, .05, .05), False: (.3, .2, .25, .12, .13)}
    for k, kind in enumerate(KINDS):
        fills = choose_fills(torch.full((8000,), k), generator(k))
        shares = torch.bincount(fills, minlength=len(FILLS)) / 8000
        assert torch.allclose(shares, torch.tensor(expected[kind in THIN]), atol=.02), kind


def test_fills_keep_to_their_own_images(products, bank):
    grey, solid = products.mean(1), bank.sample(len(products), generator())[0] > SOLID
    fills, strength = torch.arange(len(products)) % len(FILLS), torch.full((len(products),), .2)
    contents = fill(grey, solid, fills, strength, grey[:1], generator())
    assert contents.shape == grey.shape and torch.isfinite(contents).all()
    changed = grey.clone()
    changed[5] = 0  # level, like image 0: the others must not care
    again = fill(changed, solid, fills, strength, grey[:1], generator())
    assert torch.equal(contents[:5], again[:5]) and not torch.equal(contents[5], again[5])


def alone(name, grey, strength=.2, count=64, foreign=None):
    "One fill for many copies of one image"
    copies, solid = grey.expand(count, -1, -1), torch.ones(count, *grey.shape, dtype=torch.bool)
    return fill(copies, solid, torch.full((count,), FILLS.index(name)), torch.full((count,), strength),
                copies[:1] if foreign is None else foreign, generator())


def test_a_level_is_added_multiplied_or_the_same_everywhere(products):
    grey = products[3].mean(0)
    contents = alone("level", grey)
    added = (contents - (grey + .2)).abs().flatten(1).amax(1) < 1e-5
    times = (contents - grey * 1.3).abs().flatten(1).amax(1) < 1e-5
    flat = (contents - (grey.mean() + .2)).abs().flatten(1).mean(1) < .03
    assert (added ^ times ^ flat).all() and min(added.sum(), times.sum(), flat.sum()) >= 5


def test_a_texture_comes_from_another_product(products):
    grey, foreign = products[1].mean(0), products[3:5].mean(1)
    for contents in alone("texture", grey, foreign=foreign):
        alike = [torch.corrcoef(torch.stack([contents.flatten(), other.flatten()]))[0, 1]
                 for other in foreign]
        assert max(alike) > .99


def test_a_displaced_part_is_the_product_elsewhere(products):
    grey = products[0].mean(0)
    contents = alone("displaced", grey)
    factors = contents.mean((1, 2)) / grey.mean()
    same = [torch.allclose((part / factor).flatten().sort().values, grey.flatten().sort().values, atol=1e-5)
            for part, factor in zip(contents, factors)]
    assert all(same) and .7 < factors.min() < .95 and ((factors - 1).abs() < 1e-5).float().mean() > .5
    assert (contents - grey).abs().mean((1, 2)).min() > .02
    corner = torch.zeros(64, 64)
    corner[0, 0] = 1
    places = torch.stack([part.argmax() for part in alone("displaced", corner, count=200).flatten(1)])
    assert (min((places // 64).min(), (places % 64).min()) >= 3
            and max((places // 64).max(), (places % 64).max()) <= 60)


def test_a_blur_is_smoother_and_keeps_the_mean(products):
    grey = products[3].mean(0)
    contents = alone("blurred", grey, strength=0.)
    assert ((contents.std((1, 2)) < .8 * grey.std()).all()
            and (contents.mean((1, 2)) - grey.mean()).abs().max() < .02)
    plain = alone("blurred", torch.full((64, 64), .3), strength=.2)
    assert all(torch.allclose(part, part[0, 0], atol=1e-5) for part in plain)
    assert {round(part[0, 0].item(), 3) for part in plain} == {.3, .4}


def test_contrast_is_weaker_stronger_or_inverted(products):
    grey = products[3].mean(0)
    pattern, contents = grey - grey.mean(), alone("contrast", grey, strength=.3)
    factors = ((contents * pattern).sum((1, 2)) / pattern.square().sum()).mul(10).round().div(10)
    assert sorted(factors.unique().tolist()) == pytest.approx([-1, .2, 2, 3])
    assert torch.allclose(contents.mean((1, 2)), grey.mean() + .09, atol=1e-4)


def test_strengths():
    for ease, faintest in ((0., .06), (1., .36)):
        strength = draw_strength(4000, ease, generator())
        assert faintest <= strength.abs().min() < 1.05 * faintest and .52 < strength.abs().max() <= .55 + 1e-6
        assert abs((strength < 0).float().mean() - .6) < .03


# What can be seen

@pytest.mark.parametrize("ease", [0., .5, 1.])
def test_every_mask_lies_over_a_visible_change(bank, products, ease):
    draw, images = generator(), torch.cat([products, surfaces()])
    for _ in range(40):
        shapes, kinds = bank.sample(len(images), draw)
        made, masks = add_flaws(images, shapes, kinds, products, draw, ease)
        assert torch.equal(masks, shapes > SOLID) and masks.dtype == torch.bool
        assert made.min() >= 0 and made.max() <= 1 and torch.isfinite(made).all()
        assert inside((made - images).abs().mean(1), masks).min() >= .02


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (160, 128)])
def test_outside_the_soft_shape_nothing_changes_to_the_bit(size):
    images, draw, shapes_bank = surfaces(size), generator(), ShapeBank(60, size)
    for _ in range(8):
        shapes, kinds = shapes_bank.sample(len(images), draw)
        made, _ = add_flaws(images, shapes, kinds, images[-1:], draw)
        outside = (shapes == 0)[:, None].expand_as(images)
        assert torch.equal(made[outside], images[outside])


def test_the_same_seed_gives_the_same_flaws_and_the_input_stays(bank, products):
    def make(seed):
        draw = generator(seed)
        shapes, kinds = bank.sample(len(products), draw)
        return add_flaws(products, shapes, kinds, products[:2], draw)[0]
    before, state = products.clone(), torch.get_rng_state()
    assert torch.equal(make(1), make(1)) and not torch.equal(make(1), make(2))
    assert torch.equal(products, before) and torch.equal(torch.get_rng_state(), state)


def test_ease_makes_flaws_stronger(bank, products):
    medians = []
    for ease in (0., .5, 1.):
        draw, images = generator(), products.repeat(40, 1, 1, 1)
        shapes, kinds = bank.sample(len(images), draw)
        made, masks = add_flaws(images, shapes, kinds, products, draw, ease)
        medians.append(inside((made - images).abs().mean(1), masks).median().item())
    assert medians[0] * 1.3 < medians[1] < medians[2] / 1.1


def test_the_last_resort_holds_whatever_the_image(bank):
    draw = generator()
    for _ in range(20):
        shapes, _ = bank.sample(16, draw)
        grey = torch.rand(16, 64, 64, generator=draw).sub(.5).mul(10).add(.5).clamp(0, 1)
        sign = torch.where(torch.rand(16, 1, 1, generator=draw) < .5, -1., 1.)
        filled = torch.lerp(grey, torch.rand(16, 1, 1, generator=draw), shapes * .01)
        made = assure(grey, filled, shapes, torch.full((16, 1, 1), .001), sign)
        assert inside((made - grey).abs(), shapes > SOLID).min() >= .02


@pytest.mark.parametrize("ease", [0., 1.])
def test_fills_that_change_nothing_get_the_change_they_need(monkeypatch, ease):
    monkeypatch.setattr("memseg_nb.simulation.flaws.fill", lambda grey, *others: grey.clone())
    images = (.5 + .05 * torch.randn(8, 1, 64, 64, generator=generator())).expand(-1, 3, -1, -1)
    shapes = torch.zeros(8, 64, 64)
    shapes[:, 20:40, 20:40] = 1
    made, masks = add_flaws(images, shapes, torch.arange(8), images[:1], generator(), ease)
    share = torch.tensor([.25] * len(THIN) + [.15] * 4)
    need = (.04 + share * images[:, 0].std((1, 2))) * (1 + 3 * ease)
    assert torch.allclose(inside((made - images).abs().mean(1), masks), need, atol=1e-3)


def test_the_edge_of_a_shape_is_soft(monkeypatch):
    monkeypatch.setattr("memseg_nb.simulation.flaws.fill", lambda grey, *others: grey + .3)
    images, shapes = torch.full((1, 3, 32, 32), .4), torch.linspace(0, 1, 32).expand(1, 32, 32)
    made, masks = add_flaws(images, shapes, torch.tensor([4]), images, generator())
    assert torch.allclose(made - images, .3 * shapes[:, None].expand_as(images), atol=1e-5)
    assert torch.equal(masks, shapes > SOLID)


def test_black_and_white_go_where_there_is_room():
    shapes, nothing = torch.ones(2, 32, 32), torch.stack([torch.zeros(32, 32), torch.ones(32, 32)])
    made = assure(nothing, nothing, shapes, torch.full((2, 1, 1), .05),
                  torch.tensor([-1., 1.])[:, None, None])
    assert torch.allclose(made[0], torch.tensor(.1)) and torch.allclose(made[1], torch.tensor(.9))


def test_a_change_that_is_large_enough_is_left_alone():
    grey, filled = torch.full((1, 32, 32), .5), torch.full((1, 32, 32), .7)
    assert torch.equal(
        assure(grey, filled, torch.ones(1, 32, 32), torch.full((1, 1, 1), .1), torch.ones(1, 1, 1)), filled)


# Colour

def test_relight_reaches_the_brightness_asked_for_and_keeps_the_hue():
    draw = generator()
    images, wanted = torch.rand(8, 3, 32, 32, generator=draw), torch.rand(8, 32, 32, generator=draw)
    made = relight(images, images.mean(1), wanted)
    assert torch.allclose(made.mean(1), wanted, atol=1e-4) and made.min() >= 0 and made.max() <= 1
    colour, made_colour = images - images.mean(1, True), made - made.mean(1, True)
    cross = torch.linalg.cross(colour, made_colour, dim=1).norm(dim=1)
    assert cross.max() < 1e-3 and (colour * made_colour).sum(1).min() > -1e-5


def test_grey_stays_grey(bank, products):
    grey = products.mean(1, True).expand(-1, 3, -1, -1)
    shapes, kinds = bank.sample(len(grey), generator())
    made, _ = add_flaws(grey, shapes, kinds, products, generator())
    assert (torch.allclose(made[:, 0], made[:, 1], atol=1e-5)
            and torch.allclose(made[:, 0], made[:, 2], atol=1e-5))


# Mistakes

def test_mistakes_are_named(bank, products):
    shapes, kinds = bank.sample(len(products), generator())
    with pytest.raises(MemSegError, match="foreign.*one or more"):
        add_flaws(products, shapes, kinds, products[:0], generator())
    with pytest.raises(MemSegError, match="foreign.*3, 64, 64"):
        add_flaws(products, shapes, kinds, products[..., :32], generator())
    with pytest.raises(MemSegError, match="shapes of size.*need"):
        add_flaws(products, shapes[:2], kinds[:2], products, generator())
    with pytest.raises(MemSegError, match="without a pixel"):
        add_flaws(products, torch.zeros_like(shapes), kinds, products, generator())


# Pace
