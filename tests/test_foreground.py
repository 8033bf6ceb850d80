"""Foreground: against scikit-image and SciPy, and how often it tells products from surfaces"""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage import morphology
from skimage.filters import threshold_otsu

from memseg_nb.simulation.extensions import Rule, any_pixel, choose_method, grey, parse_rule
from memseg_nb.simulation.foreground import (fill, foreground, histogram, judge, open_close, otsu,
                                             two_classes)
from memseg_nb.products.catalogue import PRODUCTS, render_product
from memseg_nb.files import MemSegError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def disc(size=(256, 256), radius=.3, inside=.8, outside=.2, noise=.02, at=(.5, .5)):
    "A round product on a plain background, (1, 3, H, W)"
    y, x = torch.arange(size[0])[:, None] - at[0] * size[0], torch.arange(size[1]) - at[1] * size[1]
    shape = torch.hypot(y, x) < radius * min(size)
    image = torch.where(shape, inside, outside) + noise * torch.randn(size, generator=generator())
    return image.clamp(0, 1).expand(1, 3, *size).contiguous(), shape


# Otsu

def some_images():
    draw = generator()
    uniform = torch.rand(2, 64, 96, generator=draw)
    products = torch.stack([grey(render_product(name, (64, 96))[0][None])[0] for name in PRODUCTS])
    return torch.cat((uniform, uniform**3, products)).mul(255).round() / 255


def test_otsu_splits_as_scikit_image_does():
    images = some_images()
    for image, threshold in zip(images, otsu(images)):
        levels = torch.round(image * 255).to(torch.uint8)
        theirs = threshold_otsu(levels.numpy())
        assert torch.equal(image > threshold, levels > theirs)


def test_otsu_of_a_batch_is_that_of_each_image():
    images = some_images()
    together = two_classes(images)
    for k, image in enumerate(images):
        for ours, alone in zip(together, two_classes(image[None])):
            assert torch.allclose(ours[k], alone[0], atol=1e-6)


def test_histogram_counts():
    image = torch.tensor([[[0., 0, 1], [.5, 1, 1]]])
    counts = histogram(image)[0] * 6
    assert counts[0] == 2 and counts[255] == 3 and counts.sum() == 6 and counts[127] + counts[128] == 1


def test_two_grey_levels_are_explained_entirely():
    split = two_classes(torch.tensor([[[.2, .2], [.2, .9]]]))
    assert split.separability[0] > .9999 and split.valley[0] == 0 and .2 < split.threshold[0] < .9


def test_grey_weighs_green_most():
    red, green, blue = grey(torch.eye(3).view(3, 3, 1, 1)).flatten().tolist()
    assert green > red > blue and abs(red + green + blue - 1) < 1e-6


# Opening, closing, filling

def scipy_open_close(mask, opening, closing):
    small, large = np.ones((2 * opening + 1,) * 2), np.ones((2 * closing + 1,) * 2)
    mask = ndimage.binary_dilation(ndimage.binary_erosion(mask, small, border_value=1), small)
    mask = ndimage.binary_closing(np.pad(mask, closing), large)
    return mask[closing:mask.shape[0] - closing, closing:mask.shape[1] - closing]


@pytest.mark.parametrize("opening, closing", [(0, 0), (1, 0), (0, 1), (2, 4), (3, 3), (1, 11)])
@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_open_close_is_that_of_scipy(opening, closing, size):
    smooth = F.avg_pool2d(torch.rand(6, size[0] + 8, size[1] + 8, generator=generator()), 9, stride=1)
    masks = smooth > smooth.mean()
    for mask, ours in zip(masks, open_close(masks, opening, closing)):
        assert (ours.numpy() == scipy_open_close(mask.numpy(), opening, closing)).all()


def test_open_close_is_that_of_scikit_image_away_from_the_border():
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 12:52, 12:52] = torch.rand(40, 40, generator=generator()) > .3
    theirs = morphology.opening(mask[0].numpy(), np.ones((3, 3)))
    theirs = morphology.closing(theirs, np.ones((5, 5)))
    assert (open_close(mask, 1, 2)[0].numpy() == theirs).all()


def test_a_product_cut_by_the_border_is_not_eaten_and_a_gap_to_the_border_not_closed():
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[0, :20, 3:] = True
    assert torch.equal(open_close(mask, 3, 5), mask)


def test_fill_takes_what_is_surrounded_and_nothing_else():
    masks = torch.rand(20, 24, 40, generator=generator()) > .9
    for mask, filled in zip(masks.numpy(), fill(masks).numpy()):
        for y in range(24):
            for x in range(40):
                sides = mask[:y, x], mask[y + 1:, x], mask[y, :x], mask[y, x + 1:]
                assert filled[y, x] == (mask[y, x] or all(side.any() for side in sides))


@pytest.mark.parametrize("size", [(5, 7), (64, 96), (256, 255), (40, 300), (257, 30)])
@pytest.mark.parametrize("share", [0, .004, .05, .5, 1])
def test_fill_is_what_four_running_sums_say(size, share):
    mask = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) < share
    sees = [flip(flip(mask).cumsum(axis)) > 0 for axis in (1, 2)
            for flip in (lambda x: x, lambda x, a=axis: x.flip(a))]
    assert torch.equal(fill(mask), mask | (sees[0] & sees[1] & sees[2] & sees[3]))


def test_empty_masks_are_told_from_others():
    masks = torch.zeros(4, 30, 50, dtype=torch.bool)
    masks[1, 0, 0] = masks[3, 29, 49] = True
    assert any_pixel(masks).tolist() == [False, True, False, True]
    assert any_pixel(masks[:, ::2, 1:]).tolist() == [False] * 4  # not contiguous


def test_fill_covers_true_holes():
    ring = disc(radius=.4)[1] & ~disc(radius=.2)[1]
    assert (fill(ring[None])[0].numpy() >= ndimage.binary_fill_holes(ring.numpy())).all()


# Which half, and whether at all

@pytest.mark.parametrize("size", [(256, 256), (128, 128), (96, 224)])
@pytest.mark.parametrize("inside, outside", [(.8, .2), (.2, .8), (.55, .35)])
def test_finds_bright_and_dark_products(size, inside, outside):
    image, shape = disc(size, inside=inside, outside=outside)
    found = foreground(image)[0]
    assert found.dtype == torch.bool and found.shape == size
    assert (found & shape).sum() / (found | shape).sum() > .95


def test_products_of_a_batch_do_not_see_each_other():
    random = torch.rand(1, 3, 256, 256, generator=generator())
    images = torch.cat([disc(inside=.8)[0], random, disc(inside=.1)[0]])
    together = foreground(images)
    assert all(torch.equal(together[k], foreground(images[k:k + 1])[0]) for k in range(3))


@pytest.mark.parametrize("size", [(256, 256), (128, 128)])
@pytest.mark.parametrize("name", PRODUCTS)
def test_embedded_products_are_told_from_surfaces(name, size):
    images = [render_product(name, size, seed=8, index=k)[0] for k in range(8)]
    images += [render_product(name, size, seed=8, defect=defect, index=k)[0]
               for defect in PRODUCTS[name].defects for k in range(2)]
    whole = foreground(torch.stack(images)).all(2).all(1)
    assert whole.float().mean() == (PRODUCTS[name].kind == "texture")


@pytest.mark.parametrize("surface", ["noise", "gradient", "stripes", "checks", "flat", "smooth"])
def test_surfaces_are_taken_whole(surface):
    y, x = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    draw = torch.rand(256, 256, generator=generator())
    pictures = {"noise": draw, "gradient": (x / 255.) * .9 + .1 * draw, "stripes": (x // 8 % 2).float(),
                "checks": ((x // 16 + y // 16) % 2).float(), "flat": torch.full((256, 256), .5),
                "smooth": F.avg_pool2d(F.pad(draw, (8,) * 4, value=.5)[None], 17, stride=1)[0]}
    assert foreground(pictures[surface].expand(1, 3, 256, 256)).all()


def test_limits_of_the_judgement_can_be_moved():
    image = grey(disc(noise=.1)[0])
    judged = judge(image)
    assert not judged.whole
    assert judge(image, separability=judged.separability.item() + .01).whole
    assert judge(image, valley=judged.valley.item() - .01).whole
    assert judge(image, border=judged.border.item() - .01).whole


@pytest.mark.parametrize("method", ["otsu", "off", ">50", "<=100", ">255", "<0"])
def test_never_empty(method):
    draw = generator(3)
    speck = torch.zeros(1, 3, 64, 64)
    speck[..., 20, 30] = 1
    images = torch.cat([speck, 1 - speck, torch.rand(4, 3, 64, 64, generator=draw), torch.zeros(1, 3, 64, 64),
                        torch.rand(6, 1, 1, 1, generator=draw).expand(6, 3, 64, 64)])
    assert foreground(images, method).flatten(1).any(1).all()


def test_radii_grow_with_the_image():
    small, large = disc((128, 128))[0], disc((256, 256))[0]
    small[..., 8:13, 8:13] = large[..., 16:26, 16:26] = .8  # a speck of 5 pixels at 128 is one of 10 at 256
    for opening, stays in ((4, True), (6, False)):
        assert foreground(small, ">128", opening)[0, 10, 10] == stays
        assert foreground(large, ">128", opening)[0, 20, 20] == stays


# Rules

@pytest.mark.parametrize("text, levels", [(">50", [51, 255]), (">=50", [50, 51, 255]), ("<50", [0, 49]),
                                          (" <= 50 ", [0, 49, 50]), (">49.5", [50, 51, 255])])
def test_rules_compare_grey_levels(text, levels):
    given = torch.tensor([0, 49, 50, 51, 255])
    assert given[parse_rule(text)(given / 255)].tolist() == levels


@pytest.mark.parametrize("text", ["", "50", ">", "=50", ">-1", ">256", "bright", ">5 0", "otsu!", "50<"])
def test_wrong_rules_are_refused_with_an_example(text):
    with pytest.raises(MemSegError, match="expected otsu, off, or a comparison"):
        foreground(torch.rand(1, 3, 32, 32), text)
    with pytest.raises(MemSegError):
        choose_method("nut", text or "?", {})


def test_rule_is_taken_literally():
    image, shape = disc(noise=0)
    image[..., 120:136, 120:136] = .2  # a hole
    assert not foreground(image, ">128")[0, 128, 128] and foreground(image)[0, 128, 128]
    assert torch.equal(foreground(image, "<128", 0, 0), ~foreground(image, ">=128", 0, 0))


def test_choice_of_the_method():
    table = {"hazelnut": ">50", "carpet": "off"}
    for category, method, chosen in (("hazelnut", "auto", ">50"), ("carpet", "auto", "off"),
                                     ("my_part", "auto", "otsu"), ("hazelnut", "otsu", "otsu"),
                                     ("hazelnut", "off", "off"), ("hazelnut", "<7", "<7"),
                                     ("hazelnut", "table", ">50")):
        assert choose_method(category, method, table) == chosen
    with pytest.raises(MemSegError, match="no rule for 'my_part'.*carpet, hazelnut"):
        choose_method("my_part", "table", table)
    assert parse_rule(table["hazelnut"]) == Rule(">", 50)


@pytest.mark.parametrize("rule, size, found", [
    (">128", .3, ">128"), ("<128", .3, "otsu"), ("<=128", .3, "otsu"), (">250", .3, "otsu"),
    (">5", .3, "otsu"), (">128", .49, ">128"), ("off", .3, "off")])
def test_a_rule_that_misses_the_product_is_not_trusted(rule, size, found):
    "It selects the border or nothing: somebody else's rule, for a product of the same name"
    images = disc(radius=size)[0].expand(3, -1, -1, -1)
    assert choose_method("screw", "auto", {"screw": rule}, images) == found
    for method in "table", rule: assert choose_method("screw", method, {"screw": rule}, images) == rule
    one_odd = torch.cat([images, 1 - images[:1]])
    assert choose_method("screw", "auto", {"screw": rule}, one_odd) == found, "most images decide"
