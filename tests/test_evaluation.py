"Evaluation: figures against a slow computation, decisions, what it writes, and data sets with something missing"

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score

from memseg_nb.training.checkpoints import load_json
from memseg_nb.evaluation.evaluate import (Measured, baseline, best_f1, cell_shares, confusion, count_image,
                                           distance_to_mean, evaluate, measure, merge, read_test, results,
                                           summary, typical, worst)
from memseg_nb.data.images import TestImage, open_category, read_image, read_mask
from memseg_nb.metrics import PixelMetrics, image_auroc, image_score, label_regions, rank, rates
from memseg_nb.files import MemSegError
from memseg_nb.recipe import load_recipe

SIZE, RECIPE = (64, 64), load_recipe().evaluation


@pytest.fixture
def data(tiny_data, tmp_path):
    "A data set that may be written to"
    shutil.copytree(tiny_data, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def no_figures(monkeypatch):
    "Numbers only: figures take longer than everything else here"
    monkeypatch.setattr("memseg_nb.evaluation.evaluate.write_figures", lambda *_: [])


def darkness(images):
    "A detector as good as any"
    return 1 - images.mean(1)


def test_one_pass_gives_what_all_at_once_gives(tiny_data):
    items = open_category(tiny_data, "hex_nut").test
    maps = darkness(torch.stack([read_image(item.path) for item in items]))
    masks = torch.stack([torch.zeros(SIZE, dtype=torch.bool) if item.is_good else read_mask(item.mask)
                         for item in items])
    pixels = PixelMetrics()
    pixels.update(maps, masks)
    labels = [not item.is_good for item in items]
    for batch in (1, 3, 100):
        settings = load_recipe().replace(**{"evaluation.batch": batch}).evaluation
        found = results(measure(items, darkness, SIZE, settings, progress=False))
        assert found["image_auroc"] == pytest.approx(image_auroc(image_score(maps).tolist(), labels))
        assert (found["pixel_auroc"] == pytest.approx(pixels.auroc())
                and found["aupro"] == pytest.approx(pixels.aupro()))


def test_a_kind_is_measured_against_all_good_images(tiny_data):
    category = open_category(tiny_data, "hex_nut")
    found = results(measure(category.test, darkness, SIZE, RECIPE, progress=False), threshold=.9)
    assert set(found["per_defect"]) == set(category.defects)
    for kind in category.defects:
        items = [item for item in category.test if item.defect in ("good", kind)]
        alone = results(measure(items, darkness, SIZE, RECIPE, progress=False), threshold=.9)
        for key in ("image_auroc", "pixel_auroc", "aupro"):
            assert found["per_defect"][kind][key] == pytest.approx(alone[key])
        assert found["per_defect"][kind]["found"] == alone["confusion"]["true_positives"]


def test_confusion_by_hand():
    scores, labels = np.array([.1, .5, .4, .9, .3]), np.array([0, 0, 1, 1, 1], bool)
    assert list(confusion(scores, labels, .45).values()) == [1, 1, 1, 2]
    assert list(confusion(scores, labels, .9).values()) == [0, 0, 2, 3], "a score at the threshold is good"


def measured_by_hand(scores, kinds):
    return Measured([TestImage(None, kind, None) for kind in kinds], np.array(scores), {}, [])


def test_typical_and_worst():
    found = measured_by_hand([.1, .5, .2, .4, .9, .3], ["good", "good", "good", "dent", "dent", "stain"])
    assert typical(found) == [4, 5, 2]
    assert worst(found, .45) == [5, 1, 3, 2, 0, 4] and worst(found, .45, 2) == [5, 1]


def test_distance_to_mean_by_hand():
    good = [torch.full((3, 2, 2), .2), torch.full((3, 2, 2), .4)]
    image = torch.full((1, 3, 2, 2), .3)
    image[0, 0, 0, 0] += .3
    expected = torch.zeros(1, 2, 2)
    expected[0, 0, 0] = (.09 / 3) ** .5
    assert torch.allclose(distance_to_mean(iter(good))(image), expected, atol=1e-6)


def test_baseline_is_measured_the_same_way(tiny_data):
    found = baseline(open_category(tiny_data, "hex_nut"), SIZE, RECIPE, progress=False)
    assert 0 < found["aupro"] < 1 and "confusion" not in found and len(found["per_defect"]) >= 4


def test_evaluate_writes_figures_and_numbers(run, tiny_data, capsys):
    metrics = evaluate(run, progress=False, device="cpu")
    assert capsys.readouterr().err == ""
    assert load_json(run.metrics_file) == metrics
    assert all(0 <= metrics[key] <= 1
               for key in ("image_auroc", "pixel_auroc", "aupro", "image_best_f1", "pixel_best_f1"))
    assert metrics["threshold"] == run.record["threshold"] and metrics["notes"] == []
    counts = metrics["counts"]
    assert counts["images"] == counts["good"] + counts["defective"] == sum(metrics["confusion"].values())
    assert counts["with_mask"] == counts["defective"] <= counts["regions"]
    assert {path.name for path in run.figures.iterdir()} == {"typical.png", "worst.png", "scores.png",
                                                             "roc.png", "pro.png"}
    assert all(min(Image.open(path).size) > 200 for path in run.figures.iterdir())
    rows = list(csv.DictReader((run.folder / "scores.csv").open()))
    assert len(rows) == counts["images"] and {row["kind"] for row in rows} == {"good", *metrics["per_defect"]}
    labels = [row["kind"] != "good" for row in rows]
    assert image_auroc([float(row["score"]) for row in rows], labels) == pytest.approx(metrics["image_auroc"])
    called = sum(row["is_defective"] == "True" for row in rows)
    assert called == metrics["confusion"]["true_positives"] + metrics["confusion"]["false_positives"]
    assert not list(run.folder.rglob("*.part"))


def test_evaluating_twice_gives_the_same(run, no_figures):
    first = evaluate(run.folder, progress=False, device="cpu")
    again = evaluate(str(run.folder), batch=3, progress=False, device="cpu")
    assert (first["image_auroc"] == pytest.approx(again["image_auroc"])
            and first["aupro"] == pytest.approx(again["aupro"], abs=1e-3))


def test_summary_is_a_table(run, no_figures):
    lines = summary(evaluate(run, progress=False, device="cpu")).splitlines()
    assert "image AUROC" in lines[0] and lines[1].startswith("all defects")
    assert any(line.startswith("baseline") for line in lines) and lines[-1].startswith("at threshold")
    assert len({len(line) for line in lines[:-1]}) == 1, "columns stand below each other"


def test_the_summary_says_which_false_alarm_rate_was_promised(run, no_figures):
    "5 % in a new run; nothing in one of an earlier version, whose thresholds came from elsewhere"
    metrics = evaluate(run, progress=False, device="cpu")
    assert metrics["false_alarms"] == run.record["thresholds"]["false_alarms"] == .05
    assert summary(metrics).splitlines()[-1].endswith(" (threshold chosen for 5 % false alarms)")
    earlier = {"balanced_accuracy": .9, "good": 12}
    run.update(thresholds=earlier)
    metrics = evaluate(run, progress=False, device="cpu")
    assert metrics["false_alarms"] is None and summary(metrics).endswith("called defective")
    del metrics["false_alarms"]  # and in figures of an earlier version
    assert summary(metrics).endswith("called defective")


def test_without_masks_pixel_figures_are_null(run, data):
    shutil.rmtree(data / "hex_nut" / "ground_truth")
    metrics = evaluate(run, data=data, progress=False, device="cpu")
    saved = json.loads(run.metrics_file.read_text())
    assert saved["pixel_auroc"] is saved["aupro"] is saved["pixel_best_f1"] is saved["baseline"][
        "aupro"] is None
    assert metrics["image_auroc"] is not None and "no mask" in metrics["notes"][0]
    assert {path.name for path in run.figures.iterdir()} == {"typical.png", "worst.png", "scores.png"}
    assert "-" in summary(metrics)


def test_a_missing_or_empty_mask_is_left_out_and_said(run, data, no_figures):
    whole = evaluate(run, data=data, progress=False, device="cpu")
    masks = sorted((data / "hex_nut" / "ground_truth").rglob("*.png"))
    masks[0].unlink()
    Image.new("L", SIZE).save(masks[1])
    with pytest.warns(UserWarning, match="lack a mask"):
        metrics = evaluate(run, data=data, progress=False, device="cpu")
    assert metrics["counts"]["with_mask"] == whole["counts"]["with_mask"] - 2
    assert len(metrics["notes"]) == 1 and metrics["notes"][0].startswith("2 of")
    assert metrics["image_auroc"] == whole["image_auroc"] and metrics["aupro"] is not None
    lost = metrics["per_defect"][masks[0].parent.name]
    assert lost["pixel_auroc"] is None and lost["image_auroc"] is not None


def test_nothing_of_an_earlier_evaluation_stays(run, data):
    evaluate(run, data=data, progress=False, device="cpu")
    assert (run.figures / "roc.png").exists()
    (run.figures / ".roc.png.999999999.1.part").write_bytes(b"of a killed process")
    (run.figures / "mine.png").write_bytes(b"of the user")
    for folder in (data / "hex_nut" / "ground_truth", *(data / "hex_nut" / "test").glob("[!g]*")):
        shutil.rmtree(folder)  # no masks, no defects: no curves
    evaluate(run, data=data, progress=False, device="cpu")
    assert {path.name for path in run.figures.iterdir()} == {"typical.png", "worst.png", "scores.png",
                                                             "mine.png"}


def test_an_evaluation_that_is_cut_off_leaves_no_figures_of_the_one_before(run, data, monkeypatch):
    evaluate(run, data=data, progress=False, device="cpu")
    monkeypatch.setattr("memseg_nb.evaluation.evaluate.write_scores", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(run, data=data, progress=False, device="cpu")
    assert not run.metrics_file.exists()


def test_a_score_that_is_not_finite_is_refused(tiny_data):
    items = open_category(tiny_data, "hex_nut").test
    with pytest.raises(MemSegError, match="000.png and more: anomaly map has values that are not finite"):
        measure(items, lambda images: images[:, 0] * torch.nan, SIZE, RECIPE, progress=False)


def test_a_mask_of_another_size_is_an_error(run, data):
    mask = next((data / "hex_nut" / "ground_truth").rglob("*.png"))
    Image.new("L", (32, 32), 255).save(mask)
    with pytest.raises(MemSegError, match=mask.name):
        evaluate(run, data=data, progress=False, device="cpu")


@pytest.mark.parametrize("keep, says",
                         [("good", "all test images are good"), ("defects", "all test images are defective")])
def test_one_class_only(run, data, keep, says):
    test = data / "hex_nut" / "test"
    for folder in test.iterdir():
        if (folder.name == "good") != (keep == "good"):
            shutil.rmtree(folder)
    metrics = evaluate(run, data=data, progress=False, device="cpu")
    assert metrics["image_auroc"] is None and says in metrics["notes"][0]
    assert keep == "defects" or metrics["per_defect"] == {}
    assert summary(metrics)


def test_no_test_images_at_all(run, data):
    shutil.rmtree(data / "hex_nut" / "test")
    with pytest.raises(MemSegError, match="needs some in test/good"):
        evaluate(run, data=data, progress=False, device="cpu")


def test_masks_are_not_shrunk(data):
    items = [item for item in open_category(data, "hex_nut").test if not item.is_good]
    for item in items:
        image, mask = read_test(item, (32, 32))
        assert image.shape == (3, 32, 32) and torch.equal(mask, read_mask(item.mask))


def test_data_that_have_moved(run, data, tmp_path, no_figures):
    moved = tmp_path / "else where"
    data.rename(moved)
    run.update(data=str(data / "hex_nut"))
    with pytest.raises(MemSegError, match="--data"):
        evaluate(run, progress=False, device="cpu")
    by_root = evaluate(run, data=moved, progress=False, device="cpu")
    (moved / "hex_nut").rename(moved / "renamed")
    assert evaluate(run, data=moved / "renamed", progress=False, device="cpu")["aupro"] == by_root["aupro"]
    with pytest.raises(MemSegError, match="hex_nut.*renamed"):
        evaluate(run, data=moved, progress=False, device="cpu")


def test_an_output_that_cannot_be_written_is_said_before_the_work(run, monkeypatch):
    run.figures.write_text("in the way")
    monkeypatch.setattr("memseg_nb.evaluation.evaluate.measure", lambda *_, **__: pytest.fail("worked first"))
    with pytest.raises(MemSegError, match="can't be written"):
        evaluate(run, progress=False, device="cpu")


def test_no_run_and_a_half_finished_one(run, tmp_path):
    with pytest.raises(MemSegError, match="no run folder"):
        evaluate(tmp_path / "nothing", progress=False)
    run.update(status="training")
    with pytest.raises(MemSegError, match="--resume"):
        evaluate(run, progress=False, device="cpu")


def test_memory_does_not_grow_with_the_images(tiny_data):
    "What `Measured` keeps for 30 times the images is 30 times the scores, and nothing else"
    items = open_category(tiny_data, "hex_nut").test
    small, large = (measure(items * times, darkness, SIZE, RECIPE, progress=False) for times in (1, 30))

    def size(found):
        return sum(array.nbytes for counts in found.pixels.values() for array in vars(counts).values()
                   if isinstance(array, np.ndarray))
    assert size(small) == size(large) and large.scores.nbytes == 30 * small.scores.nbytes


# pixels of masks at their own size, sets that are put together, the best F1

@pytest.mark.parametrize("size", [(48, 60), (50, 37), (8, 7), (16, 70), (5, 4)])
def test_a_mask_of_another_size_is_measured_at_its_own(size):
    "As if the map had been enlarged to the mask, or the mask to the map, and each region counted by itself"
    rng = np.random.default_rng(3)
    map, mask = rng.random((8, 7), np.float32), rng.random(size) > .85
    counts = PixelMetrics()
    count_image(counts, torch.from_numpy(map), torch.from_numpy(mask))
    fine = label_regions(mask)[0]
    fine = fine.repeat(-(-8 // size[0]), 0).repeat(-(-7 // size[1]), 1)
    cell = [[int((k + .5) * side / n) for k in range(n)] for n, side in zip(fine.shape, map.shape)]
    large = np.array([[map[y, x] for x in cell[1]] for y in cell[0]])
    weight = np.array([[1 / (cell[0].count(y) * cell[1].count(x)) for x in cell[1]] for y in cell[0]])
    assert counts.regions == fine.max() == len(np.unique(fine)) - 1
    found = rates(counts)
    for threshold, pro, tpr, fpr in zip(found.thresholds, found.pro, found.tpr, found.fpr):
        seen = rank(large) >= (rank(np.float32([threshold]))[0] if threshold <= 1 else np.inf)
        assert pro == pytest.approx(np.mean([seen[fine == k].mean() for k in range(1, fine.max() + 1)]))
        for share, of in (tpr, fine > 0), (fpr, fine == 0):
            assert share == pytest.approx((weight * (seen & of)).sum() / (weight * of).sum())


def test_a_map_with_a_hole_is_refused_at_any_size():
    with pytest.raises(MemSegError, match="expected probabilities"):
        count_image(PixelMetrics(), torch.full((4, 4), torch.nan), torch.ones(9, 9))


def test_shares_of_cells_by_hand():
    "A speck fills a quarter of its cell, a square all of its own; each region weighs 1"
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = mask[2:, 2:] = True
    share, where, weights, regions = cell_shares(mask, (2, 2))
    assert share.tolist() == [[.25, 0], [0, 1]] and regions == 2
    assert where.tolist() == [0, 3, 3, 3, 3] and weights.tolist() == [1, .25, .25, .25, .25]


def test_sets_of_images_can_be_put_together():
    "As if they had been counted together"
    rng = np.random.default_rng(5)
    maps, masks = rng.random((9, 32, 32), np.float32), rng.random((9, 32, 32)) > .9
    parts, whole = [PixelMetrics(), PixelMetrics()], PixelMetrics()
    for k, part in enumerate((slice(0, 4), slice(4, 9))): parts[k].update(maps[part], masks[part])
    whole.update(maps, masks)
    both = merge(parts)
    assert both.regions == whole.regions and both.best_f1() == whole.best_f1()
    assert both.auroc() == whole.auroc() and both.aupro() == pytest.approx(whole.aupro(), abs=1e-12)


def test_best_f1_is_the_best_of_all_thresholds():
    assert best_f1([.1, .4, .35, .8], [0, 0, 1, 1]) == (pytest.approx(.8), .35)
    assert best_f1([], []) is best_f1([.1, .2], [True, True]) is None
    scores, labels = np.random.default_rng(0).random(40), np.random.default_rng(1).random(40) > .5
    value, threshold = best_f1(torch.from_numpy(scores), labels)
    assert value == max(f1_score(labels, scores >= one) for one in scores)
    assert f1_score(labels, scores >= threshold) == value
    with pytest.raises(MemSegError, match="one of each"): best_f1([.1], [True, False])
