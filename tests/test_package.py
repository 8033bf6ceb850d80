"What a stranger installs: a wheel with everything in it, the files a repository has, nothing of this machine"
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from lesson_contract import too_wide

ROOT = Path(__file__).parents[1]


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
    assert "memseg_nb/settings.ini" in names and "memseg_nb/cli.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"memseg_nb"}


def test_wheel_runs_away_from_the_repository(wheel, tmp_path):
    "Unpacked elsewhere, its demo runs with the recipe inside it"
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    where = "import memseg_nb, memseg_nb.recipe as r; print(memseg_nb.__file__); print(r.shipped_path())"
    done = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True,
                          text=True)
    assert all(line.startswith(str(tmp_path / "site"))
               for line in done.stdout.split()), done.stdout + done.stderr
    small = ["--size", "64", "--steps", "2", "--weights", "random", "--set", "training.workers=0", "--set",
             "memory.samples=5"]
    demo = subprocess.run([sys.executable, "-m", "memseg_nb.cli", "demo", "--out", "demo", *small],
                          cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert demo.returncode == 0, demo.stderr
    assert (tmp_path / "demo" / "run" / "metrics.json").exists()


def tracked():
    "The text files of the repository"
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True,
                                text=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed if name and not name.endswith((".png", ".npz")) and (ROOT / name).is_file()]


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


def test_constraints_are_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line) for line in lines if line)


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
    done = subprocess.run(["make", "-f", str(ROOT / "Makefile"), f"PYTHON={fake}", "test"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode != 0 and says in done.stdout + done.stderr
