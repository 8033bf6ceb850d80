"The command line as a newcomer meets it: what it prints, what it writes, which exit code it gives"
import csv
import ctypes
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from PIL import Image

from memseg_nb.recipe import NAMED


SETTINGS = [word for setting in TINY for word in ("--set", setting)]


@pytest.fixture
def formulas(monkeypatch):
    "The recipe quick is formulas, whatever is installed: 128 pixels take a quarter of the time"
    monkeypatch.setitem(NAMED, "quick", NAMED["formulas"])


def train_arguments(data, out, *more):
    return ["train", "--data", data, "--category", "hex_nut", "--out", out, *SETTINGS, *more]


COMMANDS = ["demo", "products", "simulate", "train", "evaluate", "predict", "benchmark", "compare", "ablate",
            "pretrain", "bench", "course", "report", "data", "export", "threshold", "watch"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(memseg, command):
    code, out, _ = memseg(command, "--help")
    assert code == 0 and "Usage: memseg " + command in out
    assert command in memseg("--help")[1]


def test_the_first_page_of_help_explains_its_words(memseg):
    out = memseg("--help")[1]
    for says in ("RUN      the folder that one training writes", "recipe   all settings of a training"):
        assert says in out


def test_misspelt_names_get_a_suggestion(memseg, tiny_data, tmp_path):
    out = "--out", tmp_path / "x"
    for line, near in ((["tarin"], "'train'"), (["train", "--dtaa", "x"], "'--data'"),
                       (["data", "convet"], "'convert'"),
                       (["train", "--data", tiny_data, "--category", "hexnut", *out], "hex_nut"),
                       (["train", "--data", tiny_data, *out, "--set", "trainig.steps=3"], "training"),
                       (["benchmark", "--data", tiny_data, *out, "--recipe", "formula"], "formulas"),
                       (["products", "--product", "hexnut", *out], "hex_nut"),
                       (["demo", "--product", "wod", *out], "wood"),
                       (["compare", "--data", tiny_data, "--ways", "evn", *out], "even"),
                       (["ablate", "--data", tiny_data, "--variants", "no_memry", *out], "no_memory")):
        code, _, err = memseg(*line)
        assert code in (1, 2) and f"id you mean {near}?" in err, err
    assert not (tmp_path / "x").exists()


def test_no_command_and_unknown_ones_are_usage_errors(memseg):
    assert memseg()[0] == 2
    assert memseg("tarin")[0] == 2
    assert memseg("train", "--dtaa", "x")[0] == 2
    assert memseg("train", "--out", "x")[0] == 2  # no --data


WITHOUT_TORCH = """
import shlex, sys
sys.modules["torch"] = None  # whoever imports it fails
from memseg_nb.cli import main
for line in sys.stdin:
    try: main(shlex.split(line))
    except SystemExit as stop: print(stop.code, flush=True)
"""


def test_mistyped_words_are_reported_before_pytorch_is_imported(tmp_path):
    (tmp_path / "photos").mkdir()
    lines = {
        "--help": (0, ""), "train --help": (0, ""), "course --help": (0, ""), "tarin": (2, "tarin"),
        "train --dtaa x --out run": (2, "--dtaa"),
        "train --data none --out run": (1, "no such folder none"),
        "train --data photos --out run --set training.stepps=3": (1, "stepps"),
        "train --data photos --out run --size 250": (2, "multiples of 32"),
        "train --data photos --out run --textures none": (1, "no such folder none"),
        "train --data photos --out run --recipe none.ini": (1, "none.ini"),
        "train --out none --resume": (1, "no run folder none"),
        "evaluate none": (1, "no run folder none"), "evaluate photos --data none": (1, "no such folder none"),
        "predict none photos --out x": (1, "no run folder none"),
        "watch none photos --out x": (1, "no run folder none"), "watch --camera 0 --out x": (2, "0 paths"),
        "predict photos none --out x": (1, "no such photo or folder none"),
        "predict --memory none photos --out x": (1, "no such folder none"),
        "predict photos photos --out x --runtime tensorrt": (2, "tensorrt"),
        "predict --memory photos new --out x --runtime onnx": (
            2, "memseg export --memory photos --out good.onnx; then memseg predict good.onnx new --out x"),
        "predict --memory photos new --out x --precision bfloat16": (
            2, "memseg train --good photos --recipe quick --steps 0 --out RUN; then memseg predict RUN new "
               "--out x --precision bfloat16"),
        "predict photos photos --out x --threshold .5 --false-alarms .1": (2, "give one of them"),
        "watch photos photos --out x --threshold .5 --false-alarms .1": (2, "give one of them"),
        "threshold none": (1, "no run folder none"),
        "threshold photos --defective none": (1, "no such folder none"),
        "export none --out x.onnx": (1, "no run folder none"),
        "export photos --out x": (2, "did you mean x.onnx?"),
        "export photos --out x.pth": (2, "did you mean x.onnx?"),
        "predict photos photos --out ''": (2, "'--out': is empty"),
        "predict photos photos --out=": (2, "'--out': is empty"),
        "predict photos '' --out x": (2, "is empty"),
        "predict --memory '' photos --out x": (2, "'--memory': is empty"),
        "train --data '' --out x": (2, "'--data': is empty"),
        "predict photos photos --out x --device gpu": (2, "did you mean cuda?"),
        "train --data photos --out run --recipe quik": (2, "did you mean quick?"),
        "train --data photos --out run --size ²": (2, "192x256"),
        "export --out x.onnx": (2, "RUN or --memory"),
        "simulate none.png --out x": (1, "no such file none.png"),
        "simulate photos --out x --set perlin.threshold=much": (1, "a number"),
        "benchmark --data none": (1, "no such folder none"),
        "compare --data none": (1, "no such folder none"),
        "compare --data photos --set loss.gamma=much": (1, "a number"),
        "ablate --data none": (1, "no such folder none"),
        "ablate --data photos --set a=1": (1, "section.key"),
        "demo --set training.stepps=3": (1, "stepps")}
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], input="\n".join(lines), text=True,
                          capture_output=True, cwd=tmp_path)
    codes = [int(line) for line in done.stdout.splitlines() if line in ("0", "1", "2")]
    assert codes == [code for code, _ in lines.values()], done.stderr
    assert "unexpected" not in done.stderr and "Traceback" not in done.stderr, done.stderr
    for _, says in lines.values(): assert says in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_the_guard_would_be_noticed(tmp_path):
    "A command that is well asked does need PyTorch"
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], input="products --out x", text=True,
                          capture_output=True, cwd=tmp_path)
    assert done.stdout == "1\n" and "torch" in done.stderr


FRESH = """
import contextlib, resource, sys
from memseg_nb import cli

def faults():
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytes(b"x" * int(1e8))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun

sys.argv[1:] = ["--version"]
with contextlib.suppress(SystemExit): cli.main(["--version"] if "called" in sys.stdin.read() else None)
faults()
print(faults())
"""


@pytest.mark.skipif(os.name != "posix" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
@pytest.mark.parametrize("who", ["typed", "called"])
def test_the_program_keeps_its_memory_for_the_next_tensor(who):
    "100 MB, freed and taken again: no page is fresh in the program; `main` called from Python changes nothing"
    done = subprocess.run([sys.executable, "-c", FRESH], input=who, text=True, capture_output=True)
    fresh = int(done.stdout.splitlines()[-1])
    assert fresh < 100 if who == "typed" else fresh > 20_000, (fresh, done.stderr)


def test_words_are_completed():
    environment = os.environ | {"_MEMSEG_COMPLETE": "bash_complete", "COMP_WORDS": "memseg pre",
                                "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", "from memseg_nb.cli import main; main()"], text=True,
                          capture_output=True, env=environment)
    assert done.returncode == 0 and done.stdout.split() == ["plain,predict", "plain,pretrain"], done.stderr


def test_the_front_door_imports_what_is_asked_for():
    code = """
import sys
import memseg_nb
assert {"Detector", "evaluate", "load_recipe", "train"} <= {*dir(memseg_nb)} & {*memseg_nb.__all__}
memseg_nb.load_recipe()
assert "torch" not in sys.modules
from memseg_nb import *
from memseg_nb.deployment import detector
from memseg_nb.evaluation import evaluate as evaluation
from memseg_nb.training import train as training
assert (Detector, evaluate, train) == (detector.Detector, evaluation.evaluate, training.train)
try: memseg_nb.detect
except AttributeError as error: assert "detect" in str(error)
else: raise AssertionError("no error")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_products_in_mvtec_layout(memseg, tmp_path):
    code, out, _ = memseg("products", "--out", tmp_path / "p", "--product", "wood", "--size", "64x96",
                          "--train", 2, "--good", 1, "--defective", 1)
    assert code == 0 and str(tmp_path / "p" / "wood") in out
    assert len(list((tmp_path / "p" / "wood" / "train" / "good").glob("*.png"))) == 2
    masks = sorted((tmp_path / "p" / "wood" / "ground_truth").rglob("*.png"))
    assert len(masks) >= 4 and Image.open(masks[0]).size == (96, 64)


def test_unknown_product_says_which_there_are(memseg, tmp_path):
    code, _, err = memseg("products", "--out", tmp_path / "p", "--product", "spoon")
    assert code == 1 and "spoon" in err and "hex_nut" in err
    assert not (tmp_path / "p").exists()


def test_simulate_writes_anomalies_that_differ_only_under_the_mask(memseg, tiny_data, tmp_path):
    image = tiny_data / "hex_nut" / "train" / "good" / "000.png"
    code, _, _ = memseg("simulate", image, "--out", tmp_path / "s", "--count", 3, "--size", 64, "--seed", 5)
    assert code == 0 and (tmp_path / "s" / "sheet.png").exists()
    normal = np.asarray(Image.open(image).convert("RGB")).astype(int)
    for k in range(3):
        anomaly = np.asarray(Image.open(tmp_path / "s" / f"{k:03}.png")).astype(int)
        mask = np.asarray(Image.open(tmp_path / "s" / f"{k:03}_mask.png")) > 0
        assert (mask.any() and np.abs(anomaly - normal)[~mask].max() == 0
                and np.abs(anomaly - normal)[mask].max() > 0)


def test_train_evaluate_predict(memseg, tiny_data, tmp_path):
    run = tmp_path / "my run"
    code, out, _ = memseg(*train_arguments(tiny_data, run))
    assert code == 0 and f"next: memseg evaluate '{run}'" in out
    code, out, _ = memseg("evaluate", run, "--device", "cpu")
    assert code == 0 and "baseline" in out
    metrics = json.loads((run / "metrics.json").read_text())
    assert all(0 <= metrics[key] <= 1 for key in ("image_auroc", "pixel_auroc", "aupro"))
    photos = tmp_path / "photos"
    shutil.copytree(tiny_data / "hex_nut" / "test" / "good", photos)
    code, out, _ = memseg("predict", run, photos, "--out", tmp_path / "answers", "--device", "cpu")
    assert code == 0 and "4 photos, seen at 64x64 pixels" in out and "false alarms expected): " in out
    rows = list(csv.DictReader((tmp_path / "answers" / "scores.csv").open()))
    assert [row["file"] for row in rows] == sorted(p.name for p in photos.iterdir())
    assert np.load(next((tmp_path / "answers").glob("*.npy"))).shape == (64, 64)


def test_train_with_a_flat_folder_of_good_photos(memseg, tiny_data, tmp_path):
    "No test folder, so the next step is predict; the run goes on, and says why it has no figures"
    good, run = tmp_path / "my nuts", tmp_path / "run"
    shutil.copytree(tiny_data / "hex_nut" / "train" / "good", good)
    assert memseg("train", "--good", good, "--data", tiny_data, "--out", run)[0] == 2
    assert memseg("train", "--good", tmp_path / "none", "--out", run)[0] == 1
    code, out, err = memseg("train", "--good", good, "--out", run, *SETTINGS)
    assert code == 0 and f"next: memseg predict {run} PHOTOS --out DIR" in out, err
    record = json.loads((run / "run.json").read_text())
    assert record["category"] == "my nuts" and record["data"] == str(good)
    for more in (["--resume"], ["--resume", "--good", good]):
        assert memseg("train", "--out", run, *more)[0] == 0
    assert memseg("predict", run, good, "--out", tmp_path / "answers", "--device", "cpu")[0] == 0
    code, _, err = memseg("evaluate", run)
    assert code == 1 and "needs some in test/good and test/DEFECT" in err
    code, out, err = memseg("train", "--good", tiny_data / "hex_nut", "--out", tmp_path / "other", *SETTINGS)
    assert code == 0 and "next: memseg evaluate" in out, "a product's folder is good as well"
    (tmp_path / "empty").mkdir()
    code, _, err = memseg("train", "--good", tmp_path / "empty", "--out", tmp_path / "third", *SETTINGS)
    assert code == 1 and "no images in it" in err and not (tmp_path / "third").exists()


@pytest.mark.usefixtures("formulas")
def test_memory_takes_the_folder_of_a_product(memseg, tiny_data, tmp_path):
    photo = tiny_data / "hex_nut" / "test" / "good" / "001.png"
    for name, memory in (("a", tiny_data / "hex_nut"), ("b", tiny_data / "hex_nut" / "train" / "good")):
        code, out, err = memseg("predict", "--memory", memory, photo, "--out", tmp_path / name, "--device",
                              "cpu")
        assert code == 0 and "1 photo, " in out and "false alarms expected): " in out, err
    assert (tmp_path / "a" / "scores.csv").read_bytes() == (tmp_path / "b" / "scores.csv").read_bytes()


def test_predict_takes_a_single_photo(memseg, tiny_run, tiny_data, tmp_path):
    photo = tiny_data / "hex_nut" / "test" / "good" / "001.png"
    code, out, _ = memseg("predict", tiny_run.folder, photo, "--out", tmp_path / "one", "--device", "cpu")
    assert code == 0 and "1 photo, " in out and "001.png: " in out and ", score 0." in out
    assert len(list((tmp_path / "one").glob("*.npy"))) == 1


def test_predict_goes_on_after_a_broken_photo_and_fails_in_the_end(memseg, tiny_run, tiny_data, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(tiny_data / "hex_nut" / "test" / "good", photos)
    (photos / "000.png").write_bytes((photos / "000.png").read_bytes()[:200])
    code, out, err = memseg("predict", tiny_run.folder, photos, "--out", tmp_path / "a", "--device", "cpu")
    assert code == 1 and "3 photos" in out and "000.png" in err
    rows = {row["file"]: row for row in csv.DictReader((tmp_path / "a" / "scores.csv").open())}
    assert rows["000.png"]["error"] and rows["001.png"]["score"]


# the recipe quick

def test_the_program_says_which_recipe_quick_is(memseg, tmp_path, monkeypatch):
    "Before it looks for the products, so an empty folder will do"
    says = {"imagenet": "note: recipe quick: imagenet (EfficientNet-Lite0)",
            "formulas": "note: recipe quick: formulas; better with pip install 'memseg-nb[imagenet]'"}
    for known, note in says.items():
        monkeypatch.setitem(NAMED, "quick", NAMED[known])
        for command in ["train", "--out", tmp_path / "run"], ["benchmark", "--out", tmp_path / "runs"]:
            told, silent = (memseg(*command, "--data", tmp_path, "--recipe", chosen)[2]
                            for chosen in ("quick", known))
            assert told.count(note) == 1 and "recipe quick" not in silent  # who names it isn't told


# without training on the product

@pytest.mark.usefixtures("formulas")
def test_predict_with_a_memory_needs_no_run(memseg, tiny_data, tmp_path):
    good, photos = tiny_data / "hex_nut" / "train" / "good", tiny_data / "hex_nut" / "test" / "good"
    for name in "once", "twice":
        code, out, err = memseg("predict", "--memory", good, photos, "--out", tmp_path / name, "--device",
                                "cpu")
        assert code == 0 and "4 photos" in out, err
    rows = list(csv.DictReader((tmp_path / "once" / "scores.csv").open()))
    assert len(rows) == 4 and all(0 <= float(row["score"]) <= 1 for row in rows)
    assert (tmp_path / "once" / "scores.csv").read_text() == (tmp_path / "twice" / "scores.csv").read_text()
    assert len(list((tmp_path / "once").glob("*_overlay.png"))) == 4


def test_predict_with_a_memory_that_is_none(memseg, tiny_data, tmp_path):
    photos, out = tiny_data / "hex_nut" / "test" / "good", tmp_path / "a"
    code, _, err = memseg("predict", "--memory", tmp_path / "none", photos, "--out", out)
    assert code == 1 and "no such folder" in err
    (tmp_path / "one").mkdir()
    shutil.copy(photos / "000.png", tmp_path / "one")
    code, _, err = memseg("predict", "--memory", tmp_path / "one", photos, "--out", out)
    assert code == 1 and "at least 2" in err and not out.exists()


def test_predict_with_a_memory_of_few_photos_says_so(memseg, tiny_data, tmp_path):
    good = tiny_data / "hex_nut" / "train" / "good"
    code, out, err = memseg("predict", "--memory", good, good / "000.png", "--out", tmp_path / "a")
    assert code == 0 and out.count("12 good images decide this threshold") == 1, err


@pytest.mark.parametrize("memory, paths, says", [(True, 0, "Missing argument"), (True, 2, "photos only"),
                                                 (False, 1, "a RUN and photos"),
                                                 (False, 3, "a RUN and photos")])
def test_predict_says_which_paths_it_needs(memseg, tiny_data, tmp_path, memory, paths, says):
    good = tiny_data / "hex_nut" / "test" / "good"
    arguments = ["predict", *(["--memory", good] if memory else []), *[good] * paths, "--out", tmp_path / "a"]
    code, _, err = memseg(*arguments)
    assert code == 2 and says in err and not (tmp_path / "a").exists()


def test_no_steps_make_a_run_that_can_be_evaluated(memseg, tiny_data, tmp_path):
    run = tmp_path / "run"
    code, _, err = memseg(*train_arguments(tiny_data, run, "--weights", "formulas", "--steps", 0,
                                          "--set", "training.warm_start=auto"))
    assert code == 0, err
    record = json.loads((run / "run.json").read_text())
    assert (record["steps_done"] == 0 and record["warm_start"]["sha256"]
            and record["weights"]["used"] == "formulas")
    assert memseg("evaluate", run, "--device", "cpu")[0] == 0


def test_compare(memseg, tiny_data, tmp_path):
    line = ["compare", "--data", tiny_data, "--out", tmp_path / "c", "--ways", "random,instant", "--seeds", 1,
            "--minutes", .03, *SETTINGS]
    code, out, err = memseg(*line)
    assert code == 0 and "Image AUROC | Pixel AUROC | AUPRO | Found | False alarms | seeds" in out, err
    rows = list(csv.DictReader((tmp_path / "c" / "comparison.csv").open()))
    assert [row["way"] for row in rows] == ["random", "instant"] and all(row["image_auroc"] for row in rows)
    steps = [json.loads(path.read_text())["steps_done"]
             for path in sorted((tmp_path / "c").rglob("run.json"))]
    assert steps[0] == 0 and steps[1] > 0
    code, _, err = memseg(*line, "--set", "evaluation.batch=5")
    assert code == 1 and "other settings: evaluation.batch" in err


@pytest.mark.parametrize("more, code, says", [
    (["--ways", "warm,cold"], 1, "cold"),
    (["--minutes", "0"], 2, "--minutes"),
    (["--seeds", "0"], 2, "--seeds"),
    (["--steps", "5", "--minutes", "1"], 2, "--steps and --minutes"),
    (["--steps", "-5"], 2, "--steps"),
    (["--recipe", "none.ini"], 1, "none.ini"),
    (["--categories", "teapot", "--seeds", "1", "--ways", "instant"], 1, "1 of 1 trainings failed"),
])
def test_compare_says_what_is_wrong(memseg, tiny_data, tmp_path, more, code, says):
    got, _, err = memseg("compare", "--data", tiny_data, "--out", tmp_path / "c", *more)
    assert got == code and says in err


def test_compare_by_steps(memseg, tiny_data, tmp_path):
    "The table of a model card in one command, and the same table by the same command"
    line = ["compare", "--data", tiny_data, "--out", tmp_path / "c", "--seeds", 1, "--steps", 2,
            "--ways", "plain,patches,untrained,trained", *SETTINGS]
    code, out, err = memseg(*line)
    rows = list(csv.DictReader((tmp_path / "c" / "comparison.csv").open()))
    assert code == 0 and [row["way"] for row in rows] == ["plain", "patches", "untrained", "trained"], err
    assert [bool(row["found"]) for row in rows] == [False, True, True, True]
    for way, steps in (("patches", 0), ("untrained", 0), ("trained", 2)):
        record = json.loads(next((tmp_path / "c" / way).rglob("run.json")).read_text())
        assert record["steps_done"] == steps
    code, again, _ = memseg(*line)
    assert code == 0 and [x for x in again.splitlines() if x.startswith("|")] == [
        x for x in out.splitlines() if x.startswith("|")]


def test_compare_needs_data(memseg, tmp_path):
    assert memseg("compare", "--out", tmp_path / "c")[0] == 2
    assert memseg("compare", "--data", tmp_path / "none", "--out", tmp_path / "c")[0] == 1
    assert not (tmp_path / "c").exists()


def test_pretrain_makes_weights_that_train_takes(memseg, tiny_data, tmp_path, monkeypatch):
    from memseg_nb.pretraining import pretrain as pretraining
    small = functools.partial(pretraining.Plan, size=64, products=(1, 1), memory=(2, 2), queries=(2, 2))
    monkeypatch.setattr(pretraining, "Plan", small)
    weights = tmp_path / "w" / "mine.safetensors"
    line = ["pretrain", "--out", weights, "--minutes", .03, "--seed", 3, "--device", "cpu", "--workers", 0]
    code, out, err = memseg(*line)
    network = weights.with_name("mine_network.safetensors")
    assert code == 0 and out.split() == [str(weights), str(network)], err
    assert sorted(path.name for path in weights.parent.iterdir()) == [weights.name, network.name]
    arguments = train_arguments(tiny_data, tmp_path / "run", "--weights", weights, "--set",
                                f"training.warm_start={network}")
    code, _, err = memseg(*arguments, "--steps", 0)
    assert code == 0, err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["weights"]["source"] == str(weights) and record["warm_start"]["source"] == str(network)
    before = weights.read_bytes()
    assert memseg(*line)[0] == 1 and weights.read_bytes() == before


@pytest.mark.parametrize("more, code, says", [
    (["--out", "weights.pth"], 1, ".safetensors"),
    (["--out", "weights.safetensors", "--resume"], 1, "nothing to resume"),
    (["--out", "there.safetensors"], 1, "exists"),
    (["--out", "weights.safetensors", "--device", "gpu"], 2, "did you mean cuda?"),
    (["--out", "weights.safetensors", "--minutes", "0"], 2, "--minutes"),
    (["--out", "weights.safetensors", "--minutes", "soon"], 2, "--minutes"),
    (["--out", "weights.safetensors", "--seed", "-1"], 2, "--seed"),
    (["--minutes", "1"], 2, "--out"),
])
def test_pretrain_says_what_is_wrong(memseg, tmp_path, monkeypatch, more, code, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.safetensors").write_text("somebody's work")
    got, _, err = memseg("pretrain", *more)
    assert got == code and says in err
    assert [path.name for path in tmp_path.iterdir()] == ["there.safetensors"]
    assert (tmp_path / "there.safetensors").read_text() == "somebody's work"


def test_the_run_keeps_the_effective_recipe(memseg, tiny_data, tmp_path):
    own = tmp_path / "my.ini"
    own.write_text("[loss]\ngamma = 2\n[perlin]\nthreshold = 0.4\n")
    run = tmp_path / "run"
    code, _, err = memseg(*train_arguments(tiny_data, run, "--recipe", own, "--set", "perlin.threshold=0.3",
                                           "--seed", 7, "--steps", 1))
    assert code == 0, err
    text = (run / "recipe.ini").read_text()
    for line in ("gamma = 2.0", "threshold = 0.3", "seed = 7", "steps = 1", "height = 64"):
        assert line in text


@pytest.mark.parametrize("more, code, says", [
    (["--size", "250"], 2, "multiples of 32"),
    (["--size", "big"], 2, "256"),
    (["--steps", "5", "--minutes", "1"], 2, "one of them"),
    (["--steps", "0", "--minutes", "1"], 2, "one of them"),
    (["--steps", "-1"], 2, "--steps"),
    (["--set", "training.stepps=3"], 1, "steps"),
    (["--set", "training=3"], 1, "section.key=value"),
    (["--set", "loss.gamma=much"], 1, "a number"),
    (["--weights", "nowhere.pth"], 1, "nowhere.pth"),
    (["--weights", "formulae"], 1, "formulas, imagenet, random, auto"),
    (["--set", "training.warm_start=nowhere.safetensors"], 1, "nowhere.safetensors"),
    (["--textures", "no/such/folder"], 1, "no/such/folder"),
    (["--recipe", "none.ini"], 1, "none.ini"),
    (["--device", "gpu"], 2, "did you mean cuda?"),
    (["--device", "cud"], 2, "did you mean cuda?"),
    (["--device", "cuda:²"], 2, "cuda:0"),
    (["--recipe", "quik"], 2, "did you mean quick?"),
    (["--size", "²"], 2, "needs one number"),
    (["--size", "9" * 5000], 2, "needs one number"),
    (["--data", "a\0b"], 2, "zero byte"),
    (["--textures", ""], 2, "is empty"),
])
def test_bad_options_leave_no_run_behind(memseg, tiny_data, tmp_path, more, code, says):
    got, _, err = memseg(*train_arguments(tiny_data, tmp_path / "run", *more))
    assert got == code and says in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("data, category, says", [
    ("nowhere", "hex_nut", "no such folder"),
    (r"C:\photos\nuts", "hex_nut", r"C:\photos\nuts"),
    ("", "hexnut", "hex_nut"),
])
def test_wrong_data_says_what_there_is(memseg, tiny_data, tmp_path, data, category, says):
    arguments = ["train", "--data", data or tiny_data, "--category", category, "--out", tmp_path / "run",
                 *SETTINGS]
    code, _, err = memseg(*arguments)
    assert code == 1 and says in err and not (tmp_path / "run").exists()


def test_a_run_that_exists_is_refused_and_left_alone(memseg, tiny_run, tiny_data):
    before = {p: p.read_bytes() for p in tiny_run.folder.rglob("*") if p.is_file()}
    code, _, err = memseg(*train_arguments(tiny_data, tiny_run.folder))
    assert code == 1 and "--resume" in err
    assert before == {p: p.read_bytes() for p in tiny_run.folder.rglob("*") if p.is_file()}


def test_outputs_that_cannot_be_written(memseg, tiny_run, tiny_data, tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    good = tiny_data / "hex_nut" / "test" / "good"
    assert memseg(*train_arguments(tiny_data, file / "run"))[0] == 1
    assert memseg("products", "--out", file / "p", "--product", "wood", "--size", 64)[0] == 1
    assert memseg("simulate", good / "000.png", "--out", file / "s", "--size", 64)[0] == 1
    assert memseg("predict", tiny_run.folder, good, "--out", file / "a", "--device", "cpu")[0] == 1
    assert memseg("benchmark", "--data", tiny_data, "--out", file / "b", *SETTINGS)[0] == 1
    assert file.read_text() == "in the way"


def test_no_command_replaces_a_file_that_it_did_not_write(memseg, tiny_run, tiny_data, tmp_path):
    "What is in the way is named, before anything is written"
    photo = tiny_data / "hex_nut" / "test" / "good" / "000.png"
    data = "--data", tiny_data
    for line, name in [(["simulate", photo, "--size", 64], "001_mask.png"),
                       (["predict", tiny_run.folder, photo, "--device", "cpu"], "000_mask.png"),
                       (["export", tiny_run.folder], "x.onnx"),
                       (["pretrain"], "x.safetensors"),
                       (["bench", "--quick", "--device", "cpu"], "bench.md"),
                       (["benchmark", *data, *SETTINGS], "results.csv"),
                       (["compare", *data], "recipe.ini"),
                       (["compare", *data], "comparison.png"),
                       (["ablate", *data], "ablations.md")]:
        out = tmp_path / f"{line[0]} {name}"
        out.mkdir()
        (out / name).write_text("[foreground]\n")  # the user's own
        code, _, err = memseg(*line, "--out", out / name if name[:2] == "x." else out)
        assert code == 1 and name in err, (line, err)
        assert (out / name).read_text() == "[foreground]\n"
        mine = {path.name for path in out.iterdir()} - {name, ".memseg-files.json"}
        assert not mine - {"recipe.ini"}, mine


def test_what_a_command_wrote_it_may_write_again(memseg, tiny_run, tiny_data, tmp_path):
    photo = tiny_data / "hex_nut" / "test" / "good" / "000.png"
    for _ in range(2):
        assert memseg("simulate", photo, "--size", 64, "--count", 2, "--out", tmp_path / "s")[0] == 0
        assert memseg("export", tiny_run.folder, "--out", tmp_path / "x.onnx")[0] == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
@pytest.mark.parametrize("where", ["> /dev/full", "| exec 0<&-"])
def test_a_full_disk_or_a_closed_pipe_is_named(tmp_path, where):
    "Standard output goes nowhere: what was written is there, and the message says what failed"
    line = f"{sys.executable} -c 'from memseg_nb.cli import main; main()' products --out p --product wood"
    if where[0] == "|": line, where = f"( sleep .5; {line} 2> err; echo $? > code ) | true", ""
    else: line = f"{line} --size 64 --train 1 --good 0 --defective 0 {where} 2> err; echo $? > code"
    subprocess.run(line.replace("wood 2>", "wood --size 64 --train 1 --good 0 --defective 0 2>"), shell=True,
                   cwd=tmp_path, timeout=60)
    err = (tmp_path / "err").read_text()
    assert (tmp_path / "code").read_text() == "1\n" and (tmp_path / "p" / "wood").is_dir()
    assert "standard output: can't be" in err and "unexpected" not in err and "Exception" not in err, err


@pytest.fixture
def screw(tiny_data, tmp_path):
    "A product of the user's own, by chance called like one of MVTec AD's, and a link"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "screw").symlink_to(tiny_data / "hex_nut")
    return tmp_path / "data"


def test_a_product_with_the_name_of_one_of_mvtec_is_told_its_settings(memseg, screw, tmp_path):
    line = ["train", "--data", screw, "--out", tmp_path / "run", *SETTINGS, "--steps", 1]
    code, out, err = memseg(*line)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert code == 0 and record["category"] == "screw" and record["foreground"] == "otsu", err
    for says in ("foreground otsu, 120 images in the memory", "decide this threshold",
                 "its rule <=110 selects the border of these images"):
        assert out.count(says) == 1 and sum(says in note for note in record["notes"]) == 1, out
    assert memseg("evaluate", tmp_path / "run", "--device", "cpu")[0] == 0
    code, out, _ = memseg(*line, "--out", tmp_path / "other", "--set", "foreground_table.screw=>100")
    assert code == 0 and "foreground >100, 120 images" in out and "Otsu" not in out


def test_broken_textures_are_named_before_the_first_step(memseg, tiny_data, tmp_path):
    folder, photo = tmp_path / "textures", tiny_data / "hex_nut" / "test" / "good" / "000.png"
    folder.mkdir()
    (folder / "broken.jpg").write_text("no image")
    line = train_arguments(tiny_data, tmp_path / "run", "--textures", folder, "--steps", 1)
    code, _, err = memseg(*line)
    assert code == 1 and "broken.jpg" in err and "none is left" in err and not (tmp_path / "run").exists()
    shutil.copy(photo, folder)
    code, out, _ = memseg(*line)
    assert code == 0 and out.count("1 of 2 textures can't be read") == 1 and "broken.jpg" in out, out
    code, _, err = memseg("simulate", photo, "--out", tmp_path / "s", "--size", 64, "--textures", folder)
    assert code == 0 and "broken.jpg" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_is_named_by_logs_and_figures(tiny_run, tmp_path):
    from memseg_nb import plots
    from memseg_nb.files import MemSegError
    from memseg_nb.model.losses import Losses
    from memseg_nb.training.checkpoints import Log, Run
    log = Log(Run(tmp_path), tiny_run.recipe.training, progress=False)
    log.file.close()
    log.file = open("/dev/full", "w")
    with pytest.raises(MemSegError, match="/dev/full: can't be written.*--resume"):
        log.add(1, Losses(1., 1., 1.), .1, 1.)
    log.close()
    (tmp_path / "figure.png").mkdir()
    with pytest.raises(MemSegError, match="figure.png: can't be written"):
        plots.save(plots.grid([np.zeros((8, 8, 3))]), tmp_path / "figure.png")


def test_evaluate_and_predict_without_a_run(memseg, tmp_path, tiny_data):
    code, _, err = memseg("evaluate", tmp_path / "none")
    assert code == 1 and "no run folder" in err
    assert memseg("predict", tiny_data, tiny_data, "--out", tmp_path / "a")[0] == 1
    assert not (tmp_path / "a").exists()


def test_evaluate_says_when_the_data_have_moved(memseg, tiny_recipe, tmp_path, tiny_data):
    data, moved = tmp_path / "data", tmp_path / "moved"
    shutil.copytree(tiny_data, data)
    assert memseg(*train_arguments(data, tmp_path / "run"))[0] == 0
    data.rename(moved)
    code, _, err = memseg("evaluate", tmp_path / "run", "--device", "cpu")
    assert code == 1 and "--data" in err
    assert memseg("evaluate", tmp_path / "run", "--data", moved, "--device", "cpu")[0] == 0


def test_demo(memseg, tmp_path):
    small = ["--size", 64, "--product", "wood", *SETTINGS]
    code, out, _ = memseg("demo", "--out", tmp_path / "demo", *small)
    assert code == 0 and "all defects" in out and "baseline" in out
    assert (tmp_path / "demo" / "run" / "figures" / "typical.png").exists()
    assert memseg("demo", "--out", tmp_path / "demo", *small)[0] == 0  # a second time shows it again


def test_traceback_only_when_asked_for(tmp_path):
    line = [sys.executable, "-m", "memseg_nb.cli"]
    words = ["evaluate", str(tmp_path / "none")]
    plain = subprocess.run([*line, *words], capture_output=True, text=True)
    asked = subprocess.run([*line, "--traceback", *words], capture_output=True, text=True)
    assert plain.returncode == asked.returncode == 1
    assert "Traceback" not in plain.stderr and len(plain.stderr.strip().splitlines()) == 1
    assert "Traceback" in asked.stderr


def test_ctrl_c_saves_and_resume_ends_at_the_same_weights(tiny_data, tmp_path):
    settings = [*SETTINGS, "--set", "training.steps=10"]
    line = [sys.executable, "-m", "memseg_nb.cli", "train", "--data", str(tiny_data), *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    through = subprocess.run([*line, "--out", str(tmp_path / "through")], capture_output=True, text=True,
                             env=environment)
    assert through.returncode == 0, through.stderr
    often = ["--set", "training.checkpoint_every=1"]
    child = subprocess.Popen([*line, "--out", str(tmp_path / "cut"), *often], stderr=subprocess.PIPE,
                             text=True, env=environment)
    record = tmp_path / "cut" / "run.json"
    while child.poll() is None and not (record.exists() and json.loads(record.read_text()).get("steps_done")):
        time.sleep(.02)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 1 and "--resume" in err and "Traceback" not in err
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["steps_done"] < 10
    again = subprocess.run([*line[:4], "--out", str(tmp_path / "cut"), "--resume"], capture_output=True,
                           text=True, env=environment)
    assert again.returncode == 0, again.stderr
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("through", "cut")]
    assert weights[0] == weights[1]
    assert [p.name for p in Path(tmp_path / "cut").glob("*.part")] == []


def test_bench_writes_a_table(memseg, tmp_path, monkeypatch):
    from memseg_nb.bench import speed
    from memseg_nb.bench.timing import Measured
    monkeypatch.setattr(speed, "ROWS",
                        {"match": lambda shop: [Measured("work", "loops", 2., 1., 2., 1., 3.)]})
    code, out, _ = memseg("bench", "--out", tmp_path / "b", "--quick", "--rows", "match", "--device", "cpu")
    assert code == 0 and "bench.md" in out and "2.0 (1.0 .. 3.0)" in (tmp_path / "b" / "bench.md").read_text()
    monkeypatch.setattr(speed, "ROWS", {"match": lambda shop: [Measured("match", note="failed: too bad")]})
    code, _, err = memseg("bench", "--out", tmp_path / "b", "--quick")
    assert code == 1 and "1 rows failed, first match: failed: too bad" in err
    code, _, err = memseg("bench", "--out", tmp_path / "b", "--rows", "macth")
    assert code == 1 and "did you mean match?" in err
