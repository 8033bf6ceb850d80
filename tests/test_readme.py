"What the README promises: it is made from the index, its links lead somewhere, its lines of Python run"
import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean

from lesson_contract import course
from make_readme import INDEX, ROOT, index, readme

import memseg_nb.recipe
from memseg_nb.data.images import save_image
from memseg_nb.products.catalogue import PRODUCTS, render_product

README = (ROOT / "README.md").read_text()


def test_is_made_from_the_index_and_the_index_from_the_course():
    assert INDEX.read_text() == index() and README == readme(), "make readme"
    links = re.findall(r"\]\(nbs/([\w/]+)\.ipynb\)", README.split("## The course")[1].split("\n## ")[0])
    assert links == list(course())


def test_names_commands_that_there_are():
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make (?:TORCH=\w+ )?([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "lab", "test", "test-all"} <= named <= known
    assert f"lab --notebook-dir=. nbs/{next(iter(course()))}.ipynb" in (ROOT / "Makefile").read_text()


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if not link.startswith("http")]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_figures_of_the_embedded_products_are_those_that_were_measured():
    "Means over the seeds, then over the products; photographs and failed trainings don't count"
    def means(file, **only):
        with (ROOT / "nbs" / "results" / file).open(newline="") as opened:
            rows = [row for row in csv.DictReader(opened) if row["category"] in PRODUCTS]
        rows = [row for row in rows if all(row[key] == value for key, value in only.items())]
        each = [
            [row for row in rows if row["category"] == name] for name in {row["category"] for row in rows}
        ]
        assert {len(some) for some in each} == {3} and not any(row["error"] for row in rows)
        return [f"{mean(mean(float(row[name]) for row in some) for some in each):.3f}"
                for name in ("image_auroc", "pixel_auroc", "aupro")]

    table = README.split("### The embedded products, in short")[1].split("```")[0]
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:4] for line in table.splitlines()
            if line.startswith("| ")}
    wanted = {
        "seven products, not trained on any of them": means("comparison.csv", way="instant"),
        "the same, half a minute of training each": means("comparison.csv", way="warm"),
        "of these the best, brushed_metal": means("comparison.csv", way="warm", category="brushed_metal"),
        "of these the worst, circuit_board": means("comparison.csv", way="warm", category="circuit_board"),
        "hex_nut at 96 x 96 pixels, 100 steps": means("ablations.csv", way="whole", category="hex_nut"),
    }
    assert {name: rows[name] for name in wanted} == wanted
    demo = README.split("**The demo**")[1]
    assert all(value in demo.split("A baseline")[0] for value in rows["brushed_metal, 200 steps"])


def test_the_shell_completes_commands_as_the_readme_says():
    assert 'eval "$(_MEMSEG_COMPLETE=bash_source memseg)"' in README
    done = subprocess.run([sys.executable, "-m", "memseg_nb.cli"], capture_output=True, text=True, env={
        **os.environ, "_MEMSEG_COMPLETE": "bash_complete", "COMP_WORDS": "memseg ev", "COMP_CWORD": "1"})
    assert done.stdout.split() == ["plain,evaluate"], done.stderr


def test_four_lines_of_python(tiny_data, tmp_path, monkeypatch):
    "As they stand, in a folder with photos of a bottle; only the shipped recipe is made tiny"
    code, = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(code.strip().splitlines()) == 4
    shutil.copytree(tiny_data / "hex_nut", tmp_path / "photos" / "bottle")
    save_image(tmp_path / "photo.png", render_product("hex_nut", (96, 128), defect="rust")[0])
    recipe = (ROOT / "settings.ini").read_text()
    for key, value in dict(height=64, width=64, steps=2, samples=3, workers=0, weights="random",
                           device="cpu").items():
        recipe, changed = re.subn(rf"^{key} = .*$", f"{key} = {value}", recipe, flags=re.MULTILINE)
        assert changed == 1
    (tmp_path / "tiny.ini").write_text(recipe)
    monkeypatch.setattr(memseg_nb.recipe, "shipped_path", lambda: tmp_path / "tiny.ini")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)  # noqa: S102
    assert names["detector"].predict("photo.png").map.shape == (96, 128)
    assert Path("runs/bottle/model.safetensors").exists()
