"Denim, steel and oak: what only textures have to keep (what all products keep is in test_products)"
import ast
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

import memseg_nb
from memseg_nb.products.fabric import _cloth, _on_top, _yarns, scattered
from memseg_nb.products.light import VISIBLE
from memseg_nb.products.shapes import blank
from memseg_nb.products.surfaces import SURFACES

KINDS = [(name, defect) for name, product in SURFACES.items() for defect in product.defects]


def draw(name, defect=None, seed=0, size=(128, 128), **options):
    return SURFACES[name].render(size, np.random.default_rng(seed), defect, **options)


def test_three_textures_with_five_kinds_of_defects_each():
    assert set(SURFACES) == {"woven_fabric", "brushed_metal", "wood"}
    for name, product in SURFACES.items():
        assert product.name == name and product.kind == "texture" and len(set(product.defects)) == 5


@pytest.mark.parametrize("module", ["fabric", "surfaces"])
def test_defects_share_nothing_with_the_training_simulation(module):
    tree = ast.parse((Path(memseg_nb.__file__).parent / "products" / f"{module}.py").read_text())
    imported = {node.module.split(".")[-1] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"perlin", "textures", "simulation", "foreground"}


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("size", [(32, 32), (96, 224), (512, 512)])
def test_good_ones_of_any_size(name, size):
    image, mask = draw(name, size=size)
    assert image.shape == (*size, 3) and image.dtype == np.float32 and 0 <= image.min() and image.max() <= 1
    assert mask.shape == size and mask.dtype == bool and not mask.any()
    assert .1 < image.mean() < .9 and image.std() > .02


@pytest.mark.parametrize("name, defect", KINDS)
def test_a_defect_changes_what_its_mask_covers_and_nothing_else(name, defect):
    for seed in range(4):
        sound, _ = draw(name, None, seed, sensor=False)
        broken, mask = draw(name, defect, seed, sensor=False)
        change = np.abs(broken - sound).max(-1)
        assert change[~mask].max() <= VISIBLE + 1e-6
        assert (change[mask] > VISIBLE).mean() > .4
        assert change.max() > 10 / 255, "too faint to be seen"


@pytest.mark.parametrize("name, defect", KINDS)
def test_masks_are_compact_and_lie_inside(name, defect):
    for seed in range(4):
        _, mask = draw(name, defect, seed, (256, 256))
        labels, regions = ndimage.label(mask, np.ones((3, 3)))
        assert 1e-4 < mask.mean() < .25 and regions <= 40
        if defect not in ("pits", "worm_holes", "drop"):  # many small ones by nature
            assert np.bincount(labels[mask]).max() > .3 * mask.sum()


@pytest.mark.parametrize("name", SURFACES)
def test_some_defects_are_large_and_some_small(name):
    shares = [draw(name, defect, seed)[1].mean() for defect in SURFACES[name].defects for seed in range(5)]
    assert min(shares) < .01 and max(shares) > .02 and max(shares) > 6 * min(shares)


@pytest.mark.parametrize("name, defect", KINDS)
def test_a_defect_is_the_same_at_any_size(name, defect):
    def share(side): return sum(draw(name, defect, seed, (side, side))[1].mean() for seed in range(4))

    assert .4 < share(128) / share(256) < 2.5


@pytest.mark.parametrize("name", SURFACES)
def test_no_place_is_like_another(name):
    "Two good pictures agree about as little as a picture with itself, moved by a third"
    one, other = (draw(name, seed=seed, sensor=False)[0].mean(-1) for seed in (1, 2))
    one, other = (image - ndimage.gaussian_filter(image, 8) for image in (one, other))
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < .3


@pytest.mark.parametrize("name", ["brushed_metal", "wood"])
def test_grain_runs_across(name):
    grey = draw(name, size=(256, 256), sensor=False)[0].mean(-1)
    assert np.abs(np.diff(grey, axis=0)).mean() > 2 * np.abs(np.diff(grey, axis=1)).mean()


@pytest.mark.parametrize("name", SURFACES)
def test_distance_to_the_mean_is_a_weak_detector(name):
    mean = np.mean([draw(name, seed=[1, k])[0] for k in range(30)], 0)
    defects = [None] * 25 + list(SURFACES[name].defects) * 6
    images = np.stack([draw(name, defect, [2, k])[0] for k, defect in enumerate(defects)])
    distances = np.sqrt(((images - mean)**2).sum(-1)).reshape(len(images), -1)
    scores = np.sort(distances)[:, -round(.00153 * distances.shape[1]):].mean(1)
    auroc = roc_auc_score([defect is not None for defect in defects], scores)
    print(f"{name}: baseline {auroc:.3f}")
    assert .45 < auroc < .9


def test_twill():
    i, j = np.meshgrid(np.arange(9), np.arange(9))
    over = _on_top(i, j)
    assert (over == np.where((i - j) % 3, 1, -1)).all() and (over > 0).mean() == 2 / 3
    assert (over[1:, 1:] == over[:-1, :-1]).all(), "the rib runs at 45 degrees"


def test_yarns_are_where_the_twill_says():
    s = blank((128, 128))
    weave = _cloth((128, 128), np.random.default_rng(0), s.x, s.y, 10)
    i, j = np.floor(weave.p), np.floor(weave.q)
    half = np.full((128, 128), np.float32(.46))
    warp, weft = _yarns(weave, i, j, half, half)
    middle = (np.abs(weave.p - i - .5) < .15) & (np.abs(weave.q - j - .5) < .15)
    assert middle.sum() > 100 and ((warp > weft) == (_on_top(i, j) > 0))[middle].all()
    weave.no_warp = i == i[64, 64]
    assert (_yarns(weave, i, j, half, half)[0][i == i[64, 64]] == np.float32(-.7)).all()


@pytest.mark.parametrize("order", [0, 1, 2])
def test_scattered_repeats_and_has_about_unit_variance(order):
    u, v = (np.random.default_rng(k).uniform(0, 64, 4000).astype(np.float32) for k in (1, 2))
    fields = [scattered(u + shift, v, np.random.default_rng(0), (64, 64), order) for shift in (0, 64, 3)]
    assert np.allclose(fields[0], fields[1], atol=1e-3)
    assert not np.allclose(fields[0], fields[2], atol=.1)
    assert abs(fields[0].mean()) < .1 and .7 < fields[0].std() < 1.3 and fields[0].dtype == np.float32
