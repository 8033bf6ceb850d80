"The notebooks are the source: they run, they are clean, they make the library, and each is a lesson."
import ast
import json
import re
from pathlib import Path

import nbformat
import pytest
from fastcore.nbio import read_nb
from nbclient import NotebookClient
from nbdev.clean import clean_nb
from nbdev.export import nb_export

from memseg_nb.recipe import flatten, load_recipe

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").glob("*.ipynb"))
LESSONS = [p for p in NOTEBOOKS if p.stem != "index"]
SECTIONS = ["The picture", "By hand", "Naive, then fast", "Break it", "Paper and code", "Summary"]
BOX = ["You will be able to", "You need first", "Run time", "Paper"]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)


def cells(path, kind):
    "The sources of all cells of one kind"
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


@each_notebook
def test_runs_from_top_to_bottom(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()


def test_library_is_what_the_notebooks_export(tmp_path):
    fresh = tmp_path / "memseg_nb"
    fresh.mkdir()
    for path in NOTEBOOKS:
        nb_export(path, lib_path=fresh)
    exported = {p.name: p.read_text() for p in fresh.glob("*.py") if not p.name.startswith("_")}
    library = {p.name: p.read_text() for p in (ROOT / "memseg_nb").glob("*.py") if not p.name.startswith("_")}
    assert set(exported) == set(library)

    def code(text):  # where a cell came from is written relative to the folder: not compared
        return re.sub(r"^#.*$", "", text, flags=re.MULTILINE)

    stale = [name for name in exported if code(exported[name]) != code(library[name])]
    assert not stale, f"run nbdev-export: {stale} differ from their notebooks"


@each_notebook
def test_is_clean(path):
    notebook = read_nb(path)
    before = json.dumps(notebook["metadata"], sort_keys=True), [c.get("metadata") for c in notebook.cells]
    clean_nb(notebook, allowed_out_metadata_keys=["image/png"])
    after = json.dumps(notebook["metadata"], sort_keys=True), [c.get("metadata") for c in notebook.cells]
    assert before == after, "run nbdev-clean"
    outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert path.stat().st_size < 1_500_000, "pictures too large for a notebook"


@each_lesson
def test_shows_outputs_with_alt_text(path):
    notebook = json.loads(path.read_text())
    outputs = [o for c in notebook["cells"] for o in c.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert pictures, "no picture: committed without its outputs?"
    assert all(o["metadata"].get("image/png", {}).get("alt") for o in pictures), "show figures with plots.show"


@each_notebook
def test_speaks_of_no_machine(path):
    text = path.read_text()
    for word in ("/work/", "/root/", "/home/", "/tmp/", "site-packages"):
        assert word not in text, f"{word} in {path.name}"


@each_lesson
def test_has_the_sections_of_a_lesson(path):
    prose = "\n".join(cells(path, "markdown"))
    headings = re.findall(r"^## (.+)$", prose, flags=re.MULTILINE)
    assert [h for h in headings if h in SECTIONS] == SECTIONS
    missing = [label for label in BOX if f"**{label}**" not in prose]
    assert not missing, f"the box at the top lacks {missing}"
    run_time = re.search(r"\*\*Run time\*\* (\d+) s on 2 CPU cores, measured", prose)
    assert run_time, "the box lacks a measured run time: python tests/measure_lessons.py"
    assert int(run_time[1]) <= 60
    table = prose.split("## Paper and code")[1].split("\n## ")[0]
    assert len(re.findall(r"^\|.*\|$", table, flags=re.MULTILINE)) >= 3, "no paper-and-code table"


@each_lesson
def test_is_prose_and_short_cells(path):
    code, prose = cells(path, "code"), cells(path, "markdown")
    assert len(prose) >= (len(code) + len(prose)) / 3.5
    longest = max(len(c.splitlines()) for c in code)
    assert longest <= 25, f"a code cell has {longest} lines"


def test_functions_in_the_tables_exist():
    "Whatever a paper-and-code table names as `module.function` can be imported, or is a setting of the recipe"
    settings = flatten(load_recipe())
    for path in LESSONS:
        prose = "\n".join(cells(path, "markdown"))
        table = prose.split("## Paper and code")[1].split("\n## ")[0]
        for module, name in re.findall(r"`(\w+)\.(\w+)", table):
            source = ROOT / "memseg_nb" / f"{module}.py"
            if source.exists() and f"{module}.{name}" not in settings:
                names = {n.name for n in ast.walk(ast.parse(source.read_text()))
                         if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
                assert name in names, f"{path.name}: no {module}.{name}"
