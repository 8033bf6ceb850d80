"The notebooks are the source: they run, they are clean, they make the library, and each is a lesson."
import ast
import json
import re
from pathlib import Path

import measure_lessons
import pytest
from fastcore.nbio import read_nb
from lesson_contract import LONGEST, SECTIONS, WIDTH, lacks, misfits, too_wide
from nbdev.clean import clean_nb
from nbdev.export import nb_export

from memseg_nb.recipe import flatten, load_recipe

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").glob("*.ipynb"))
LESSONS = [p for p in NOTEBOOKS if p.stem != "index"]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)


def cells(path, kind):
    "The sources of all cells of one kind"
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


@each_notebook
def test_runs_from_top_to_bottom(path):
    "And takes what its box says, but for a factor of ten: machines differ"
    cost, box = measure_lessons.run(path, timeout=300), measure_lessons.read(path)
    if path in LESSONS:
        assert box.seconds <= 60, "a lesson is to run within a minute"
        assert cost.seconds / 10 < box.seconds < max(cost.seconds * 10, 1.5)
        assert cost.gigabytes / 10 < box.gigabytes < cost.gigabytes * 10


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
    assert all(o["metadata"].get("image/png", {}).get("alt")
               for o in pictures), "show figures with plots.show"


@each_notebook
def test_speaks_of_no_machine(path):
    text = path.read_text()
    for word in ("/work/", "/root/", "/home/", "/tmp/", "site-packages"):
        assert word not in text, f"{word} in {path.name}"


@each_lesson
def test_has_all_that_a_lesson_has(path):
    assert not lacks(path), f"{path.name} lacks {'; '.join(lacks(path))}"


@pytest.mark.parametrize("path", [*NOTEBOOKS, *sorted((ROOT / "nbs").glob("*/*.ipynb"))],
                         ids=lambda p: p.stem)
def test_code_is_neither_too_long_nor_too_wide(path):
    assert not misfits(path), "\n".join(misfits(path))


def test_a_wide_line_is_named_with_file_cell_and_line(tmp_path):
    notebook = json.loads((ROOT / "nbs" / "08_memory.ipynb").read_text())
    place = max(k for k, cell in enumerate(notebook["cells"]) if cell["cell_type"] == "code")
    wide, broken = f"x = '{'a' * (WIDTH - 5)}'", tmp_path / "08_memory.ipynb"  # one too many
    for line, faults in ((wide.replace(" ", "", 1), []), (wide, [f"line 2: over {WIDTH} characters"])):
        notebook["cells"][place]["source"] = f"x = 1\n{line}"
        broken.write_text(json.dumps(notebook))
        assert misfits(broken) == [f"08_memory.ipynb, cell {place}, {fault}" for fault in faults]
    notebook["cells"][place]["source"] = "x = 1\n" * (LONGEST + 1)
    broken.write_text(json.dumps(notebook))
    assert misfits(broken) == [f"08_memory.ipynb, cell {place}: 26 lines, {LONGEST} at the most"]


def test_text_may_be_wide_but_not_the_code_beside_it():
    long = "word " * 30
    assert too_wide(f'def f():\n    "{long}"\n') == []                       # a docstring
    assert too_wide(f'def f():\n    """\n{long}\n    """\n') == []           # in a string of several lines
    assert too_wide(f'x = 1\nsay("{long}")\n') == [2] and too_wide(f"x = 1  # {long}\n") == [1]
    assert too_wide(f'x = """\n{long}""", 2\n') == [2] and too_wide(f"say(f'{{1}} {long}')") == [1]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_missing_section_is_named(section, tmp_path):
    text = (ROOT / "nbs" / "08_memory.ipynb").read_text()
    broken = tmp_path / "08_memory.ipynb"
    broken.write_text(text.replace(f"## {section}", f"## Not {section}"))
    assert any(section in each for each in lacks(broken))


def test_a_long_cell_a_missing_box_and_a_missing_widget_are_named(tmp_path):
    notebook = json.loads((ROOT / "nbs" / "08_memory.ipynb").read_text())
    longest = max((c for c in notebook["cells"] if c["cell_type"] == "code"), key=lambda c: len(c["source"]))
    longest["source"] = ["x = 1\n"] * 26
    notebook["cells"][0]["source"] = "".join(notebook["cells"][0]["source"]).replace(" GB of memory", "")
    for cell in notebook["cells"]: cell.pop("outputs", None)
    broken = tmp_path / "08_memory.ipynb"
    broken.write_text(json.dumps(notebook))
    assert lacks(broken) == ["measured run time and memory in its box: python tests/measure_lessons.py",
                             "cells of 25 lines at the most: one has 26", "a widget under Play"]


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


# A chapter needs those before it only. Where a module imports from a later one, this is why.
EVERYTHING = {"cli": "the command line stands on top: each command imports what it needs when it's called",
              "widgets": "the first part of its chapter names all six; the parts that make them follow"}
ANYWHERE = {"plots": "looks in from outside: of the course it needs chapter 00 only"}
SINGLE = {("thresholds", "metrics"): "needs no chapter itself; what it takes is made by hand, says the box",
          ("detector", "runtimes"): "only where another runtime than PyTorch is asked for, imported then",
          ("ledger", "references"): "a part of the same chapter: how the repository is read"}


def place(number):
    "13c -> (13, 'c'): how chapters are sorted"
    return int(number[:2]), number[2:]


def library_imports(code):
    "Names of the modules of the library that some code imports, at its top or in a function"
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, (ast.Import, ast.ImportFrom)): continue
        names, source = [alias.name for alias in node.names], getattr(node, "module", None) or ""
        if source == "memseg_nb": yield from names
        elif source.startswith("memseg_nb."): yield source.split(".")[1]
        else: yield from (name.split(".")[1] for name in names if name.startswith("memseg_nb."))


def from_later_chapters():
    "(module, module it imports) for all imports against the order of the chapters"
    chapter, code = {}, {}
    for path in LESSONS:
        sources = cells(path, "code")
        exported = [source for source in sources if re.search(r"^#\| *export", source, re.MULTILINE)]
        for module in re.findall(r"^#\| *default_exp (\w+)", "\n".join(sources), re.MULTILINE):
            chapter[module], code[module] = place(path.stem.partition("_")[0]), "\n".join(exported)
    return {(module, other) for module in code for other in library_imports(code[module])
            if other in chapter and chapter[other] > chapter[module]}


def test_modules_import_from_earlier_chapters():
    found = from_later_chapters()
    assert found, "the exceptions below aren't seen either"
    excused = {pair for pair in found if pair[0] in EVERYTHING or pair[1] in ANYWHERE or pair in SINGLE}
    assert found == excused, f"against the order of the chapters: {sorted(found - excused)}"


def test_what_excuses_an_import_is_still_so():
    found = from_later_chapters()
    assert set(SINGLE) <= found and set(EVERYTHING) <= {module for module, _ in found}
    assert set(ANYWHERE) <= {other for _, other in found}
    plots = (ROOT / "nbs" / "20_plots.ipynb")
    exported = "\n".join(source for source in cells(plots, "code") if "#| export" in source)
    assert set(library_imports(exported)) == {"recipe"}


def test_imports_are_found_wherever_they_stand():
    code = ("from memseg_nb import plots\nimport memseg_nb.exercises.engine as c\n"
            "def f():\n    from memseg_nb.data.images import x\n")
    assert sorted(library_imports(code)) == ["course", "images", "plots"]
    assert sorted(["13c", "13", "02", "20a", "14"], key=place) == ["02", "13", "13c", "14", "20a"]
