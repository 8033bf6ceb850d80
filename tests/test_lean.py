"The program without PyTorch: answers of the library, in a Python that has three packages and no more"
import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memseg_nb.deployment.detector import Detector
from memseg_nb.deployment.lean import LeanDetector, is_program, write_program
from memseg_nb.deployment.onnx import export_onnx
from memseg_nb.files import MemSegError
from memseg_nb.recipe import load_recipe

ALONE = """
import runpy, sys
from importlib.machinery import PathFinder
class Few(PathFinder):
    "Python's own packages, and the three"
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        known = name.partition(".")[0] in {"numpy", "PIL", "onnxruntime", *sys.stdlib_module_names}
        spec = super().find_spec(name, path, target)
        return spec if known or spec and sys.argv[0] in str(spec.origin) else None
sys.meta_path[sys.meta_path.index(PathFinder)] = Few
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def made(tiny_data, tmp_path_factory):
    "A detector whose maps are not all alike, its file, and that file as a program"
    recipe = load_recipe("formulas", ["image.height=64", "image.width=64", "memory.samples=4"])
    detector = Detector.remember(tiny_data / "hex_nut" / "train" / "good", recipe, "cpu")
    folder = tmp_path_factory.mktemp("lean")
    file = export_onnx(detector, folder / "nut.onnx")
    return detector, file, write_program(file, folder / "nut.pyz")


@pytest.fixture(scope="module")
def photos(tiny_data, tmp_path_factory):
    "Of many kinds: larger, turned, transparent, palette, 16 bits, small, in a folder of its own"
    folder, k = tmp_path_factory.mktemp("photos"), 0
    nuts = [Image.open(path).convert("RGB") for path in
            sorted((tiny_data / "hex_nut" / "test").rglob("*.png"))]
    exif = Image.Exif()
    exif[274] = 6
    nuts[0].resize((300, 200)).save(folder / "turned.jpg", exif=exif)
    clear = nuts[1].convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(folder / "clear.png")
    nuts[2].resize((500, 333)).convert("P").save(folder / "palette.gif")
    deep = (np.asarray(nuts[3].convert("L")).astype(np.uint16) * 257)
    Image.fromarray(deep).save(folder / "deep.png")
    nuts[4].resize((40, 50)).save(folder / "small.bmp")
    (folder / "more").mkdir()
    for k, nut in enumerate(nuts): nut.save(folder / "more" / f"{k}.png")
    return folder


def test_scores_decisions_and_masks_are_those_of_the_library(made, photos, tmp_path):
    detector, _, program = made
    done = subprocess.run([sys.executable, "-I", "-c", ALONE, str(program), str(photos), "--out",
                           str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "out" / "scores.csv").open(newline="") as file: rows = list(csv.DictReader(file))
    assert len(rows) == len(done.stdout.splitlines()) == sum(path.is_file() for path in photos.rglob("*"))
    for row in rows:
        expected = detector.predict(photos / row["file"])
        assert float(row["score"]) == pytest.approx(expected.score, abs=2e-5), row["file"]
        assert row["is_defective"] == str(expected.is_defective)
        mask = np.asarray(Image.open(tmp_path / "out" / f"{row['file']}_mask.png"))
        near = np.abs(expected.map.numpy() - detector.pixel_threshold) < 1e-3
        assert ((mask > 0) == expected.mask.numpy())[~near].all()
    assert len({row["is_defective"] for row in rows}) == 2


def test_the_map_is_that_of_the_library(made, photos):
    detector, file, _ = made
    lean = LeanDetector(file)
    for name in ("turned.jpg", "small.bmp"):
        found, expected = lean.predict(photos / name), detector.predict(photos / name)
        assert np.abs(found.map - expected.map.numpy()).max() < 1e-3


def test_a_photo_without_an_answer_does_not_stop_the_others(made, photos, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("no image")
    (tmp_path / "photos" / "b.png").write_bytes((photos / "clear.png").read_bytes())
    done = subprocess.run(
        [sys.executable, str(made[2]), str(tmp_path / "photos")], capture_output=True, text=True
    )
    first, second = done.stdout.splitlines()
    assert done.returncode == 1 and first.startswith("a.png: no answer: ") and "is not an image" in first
    assert second.startswith(("b.png: good: ", "b.png: defective: ")) and not done.stderr
    done = subprocess.run([sys.executable, str(made[2]), "none"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "error: none: no such photo or folder\n"


def test_the_file_is_the_same_each_time_and_replaces_only_its_like(made, tmp_path):
    _, file, program = made
    again = write_program(file, tmp_path / "again.pyz")
    assert again.read_bytes() == program.read_bytes() and is_program(again)
    assert write_program(file, again) == again
    (tmp_path / "mine.pyz").write_text("mine")
    with pytest.raises(MemSegError, match="is in the way"): write_program(file, tmp_path / "mine.pyz")
    assert (tmp_path / "mine.pyz").read_text() == "mine"


def test_export_writes_a_program(memseg, tiny_run, tmp_path):
    code, out, err = memseg("export", tiny_run.folder, "--out", tmp_path / "nut.pyz")
    assert code == 0 and f"next: python {tmp_path / 'nut.pyz'} PHOTOS" in out, err
    assert is_program(tmp_path / "nut.pyz") and list(tmp_path.iterdir()) == [tmp_path / "nut.pyz"]
    assert memseg("export", tiny_run.folder, "--out", tmp_path / "nut.exe")[0] == 2


SAMPLES = Path(__file__).parents[1] / "docs" / "samples"


@pytest.mark.parametrize("command, needs", [
    ("node predict.mjs", "node_modules/sharp"),  # npm install onnxruntime-node sharp
    ("mono predict.exe", "predict.exe"),  # mcs -r:Microsoft.ML.OnnxRuntime -r:System.Drawing predict.cs
])
def test_the_samples_in_other_languages_say_the_same(made, photos, command, needs):
    if not shutil.which(command.split()[0]) or not (SAMPLES / needs).exists():
        pytest.skip(f"needs {command.split()[0]}, and {needs} in docs/samples")
    detector, file, _ = made
    names = [photos / name for name in ("turned.jpg", "clear.png", "palette.gif", "more/0.png")]
    done = subprocess.run([*command.split(), file, *names], cwd=SAMPLES, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, line in zip(names, done.stdout.splitlines(), strict=True):
        path, decision, score = line.split(": ")
        expected = detector.predict(name)
        assert path == str(name) and float(score) == pytest.approx(expected.score, abs=1e-3)
        assert decision == ("defective" if expected.is_defective else "good")
