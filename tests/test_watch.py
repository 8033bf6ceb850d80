"A line: photos that come one by one, half-copied ones, restarts, a video, and the command"
import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from memseg_nb.data.images import find_images, save_image
from memseg_nb.deployment import watch as module
from memseg_nb.deployment.answers import COLUMNS, Prediction
from memseg_nb.deployment.detector import Detector
from memseg_nb.deployment.report import report
from memseg_nb.deployment.watch import arrivals, done_names, frames, watch
from memseg_nb.files import WRITTEN, MemSegError
from memseg_nb.recipe import load_recipe
from memseg_nb.training.thresholds import false_alarm_threshold


class Darkness:
    "Stands in for a network: dark is anomalous"
    device = "cpu"

    def anomaly_map(self, images):
        return 1 - images.mean(1)


@pytest.fixture
def dark():
    recipe = load_recipe(overrides=["image.height=64", "image.width=64"])
    return Detector(Darkness(), recipe, threshold=.5, pixel_threshold=.6)


@pytest.fixture
def line(tmp_path):
    "An empty folder that will fill"
    (tmp_path / "line").mkdir()
    return tmp_path / "line"


def photo(dark=False):
    image = torch.full((3, 64, 96), .9)
    if dark: image[:, 20:50, 30:60] = .05
    return image


def rows_of(out):
    with (out / "scores.csv").open(newline="") as file: return list(csv.DictReader(file))


def some(watching, count):
    "The next so many; then the watch is ended"
    found = list(itertools.islice(watching, count))
    watching.close()
    return found


# one by one

def test_predictions_come_one_by_one(dark, line):
    "Also from a source without an end, and of whatever kind"
    save_image(line / "a.png", photo(True))
    (line / "b.png").write_text("no image")
    endless = itertools.cycle([line / "a.png", line / "b.png", photo().permute(1, 2, 0).numpy()])
    (path, first), (_, second), (array, third) = itertools.islice(dark.predict_iter(endless), 3)
    assert path == line / "a.png" and isinstance(array, np.ndarray)
    assert first.score == dark.predict(line / "a.png").score and first.is_defective
    assert isinstance(second, str) and "b.png: is not an image" in second
    assert not third.is_defective


# a folder that fills

def test_each_photo_is_judged_once_and_nothing_is_moved(dark, line, tmp_path):
    out = tmp_path / "out"
    for name in ("1.png", "2.png"): save_image(line / name, photo(name == "2.png"))
    judging = watch(dark, line, out, .02, progress=False)
    assert [next(judging).name, next(judging).name] == ["1.png", "2.png"]
    (line / "more").mkdir()
    save_image(line / "more" / "0.png", photo())
    assert next(judging).name == "more/0.png"
    judging.close()
    assert [row["file"] for row in rows_of(out)] == ["1.png", "2.png", "more/0.png"]
    assert [row["is_defective"] for row in rows_of(out)] == ["False", "True", "False"]
    assert {path.name for path in line.iterdir()} == {"1.png", "2.png", "more"}
    assert {path.name for path in (out / "pictures").iterdir()} == {"2.png_overlay.png", "2.png_mask.png"}


def test_the_rows_are_those_of_predict(dark, line, tmp_path):
    for name in ("1.png", "2.png"): save_image(line / name, photo(name == "2.png"))
    some(watch(dark, line, tmp_path / "watched", .02, progress=False), 2)
    dark.predict_folder(line, tmp_path / "predicted", progress=False)
    assert rows_of(tmp_path / "watched") == rows_of(tmp_path / "predicted")


def test_a_restart_goes_on(dark, line, tmp_path):
    out = tmp_path / "out"
    for name in ("1.png", "2.png"): save_image(line / name, photo())
    some(watch(dark, line, out, .02, progress=False), 2)
    with (out / "scores.csv").open("a") as file: file.write("3.png,0.1")  # the power went
    save_image(line / "3.png", photo())
    assert [one.name for one in some(watch(dark, line, out, .02, progress=False), 1)] == ["3.png"]
    assert [row["file"] for row in rows_of(out)] == ["1.png", "2.png", "3.png"]
    assert done_names(out / "scores.csv") == {"1.png", "2.png", "3.png"}


def test_names_that_a_spreadsheet_would_run_are_known_again(dark, line, tmp_path):
    save_image(line / "=1+1.png", photo())
    some(watch(dark, line, tmp_path / "out", .02, progress=False), 1)
    assert done_names(tmp_path / "out" / "scores.csv") == {"=1+1.png"}


def test_looks_where_predict_looks(line, tmp_path, monkeypatch):
    for name in ("z.png", "b/1.png", "b/ground_truth/1.png", "results/9.png", ".cache/9.png", "b/.9.png"):
        (line / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(line / name, photo())
    (line / "results" / WRITTEN).write_text("[]")
    (line / "b" / "notes.txt").touch()
    (tmp_path / "elsewhere").mkdir()
    save_image(tmp_path / "elsewhere" / "2.png", photo())
    (line / "linked").symlink_to(tmp_path / "elsewhere")
    looks = iter(range(5))  # no more than these: then it fails
    monkeypatch.setattr(module.time, "sleep", lambda seconds: next(looks))
    found = some(arrivals(line, set()), 3)
    assert {path.relative_to(line).as_posix() for path in found} == {"z.png", "b/1.png", "linked/2.png"}
    assert sorted(found) == sorted(find_images(line, below=True))


def test_a_photo_that_still_grows_is_waited_for(line):
    save_image(line / "whole.png", photo())
    content = (line / "whole.png").read_bytes()
    looks = arrivals(line, {"whole.png"}, every=.01)
    with (line / "slow.png").open("wb") as file:
        def copy_more(seconds):  # a piece at each look
            file.write(content[file.tell():file.tell() + len(content) // 8 + 1])
            file.flush()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.time, "sleep", copy_more)
            assert next(looks) == line / "slow.png"
    assert (line / "slow.png").read_bytes() == content


def test_a_copy_that_pauses_gets_no_row_until_it_is_whole(dark, line, tmp_path, monkeypatch):
    save_image(line / "whole.png", photo())
    content = (line / "whole.png").read_bytes()
    (line / "paused.png").write_bytes(content[:len(content) // 2])
    looks = itertools.count()
    def sleep(seconds):
        if next(looks) == 5: (line / "paused.png").write_bytes(content)
    monkeypatch.setattr(module.time, "sleep", sleep)
    judged = some(watch(dark, line, tmp_path / "out", progress=False), 2)
    assert {one.name for one in judged} == {"whole.png", "paused.png"}
    assert all(isinstance(one.answer, Prediction) for one in judged)


def test_a_broken_photo_gets_a_row_after_a_while(dark, line, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", .05)
    (line / "broken.png").write_bytes(b"\x89PNG cut off")
    (_, answer, _), = some(watch(dark, line, tmp_path / "out", .02, progress=False), 1)
    assert "broken.png" in answer and rows_of(tmp_path / "out")[0]["error"] == answer


def test_results_inside_the_folder_are_no_photos(dark, line):
    save_image(line / "1.png", photo(True))
    judging = watch(dark, line, line / "out", .02, pictures="all", progress=False)
    assert next(judging).name == "1.png"
    save_image(line / "2.png", photo())
    assert next(judging).name == "2.png"
    judging.close()
    with pytest.raises(MemSegError, match="holds the photos themselves"):
        next(watch(dark, line, line, progress=False))


def test_tables_of_others_are_left_alone(dark, line, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "scores.csv").write_text("mine\n")
    with pytest.raises(MemSegError, match="not written by this program"):
        next(watch(dark, line, out, progress=False))
    assert (out / "scores.csv").read_text() == "mine\n"
    with pytest.raises(MemSegError, match="other columns"): done_names(out / "scores.csv")
    with pytest.raises(MemSegError, match="expected defective, all, none"):
        next(watch(dark, line, tmp_path / "new", pictures="some", progress=False))


def test_regions_and_report_know_all_photos_after_a_restart(dark, line, tmp_path):
    out = tmp_path / "out"
    for name in ("1.png", "2.png"): save_image(line / name, photo(name == "2.png"))
    for _ in range(2): some(watch(dark, line, out, .02, progress=False), 1)
    found = json.loads((out / "regions.json").read_text())
    assert [one["file_name"] for one in found["images"]] == ["1.png", "2.png"]
    (one,) = found["annotations"]
    assert one["image_id"] == 2 and abs(one["area"] - 900) < 200
    done = report(out, progress=False)
    assert done.photos == 2 and done.summary.startswith("2 photos, 1 called defective")
    assert done.file.read_text().count("<img") == 3  # two photos and the overlay of the defective one


# a camera

@pytest.fixture
def video(tmp_path):
    "Ten frames, of which number 6 is dark in the middle; 5 a second"
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 64))
    for k in range(10):
        writer.write(np.ascontiguousarray((photo(k == 6) * 255).byte().permute(1, 2, 0).numpy()))
    writer.release()
    return path


def test_frames_of_a_video(video):
    found = list(frames(str(video)))
    assert [name for name, _ in found] == [f"line-{k:06}" for k in range(10)]
    assert found[0][1].shape == (64, 96, 3) and found[0][1].dtype == np.uint8
    assert [name for name, _ in frames(str(video), every=.6)] == [f"line-{k:06}" for k in (0, 3, 6, 9)]


def test_colours_are_red_first(tmp_path):
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(tmp_path / "red.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 64))
    for _ in range(3): writer.write(np.full((64, 96, 3), (0, 0, 255), np.uint8))  # blue, green, red
    writer.release()
    (_, frame), *_ = frames(str(tmp_path / "red.avi"))
    assert frame[..., 0].min() > 200 and frame[..., 2].max() < 50


def test_a_video_is_watched_to_its_end_and_kept_where_it_shows_a_defect(dark, video, tmp_path):
    out = tmp_path / "out"
    assert len(some(watch(dark, str(video), out, progress=False), 4)) == 4
    rest = list(watch(dark, str(video), out, progress=False))  # goes on
    assert [one.name for one in rest if one.answer.is_defective] == ["line-000006"]
    assert [row["file"] for row in rows_of(out)] == [f"line-{k:06}" for k in range(10)]
    assert {path.name for path in (out / "pictures").iterdir()} == {
        f"line-000006{end}" for end in (".png", "_mask.png", "_overlay.png")}


def test_no_camera_and_no_opencv(dark, tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    with pytest.raises(MemSegError, match="can't be opened"): next(frames(str(tmp_path / "none.avi")))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MemSegError, match=r"pip install 'memseg-nb\[camera\]'"): next(frames(0))


# the command

def test_watch_says_which_paths_it_needs(memseg, tmp_path):
    assert memseg("watch", tmp_path, "--out", tmp_path / "out")[0] == 2
    assert memseg("watch", tmp_path, tmp_path, "--camera", "0", "--out", tmp_path / "out")[0] == 2
    code, _, err = memseg("watch", tmp_path / "none", tmp_path, "--out", tmp_path / "out")
    assert code == 1 and "no run folder" in err and not (tmp_path / "out").exists()


def test_watch_a_video_by_the_command(memseg, tiny_run, video, tmp_path):
    code, out, err = memseg("watch", tiny_run.folder, "--camera", video, "--every", "1", "--out",
                            tmp_path / "out")
    assert code == 0, err
    assert out.splitlines()[-1].startswith("2 photos, ") and " a second while it judged, " in out


@pytest.mark.parametrize("option, found", [(("--threshold", "0.001"), 2), (("--threshold", "0.999"), 0),
                                           (("--false-alarms", "0.3"), None)])
def test_watch_with_another_threshold(memseg, tiny_run, video, tmp_path, option, found):
    "The same options as those of predict, and the same rule"
    before, out = tiny_run.record_file.read_bytes(), tmp_path / "out"
    code, says, err = memseg(
        "watch", tiny_run.folder, "--camera", video, "--every", "1", "--out", out, *option
    )
    level = false_alarm_threshold(tiny_run.good_scores, .3) if found is None else float(option[1])
    assert code == 0 and f"threshold {level:.3f};" in err
    assert {row["threshold"] for row in rows_of(out)} == {f"{level:.6f}"}
    assert json.loads((out / "regions.json").read_text())["info"]["threshold"] == level
    if found is not None: assert f", {found} called defective" in says
    assert tiny_run.record_file.read_bytes() == before


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])  # Ctrl-C, and the end of a service
def test_ctrl_c_ends_cleanly(tiny_run, tiny_data, line, tmp_path, told):
    out, photos = tmp_path / "out", sorted((tiny_data / "hex_nut" / "test" / "good").glob("*.png"))
    shutil.copy(photos[0], line)
    program = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "memseg_nb.cli",
            "watch",
            tiny_run.folder,
            line,
            "--every",
            ".1",
            "--out",
            out,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        deadline = time.time() + 120
        while not ((out / "scores.csv").exists() and len((out / "scores.csv").read_text().splitlines()) == 2):
            assert time.time() < deadline and program.poll() is None
            time.sleep(.1)
        program.send_signal(told)
        said, err = program.communicate(timeout=60)
    finally: program.kill()
    assert program.returncode == 0 and "Traceback" not in err
    assert said.splitlines()[-1].startswith("1 photos, ") and not (out / ".lock").exists()
    assert json.loads((out / "regions.json").read_text())["images"][0]["file_name"] == photos[0].name
    assert tuple(csv.reader((out / "scores.csv").open()).__next__()) == COLUMNS
