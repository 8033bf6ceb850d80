"Materials and products of formulas: what a seed decides, what a specimen changes, any size, and no loose ends"

import dataclasses
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from memseg_nb.pretraining.procedural import (KINDS, TEXTURES, coverage, draw_shape, draw_spectrum,
                                              draw_texture,
                                              filtered_noise, formula_product, open_sheet, place, polygon,
                                              standardise)
from memseg_nb.files import MemSegError

SIZES = [(128, 128), (64, 96), (96, 64), (33, 47), (256, 256)]
each_size = pytest.mark.parametrize("size", SIZES, ids=str)


def rng(*seed): return np.random.default_rng(seed or 0)


@each_size
@pytest.mark.parametrize("family", TEXTURES)
def test_every_family_gives_finite_fields_of_any_size(family, size):
    sheet = open_sheet(size)
    for seed in range(12):
        field = draw_texture(rng(seed), sheet, family)(rng(1), sheet.x, sheet.y)
        assert field.shape == size and field.dtype == np.float32
        assert np.isfinite(field).all() and abs(field.mean()) < .5 and .01 < field.std() < 3


@pytest.mark.parametrize("family", TEXTURES)
def test_a_material_is_decided_by_its_seed_and_a_piece_by_its_own(family):
    sheet = open_sheet((64, 64))
    first, again = [draw_texture(rng(5), sheet, family) for _ in range(2)]
    piece = first(rng(0), sheet.x, sheet.y)
    assert np.array_equal(piece, again(rng(0), sheet.x, sheet.y))
    assert not np.array_equal(piece, first(rng(1), sheet.x, sheet.y))


def test_families_come_as_often_as_they_should():
    assert math.isclose(sum(chance for _, chance in TEXTURES.values()), 1)
    assert math.isclose(sum(KINDS.values()), 1)
    kinds = [formula_product(seed, (32, 32)).kind for seed in range(1000)]
    assert all(abs(kinds.count(kind) / 1000 - chance) < .06 for kind, chance in KINDS.items())


def test_filtered_noise_has_the_spectrum_it_was_given():
    size = (64, 64)
    spectrum = np.zeros((64, 33))
    spectrum[3, 5] = 1
    waves = np.abs(np.fft.rfft2(filtered_noise(spectrum, rng(), size)))
    assert np.unravel_index(waves.argmax(), waves.shape) == (3, 5)
    waves[3, 5] = 0
    assert waves.max() < 1e-2


def test_spectra_are_never_negative_or_empty():
    for size in SIZES:
        for seed in range(40):
            spectrum = draw_spectrum(rng(seed), open_sheet(size))
            assert spectrum.shape == (size[0], size[1] // 2 + 1)
            assert np.isfinite(spectrum).all() and spectrum.min() >= 0 and spectrum.max() > 0


def test_standardise_leaves_a_flat_field_at_zero():
    assert not standardise(np.full((4, 4), 3.)).any()


@each_size
def test_the_sheet_measures_in_shorter_sides(size):
    sheet = open_sheet(size)
    assert min(sheet.reach) == 1 and math.isclose(max(sheet.reach), max(size) / min(size))
    pixel = 2 / min(size)
    assert np.allclose(np.diff(sheet.x, axis=1), pixel, atol=1e-5)
    assert np.allclose(np.diff(sheet.y, axis=0), pixel, atol=1e-5)
    assert abs(sheet.x.mean()) < 1e-5 and abs(sheet.y.mean()) < 1e-5
    assert math.isclose(sheet.x.max(), sheet.reach[1] - pixel / 2, rel_tol=1e-5)


def test_frequencies_are_counted_in_steps_of_the_shorter_side():
    for size in ((128, 128), (128, 256), (256, 128)):
        sheet = open_sheet(size)
        assert sheet.frequency_x.max() == .5 and abs(sheet.frequency_y).max() == .5
    assert open_sheet((256, 512)).frequency_x.max() == 1 and open_sheet((256, 512)).step == 2


@pytest.mark.parametrize("size", [(31, 128), (128, 0), (128,), (1, 2, 3)], ids=str)
def test_a_size_without_room_is_refused(size):
    with pytest.raises(MemSegError, match="32"):
        formula_product(0, size)


@pytest.mark.parametrize("corners", [3, 4, 5, 6])
def test_polygons_are_closed_and_of_the_right_area(corners):
    sheet, radius = open_sheet((256, 256)), .4
    area = coverage(polygon(corners, radius)(sheet.x, sheet.y), sheet).sum() / 128**2
    assert math.isclose(area, corners * radius**2 * math.tan(math.pi / corners), rel_tol=.01)


def test_place_moves_and_turns():
    bar = place(lambda x, y: np.maximum(np.abs(x) - .5, np.abs(y) - .1), (.2, -.3), math.pi / 2)
    assert bar(.2, -.3) < 0 and bar(.2, .1) < 0 and bar(.6, -.3) > 0  # upright now
    assert abs(bar(.2, .2)) < 1e-9 and abs(bar(.3, -.3)) < 1e-9  # its ends and sides
    slanted = place(lambda x, y: np.maximum(np.abs(x) - .5, np.abs(y) - .1), (0, 0), math.pi / 6)
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    assert abs(slanted(.5 * cos, .5 * sin)) < 1e-9 and slanted(.5 * cos, -.5 * sin) > .2


def test_coverage_is_half_on_the_edge_and_one_pixel_wide():
    for size in SIZES:
        sheet, half = open_sheet(size), 1 / min(size)  # half a pixel
        assert np.allclose(coverage(np.array([-half, 0, half]), sheet), [1, .5, 0])


def test_shapes_reach_all_of_a_wide_sheet():
    sheet = open_sheet((64, 128))
    seen = sum(draw_shape(rng(seed), sheet)(sheet.x, sheet.y) < 0 for seed in range(300))
    assert (seen > 0).mean() > .95


@each_size
def test_products_are_grey_images_of_any_size(size):
    for seed in range(25):
        image = formula_product(seed, size).draw(rng(seed))
        assert image.shape == size and image.dtype == np.float32
        assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1


def test_the_seed_decides_the_product_and_the_generator_the_specimen():
    for seed in range(20):
        product, again = formula_product(seed), formula_product(seed)
        assert (product.seed, product.kind) == (seed, again.kind) and product.kind in KINDS
        image = product.draw(rng(1))
        assert np.array_equal(image, again.draw(rng(1)))
        assert np.array_equal(image, pickle.loads(pickle.dumps(product)).draw(rng(1)))
        assert not np.array_equal(image, product.draw(rng(2)))


def test_pickling_keeps_the_size():
    assert pickle.loads(pickle.dumps(formula_product(3, (64, 96)))).draw(rng()).shape == (64, 96)


def test_specimens_are_alike_and_products_are_not():
    images = np.array([[formula_product(seed, (64, 64)).draw(rng(seed, k)) for k in range(2)]
                       for seed in range(40)])
    within = np.abs(images[:, 0] - images[:, 1]).mean()
    between = np.abs(images[:, None, 0] - images[None, :, 1]).mean()
    assert between > 2 * within > 0


def still(product, **change):
    "The product without play and materials"
    smooth = [part and dataclasses.replace(part, texture=None) for part in (product.body, *product.parts)]
    handling = dataclasses.replace(product.handling, shift=0, turn=0, frame=None)
    parts = {"body": smooth[0], "parts": tuple(smooth[1:])}
    return dataclasses.replace(product, **{**parts, "handling": handling, **change})


def test_parts_lie_on_the_body_of_an_object():
    objects = [product for product in map(formula_product, range(120)) if product.body and product.parts]
    changed = []
    for product in objects:
        shown, bare = still(product).draw(rng()), still(product, parts=()).draw(rng())
        inside = coverage(product.body.distance(product.sheet.x, product.sheet.y), product.sheet) > 0
        assert np.array_equal(shown[~inside], bare[~inside])
        changed.append(not np.array_equal(shown, bare))
    assert np.mean(changed) > .6


def test_a_still_product_is_always_the_same():
    for product in map(formula_product, range(20)):
        ground = dataclasses.replace(product.ground, texture=None)
        one, two = [still(product, ground=ground).draw(rng(seed)) for seed in (1, 2)]
        assert np.array_equal(one, two)


def test_some_surfaces_have_bars_at_equal_distances():
    surfaces = [product for product in map(formula_product, range(600)) if product.kind == "surface"]
    barred = [product for product in surfaces if product.parts]
    assert .08 < len(barred) / len(surfaces) < .22
    for product in barred:
        x = np.linspace(-1, 1, 2000)
        profiles = [sum(part.distance(*point) < 0 for part in product.parts)
                    for point in ((x, .77), (.77, x))]
        starts = [np.flatnonzero(np.diff(profile.astype(int)) > 0) for profile in profiles]
        count = len(product.parts)
        assert any(len(start) == count and np.ptp(np.diff(start)) <= 2 for start in starts)


def test_some_products_have_a_border():
    framed = [p.handling.frame is not None for p in map(formula_product, range(400))]
    assert .22 < np.mean(framed) < .38


def test_products_are_not_empty():
    "Nearly all have something on them, and none of many is the same as another"
    images = [formula_product(seed, (64, 64)).draw(rng()) for seed in range(200)]
    assert np.mean([image.std() > .005 for image in images]) > .97
    assert len({image.tobytes() for image in images}) == 200


def test_size_changes_sharpness_only():
    "Layouts and objects of the same seed agree at 64 and 256, where no piece of material differs"
    for seed in (9, 4, 10):
        small, large = [formula_product(seed, (side, side)) for side in (64, 256)]
        assert small.kind == large.kind and len(small.parts) == len(large.parts)
        assert [part.level for part in small.parts] == [part.level for part in large.parts]
        for one, two in zip(small.parts, large.parts):
            shares = [coverage(part.distance(p.sheet.x, p.sheet.y), p.sheet).mean()
                      for part, p in ((one, small), (two, large))]
            assert abs(shares[0] - shares[1]) < .01


def test_nothing_of_the_embedded_products_is_used():
    "What is trained on formulas is judged on the embedded products: it must not have seen how they are made"
    code = ("import sys; import memseg_nb.pretraining.episodes; names = {m.split('.')[-1] for m in "
            "sys.modules if "
            "m.startswith('memseg_nb.')}; print(names & {'render', 'products', 'objects', 'surfaces', "
            "'damage', 'fabric', 'electronics', 'artwork', 'shapes', 'textures', 'patterns'})")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stdout + run.stderr
