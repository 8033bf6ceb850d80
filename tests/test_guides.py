"The guides: links resolve, symbols are the ledger's, figures are the chapters'"
import json
import re
from pathlib import Path

import pytest

from memseg_nb import widgets
from memseg_nb.exercises.engine import exercises
from memseg_nb.ledger import ledger
from make_guides import BLOCK, chapters, exercises_of, table, widgets_in, with_exercises

GUIDES = Path(__file__).parents[1] / "nbs" / "guides"
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
    keys = {one.key for one in exercises()}
    text = path.read_text()
    for line in re.findall(r"[Ee]xercises? ((?:\d+[a-z]?\.\d+(?:, | and )?)+)", text):
        assert set(re.findall(r"\d+[a-z]?\.\d+", line)) <= keys
    if path.stem == "lecturers":
        day = text.split("### A day")[1].split("### Three weeks")[0]
        for row in re.findall(r"^\|.*\|$", day, re.MULTILINE)[2:]:
            assert set(re.findall(r"\d+[a-z]?\.\d+", row.split("|")[-2])) <= keys


def test_every_widget_has_a_question_for_the_class():
    asked = (GUIDES / "lecturers.md").read_text().split("### Questions to ask with a widget")[1].split(
        "\n## ")[0]
    rows = [row.split("|") for row in re.findall(r"^\|.*\|$", asked, re.MULTILINE)[2:]]
    assert all(ask.strip() and answer.strip() for _, ask, _, answer, _ in rows)
    assert {re.match(r" `(\w+)", row[2])[1] for row in rows} == set(widgets.__all__)


def test_chapters_lead_to_glossary_and_notation():
    for path in sorted(GUIDES.parent.glob("[0-9]*.ipynb")):
        text = path.read_text()
        assert "## Exercises" not in text or (
            "guides/glossary.md" in text and "guides/notation.md" in text), path.name


def symbols(text):
    "The symbols in the first column of the tables"
    for line in re.findall(r"^\| *(\$.*?\$) *\|", text, re.MULTILINE):
        yield from re.findall(r"\$([^$]+)\$", line)


def test_every_symbol_is_in_the_ledger():
    known = " ".join(re.sub(r"\\mathrm|[{}]", "", row.symbol) for row in ledger())
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


def test_the_table_of_chapters_holds_what_the_chapters_say():
    block = BLOCK.search((GUIDES / "lecturers.md").read_text())[0]
    rows = {name: int(seconds) for name, seconds in re.findall(r"\(\.\./(\w+)\.ipynb\) \| (\d+) s", block)}
    boxes = {one.name: one.seconds for one in chapters() if one.seconds}
    far = {name: (rows[name], boxes.get(name)) for name in rows
           if not boxes.get(name, 0) / 10 <= rows[name] <= 10 * boxes.get(name, 0)}
    assert not far and len(rows) > .8 * len(boxes), f"{far}: python tests/make_guides.py"
    differ = set(untimed(block)[1:-1]) ^ set(untimed(table()))
    assert not differ, f"python tests/make_guides.py: {sorted(differ)[:4]}"


def test_the_table_counts_what_is_there():
    perlin = next(one for one in chapters() if one.name == "22c_playgrounds")
    cells = json.loads((GUIDES.parent / "22c_playgrounds.ipynb").read_text())["cells"]
    assert (perlin.cells == len(cells)
            and perlin.prose == sum(c["cell_type"] == "markdown" for c in cells) / len(cells))
    assert perlin.exercises == ["playgrounds.1"] and {"PerlinPlayground", "AnomalyStudio"} <= set(perlin.widgets)
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


def test_chapters_get_their_exercises_before_the_summary_once():
    text = exercises_of("03_perlin")
    assert text.startswith("## Exercises") and "perlin.1" in text and "(exercises/01_simulation.ipynb)" in text
    cells = [{"cell_type": "code", "source": ["## Summary"]},
             {"cell_type": "markdown",
              "source": ["## Paper and code\n", "| a |\n", "\n", "## Summary\n", "\n", "End."]}]
    once = with_exercises(cells, text)
    joined = "".join(once[1]["source"])
    assert (joined.index("## Paper") < joined.index("## Exercises") < joined.index("## Summary")
            and joined.endswith("End."))
    assert with_exercises(once, text) == once and once[0] == cells[0]
    changed = "".join(with_exercises(once, "## Exercises\n\nother\n\n")[1]["source"])
    assert "other" in changed and "perlin.1" not in changed and changed.count("## Exercises") == 1


def test_chapters_that_list_exercises_list_all_of_theirs():
    for one in chapters():
        prose = "\n".join("".join(c["source"])
                          for c in json.loads((GUIDES.parent / f"{one.name}.ipynb").read_text())["cells"]
                          if c["cell_type"] == "markdown")
        listed = exercises_of(one.name) in prose if one.exercises else True
        assert listed or "## Exercises" not in prose, f"python tests/make_guides.py --chapters {one.name}"
