"""The notebooks are the source: they run, they are clean, they make the library. Those of the course are lessons.

Which notebooks are lessons says nbs/course.toml; all others are reference notebooks.
"""
import ast
import json
import re
import subprocess

import measure_lessons
import pytest
from fastcore.nbio import read_nb
from lesson_contract import (LONGEST, NBS, OVERVIEW, OVERVIEW_SECTIONS, ROOT, SECTIONS, WIDTH, course, lacks,
                             misfits, name_of, notebooks, too_wide)
from nbdev.clean import clean_nb
from nbdev.export import nb_export

from memseg_nb.recipe import flatten, load_recipe

LIBRARY = ROOT / "memseg_nb"
NOTEBOOKS, COURSE = notebooks(), course()
LESSONS = [NBS / f"{name}.ipynb" for name in COURSE]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=name_of)
NO_MODULE = {
    "index",
    "00_overview",
    "evaluation/05_results",
    "guides/assignment_solution",
}  # notebooks that export nothing


LATER = {"pretraining", "evaluation"}  # rooms whose further lessons train a lot


def needed(path):
    "Whether a reader needs the notebook to trust the installation: lessons of the course and of its settings"
    kind = COURSE.get(name_of(path))
    return kind == "main" or path.stem == "index" or kind == "further" and path.parent.name not in LATER


def cells(path, kind):
    "The sources of all cells of one kind"
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def code_of(path):
    "A module's code; where its cells came from is written relative to a folder, and left out"
    return re.sub(r"^#.*$", "", path.read_text(), flags=re.MULTILINE)


def modules(folder):
    "Module as a path below `folder` -> its file; empty __init__.py files are left out, nbdev writes them"
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")
            if path.name != "_modidx.py" and path != folder / "__init__.py" and code_of(path).strip()}


# Which notebooks there are

def test_every_lesson_of_the_course_exists_and_is_listed_once():
    assert [path for path in LESSONS if not path.is_file()] == []
    listed = re.findall(r'"([\w/]+)"', re.sub(r"^(?!lessons).*$", "", (NBS / "course.toml").read_text(),
                                              flags=re.MULTILINE))
    assert listed == list(COURSE) and len(LESSONS) > 20


def test_every_notebook_of_the_repository_is_tested():
    "None leaves the suite by being moved: what git knows is what is found below nbs/"
    try:
        told = subprocess.run(["git", "ls-files", "*.ipynb"], cwd=ROOT, check=True, capture_output=True,
                              text=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    tracked = {ROOT / name for name in told.stdout.split("\n") if name and (ROOT / name).exists()}
    assert tracked <= set(NOTEBOOKS) and set(LESSONS) <= set(NOTEBOOKS)


def test_package_and_notebooks_mirror_each_other():
    "nbs/ROOM/NN_name.ipynb exports memseg_nb/ROOM/name.py, and nothing else does"
    made = {}
    for path in NOTEBOOKS:
        told = re.findall(r"^#\| *default_exp ([\w.]+)", "\n".join(cells(path, "code")), re.MULTILINE)
        assert len(told) == (name_of(path) not in NO_MODULE), f"{name_of(path)} exports {told}"
        for module in told:
            room, _, name = name_of(path).rpartition("/")
            expected = f"{room}/{re.sub(r'^[0-9]+_', '', name)}.py".lstrip("/")
            if module.endswith("__init__"): expected = f"{room}/__init__.py"
            assert module.replace(".", "/") + ".py" == expected
            made[expected] = path
    assert set(made) == set(modules(LIBRARY)), "modules without a notebook, or notebooks not exported"
    assert len(NOTEBOOKS) == len(made) + len(NO_MODULE)


# What holds for all of them

@pytest.mark.parametrize("path", [pytest.param(path, id=name_of(path),
                                               marks=() if needed(path) else pytest.mark.full)
                                  for path in NOTEBOOKS])
def test_runs_from_top_to_bottom(path):
    "And a lesson takes the memory that its box says, but for a factor of ten"
    cost, box = measure_lessons.run(path, timeout=600), measure_lessons.read(path)
    if path in LESSONS:
        assert box.seconds <= 60, "a lesson is to run within a minute"
        assert cost.gigabytes / 10 < box.gigabytes < cost.gigabytes * 10


def test_library_is_what_the_notebooks_export(tmp_path):
    fresh = tmp_path / "memseg_nb"
    fresh.mkdir()
    for path in NOTEBOOKS:
        nb_export(path, lib_path=fresh)
    exported, library = modules(fresh), modules(LIBRARY)
    assert set(exported) == set(library)
    stale = [name for name in exported if code_of(exported[name]) != code_of(library[name])]
    assert not stale, f"run nbdev-export: {stale} differ from their notebooks"


@each_notebook
def test_is_clean(path):
    notebook = read_nb(path)
    before = json.dumps(notebook["metadata"], sort_keys=True), [c.get("metadata") for c in notebook.cells]
    clean_nb(notebook, allowed_out_metadata_keys=["image/png"], allowed_cell_metadata_keys=["jupyter"])
    after = json.dumps(notebook["metadata"], sort_keys=True), [c.get("metadata") for c in notebook.cells]
    assert before == after, "run nbdev-clean"
    outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert path.stat().st_size < 1_700_000, "pictures too large for a notebook"
    views = re.findall(r"widget-(?:view|state)\+json", path.read_text())
    assert not views, "a saved view shows as an error until the cell is run: python tests/strip_views.py"


@each_notebook
def test_speaks_of_no_machine(path):
    text = path.read_text()
    for word in ("/work/", "/root/", "/home/", "/tmp/", "site-packages"):
        assert word not in text, f"{word} in {path.name}"


@each_notebook
def test_pictures_have_alt_text(path):
    notebook = json.loads(path.read_text())
    outputs = [o for c in notebook["cells"] for o in c.get("outputs", [])]
    pictures = [o for o in outputs if {"image/png", "image/svg+xml"} & set(o.get("data", {}))]
    assert all(o["metadata"].get("image/png", {}).get("alt")
               for o in pictures), "show figures with plots.show"
    assert pictures or path not in LESSONS, "no picture: committed without its outputs?"


@each_notebook
def test_links_between_notebooks_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s#]+)", "\n".join(cells(path, "markdown"))):
        assert re.match(r"https?:|attachment:|mailto:", link) or (path.parent / link).exists(), link


@each_notebook
def test_code_is_neither_too_long_nor_too_wide(path):
    assert not misfits(path), "\n".join(misfits(path))


def test_the_papers_figures_are_quoted_in_the_same_words_everywhere():
    quotes = {name_of(path): re.findall(r"The paper reports an image AUROC .*?reproduced them\.", prose)
              for path in NOTEBOOKS
              if "99.56" in (prose := " ".join("\n".join(cells(path, "markdown")).split()))}
    assert set(quotes) >= {OVERVIEW, "evaluation/05_results"}
    assert all(quotes.values()) and len({quote for some in quotes.values() for quote in some}) == 1, quotes


# What a lesson has

@each_lesson
def test_has_all_that_a_lesson_has(path):
    assert not lacks(path), f"{path.name} lacks {'; '.join(lacks(path))}"


@each_lesson
def test_functions_in_the_tables_exist(path):
    "`module.function` or `room.function` in a paper-and-code table is there, or is a setting of the recipe"
    settings, sources = flatten(load_recipe()), {}
    for file in modules(LIBRARY).values():
        if file.parent.name == "exercises": continue
        for place in {file.stem, file.parent.name}: sources.setdefault(place, []).append(file)
    if path.stem == OVERVIEW: pytest.skip("an overview has no such table")
    table = "\n".join(cells(path, "markdown")).split("## Paper and code")[1].split("\n## ")[0]
    for module, name in re.findall(r"`(\w+)\.(\w+)", table):
        if module not in sources or f"{module}.{name}" in settings: continue
        nodes = [node for file in sources[module] for node in ast.walk(ast.parse(file.read_text()))]
        names = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        names |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        assert name in names, f"no {module}.{name}"


# The contract itself

@pytest.fixture
def memory(tmp_path):
    "A lesson that lacks nothing, and a place for a worse one"
    notebook = json.loads((NBS / "model" / "02_memory.ipynb").read_text())
    return notebook, tmp_path / "02_memory.ipynb"


def test_a_wide_line_is_named_with_file_cell_and_line(memory):
    notebook, broken = memory
    place = max(k for k, cell in enumerate(notebook["cells"]) if cell["cell_type"] == "code")
    others = [cell for k, cell in enumerate(notebook["cells"]) if k != place and cell["cell_type"] == "code"]
    for cell in others: cell["source"] = "pass"
    wide = f"x = '{'a' * (WIDTH - 5)}'"  # one too many
    for line, faults in ((wide.replace(" ", "", 1), []), (wide, [f"line 2: over {WIDTH} characters"])):
        notebook["cells"][place]["source"] = f"x = 1\n{line}"
        broken.write_text(json.dumps(notebook))
        assert misfits(broken) == [f"02_memory.ipynb, cell {place}, {fault}" for fault in faults]
    notebook["cells"][place]["source"] = "x = 1\n" * (LONGEST + 1)
    broken.write_text(json.dumps(notebook))
    assert misfits(broken) == [
        f"02_memory.ipynb, cell {place}: {LONGEST + 1} lines, {LONGEST} at the most"]


def test_text_may_be_wide_but_not_the_code_beside_it():
    long = "word " * 30
    assert too_wide(f'def f():\n    "{long}"\n') == []                       # a docstring
    assert too_wide(f'def f():\n    """\n{long}\n    """\n') == []           # in a string of several lines
    assert too_wide(f'x = 1\nsay("{long}")\n') == [2] and too_wide(f"x = 1  # {long}\n") == [1]
    assert too_wide(f'x = """\n{long}""", 2\n') == [2] and too_wide(f"say(f'{{1}} {long}')") == [1]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_missing_section_is_named(section, memory):
    text, broken = json.dumps(memory[0]), memory[1]
    broken.write_text(text.replace(f"## {section}", f"## Not {section}"))
    assert any(section in each for each in lacks(broken))


def test_a_missing_box_and_a_missing_widget_are_named(memory):
    notebook, broken = memory
    first = next(c for c in notebook["cells"] if "**Run time**" in "".join(c["source"]))
    first["source"] = "".join(first["source"]).replace(" GB of memory", "")
    for cell in notebook["cells"]: cell.pop("outputs", None)
    broken.write_text(json.dumps(notebook))
    assert lacks(broken) == ["measured run time and memory in its box: python tests/measure_lessons.py",
                             "a widget under Play"]


@pytest.fixture
def overview(tmp_path):
    "The overview, and a place for a worse one"
    return json.loads((NBS / f"{OVERVIEW}.ipynb").read_text()), tmp_path / f"{OVERVIEW}.ipynb"


@pytest.mark.parametrize("section", OVERVIEW_SECTIONS)
def test_a_missing_section_of_the_overview_is_named(section, overview):
    notebook, broken = overview
    broken.write_text(json.dumps(notebook).replace(f"## {section}", f"## Not {section}"))
    assert any(section in each for each in lacks(broken))


def test_the_overview_is_short_and_has_the_figure_two_widgets_and_the_map(overview):
    notebook, broken = overview
    broken.write_text(json.dumps(notebook))
    assert lacks(broken) == [] and next(iter(COURSE)) == OVERVIEW
    long = dict(notebook, cells=[*notebook["cells"], *[dict(notebook["cells"][0])] * 30])
    broken.write_text(json.dumps(long))
    assert [each for each in lacks(broken) if each.startswith("brevity")]
    broken.write_text(json.dumps(notebook).replace("show_network()", "show_network"))
    assert lacks(broken) == ["the figure of the whole network"]
    for cell in notebook["cells"]: cell.pop("outputs", None)
    broken.write_text(json.dumps(notebook))
    assert {"a widget under Play: 2 are needed", "the part 'Differences' in its map"} <= set(lacks(broken))


def test_a_lesson_without_the_figure_of_the_network_is_named(tmp_path):
    text = (NBS / "simulation" / "01_perlin.ipynb").read_text()
    broken = tmp_path / "simulation" / "01_perlin.ipynb"
    broken.parent.mkdir()
    broken.write_text(text.replace("show_network", "show_nothing"))
    assert lacks(broken) == ["the figure of the network, near its top"]


def test_an_exercise_that_is_not_in_place_and_a_missing_task_are_named(tmp_path):
    text = (NBS / "simulation" / "01_perlin.ipynb").read_text()
    broken = tmp_path / "simulation" / "01_perlin.ipynb"
    broken.parent.mkdir()
    broken.write_text(text.replace("### Exercise perlin.2 ", "### Task ").replace("### Predict", "### Guess"))
    assert lacks(broken) == ["exercise perlin.2 in place", "a task to predict, change and measure"]
