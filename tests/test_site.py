"The pages: no dead links, no requests to elsewhere, readable in light, in dark and on a phone"

import base64
import contextlib
import fcntl
import gzip
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import cache
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urljoin, urlsplit

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
DOCS, SITE, WORK = ROOT / "docs", ROOT / "_docs", ROOT / "build" / "docs"
sys.path.insert(0, str(DOCS))
import chapters
import course
import decks
import figures
import library
import links
import moved
import pages
import serve
import stamp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("sphinx", "myst_nb", "pydata_sphinx_theme") if not find_spec(name)]
MISSING += [] if shutil.which("npm") else ["npm"]
needs_site = pytest.mark.skipif(
    bool(MISSING), reason=f"the pages need {', '.join(MISSING)}: pip install 'memseg-nb[docs]', Node.js"
)
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and find_spec("playwright")),
    reason="pages are visited with Chromium and Playwright: apt install chromium",
)


# From notebooks to pages

SPOT = Image.frombytes("RGB", (6, 4), bytes(range(72)))


def notebook(tmp_path, *cells, name="simulation/04_anomalies"):
    "A notebook of (source, outputs) cells; outputs None: Markdown"
    made = [
        {
            "cell_type": "markdown" if outputs is None else "code",
            "source": source,
            "metadata": {},
            **({} if outputs is None else {"outputs": outputs}),
        }
        for source, outputs in cells
    ]
    path = tmp_path / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def packed(image, kind):
    file = io.BytesIO()
    image.save(file, kind, lossless=True)
    return base64.b64encode(file.getvalue()).decode()


def picture(alt, **more):
    "An output as plots.show makes it, of 6 x 4 pixels; more: `webp`, `svg` with their content"
    names = {"svg": "image/svg+xml", "webp": "image/webp"}
    data = {"image/png": packed(SPOT, "PNG"), "text/plain": alt}
    data |= {names[k]: text for k, text in more.items()}
    return {"output_type": "display_data", "data": data, "metadata": {"image/png": {"alt": alt}}}


HEAD = (
    "# Simulation\n\n> Made from good images\n\n> **You will be able to** blend.\n>\n"
    "> **Run time** 9 s on 2 CPU cores, measured\n",
    None,
)


def converted(tmp_path, monkeypatch, *cells):
    "The cells of the page"
    path = notebook(tmp_path, HEAD, *cells)
    monkeypatch.setattr(chapters, "ROOT", tmp_path.parent)
    monkeypatch.setattr(chapters, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(chapters.laboratory, "asked", lambda question: None)  # known when the site is built
    return chapters.page(path, "course/anomalies")[0]["cells"]


def test_directives_mean_on_a_page_what_they_mean_to_nbdev(tmp_path, monkeypatch):
    cells = converted(
        tmp_path,
        monkeypatch,
        ("#| default_exp simulation.anomalies", []),
        ("#| hide\nimport torch", []),
        ("#| export\ndef blend(x):\n    return x", []),
        ("#| echo: false\nprint(1)", []),
        ("print(2)", []),
    )
    code = [c for c in cells if c["cell_type"] == "code"]
    assert [c["metadata"]["tags"] for c in code] == [["hide-input"], ["library"], ["remove-input"], []]
    assert not any("#|" in c["source"] for c in code)
    label = next(c["source"] for c in cells if "library-label" in c["source"])
    assert 'id="code-blend" href="../reference/simulation.anomalies.html#blend"' in label


def test_folds_are_called_what_they_hold(tmp_path, monkeypatch):
    for code, words in [("import torch", chapters.IMPORTS), ("#| hide\nassert 1 + 1 == 2", chapters.CHECK)]:
        cell = converted(tmp_path, monkeypatch, (code, []))[-1]
        assert cell["metadata"]["mystnb"]["code_prompt_show"] == words


def shown(cell):
    "What stands in the page for a cell's figures"
    return [output["data"]["text/html"] for output in cell["outputs"]
            if "text/html" in output.get("data", {})]


def test_every_picture_keeps_its_alt_text_and_its_room(tmp_path, monkeypatch):
    cells = converted(tmp_path, monkeypatch, ("show()", [picture("a nut"), picture('a "tablet"')]))
    for tag, alt in zip(shown(cells[-1]), ["a nut", "a &quot;tablet&quot;"], strict=True):
        assert re.fullmatch(
            rf'<img src="\.\./_static/figures/\w{{16}}\.webp" alt="{alt}" width="6" height="4">', tag
        )


def test_a_figure_is_the_sharpest_that_the_notebook_has(tmp_path):
    "A drawing as it is, a picture with twice the pixels in the same room, a PNG alone without any loss"
    kept = {}
    drawing = '<svg xmlns="http://www.w3.org/2000/svg" width="4.5pt" height="3pt"/>'
    for more, suffix, content in [
        (dict(svg=drawing), "svg", drawing.encode()),
        (dict(webp=packed(SPOT.resize((12, 8)), "WEBP")), "webp", None),
        ({}, "webp", None),
    ]:
        kept.clear()
        tag = figures.shown(picture("a spot", **more), "figures", kept.__setitem__)["data"]["text/html"]
        (name, found), = kept.items()
        assert f'src="figures/{name}"' in tag and 'width="6" height="4"' in tag and name.endswith(suffix)
        assert content is None or found == content
        if suffix == "webp":
            wide = 12 if more else 6
            whole = Image.open(io.BytesIO(found)).convert("RGB")
            assert whole.tobytes() == SPOT.resize((wide, wide * 2 // 3)).tobytes()
    assert figures.size(drawing.encode()) == (6, 4)
    printed = {"output_type": "stream", "text": "1"}
    assert figures.shown(printed, "figures", None) is printed


def test_links_in_a_table_that_code_made_are_plain_on_a_page(tmp_path, monkeypatch):
    "In JupyterLab they open notebooks; the site has its sidebar"
    table = {"output_type": "execute_result", "metadata": {}, "execution_count": 1,
             "data": {"text/markdown": ["| [perlin](simulation/01_perlin.ipynb), ",
                                        "[paper](https://a.b) |"]}}
    cells = converted(tmp_path, monkeypatch, ("table()", [table]))
    assert cells[-1]["outputs"][0]["data"]["text/markdown"] == "| perlin, [paper](https://a.b) |"


def test_descriptions_of_pictures_are_hidden_from_code(tmp_path, monkeypatch):
    "They are said of the picture; what is copied from the page still runs"
    code = (
        'x = 1\nplots.show(f(x),\n           alt="a nut with a crack across its left side, "\n'
        '               "and rust")\nshow(x, "short")'
    )
    assert chapters.without_alts(code) == 'x = 1\nplots.show(f(x), alt="...")\nshow(x, "short")'
    cells = converted(tmp_path, monkeypatch, (code, [picture("a nut with a crack")]))
    assert cells[-1]["source"].endswith('show(x, "short")') and "rust" not in cells[-1]["source"]
    assert 'alt="a nut with a crack"' in shown(cells[-1])[0]


def test_a_widget_moves_where_its_states_are_known_and_says_so_where_not(tmp_path, monkeypatch):
    output = {"output_type": "display_data", "metadata": {},
             "data": {"image/png": packed(SPOT, "PNG"), "text/plain": "How large?\n3 pixels."}}
    still = converted(tmp_path, monkeypatch, ("Explore('How large?', look)", [output]))
    assert chapters.STILL in still[-1]["source"] and still[-2]["outputs"]
    item = {"name": "a", "src": "1.webp", "alt": "a dot", "caption": "", "width": 90, "newline": False}
    states = [{"status": f"{k} pixels.", "items": [item]} for k in (1, 3)]
    widget = {
        "question": "How large?",
        "hint": "Move it.",
        "number": 0,
        "states": states,
        "controls": [
            {"name": "size", "kind": "choice", "label": "size", "options": ["1", "3"], "value": "3"}
        ],
    }
    path = notebook(tmp_path, HEAD, ("Explore('How large?', look)", [output]))
    cells = chapters.page(path, "course/anomalies", [widget])[0]["cells"]
    assert 'data-play="../_static/plays/anomalies/0.json.gz"' in cells[-1]["source"]
    assert not cells[-2]["outputs"]
    assert "3 pixels." in cells[-1]["source"] and 'alt="a dot"' in cells[-1]["source"]


def test_controls_are_thinned_out_and_keep_what_they_begin_with():
    ipywidgets = pytest.importorskip("ipywidgets")
    import plays
    slider = ipywidgets.FloatSlider(value=.37, min=0, max=1, step=.01)
    some = plays.values(slider, 6)
    assert len(some) == 6 and some[0] == 0 and some[-1] == 1 and .37 in some
    assert plays.values(ipywidgets.IntSlider(value=2, min=0, max=3), 9) == [0, 1, 2, 3]
    assert plays.values(ipywidgets.Dropdown(options=["b", "a"]), 1) == ["b", "a"]
    assert plays.values(slider, 3, [.9, .5, .6]) == [.37, .5, .6, .9]
    many = plays.values(slider, 3, [k / 100 for k in range(40)])
    assert len(many) <= plays.FINEST + 3 and {0, .37, .39} <= {*many}
    assert plays.thinned([0, 1, 2, 3, 9], 3, 3) == [0, 3, 9] and plays.thinned([0, 4], 2, 4) == [0, 4]


def test_states_of_a_widget_are_what_it_shows(tmp_path):
    "Also where it says that something can't be done"
    import numpy as np
    import plays
    from memseg_nb.files import MemSegError
    from memseg_nb.widgets.base import Explore, Picture, menu

    def look(size):
        if size == "none":
            raise MemSegError("size none: needs some")
        return [Picture("square", np.full((int(size), int(size)), .5), f"a square of {size}")], f"size {size}"

    sizes = menu("size", [("eight", "8"), ("no", "none"), ("four", "4")], "4")
    made = plays.record(Explore("How large?", look, size=sizes), tmp_path, 0)
    assert (
        made["controls"][0]["options"] == ["eight", "no", "four"] and made["controls"][0]["value"] == "four"
    )
    assert [state["status"] for state in made["states"]] == ["size 8", "size none: needs some", "size 4"]
    assert [len(state["items"]) for state in made["states"]] == [1, 0, 1]
    assert all((tmp_path / item["src"]).exists() for state in made["states"] for item in state["items"])
    told = json.loads(gzip.decompress(plays.packed(made | {"states": made["states"] * 2})))
    shown = [{"status": words, "items": [told["items"][k] for k in places]}
             for words, places in told["states"]]
    assert shown == made["states"] * 2 and len(told["items"]) == 2, "a picture stands once"


def test_states_begin_as_the_notebook_does_and_have_what_its_answer_names(tmp_path):
    "The answer moves the controls; the page begins where the reader begins, and can be moved to the answer"
    import plays
    from memseg_nb.widgets.base import Explore, menu, slider
    space = {}
    begin, move = Explore.__init__, Explore.set
    try:
        exec(plays.SEEN, space)
        panel = Explore("Where?", lambda level, width: ([], f"{level} {width}"),
                        level=slider("level", 100, 0, 255), width=slider("width", 2, 0, 1000))
        panel.set(level=151).set(level=152)
        made = plays.record(*space["_seen"], tmp_path, 0)
    finally:
        Explore.__init__, Explore.set = begin, move
    level, width = made["controls"]
    assert level["value"] == "100" and {"100", "151", "152"} <= {*level["options"]} and width["value"] == "2"
    assert len(made["states"]) == len(level["options"]) * len(width["options"]) <= plays.MOST
    kinds = {f"kind{k}": menu("kind", list("abcdefg")) for k in range(2)}
    many = Explore("Where?", lambda **_: ([], ""), level=slider("level", 100, 0, 255), **kinds)
    axes = plays.grid(many, {"level": range(0, 100, 5)})
    assert math.prod(map(len, axes.values())) <= plays.MOST and 100 in axes["level"]
    assert "152 2" in [state["status"] for state in made["states"]]
    cells = [{"cell_type": kind, "source": source} for kind, source in [
        ("markdown", "## Play"), ("code", "Explore('Where?', look)"), ("markdown", "<details>"),
        ("code", "answer"), ("markdown", "### More\n\n## Break it"), ("code", "look = None")]]
    assert plays.end(cells) == 4


LIVE = "PerlinPlayground|AnomalyStudio|MemoryExplorer|DefectPainter|ThresholdExplorer|TrainingMonitor"


@pytest.mark.parametrize("lesson", course.lessons())
def test_play_has_a_widget_that_pages_can_move(lesson):
    "One of those that pages compute themselves, or one whose states can be computed beforehand"
    cells = chapters.read(course.NOTEBOOKS / f"{lesson}.ipynb")["cells"]
    text = "\n".join(cell["source"] for cell in cells)
    section = re.split(r"^## ", text.partition("\n## Play\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    assert re.search(rf"\b(?:Explore|{LIVE})[.(]", section), "a page of this lesson can't be played with"
    import plays
    assert lesson in plays.notebooks() or "Explore(" not in text


def test_a_notebook_without_states_costs_no_other_one(monkeypatch, capsys):
    import plays

    def make(name):
        if name == "a":
            raise RuntimeError("line one\nno memory left")

    monkeypatch.setattr(plays, "notebooks", lambda: ["a", "b"])
    monkeypatch.setattr(plays, "known", lambda name: [])
    monkeypatch.setattr(plays, "make", make)
    monkeypatch.setattr(sys, "argv", ["plays.py"])
    with pytest.raises(SystemExit, match="^a: no states: no memory left$"):
        plays.main()
    assert "2 of 2: b" in capsys.readouterr().out


def test_assets_are_made_anew_for_other_code_and_not_for_other_words(tmp_path, monkeypatch):
    (tmp_path / "memseg_nb" / "room").mkdir(parents=True)
    (tmp_path / "settings.ini").write_text("")
    files = {
        "tool.py": "from memseg_nb.room.first import one\n",
        "memseg_nb/__init__.py": "",
        "memseg_nb/room/first.py":
            "from .second import two\ndef one():\n    'What it is'\n    return two  # a comment\n",
        "memseg_nb/room/second.py": "two = 2\n",
        "memseg_nb/room/third.py": "three = 3\n",
    }
    for name, text in files.items(): (tmp_path / name).write_text(text)
    monkeypatch.setattr(library, "ROOT", tmp_path)
    monkeypatch.setattr(library, "PACKAGE", tmp_path / "memseg_nb")

    def digest():
        for kept in (library._imported, library._meaning, library._data): kept.cache_clear()
        return library.digest(tmp_path / "tool.py")

    first = digest()
    assert {path.name for path in library.reached(tmp_path / "tool.py")} == {"first.py", "second.py"}
    (tmp_path / "memseg_nb/room/third.py").write_text("three = 4\n")
    (tmp_path / "memseg_nb/room/first.py").write_text(
        "from .second import two\ndef one():\n    'Other words'\n    return two\n"
    )
    assert digest() == first
    (tmp_path / "memseg_nb/room/second.py").write_text("two = 3\n")
    assert digest() != first
    for kept in (library._imported, library._meaning, library._data): kept.cache_clear()


def test_head_has_subtitle_box_and_links(tmp_path, monkeypatch):
    head = converted(tmp_path, monkeypatch)[0]["source"]
    assert ":::{container} subtitle\nMade from good images\n:::" in head
    assert ":::{container} chapter-box\n**You will be able to** blend." in head
    assert '<p class="eyebrow">Differences</p>' in head


def test_names_and_files_become_links():
    origin = "nbs/simulation/04_anomalies.ipynb"
    markdown = links.Markdown(
        origin, "course/anomalies", "simulation.anomalies", {"perlin_noise": "simulation.perlin"}
    )
    blend = '<a class="name" href="../reference/simulation.anomalies.html#blend"><code>blend</code></a>'
    assert blend in markdown("see `blend` there")
    for written in ("perlin_noise()", "perlin.perlin_noise", "simulation.perlin.perlin_noise"):
        assert "../reference/simulation.perlin.html#perlin_noise" in markdown(f"`{written}`")
    assert '"../reference/simulation.perlin.html"' in markdown("`simulation.perlin`")
    assert markdown("[a](01_perlin.ipynb#by-hand)") == "[a](perlin.ipynb#by-hand)"
    assert markdown("[a](../04_metrics.ipynb)") == "[a](metrics.ipynb)"
    assert markdown("[d](../../data/README.md)") == "[d](../results/data.md)"
    setting = "live/index.html#studio?product=wood&seed=17"
    shown = f'<a href="../{setting.replace("&", "&amp;")}">seed 17</a>'
    assert markdown(f"[seed 17]({links.SITE}{setting})") == shown
    unchanged = [
        "`images` are a word",
        "```python\nblend(`blend`)\n```",
        "## `blend`",
        "$a`blend`b$",
        "[x](https://a.b)",
        "[y](#z)",
    ]
    assert [markdown(text) for text in unchanged] == unchanged
    with pytest.raises(SystemExit, match="nowhere.txt, which has no page"):
        markdown("[n](nowhere.txt)")


def test_exported_names_are_read_from_the_source():
    simulator = library.find("anomalies.Simulator")
    assert simulator.lesson == "simulation/04_anomalies" and "def " not in simulator.header
    assert "perlin: PerlinRecipe           # lattices" in simulator.header
    assert [m.name for m in simulator.methods] == [
        "Simulator.__call__"
    ] and "images: Tensor" in simulator.methods[0].header
    assert (
        library.find("images") is None
        and library.find("blend") is None
        and library.find("shuffle_grid").module == "simulation.anomalies"
    )
    assert library.find("widgets.PerlinPlayground").name == "PerlinPlayground"
    described = {name for m in library.modules().values() for name in (e.name for e in m.exported)}
    assert {"blend", "IMAGE_SUFFIXES", "Detector", "PRODUCTS"} <= described
    assert "exercises.engine" in library.modules() and "_modidx" not in library.modules()


# The course


def test_the_course_is_what_the_list_says():
    listed = course.lessons()
    assert len(set(listed)) == len(listed) and {part.kind for part in course.parts()} == set(course.KINDS)
    kinds = [part.kind for part in course.parts()]
    assert kinds == sorted(kinds, key=list(course.KINDS).index), "the main path comes first"
    assert [c.notebook for c in chapters.lessons()] == listed
    assert [c.notebook for _, _, group in chapters.grouped() for c in group] == listed
    assert len({course.page(each) for each in course.notebooks()}) == len(course.notebooks())


@pytest.mark.parametrize(
    "notebook, page",
    [
        ("simulation/04_anomalies", "course/anomalies"),
        ("01_recipe", "course/recipe"),
        ("pretraining/01a_formulas", "course/formulas"),
        ("exercises/00_engine", "course/engine"),
        ("exercises/04_simulation", "exercises/simulation"),
        ("guides/assignment_solution", "guides/assignment_solution"),
        ("index", "overview"),
    ],
)
def test_addresses_have_no_numbers(notebook, page):
    assert course.page(notebook) == page == links.page_of(f"nbs/{notebook}.ipynb")


def test_a_lesson_that_is_not_there_is_named(tmp_path, monkeypatch):
    (tmp_path / "course.toml").write_text(
        '[[part]]\ntitle = "A"\nabout = "b"\nkind = "main"\nlessons = ["simulation/09_no"]\n'
    )
    monkeypatch.setattr(course, "NOTEBOOKS", tmp_path)
    with pytest.raises(SystemExit, match="no notebook nbs/simulation/09_no.ipynb"):
        course.parts.__wrapped__()


# Old addresses


def test_old_addresses_lead_on(tmp_path, monkeypatch):
    for page in ("course/anomalies", "reference/simulation.anomalies", "source/simulation.anomalies"):
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / f"{page}.html").write_text("here")
    known = moved.table()
    chosen = ("course/06_simulation", "reference/simulation", "source/simulation")
    monkeypatch.setattr(moved, "table", lambda: {old: known[old] for old in chosen})
    moved.publish(tmp_path)
    assert 'url=anomalies.html"' in (tmp_path / "course" / "06_simulation.html").read_text()
    text = (tmp_path / "reference" / "simulation.html").read_text()
    assert 'href="simulation.anomalies.html"' in text and "location.hash" in text
    monkeypatch.setattr(moved, "table", lambda: {"course/06_simulation": "course/no"})
    with pytest.raises(SystemExit, match="there is no such page"):
        moved.publish(tmp_path)


def test_results_tables_round_and_align(tmp_path):
    file = tmp_path / "measured.csv"
    file.write_text("# two cores\nproduct,image_auroc\nhex_nut,0.95731\nwood,\n")
    assert (
        pages.table(file)
        == "two cores\n\n| product | image auroc |\n| --- | --: |\n| hex_nut | 0.957 |\n| wood | – |"
    )


# Outputs as old as their code


def test_results_are_drawn_with_their_spread(tmp_path):
    import charts
    path = tmp_path / "some.csv"
    path.write_text(
        "# a comment\nway,category,seed,image_auroc\nwhole,nut,0,0.9\nwhole,cap,0,0.7\nwhole,nut,1,0.6\n"
        "no_memory,nut,0,0.5\nno_memory,nut,1,\n"
    )
    words, found = charts.points(charts.rows(path))
    assert "image AUROC" in words
    assert [(name, *(round(one, 6) for one in numbers)) for name, *numbers in found] == [
        ("whole", 0.7, 0.6, 0.8),
        ("no memory", 0.5, 0.5, 0.5),
    ]  # each seed's mean, then mean, worst and best of the seeds
    drawn = charts.chart(path)
    assert drawn.count("<circle") == 2 and "whole 0.7, 0.6 to 0.8" in drawn and "\n" not in drawn
    path.write_text("work,peer,ratio,lowest,highest\nnoise,theirs,4,2,8\nloss,,,,\n")
    assert charts.points(charts.rows(path))[1] == [("noise; theirs", 4., 2., 8.)]
    path.write_text("a,b\n1,2\n")
    assert charts.chart(path) == ""


def test_outputs_older_than_their_code_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(stamp, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(stamp, "RECORD", tmp_path / "results" / "outputs.json")
    name, printed = "simulation/04_anomalies", [{"output_type": "stream", "name": "stdout", "text": "1"}]
    path = notebook(tmp_path, ("# T", None), ("x = 1  # one\nprint( x )", []))
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "old.ipynb").write_text(path.read_text())
    with pytest.raises(SystemExit, match=f"{name}: no outputs at all"):
        stamp.note([name])
    notebook(tmp_path, ("# T", None), ("x = 1  # one\nprint( x )", printed))
    assert stamp.stale() == [name]
    stamp.note([name])
    assert stamp.stale() == []
    notebook(tmp_path, ("# Other prose", None), ("x = 1\n\nprint(x)  # said otherwise", []))
    assert stamp.stale() == []
    notebook(tmp_path, ("# T", None), ("x = 2\nprint(x)", []))
    assert stamp.stale() == [name]
    path.unlink()
    assert stamp.stale() == []


def test_records_of_two_branches_can_be_joined(tmp_path, monkeypatch):
    "Git keeps the lines of both, in any order and with any commas"
    monkeypatch.setattr(stamp, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(stamp, "RECORD", tmp_path / "outputs.json")
    printed = [{"output_type": "stream", "name": "stdout", "text": "1"}]
    path = notebook(tmp_path, ("# T", None), ("print(1)", printed))
    name, code = stamp.name_of(path), stamp.digest(path)
    stamp.RECORD.write_text(f'{{\n"{name}": "0123"\n"{name}": "{code}",\n"other": "4567"\n}}\n')
    assert stamp.record()[name] == {"0123", code} and stamp.stale() == []
    stamp.note([name])
    assert json.loads(stamp.RECORD.read_text()) == {name: code}
    assert "outputs.json merge=union" in (ROOT / ".gitattributes").read_text()


def test_saved_outputs_are_those_of_the_code():
    assert not stamp.stale(), "run the notebooks: python docs/stamp.py --run"


# The built site


def newest(*folders):
    return max(
        p.stat().st_mtime
        for folder in folders
        for p in ([folder] if folder.is_file() else folder.rglob("*"))
        if p.is_file() and "__pycache__" not in p.parts and not p.name.startswith("_modidx")
    )


@pytest.fixture(scope="session")
def site():
    "The site, built once, and only if something changed; options for docs/build.py: MEMSEG_DOCS=--draft"
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sources = [ROOT / "nbs", ROOT / "memseg_nb", DOCS, ROOT / "data" / "README.md", ROOT / "settings.ini"]
        if not (SITE / ".nojekyll").exists() or (SITE / ".nojekyll").stat().st_mtime < newest(*sources):
            done = subprocess.run(
                [sys.executable, str(DOCS / "build.py"), *os.environ.get("MEMSEG_DOCS", "").split()],
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return SITE


class Page(HTMLParser):
    "What a page links to, loads, and offers as anchors"

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.anchors, self.unnamed = [], [], set(), 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        self.anchors |= {a[key] for key in ("id", "name") if a.get(key)}
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if tag in ("script", "img", "iframe", "source") and a.get("src"):
            self.loads.append(a["src"])
        if tag == "link" and a.get("href") and a.get("rel") not in ("next", "prev", "canonical"):
            self.loads.append(a["href"])
        if tag == "img" and "alt" not in a:
            self.unnamed += 1


@cache
def parsed(path):
    return Page(path.read_text())


def html_pages(site):
    "All but those that only lead on"
    pages = sorted(p for p in site.rglob("*.html") if "_static" not in p.relative_to(site).parts)
    return [p for p in pages if 'http-equiv="refresh"' not in p.read_text()]


@needs_site
def test_no_dead_link_and_nothing_from_elsewhere(site):
    dead, foreign, unnamed = [], [], []
    for path in html_pages(site):
        page, base = parsed(path), f"http://site/{path.relative_to(site).as_posix()}"
        foreign += [
            f"{path.name}: {target}"
            for target in page.loads
            if urlsplit(urljoin(base, target)).netloc not in ("site", "")
        ]
        unnamed += [path.name] if page.unnamed else []
        for target in page.links + page.loads:
            parts = urlsplit(urljoin(base, target))
            if parts.netloc != "site":
                continue
            file = site / unquote(parts.path).lstrip("/")
            file = file / "index.html" if file.is_dir() else file
            if not file.exists():
                dead.append(f"{path.relative_to(site)}: {target}")
            elif (
                parts.fragment
                and file.suffix == ".html"
                and unquote(parts.fragment).partition("?")[0] not in parsed(file).anchors
            ):
                dead.append(f"{path.relative_to(site)}: {target} (no such anchor)")
    assert not dead and not foreign and not unnamed, (
        f"{len(dead)} dead: {dead[:8]}; foreign {foreign[:5]}; no alt {unnamed[:5]}"
    )


@needs_site
def test_links_that_carry_a_setting_name_controls_and_values_that_are_there(site):
    "Such as live/index.html#studio?product=wood&seed=17; on lessons, exercises and in the lecturers' guide"
    facts, rooms = json.loads((site / "_static" / "live" / "facts.json").read_text()), set()
    for path in html_pages(site):
        for target in parsed(path).links:
            name, mark, setting = urlsplit(target).fragment.partition("?")
            if not mark:
                continue
            values = dict(parse_qsl(setting, strict_parsing=True))
            controls = {one["name"]: one for one in facts["widgets"][name]["controls"]}
            for key, value in values.items():
                known = controls[key]
                if key == "test":  # each product has its own
                    tests = facts["products"][values["product"]]["explorer"]["tests"]
                    known = {"options": [one["name"] for one in tests]}
                assert (value in known["options"] if "options" in known
                        else known["min"] <= float(value) <= known["max"]), f"{path.name}: {target}"
            rooms.add(path.relative_to(site).parts[0])
    assert {"course", "exercises", "guides"} <= rooms


@needs_site
def test_every_exported_name_has_documentation_source_and_notebook(site):
    notebooks = set(course.notebooks())
    for module in library.modules().values():
        text = (site / "reference" / f"{module.name}.html").read_text()
        for entry in module.exported:
            assert f'id="{entry.name}"' in text, f"{module.name}.{entry.name} is not described"
            assert f'source/{entry.module}.html#L-{entry.line}"' in text
            if entry.lesson in notebooks:
                assert f'{course.page(entry.lesson)}.html#code-{entry.name}"' in text


@needs_site
def test_every_notebook_and_document_has_a_page(site):
    expected = [
        links.page_of(path.relative_to(ROOT).as_posix())
        for path in [
            *stamp.notebooks(),
            *pages.GUIDES.glob("*.md"),
            *DOCS.glob("howto/*.md"),
            ROOT / "data/README.md",
            ROOT / "memseg_nb/weights/README.md",
            ROOT / "settings.ini",
            ROOT / "README.md",
        ]
    ]
    assert not [page for page in expected if not (site / f"{page}.html").exists()]
    contents = (site / "course" / "index.html").read_text()
    assert all(f'href="{c.name}.html"' in contents for c in chapters.chapters())


@needs_site
def test_licences_of_others_are_named(site):
    text = (site / "licences.html").read_text()
    for name in ("mathjax 3", "onnxruntime-web", "Bootstrap", "Font Awesome", "Microsoft Corporation"):
        assert name in text
    assert 'href="../licences.html"' in (site / "course" / "index.html").read_text()


@needs_site
def test_next_and_previous_follow_the_course(site):
    kinds = {part.title: part.kind for part in course.parts()}
    listed = [chapter for chapter in chapters.chapters() if chapter.part]
    for here, after in zip(listed, [*listed[1:], None]):
        text = (site / f"{here.page}.html").read_text()
        on = after and kinds[after.part] == kinds[here.part]  # the main path doesn't lead into the workshop
        wanted = f"{after.name}.html" if on else "index.html"
        assert re.search(rf'class="right-next"\s+href="{wanted}"', text), here.notebook
        if on:
            text = (site / f"{after.page}.html").read_text()
            assert re.search(rf'class="left-prev"\s+href="{here.name}.html"', text), after.notebook


@needs_site
def test_the_sidebar_has_the_course_and_folds_what_is_not_on_the_main_path(site):
    text = (site / "course" / "perlin.html").read_text()
    sidebar = text.partition('aria-label="The course"')[2].partition("</nav>")[0]
    shown, *folded = sidebar.split("<details")
    for part in course.parts():
        for lesson in part.lessons:
            where = shown if part.kind == "main" else "".join(folded)
            assert f'data-page="{course.page(lesson)}"' in where, lesson
    assert not any(fold.startswith(" open") for fold in folded)
    workshop = (site / "course" / "shapes.html").read_text()
    assert re.search(r"<details open><summary>Workshop", workshop)


@needs_site
def test_no_old_address_is_dead(site):
    for old, new in moved.table().items():
        text = (site / f"{old}.html").read_text()
        assert f'url={links.relative(old, new)}.html"' in text and (site / f"{new}.html").exists()


@needs_site
@pytest.mark.parametrize("lesson", course.lessons())
def test_what_a_lesson_asks_to_move_can_be_moved(site, lesson):
    "Live, or with states that docs/plays.py computed: `make docs` does, these tests by themselves don't"
    import plays
    if not any(map(plays.known, plays.notebooks())):
        pytest.skip("no states here: python docs/plays.py")
    text = (site / f"{course.page(lesson)}.html").read_text()
    section = text.partition('<section id="play">')[2].partition("<h2>")
    section = section[2].partition("<h2>")[0]
    assert re.search(r"data-(?:play|live)=", section), f"it stands still: python docs/plays.py {lesson}"
    assert chapters.STILL not in text


# Slides


def decks_of(folder, *stems):
    "A folder as `make slides` leaves it"
    (folder / "assets").mkdir(parents=True)
    (folder / "assets" / "deck.css").write_text("")
    (folder / "index.html").write_text("<main>\n<h1>Slides</h1>\n</main>")
    for stem in stems:
        (folder / f"{stem}.html").write_text(
            f'<footer class="foot"><a href="index.html">memseg_nb</a> · {stem} A &amp; B</footer>'
        )
    return folder


def test_pages_link_to_slides_that_are_there_and_to_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(decks, "FOLDER", tmp_path / "none")
    lecturers = ROOT / "nbs" / "guides" / "lecturers.md"
    for text in (
        converted(tmp_path, monkeypatch)[0]["source"],
        pages.contents(),
        pages.rewritten(lecturers, "guides/lecturers")[0],
    ):
        assert "../slides/" not in text and "<!-- slides" not in text
    decks.publish(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    monkeypatch.setattr(decks, "FOLDER", decks_of(tmp_path / "some", "anomalies"))
    assert '<a href="../slides/index.html">slides</a>' in pages.contents()
    assert '<a href="../slides/index.html">all decks</a>' in pages.rewritten(lecturers, "guides/lecturers")[0]
    assert (
        '<a href="../slides/anomalies.html">Slides</a>' in converted(tmp_path, monkeypatch)[0]["source"]
    )
    assert not decks.link("course/perlin", "Slides", "perlin")


def test_published_slides_lead_back(tmp_path, monkeypatch):
    monkeypatch.setattr(decks, "FOLDER", decks_of(tmp_path / "some", "anomalies"))
    decks.publish(tmp_path / "out")
    assert '<a href="../course/index.html">' in (tmp_path / "out" / "slides" / "index.html").read_text()
    deck = (tmp_path / "out" / "slides" / "anomalies.html").read_text()
    assert (
        '<a href="index.html">memseg_nb</a> · <a href="../course/anomalies.html">anomalies A &amp; B</a>'
        in deck
    )
    assert (tmp_path / "out" / "slides" / "assets" / "deck.css").is_file()


def test_slides_share_the_pictures_of_the_pages(tmp_path, monkeypatch):
    folder, out = decks_of(tmp_path / "some", "anomalies"), tmp_path / "out"
    (folder / "anomalies").mkdir()
    (out / figures.FOLDER).mkdir(parents=True)
    tags = []
    for name, content in ("a" * 16 + ".webp", b"RIFF both"), ("b" * 16 + ".svg", b"<svg/>"):
        (folder / "anomalies" / name).write_bytes(content)
        tags.append(f'<img src="anomalies/{name}" alt="a nut">')
    (out / figures.FOLDER / ("a" * 16 + ".webp")).write_bytes(b"RIFF both")
    (folder / "anomalies.html").write_text("".join(tags))
    monkeypatch.setattr(decks, "FOLDER", folder)
    decks.publish(out)
    text = (out / "slides" / "anomalies.html").read_text()
    assert f'src="../{figures.FOLDER}/{"a" * 16}.webp"' in text and tags[1] in text
    assert [path.name for path in (out / "slides" / "anomalies").iterdir()] == ["b" * 16 + ".svg"]


def test_old_slides_are_made_anew_and_none_where_there_were_none(tmp_path, monkeypatch):
    asked = []
    done = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(decks.subprocess, "run", lambda command, **_: asked.append(command) or done)
    monkeypatch.setattr(decks, "FOLDER", tmp_path / "some")
    decks.refresh()
    assert not asked
    decks_of(tmp_path / "some")
    decks.refresh()
    assert not asked
    os.utime(tmp_path / "some" / "index.html", (0, 0))
    decks.refresh()
    assert asked[0][-2:] == ["--out", str(tmp_path / "some")]
    done.returncode, done.stderr = 1, "npm: not found"
    with pytest.raises(SystemExit, match="npm: not found"):
        decks.refresh()


@needs_site
def test_the_sites_slides_are_linked_from_their_lessons(site):
    there = (site / "slides").exists()
    for lesson in chapters.lessons():
        page = (site / f"{lesson.page}.html").read_text()
        assert (f'href="../slides/{lesson.name}.html"' in page) == there
        assert not there or (site / "slides" / f"{lesson.name}.html").is_file()


# In the browser


@pytest.fixture(scope="session")
def browser(playwright):
    chromium = playwright.chromium.launch(
        executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
    )
    yield chromium
    chromium.close()


@pytest.fixture(scope="session")
def address(site):
    with serve.server(site) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()


@contextlib.contextmanager
def visit(browser, address, **options):
    "A tab that notes every complaint and every request to elsewhere"
    context = browser.new_context(
        **{"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce", **options}
    )
    context.set_default_timeout(120_000)  # as long as a busy machine takes to make a network ready
    tab, problems = context.new_page(), []
    tab.on("console", lambda m: problems.append(f"console: {m.text}") if m.type == "error" else None)
    tab.on("pageerror", lambda error: problems.append(f"error: {error}"))
    tab.on(
        "request",
        lambda r: (
            None if r.url.startswith((address, "data:", "blob:")) else problems.append(f"request: {r.url}")
        ),
    )
    tab.on("response", lambda r: problems.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    try:
        yield tab, problems
    finally:
        context.close()


AXE = """async ([rules, exclude]) => (await axe.run({exclude}, {resultTypes: ['violations'], runOnly: rules}))
  .violations.filter((v) => ['serious', 'critical'].includes(v.impact))
  .map((v) => v.id + ': ' + v.nodes.slice(0, 3)
    .map((n) => n.target.join(' ') + ' ' + (n.any[0]?.message ?? '').slice(0, 120)).join('; '))"""
REPEATED = [".bd-header", ".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-footer"]
ALL_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
WEIGHT = """() => [...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')]
  .reduce((sum, entry) => sum + entry.encodedBodySize, 0)"""


def faults(tab, rules, exclude=()):
    "Serious and critical findings of axe-core"
    if not tab.evaluate("'axe' in window"):
        tab.add_script_tag(path=str(WORK / "npm" / "node_modules" / "axe-core" / "axe.min.js"))
    return tab.evaluate(AXE, [rules, [[selector] for selector in exclude]])


def in_both_themes(tab, exclude=()):
    "Findings in light and dark, code and formulas left out: their many parts would take most of the time"
    tab.evaluate(
        "() => document.querySelectorAll('.highlight > *, mjx-container').forEach((part) => part.remove())"
    )
    set_theme(tab, "light")
    light = faults(tab, ALL_RULES, exclude)
    set_theme(tab, "dark")
    return light + [f"dark {fault}" for fault in faults(tab, ["color-contrast"], exclude)]


def set_theme(tab, theme):
    tab.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)


@needs_site
@needs_browser
@pytest.mark.parametrize("part", range(4))
def test_pages_in_light_dark_and_on_a_phone(site, address, browser, part):
    """Every page but the listings of source, which are one template. What many pages share (navigation,
    colours of code, entries of the reference) is looked at by axe-core once, or in the next test."""
    names = [p.relative_to(site).as_posix() for p in html_pages(site)]
    names = [
        name for name in names if not name.startswith(("source/", "slides/"))
    ]  # slides have tests of their own
    weights, wrong = {}, []
    with visit(browser, address) as (tab, problems):
        for name in names[part::4]:
            tab.set_viewport_size({"width": 390, "height": 800})
            tab.goto(address + name, wait_until="load")
            tab.wait_for_function(
                "!window.MathJax || !MathJax.startup?.promise || MathJax.startup.promise.then(() => true)"
            )
            weights[name] = tab.evaluate(WEIGHT)
            wide = tab.evaluate("document.documentElement.scrollWidth")
            found = [f"{wide} pixels wide on a phone"] if wide > 390 else []
            if not name.startswith("reference/") or name == "reference/index.html":
                tab.set_viewport_size({"width": 1280, "height": 800})
                found += in_both_themes(tab, REPEATED if name != names[part] else [])
            wrong += [f"{name}: {what}" for what in (*found, *problems)]
            problems.clear()
    (WORK / f"weights-{part}.json").write_text(json.dumps(weights, indent=1))
    assert not wrong, f"{len(wrong)} faults:\n" + "\n".join(wrong[:20])
    heaviest = max(weights, key=weights.get)
    print(
        f"{len(weights)} pages, {sum(weights.values()) / len(weights) / 2**20:.2f} MB on average; "
        f"heaviest {heaviest} {weights[heaviest] / 2**20:.2f} MB"
    )
    assert weights[heaviest] < 5 * 2**20


@needs_site
@needs_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_code_and_reference_are_legible(address, browser, theme):
    with visit(browser, address, color_scheme=theme) as (tab, problems):
        for name in ("reference/simulation.perlin.html", "source/model.losses.html"):
            tab.goto(address + name)
            set_theme(tab, theme)
            assert not faults(tab, ALL_RULES)
        assert not problems


@needs_site
@needs_browser
def test_painter_follows_slider_and_mouse(address, browser):
    with visit(browser, address) as (tab, problems):
        tab.goto(address)
        tab.wait_for_selector(".painter.playing")
        place = "() => getComputedStyle(document.querySelector('.frame')).backgroundPositionX"
        assert "defective" in tab.inner_text("#painter-score") and tab.evaluate(place) == "100%"
        tab.focus("#painter-stroke")
        tab.keyboard.press("Home")
        assert "good" in tab.inner_text("#painter-score") and tab.evaluate(place) == "0%"
        assert tab.get_attribute("#painter-stroke", "aria-valuetext") == "no scratch"
        tab.hover(".painter .frame", position={"x": 150, "y": 90})
        assert tab.evaluate(place) not in ("0%", "100%")
        assert not problems


@needs_site
@needs_browser
def test_search_finds_and_theme_is_kept(address, browser):
    with visit(browser, address) as (tab, problems):
        tab.goto(address + "search.html?q=perlin")
        tab.wait_for_selector("#search-results li a")
        assert any("Perlin noise" in words for words in tab.locator("#search-results li a").all_inner_texts())
        before = tab.evaluate("document.documentElement.dataset.mode")
        tab.evaluate("localStorage.setItem('mode', 'dark'); localStorage.setItem('theme', 'dark')")
        tab.goto(address + "overview.html")
        assert before == "auto" and tab.evaluate("document.documentElement.dataset.theme") == "dark"
        assert not problems


@needs_site
@needs_browser
def test_without_javascript_and_in_print_the_text_stands(address, browser):
    with visit(browser, address, java_script_enabled=False) as (tab, problems):
        tab.goto(address)
        assert (
            tab.locator(".painter img").first.is_visible()
            and not tab.locator(".painter-controls").is_visible()
        )
        tab.goto(address + "course/anomalies.html")
        assert tab.locator("h1").is_visible() and not problems
    with visit(browser, address) as (tab, problems):
        tab.goto(address + "course/anomalies.html")
        tab.emulate_media(media="print")
        assert (
            not tab.locator(".bd-header").first.is_visible()
            and not tab.locator(".bd-sidebar-primary").is_visible()
        )
        assert tab.locator("h1").is_visible()
