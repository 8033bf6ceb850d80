"Metrics against scikit-learn, against slow loops, and against numbers worked out by hand."
import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import f1_score, roc_auc_score, roc_curve

from memseg_nb.files import MemSegError
from memseg_nb.metrics import (PixelMetrics, area, image_auroc, image_score, label_regions, rank, rank_score,
                               rates)


def some_maps(seed, count=6, size=64, strength=2., spread=1.5):
    "Logistic maps and masks with blobs of many sizes; some images are good"
    rng = np.random.default_rng(seed)
    masks = np.stack([ndimage.gaussian_filter(rng.standard_normal((size, size)), 3) for _ in range(count)])
    masks = masks > np.quantile(masks, .9)
    masks[::3] = False
    logits = rng.normal(-3, spread, masks.shape) + strength * masks
    return (1 / (1 + np.exp(-logits))).astype(np.float32), masks


def measured(maps, masks, limit=.3):
    metrics = PixelMetrics(limit)
    metrics.update(torch.from_numpy(np.asarray(maps, np.float32)), torch.from_numpy(np.asarray(masks, bool)))
    return metrics


def slow_aupro(maps, masks, limit):
    "Region by region and threshold by threshold"
    regions = []
    for k, mask in enumerate(masks):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [maps[k][labels == n] for n in range(1, count + 1)]
    fpr, pro = [0.], [0.]
    for threshold in np.unique(maps)[::-1]:
        x, y = (maps[~masks] >= threshold).mean(), np.mean(
            [(region >= threshold).mean() for region in regions])
        if x > limit:
            pro.append(pro[-1] + (y - pro[-1]) * (limit - fpr[-1]) / (x - fpr[-1]))
            fpr.append(limit)
            break
        fpr.append(x)
        pro.append(y)
    return sum((fpr[k + 1] - fpr[k]) * (pro[k + 1] + pro[k]) / 2 for k in range(len(fpr) - 1)) / limit


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("strength, spread", [(2., 1.5), (12., 4.), (0., 1.)])
def test_pixel_auroc_is_that_of_scikit_learn(seed, strength, spread):
    maps, masks = some_maps(seed, strength=strength, spread=spread)
    assert measured(maps, masks).auroc() == pytest.approx(
        roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-5)


def sorted_aupro(maps, masks, limit):
    "By scikit-learn, which sorts all pixels, from a weight for each of them"
    labels, count = label_regions(masks)
    weights = np.where(masks, 1 / np.bincount(labels.ravel())[labels], 1.)
    fpr, tpr, _ = roc_curve(masks.ravel(), maps.ravel(), sample_weight=weights.ravel(),
                            drop_intermediate=False)
    return area(fpr, tpr, limit)


@pytest.mark.parametrize("limit", [.05, .3, 1.])
@pytest.mark.parametrize("seed", range(3))
def test_aupro_is_a_weighted_roc(seed, limit):
    maps, masks = some_maps(seed, size=96)
    assert measured(maps, masks, limit).aupro() == pytest.approx(sorted_aupro(maps, masks, limit), abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_histogram_is_exact_to_a_millionth_where_scores_spread(seed):
    maps, masks = some_maps(seed, count=12, size=256)
    assert measured(maps, masks).aupro() == pytest.approx(sorted_aupro(maps, masks, .3), abs=1e-6)


@pytest.mark.parametrize("limit", [.1, .3, 1.])
@pytest.mark.parametrize("seed", range(3))
def test_aupro_is_that_of_a_slow_loop(seed, limit):
    maps, masks = some_maps(seed, count=3, size=32)
    maps = maps.round(3)  # ties
    assert measured(maps, masks, limit).aupro() == pytest.approx(slow_aupro(maps, masks, limit), abs=1e-5)


def test_numbers_by_hand():
    map = np.float32([[.9, .1, .1, .6], [.1, .9, .1, .6], [.1, .9, .1, .6], [.1, .1, .1, .5]])
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    metrics = measured(map[None], mask[None])
    assert metrics.regions == 2
    assert metrics.aupro() == pytest.approx((.25 * .5 + .05) / .3)
    assert metrics.auroc() == pytest.approx(.25 * .75 + .75)
    f1, threshold = metrics.best_f1()
    # 3 found of 4, no false one
    assert f1 == pytest.approx(6 / 7) and threshold <= np.float32(.9) < threshold * 1.001


@pytest.mark.parametrize("limit", [.3, 1.])
def test_perfect_chance_and_worst(limit):
    _, masks = some_maps(0)
    perfect, same, worst = (measured(m, masks, limit) for m in (masks, np.full(masks.shape, .3), ~masks))
    assert perfect.auroc() == perfect.best_f1().value == 1 and perfect.aupro() == pytest.approx(1)
    assert same.auroc() == pytest.approx(.5) and same.aupro() == pytest.approx(limit / 2)
    assert worst.auroc() == pytest.approx(0) and worst.aupro() == pytest.approx(0, abs=1e-9)


def test_a_small_region_counts_like_a_large_one():
    masks, maps = np.zeros((1, 64, 64), bool), np.zeros((1, 64, 64), np.float32)
    masks[0, :30, :30] = masks[0, 60:62, 60:62] = True
    maps[0, :30, :30] = .9
    metrics = measured(maps, masks)
    assert metrics.auroc() > .99 and .5 < metrics.aupro() < .6


def test_corners_touch_and_images_do_not():
    diagonal = np.eye(8, dtype=bool)
    assert label_regions(diagonal)[1] == 1
    assert label_regions(np.stack([diagonal, diagonal]))[1] == 2
    metrics = measured(np.zeros((2, 8, 8)), np.stack([diagonal, diagonal]))
    assert metrics.regions == 2


def test_the_limit_matters():
    maps, masks = some_maps(1)
    assert measured(maps, masks, 1.).aupro() > measured(maps, masks, .3).aupro() + .05


def test_area_is_cut_exactly():
    steps = np.array([0, 0, .5, .5, 1]), np.array([0, .4, .4, .8, .8])
    assert area(*steps, limit=.5) == pytest.approx(.4)
    assert area(*steps, limit=.25) == pytest.approx(.4)
    assert area(*steps) == pytest.approx(.6)
    assert area(np.array([0, 1]), np.array([0, 1]), limit=.3) == pytest.approx(.15)
    assert area(np.array([0, .5, 1, 1]), np.array([0, .6, .6, 1])) == pytest.approx(.45)


def test_ranks_keep_the_order_and_know_the_way_back():
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.random(10**5), 1 / (1 + np.exp(-rng.normal(0, 8, 10**5))),
                             1 - 2. ** -np.arange(1, 25), [0, 1, .5, 1e-12]]).astype(np.float32)
    scores.sort()
    ranks, lowest = rank(scores), rank_score(rank(scores))
    assert (np.diff(ranks) >= 0).all() and ranks[0] == 0
    assert (lowest <= scores).all() and (rank(lowest) == ranks).all()
    below = np.nextafter(lowest, np.float32(-1))[lowest > 0]
    assert (rank(below) < ranks[lowest > 0]).all()
    assert len(np.unique(rank(1 - 2. ** -np.arange(1, 25, dtype=np.float32)))) == 24, (
        "confident scores don't tie")


def test_ranks_leave_their_input_alone():
    scores = np.float32([.2, .7])
    rank(scores)
    assert scores.tolist() == np.float32([.2, .7]).tolist()


def test_batches_give_what_one_pass_gives_and_need_no_more_memory():
    maps, masks = some_maps(2, count=9)
    whole, parts = measured(maps, masks), PixelMetrics()
    for k in range(0, 9, 2):
        parts.update(maps[k:k + 2], masks[k:k + 2])
    size = sum(value.nbytes for value in vars(parts).values() if isinstance(value, np.ndarray))
    assert size == sum(v.nbytes for v in vars(PixelMetrics()).values() if isinstance(v, np.ndarray)) < 6e6
    assert (parts.auroc(), parts.aupro(), parts.best_f1()) == (
        whole.auroc(), whole.aupro(), whole.best_f1())


def test_best_f1_of_the_pixels_is_reached_at_its_threshold():
    maps, masks = some_maps(3)
    value, threshold = measured(maps, masks).best_f1()
    assert f1_score(masks.ravel(), maps.ravel() >= threshold) == pytest.approx(value)
    best = max(f1_score(masks.ravel(), maps.ravel() >= t) for t in np.quantile(maps, np.linspace(.5, 1, 60)))
    assert value >= best - 1e-3


def test_nothing_to_compare_is_none():
    maps, masks = some_maps(0)
    for truth in (np.zeros_like(masks), np.ones_like(masks)):
        metrics = measured(maps, truth)
        assert metrics.auroc() is metrics.aupro() is metrics.best_f1() is None
    assert PixelMetrics().auroc() is None and rates(PixelMetrics()) is None
    assert image_auroc([.1, .2], [True, True]) is image_auroc([], []) is None


def test_bad_maps_are_refused():
    good = np.zeros((1, 4, 4), bool)
    with pytest.raises(MemSegError, match=r"pixel scores .*expected probabilities"):
        PixelMetrics().update(np.full((1, 4, 4), 1.5), good)
    counts = PixelMetrics()
    with pytest.raises(MemSegError, match="nan"):  # and the good map before it is not counted either
        counts.update(np.float32([np.zeros((4, 4)), np.full((4, 4), np.nan)]), np.zeros((2, 4, 4), bool))
    assert not counts.normal.any()
    with pytest.raises(MemSegError, match=r"\(1, 4, 5\).*expected both as"):
        PixelMetrics().update(np.zeros((1, 4, 5)), good)
    with pytest.raises(MemSegError, match="one of each"):
        image_auroc([.1], [True, False])
    with pytest.raises(MemSegError, match="not a finite number"):
        image_auroc([.1, float("nan")], [True, False])


def test_image_level_by_hand():
    scores, labels = [.1, .4, .35, .8], [0, 0, 1, 1]
    assert image_auroc(scores, labels) == .75
    assert image_auroc([.3] * 4, labels) == .5


def test_image_score_is_the_mean_of_the_highest():
    maps = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0))
    highest = maps.flatten(1).sort(descending=True).values[:, :100].mean(1)
    assert torch.allclose(image_score(maps), highest)
    assert torch.allclose(image_score(maps, 0.), maps.flatten(1).max(1).values)
    assert torch.allclose(image_score(maps[:, :128, :128]),
                          maps[:, :128, :128].flatten(1).topk(25).values.mean(1))
