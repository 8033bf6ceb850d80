"""Perlin noise: against Perlin's own, against itself in other batches, and what its masks are like"""
import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from make_noise import CELLS, FIELDS, PLACES, STORED, field, key, step

from memseg_nb.simulation.perlin import (binarise, improved_gradients, lattice, perlin, perlin_noise,
                                         resample, rotate,
                              rotation, uniform)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def reference(cells, size, start):
    "What is stored of the noise package's field; ours has to be cut by `alike` to be compared"
    with np.load(STORED) as stored: return torch.from_numpy(stored[key(cells, start, size)])


def alike(ours):
    "The pixels of a field that are stored of the reference"
    size = tuple(ours.shape)
    return ours if step(size) == 1 else ours.flatten()[::step(size)]


def own(cells, size, start, gradients=improved_gradients):
    "Our field with the reference's gradients"
    corner, inside = [int(value) for value in start], [value - int(value) for value in start]
    arrows = gradients(cells[0] + 2, cells[1] + 2, *corner)
    return perlin(arrows[None], torch.tensor([cells]), size, inside)[0]


@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("start, size", PLACES)
def test_equals_the_noise_package(cells, start, size):
    assert (alike(own(cells, size, start)) - reference(cells, size, start)).abs().max() < 1e-5


@pytest.mark.skipif(not find_spec("noise"), reason="needs the package noise: pip install 'memseg-nb[noise]'")
def test_the_stored_values_are_the_noise_packages():
    for one in FIELDS:
        assert torch.equal(alike(torch.from_numpy(field(*one))), reference(one[0], one[2], one[1]))
    assert STORED.stat().st_size < 50_000


def test_the_comparison_with_the_noise_package_can_fail():
    normalised = lambda *where: torch.nn.functional.normalize(improved_gradients(*where), dim=-1)
    swapped = lambda *where: improved_gradients(*where).flip(-1)
    expected = reference((4, 4), (32, 32), (3, 9))
    assert (own((4, 4), (32, 32), (3, 9)) - expected).abs().max() < 1e-5
    assert (own((4, 4), (32, 32), (3, 9), normalised) - expected).abs().max() > .05
    assert (own((4, 4), (32, 32), (3, 9), swapped) - expected).abs().max() > .05


def test_table_has_eight_directions_of_unequal_length():
    arrows = improved_gradients(100, 100).view(-1, 2).unique(dim=0)
    assert len(arrows) == 8 and arrows.norm(dim=1).unique().numel() == 2


def test_field_is_zero_on_its_lattice_and_bounded():
    field = perlin(lattice(torch.tensor([[3, 2]] * 64), generator()), torch.tensor([[8, 4]] * 64), (64, 64))
    assert field[:, ::8, ::16].abs().max() < 1e-6
    assert field.abs().max() <= math.sqrt(.5) + 1e-6


def test_samples_of_a_batch_do_not_see_each_other():
    exponents = torch.tensor([(a, b) for a in range(6) for b in range(6)])
    gradients = lattice(exponents, generator())
    fields = perlin(gradients, 2**exponents, (64, 96))
    for k, (rows, columns) in enumerate((2**exponents).tolist()):
        alone = perlin(gradients[k:k + 1, :rows + 1, :columns + 1], torch.tensor([[rows, columns]]), (64, 96))
        assert torch.allclose(alone[0], fields[k], atol=1e-5)


def test_gradients_have_unit_length_and_any_direction():
    arrows = lattice(torch.tensor([[5, 5]] * 8), generator()).view(-1, 2)
    assert torch.allclose(arrows.norm(dim=1), torch.ones(len(arrows)), atol=1e-6)
    angle = torch.atan2(arrows[:, 0], arrows[:, 1])
    assert torch.histc(angle, 8, -math.pi, math.pi).min() > len(arrows) / 8 * .9


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_move_pixels_onto_pixels(quarters):
    field = torch.rand(2, 32, 32, generator=generator())
    turned = rotate(field, torch.full((2,), 90. * quarters))
    assert torch.allclose(turned, field.rot90(quarters, (1, 2)), atol=1e-4)


def test_turning_by_nothing_changes_nothing_in_any_shape():
    field = torch.rand(1, 24, 56, generator=generator())
    assert torch.allclose(rotate(field, torch.zeros(1)), field, atol=1e-5)


def test_images_that_are_not_square_are_turned_not_sheared():
    bump = torch.exp(-torch.hypot(torch.arange(64.)[:, None] - 31.5, torch.arange(128.) - 63.5)**2 / 50)[None]
    assert (rotate(bump, torch.tensor([37.])) - bump).abs().max() < .02


def test_what_comes_from_beyond_the_border_is_the_mirror_image():
    field = torch.rand(1, 32, 32, generator=generator()) + 1
    assert rotate(field, torch.tensor([45.])).min() >= 1
    flipped = resample(field[None], torch.tensor([[[-1., 0], [0, 1]]]))
    assert torch.allclose(flipped[0], field.flip(2), atol=1e-5)
    assert torch.allclose(rotation(torch.zeros(1)), torch.eye(2))


def test_masks_reach_the_corners():
    masks = binarise(perlin_noise(3000, (32, 32), generator())).float().mean(0)
    corners = torch.stack([masks[:3, :3], masks[:3, -3:], masks[-3:, :3], masks[-3:, -3:]])
    assert corners.mean() > .6 * masks.mean()


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_scaled_noise_spans_minus_one_to_one(size):
    noises = perlin_noise(400, size, generator())
    assert noises.shape == (400, *size) and noises.dtype == torch.float32
    assert .9 < noises.max() <= 1.0001 and -1.0001 <= noises.min() < -.9
    assert abs(noises.mean()) < .02


def test_higher_thresholds_give_smaller_defects():
    noises = perlin_noise(200, (64, 64), generator())
    shares = [binarise(noises, threshold).float().mean() for threshold in (.2, .5, .8)]
    assert shares[0] > 2 * shares[1] > 4 * shares[2] > 0


def test_exponents_stay_between_their_bounds():
    def signs(field):  # changes of sign along a column: about one a cell
        return (field[:, 1:] * field[:, :-1] < 0).float().mean((1, 2)) * field.shape[1]
    coarse = signs(perlin_noise(50, (64, 64), generator(), smallest=1, largest=1, rotation=0.))
    fine = signs(perlin_noise(50, (64, 64), generator(), smallest=5, largest=5, rotation=0.))
    assert coarse.max() < 4 and fine.min() > 8


def test_without_rotation_the_streaks_are_upright():
    def lean(rotation):
        field = perlin_noise(200, (64, 64), generator(), rotation=rotation)
        down, right = field.diff(dim=1).abs().mean((1, 2)), field.diff(dim=2).abs().mean((1, 2))
        return (down / right).log().abs().mean()
    assert lean(0.) > 1.4 * lean(90.)


def test_the_generator_decides_and_nothing_else():
    state = torch.get_rng_state()
    first = perlin_noise(6, (64, 96), generator(4))
    torch.manual_seed(99)
    torch.set_rng_state(state)
    assert torch.equal(first, perlin_noise(6, (64, 96), generator(4)))
    assert not torch.equal(first, perlin_noise(6, (64, 96), generator(5)))
    assert torch.equal(torch.get_rng_state(), state)


def test_result_does_not_depend_on_the_number_of_threads():
    threads, fields = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            fields.append(binarise(perlin_noise(16, (96, 64), generator(1))))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(fields[0], fields[1]) and torch.equal(fields[0], fields[2])


def test_uniform_fills_its_range():
    values = uniform((10000,), -3, 2, generator())
    assert -3 <= values.min() < -2.99 and 1.99 < values.max() < 2 and abs(values.mean() + .5) < .05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same():
    here = perlin_noise(4, (64, 64), generator())
    there = perlin_noise(4, (64, 64), generator(), device="cuda")
    assert there.is_cuda and torch.allclose(here, there.cpu(), atol=1e-4)
