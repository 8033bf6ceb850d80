"The guides: links resolve, symbols are the ledger's, figures are the lessons'"
import json
import re
import sys
from pathlib import Path

import pytest

from memseg_nb import widgets
from memseg_nb.exercises.engine import exercises
from make_guides import BLOCK, exercises_of, lessons, table, widgets_in, with_exercises

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
import ledger

GUIDES = Path(__file__).parents[1] / "nbs" / "guides"
KEY = r"[a-z]\w*\.\d+"
TEXTS = sorted(GUIDES.glob("*.md"))
each_text = pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)


@each_text
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)]+)\)", text)
    missing = [link for link in links if not link.startswith("http")
               and not (GUIDES / link.partition("#")[0]).exists()]
    assert not missing and not [word for word in ("work", "root", "home") if f"/{word}/" in text]


@each_text
def test_exercises_that_are_named_exist(path):
    keys, text = {one.key for one in exercises()}, path.read_text()
    named = {
        key
        for line in re.findall(rf"[Ee]xercises? ((?:{KEY}(?:, | and )?)+)", text)
        for key in re.findall(KEY, line)
    }
    if path.stem == "lecturers":
        day = text.split("### A day")[1].split("### Three weeks")[0]
        rows = re.findall(r"^\|.*\|$", day, re.MULTILINE)[2:]
        named |= {key for row in rows for key in re.findall(KEY, row.split("|")[-2])}
        assert len(named) > 20
    assert named <= keys


def test_every_widget_has_a_question_for_the_class():
    asked = (GUIDES / "lecturers.md").read_text().split("### Questions to ask with a widget")[1].split(
        "\n## ")[0]
    rows = [row.split("|") for row in re.findall(r"^\|.*\|$", asked, re.MULTILINE)[2:]]
    assert all(ask.strip() and answer.strip() for _, ask, _, _, answer, _ in rows)
    assert {re.match(r" `(\w+)", row[2])[1] for row in rows} == set(widgets.__all__)


def test_lessons_lead_to_glossary_and_notation():
    for one in lessons():
        text = one.path.read_text()
        assert "## Exercises" not in text or (
            "guides/glossary.md" in text and "guides/notation.md" in text
        ), one.notebook


def symbols(text):
    "The symbols in the first column of the tables"
    for line in re.findall(r"^\| *(\$.*?\$) *\|", text, re.MULTILINE):
        yield from re.findall(r"\$([^$]+)\$", line)


def test_every_symbol_is_in_the_ledger():
    known = " ".join(re.sub(r"\\mathrm|[{}]", "", row.symbol) for row in ledger.rows())
    found = list(symbols((GUIDES / "notation.md").read_text()))
    assert len(found) > 25
    plain = [re.sub(r"\\mathrm|[{}]", "", symbol) for symbol in found]
    missing = [s for s in plain if not re.search(rf"(?<![A-Za-z\\]){re.escape(s)}(?![A-Za-z_])", known)]
    assert not missing


def test_the_glossary_is_sorted_and_says_each_word_once():
    words = re.findall(r"^\| ([^|]+?) \|", (GUIDES / "glossary.md").read_text(), re.MULTILINE)[1:]
    words = [word.lower() for word in words if not word.startswith("--")]
    order = [re.sub(r"[^a-z ]", "", word) for word in words]
    assert len(set(words)) == len(words) > 40
    assert [word[0] for word in order] == sorted(word[0] for word in order)


def untimed(text):
    "The rows without the seconds, which may differ"
    return re.sub(r"\| \d+ s \|", "| |", text).strip().splitlines()


def test_the_table_of_lessons_holds_what_the_lessons_say():
    block = BLOCK.search((GUIDES / "lecturers.md").read_text())[0]
    found = re.findall(r"\(\.\./([\w/]+)\.ipynb\) \| [^|]+ \| (\d+) s", block)
    rows = {name: int(seconds) for name, seconds in found}
    boxes = {one.notebook: one.seconds for one in lessons() if one.seconds}
    far = {
        name: (rows[name], boxes.get(name))
        for name in rows
        if not boxes.get(name, 0) / 10 <= rows[name] <= 10 * boxes.get(name, 0)
    }
    assert not far and len(rows) > 0.8 * len(boxes), f"{far}: python tests/make_guides.py"
    differ = set(untimed(block)[1:-1]) ^ set(untimed(table()))
    assert not differ, f"python tests/make_guides.py: {sorted(differ)[:4]}"


def test_the_table_counts_what_is_there():
    perlin = next(one for one in lessons() if one.name == "perlin")
    cells = json.loads(perlin.path.read_text())["cells"]
    assert perlin.cells == len(cells) and perlin.part == "Differences"
    assert perlin.prose == sum(c["cell_type"] == "markdown" for c in cells) / len(cells)
    assert perlin.exercises[0] == "perlin.1" and "PerlinPlayground" in perlin.widgets
    assert widgets_in(
        "Explore('?', look)\nx = PerlinPlayground((8, 8)).set(a=1)\nThresholdExplorer.of_run(run)"
    ) == ["Explore", "ThresholdExplorer", "PerlinPlayground"]
    assert widgets_in("class Explore: pass\nwords = 'Explore()'\nother.Explore()") == []


def test_the_figures_of_the_assignment_are_those_of_its_solution():
    cells = json.loads((GUIDES / "assignment_solution.ipynb").read_text())["cells"]
    printed = "".join("".join(o.get("text", [])) for c in cells for o in c.get("outputs", []))
    naive, local, kinds = re.search(r"all: obvious (\d+) of (\d+), local (\d+)", printed).group(1, 3, 2)
    text = (GUIDES / "lecturers.md").read_text()
    assert (f"finds {naive} of {kinds} stowaways, a local comparison {local} of {kinds} (by chance it would "
            f"be about {round(int(kinds) / 12)})" in text)


def test_the_rubric_adds_up():
    rubric = (GUIDES / "lecturers.md").read_text().split("**Rubric**")[1]
    points = [int(p) for p in re.findall(r"^\| (-?\d+) \|", rubric, re.MULTILINE)]
    assert sum(p for p in points if p > 0) == 20 == int(re.search(r"(\d+) points", rubric)[1])


def test_the_snippets_for_teachers_run():
    text = (GUIDES / "lecturers.md").read_text()
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL): exec(code, {"print": lambda *a: None})


def test_lessons_get_their_exercises_before_the_summary_once():
    known = {one.name: one for one in lessons()}
    assert "(../exercises/03_simulation.ipynb)" in exercises_of(known["flaws"])
    text = exercises_of(known["perlin"])  # in the lesson itself
    assert text.startswith("## Exercises") and "- perlin.2 Count the arrows (reading, core)" in text
    assert "(../exercises/" not in text and "(../guides/glossary.md)" in text
    cells = [
        {"cell_type": "code", "source": ["## Summary"]},
        {
            "cell_type": "markdown",
            "source": ["## Paper and code\n", "| a |\n", "\n", "## Summary\n", "\n", "End."],
        },
    ]
    once = with_exercises(cells, text)
    joined = "".join(once[1]["source"])
    assert joined.index("## Paper") < joined.index("## Exercises") < joined.index("## Summary")
    assert joined.endswith("End.")
    assert with_exercises(once, text) == once and once[0] == cells[0]
    changed = "".join(with_exercises(once, "## Exercises\n\nother\n\n")[1]["source"])
    assert "other" in changed and "perlin.1" not in changed and changed.count("## Exercises") == 1


def test_lessons_that_list_exercises_list_all_of_theirs():
    for one in lessons():
        cells = json.loads(one.path.read_text())["cells"]
        prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        listed = exercises_of(one) in prose if one.exercises else True
        assert listed or "## Exercises" not in prose, f"python tests/make_guides.py --lessons {one.name}"
