"Thresholds in the user's hand: what they cost, another one for once, and one that is kept"
import csv
import json
import shutil

import numpy as np
import pytest

from memseg_nb.deployment.choice import (expected_false_alarms, keep_threshold, learned_there, price_table,
                                         prices, threshold_for, unseen)
from memseg_nb.deployment.answers import folder_scores
from memseg_nb.deployment.detector import Detector
from memseg_nb.files import MemSegError, digest
from memseg_nb.training.checkpoints import load_json, save_json
from memseg_nb.training.thresholds import false_alarm_threshold


def draw(count, seed=0):
    "Scores whose log-odds are normal"
    return 1 / (1 + np.exp(1.5 - .8 * np.random.default_rng(seed).standard_normal(count)))


@pytest.fixture
def good(tiny_data):
    "Good photos that no run has seen"
    return tiny_data / "hex_nut" / "test" / "good"


@pytest.mark.parametrize("count", [1, 2, 12, 30, 40, 200])
def test_the_expected_rate_is_the_lowest_for_which_the_rule_gives_that_threshold(count):
    "Compared with a search over the rates"
    scores = draw(count)
    for threshold in .2, .35, .5, *scores[:3].tolist(), *(np.sort(scores)[-2:] * 1.02).tolist():
        rates = np.linspace(.0005, .9995, 2000)
        chosen = [false_alarm_threshold(scores, rate) <= threshold for rate in rates]
        expected = expected_false_alarms(scores, threshold)
        if count == 1: assert expected == (.5 if scores[0] <= threshold else 1)
        elif not any(chosen): assert expected > .999
        else: assert abs(expected - rates[np.argmax(chosen)]) < 6e-4


def test_further_good_images_exceed_a_threshold_as_often_as_is_expected():
    for rate in .05, .2:
        exceeded = [(draw(2000, k + 1000) > threshold_for(draw(30, k), false_alarms=rate)).mean()
                    for k in range(300)]
        assert rate - .01 < np.mean(exceeded) < rate + .03


@pytest.mark.parametrize("given, says", [({}, "give one"), (dict(threshold=.5, false_alarms=.1), "give one"),
                                         (dict(threshold=1.5), "0 to 1"),
                                         (dict(threshold=float("nan")), "0 to 1"),
                                         (dict(false_alarms=0), "between 0 and 1"),
                                         (dict(false_alarms=5), "such as 0.05 for 5 %")])
def test_what_is_no_threshold_is_refused(given, says):
    with pytest.raises(MemSegError, match=says): threshold_for(draw(9), **given)


def test_without_scores_there_is_no_rate_but_a_hint():
    assert threshold_for((), .3) == .3
    with pytest.raises(MemSegError, match="memseg threshold RUN --good DIR --false-alarms 0.1"):
        threshold_for((), false_alarms=.1)


def test_the_table_counts_what_lies_above():
    good, bad = [.1, .2, .3, .4], [.35, .9]
    rows = {row.name: row for row in prices(good, .3, bad, threshold=.15)}
    assert [name.removesuffix(" false alarms") for name in rows] == ["1 %", "5 %", "10 %", "asked for", "now"]
    assert (rows["now"].false_alarms, rows["now"].found) == (1, 2)
    assert (rows["asked for"].false_alarms, rows["asked for"].threshold) == (3, .15)
    assert "2.5 % false alarms" in [row.name for row in prices(good, .3, false_alarms=.025)]
    lines = price_table(list(rows.values()), 4, 2).splitlines()
    assert lines[0].split("  ")[-1] == "defective found" and lines[-1].endswith("2 of 2")
    assert len({len(line) for line in lines}) == 1 and "1 of 4" in lines[-1]
    assert "defective found" not in price_table(prices(good, .3), 4)


def test_a_detector_with_another_threshold(tiny_run, good):
    detector = Detector.load(tiny_run, "cpu")
    assert detector.good_scores == tuple(sorted(detector.good_scores)) and detector.good_scores
    low, high = detector.with_threshold(.001), detector.with_threshold(.999)
    photo = sorted(good.iterdir())[0]
    assert low.predict(photo).is_defective and not high.predict(photo).is_defective
    assert low.predict(photo).score == high.predict(photo).score and low.false_alarms > high.false_alarms
    lenient = detector.with_threshold(false_alarms=.3)
    assert lenient.threshold == false_alarm_threshold(detector.good_scores, .3)
    assert detector.threshold == tiny_run.record["threshold"], "the first one stays as it was"
    alone = {path: detector.predict(path).score for path in sorted(good.iterdir())}
    assert folder_scores(detector, good) == pytest.approx(alone, abs=1e-5)


def test_the_training_keeps_the_scores_that_its_threshold_rests_on(tiny_run):
    "By the rule they give the threshold, which simulated defects may only raise"
    found, detector = tiny_run.record["thresholds"], Detector.load(tiny_run, "cpu")
    assert found["good"] == len(tiny_run.good_scores)
    assert false_alarm_threshold(tiny_run.good_scores, found["false_alarms"]) <= tiny_run.record["threshold"]
    assert 0 <= detector.false_alarms <= .05 + 1e-9


def test_a_threshold_is_kept_in_a_run(run):
    before = run.record
    assert keep_threshold(run, .7, "by hand") == run.record_file
    assert Detector.load(run, "cpu").threshold == run.record["threshold"] == .7
    kept = run.record["thresholds"]
    assert (kept["says"], kept["false_alarms"]) == ("by hand", None)
    assert kept["trained"] == before["thresholds"]
    assert run.good_scores == tuple(before["thresholds"]["scores"])
    keep_threshold(run.folder, .6, "by photos", [.5, .2], .1)
    kept = run.record["thresholds"]
    assert (run.good_scores, kept["good"], kept["false_alarms"]) == ((.2, .5), 2, .1)
    assert kept["trained"] == before["thresholds"], "what the training chose is never lost"
    assert {key: value for key, value in run.record.items() if "threshold" not in key} == {
        key: value for key, value in before.items() if "threshold" not in key}


def test_a_threshold_that_is_none_changes_nothing(run, monkeypatch):
    before = run.record_file.read_bytes()
    with pytest.raises(MemSegError, match="0 to 1"): keep_threshold(run, 7, "by hand")
    def full(*args): raise OSError("disk full")
    monkeypatch.setattr("memseg_nb.files.os.replace", full)
    with pytest.raises((MemSegError, OSError), match="disk full"): keep_threshold(run, .7, "by hand")
    monkeypatch.undo()
    assert run.record_file.read_bytes() == before and not list(run.folder.glob(".*"))
    run.update(status="interrupted")
    with pytest.raises(MemSegError, match="isn't trained to its end"): keep_threshold(run, .7, "by hand")


@pytest.mark.parametrize("scores", [["0.5"], [2], 3, [None], [True]])
def test_scores_that_are_none_are_an_error(run, scores):
    run.update(thresholds=run.record["thresholds"] | dict(scores=scores))
    with pytest.raises(MemSegError, match="run.json: scores = .*numbers 0 to 1"): Detector.load(run, "cpu")


def test_a_run_of_an_earlier_version_knows_no_rate(memseg, run, good, tmp_path):
    record = load_json(run.record_file)
    del record["thresholds"]["scores"]
    save_json(run.record_file, record)
    line = "predict", run.folder, good, "--out", tmp_path / "a", "--device", "cpu"
    code, out, _ = memseg(*line)
    assert code == 0 and "expected" not in out
    code, _, err = memseg(*line, "--false-alarms", .1)
    assert code == 1 and "memseg threshold RUN --good DIR --false-alarms 0.1" in err
    code, _, err = memseg("threshold", run.folder)
    assert code == 1 and "needs --good with a folder" in err
    assert memseg("threshold", run.folder, "--good", good, "--false-alarms", .1, "--device", "cpu")[0] == 0
    assert memseg(*line, "--false-alarms", .1)[0] == 0


@pytest.fixture
def mixed(tiny_data, good, tmp_path):
    "Four new photos, and copies of two that the run learned from, under other names"
    folder = shutil.copytree(good, tmp_path / "elsewhere")
    for number in 3, 5:
        shutil.copy(
            tiny_data / "hex_nut" / "train" / "good" / f"{number:03}.png", folder / f"IMG_{number}.PNG"
        )
    return folder


def test_copies_of_photos_that_the_run_learned_from_are_left_out(tiny_run, tiny_data, good, mixed):
    "By their content: the same names elsewhere are other photos, other names may be the same"
    seen = sorted((tiny_data / "hex_nut" / "train" / "good").iterdir())
    learned = Detector.load(tiny_run, "cpu").learned
    assert learned == set(map(digest, seen)) and learned_there(tiny_run) == learned
    assert {path.name for path in good.iterdir()} <= {path.name for path in seen}
    assert [path.name for path in unseen(sorted(mixed.iterdir()), learned)] == sorted(
        path.name for path in good.iterdir())
    with pytest.raises(MemSegError, match="learned from all of these 12 photos, such as 000.png"):
        unseen(seen, learned)


def test_a_network_without_training_knows_its_memory(tiny_data, mixed, tiny_recipe):
    folder = tiny_data / "hex_nut" / "train" / "good"
    detector = Detector.remember(folder, tiny_recipe.replace(**{"encoder.weights": "formulas"}), "cpu")
    assert len(unseen(sorted(mixed.iterdir()), detector.learned)) == 4


@pytest.mark.parametrize("kind", ["run", "moved", "earlier", "file"])
def test_the_command_leaves_copies_out(memseg, run, request, good, mixed, tmp_path, kind):
    "Also where the data were moved, in a run of an earlier version and in a file that came from elsewhere"
    record, source = load_json(run.record_file), run.folder
    if kind == "moved": run.update(data=str(tmp_path / "gone"))
    if kind == "earlier":
        del record["photos"]
        save_json(run.record_file, record)
        assert not Detector.load(run, "cpu").learned
    if kind == "file": source = request.getfixturevalue("exported")
    code, out, err = memseg(
        "threshold", source, "--good", mixed, *(() if kind == "file" else ("--device", "cpu"))
    )
    assert code == 0 and "note: 2 of 6 good photos left out: the network learned from them" in err, err
    assert out == memseg("threshold", source, "--good", good)[1].replace(str(good), str(mixed))


# ONNX files

@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    from memseg_nb.deployment.onnx import export_onnx
    pytest.importorskip("onnxruntime")
    return export_onnx(tiny_run, tmp_path_factory.mktemp("file") / "nut.onnx")


def test_a_threshold_is_kept_in_a_file(tiny_run, exported, good, tmp_path):
    file = shutil.copy(exported, tmp_path / "nut.onnx")
    before, scores = Detector.load(file), tiny_run.good_scores
    assert before.good_scores == scores and before.with_threshold(false_alarms=.3).threshold == (
        Detector.load(tiny_run, "cpu").with_threshold(false_alarms=.3).threshold)
    assert keep_threshold(file, .7, "by hand") == file
    after = Detector.load(file)
    assert (after.threshold, after.good_scores) == (.7, scores)
    assert folder_scores(after, good) == folder_scores(before, good)
    old, new = before.model.facts, after.model.facts
    changed = {key for key in old | new if old.get(key) != new.get(key)}
    assert changed == {"threshold", "threshold_from", "sha256"}
    assert new["threshold_from"] == "by hand"
    keep_threshold(file, .6, "by photos", [.3, .1])
    assert Detector.load(file).good_scores == (.1, .3)


def test_a_file_that_is_not_ours_is_left_alone(exported, tmp_path):
    damaged = tmp_path / "cut.onnx"
    damaged.write_bytes(exported.read_bytes()[:-1000])
    before = damaged.read_bytes()
    with pytest.raises(MemSegError): keep_threshold(damaged, .7, "by hand")
    assert damaged.read_bytes() == before


def test_a_file_of_a_run_follows_its_threshold(run, good):
    "predict --runtime onnx writes the file anew"
    pytest.importorskip("onnxruntime")
    assert Detector.load(run, runtime="onnx").threshold == run.record["threshold"]
    keep_threshold(run, .7, "by hand")
    assert Detector.load(run, runtime="onnx").threshold == .7


# the command line

def test_thresholds_on_the_command_line(memseg, run, tiny_data, good, tmp_path):
    line, device = ["threshold", run.folder, "--good", good], ["--device", "cpu"]
    before = run.record_file.read_bytes()
    code, out, err = memseg(*line, "--defective", tiny_data / "hex_nut" / "test" / "crack", *device)
    assert code == 0 and "of 4" in out and "defective found" in out and "nothing stored" in out, err
    assert "4 good photos" in err and run.record_file.read_bytes() == before
    code, out, _ = memseg("threshold", run.folder, *device)
    assert code == 0 and f"of {len(run.good_scores)}" in out, "those that the training kept"
    code, out, _ = memseg(*line, "--false-alarms", .2, *device)
    assert code == 0 and "20 % false alarms" in out and f"stored in {run.record_file}" in out
    scores = folder_scores(Detector.load(run, "cpu"), good).values()
    assert run.record["threshold"] == false_alarm_threshold(list(scores), .2)
    assert run.record["thresholds"]["says"] == (
        f"memseg threshold: 20 % false alarms, 4 good photos of {good}")
    seen = tiny_data / "hex_nut" / "train" / "good"
    code, _, err = memseg("threshold", run.folder, "--good", seen, *device)
    assert code == 1 and "learned from" in err
    assert memseg(*line, "--false-alarms", .2, "--threshold", .5)[0] == 2
    assert memseg(*line, "--threshold", 1.5)[0] == 2


def test_another_threshold_for_once(memseg, tiny_run, good, tmp_path):
    before = tiny_run.record_file.read_bytes()
    for name, option, found in ("low", ["--threshold", "0.001"], 4), ("high", ["--threshold", "0.999"], 0):
        out = tmp_path / name
        code, says, err = memseg("predict", tiny_run.folder, good, "--out", out, "--device", "cpu", *option)
        assert code == 0 and f"4 photos, seen at 64x64 pixels; {found} called defective" in says, err
        assert f"threshold {float(option[1]):.3f} (" in says and "false alarms expected)" in says
        rows = list(csv.DictReader((out / "scores.csv").open()))
        assert {row["threshold"] for row in rows} == {f"{float(option[1]):.6f}"}
        assert json.loads((out / "regions.json").read_text())["info"]["threshold"] == float(option[1])
    photo = sorted(good.iterdir())[0]
    code, out, _ = memseg("predict", tiny_run.folder, photo, "--out", tmp_path / "one", "--false-alarms", .3)
    level = false_alarm_threshold(tiny_run.good_scores, .3)
    score = Detector.load(tiny_run, "cpu").predict(photo).score
    called = "defective" if score > level else "good"
    assert code == 0 and f"{photo.name}: {called}, score {score:.3f}" in out
    assert f"1 photo, seen at 64x64 pixels; {int(score > level)} called defective" in out
    assert f"threshold {level:.3f} (" in out
    assert memseg("predict", tiny_run.folder, good, "--out", tmp_path / "x", "--false-alarms", 5)[0] == 2
    assert tiny_run.record_file.read_bytes() == before
