"""Fills the table of lessons in the lecturers' guide from the notebooks: python tests/make_guides.py;
with --lessons [NAME ...] lists the exercises of these lessons, or of all, at their ends, too"""
import ast
import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from memseg_nb import widgets
from memseg_nb.exercises.engine import course_lessons, exercises

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "nbs"
GUIDE = NOTEBOOKS / "guides" / "lecturers.md"
BLOCK = re.compile(r"(<!-- lessons -->\n).*?(<!-- /lessons -->)", re.DOTALL)


class Lesson(NamedTuple):
    "What the table says of a lesson"
    notebook: str         # "simulation/01_perlin"
    name: str             # "perlin"
    part: str             # of the course
    title: str
    seconds: int | None   # from its box; None: not measured
    cells: int
    prose: float          # share of the cells that are Markdown
    exercises: list[str]  # their keys
    widgets: list[str]    # that it shows, by class; `Explore` is one of the lesson's own

    @property
    def path(self) -> Path:
        return NOTEBOOKS / f"{self.notebook}.ipynb"


def widgets_in(code):
    "Names of the widgets that some code makes, each as often as it does; definitions of classes don't count"
    known = "|".join(["Explore", *widgets.__all__])
    return [
        name
        for tree in [ast.parse(re.sub(r"^\s*[!%].*$", "", code, flags=re.MULTILINE))]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for name in re.findall(rf"^({known})(?:\.of_\w+)?$", ast.unparse(node.func))
    ]


def lessons():
    "All lessons in their order"
    keys = {}
    for one in exercises():
        keys.setdefault(one.lesson, []).append(one.key)
    for one in course_lessons():
        cells = json.loads((NOTEBOOKS / f"{one.notebook}.ipynb").read_text())["cells"]
        text = {
            kind: ["".join(c["source"]) for c in cells if c["cell_type"] == kind]
            for kind in ("markdown", "code")
        }
        prose = "\n".join(text["markdown"])
        code = [c for c in text["code"] if not re.search(r"^#\| *export", c, re.MULTILINE)]
        seconds = re.search(r"\*\*Run time\*\* (\d+) s", prose)
        yield Lesson(
            one.notebook,
            one.name,
            one.part,
            re.search(r"^# (.+)", prose, re.MULTILINE)[1],
            int(seconds[1]) if seconds else None,
            len(cells),
            len(text["markdown"]) / len(cells),
            keys.get(one.name, []),
            widgets_in("\n".join(code)),
        )


def table():
    "The table, without lessons that nobody has measured"
    lines = [
        "| lesson | part | runs | cells | prose | exercises | widgets |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in lessons():
        if one.seconds is None:
            continue
        keys = one.exercises
        listed = f"{keys[0]} to {keys[-1]}" if len(keys) > 1 else "".join(keys)
        shown = ", ".join(dict.fromkeys(f"`{name}`" for name in one.widgets))
        lines.append(
            f"| [{one.title}](../{one.notebook}.ipynb) | {one.part} | {one.seconds} s | {one.cells} | "
            f"{one.prose:.0%} | {listed} | {shown} |"
        )
    return "\n".join(lines) + "\n"


def exercises_of(lesson):
    "The section `Exercises` of a lesson: its exercises, where they are done, and where words are explained"
    mine = [one for one in exercises() if one.lesson == lesson.name]
    def asks(path):
        return f'check("{mine[0].key}", ' in path.read_text().replace('\\"', '"')
    def way(path):
        return Path(os.path.relpath(path, lesson.path.parent)).as_posix()
    guides = NOTEBOOKS / "guides"
    listed = "\n".join(f"- {one.key} {one.title} ({one.kind})" for one in mine)
    if asks(lesson.path):
        where = "Each stands after the section that it practises"
    else:
        books = (NOTEBOOKS / "exercises").glob("[0-9]*.ipynb")
        (place,) = {path for path in books if not path.stem.endswith("_engine") and asks(path)}
        where = f"In [their own notebook]({way(place)})"
    return (
        f"## Exercises\n\n{listed}\n\n{where}, with a checker that says what is "
        "wrong; `memseg course progress` shows what is solved. Words: "
        f"[glossary]({way(guides / 'glossary.md')}), symbols: [notation]({way(guides / 'notation.md')}).\n\n"
    )


def with_exercises(cells, text):
    "The cells, with the section put before the summary, or replaced where it is already"
    cells = json.loads(json.dumps(cells))
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] != "markdown" or not re.search(r"^## Summary", source, re.MULTILINE):
            continue
        old = r"^## Exercises\n.*?(?=^## Summary)"
        source = re.sub(old, "", source, flags=re.DOTALL | re.MULTILINE)
        source = re.sub(r"^## Summary", lambda found: text + found[0], source, count=1, flags=re.MULTILINE)
        cell["source"] = source.splitlines(keepends=True)
    return cells


def list_exercises(names):
    "Write the section into those lessons (none named: all) that have exercises; outputs stay"
    for one in lessons():
        notebook = json.loads(one.path.read_text())
        has_summary = any("## Summary" in "".join(c["source"]) for c in notebook["cells"])
        if (names and one.name not in names) or not one.exercises or not has_summary:
            continue
        notebook["cells"] = with_exercises(notebook["cells"], exercises_of(one))
        one.path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    if "--lessons" in sys.argv:
        list_exercises(sys.argv[sys.argv.index("--lessons") + 1 :])
    GUIDE.write_text(BLOCK.sub(lambda found: found[1] + table() + found[2], GUIDE.read_text()))
