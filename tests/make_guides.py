"""Fills the table of chapters in the lecturers' guide from the notebooks: python tests/make_guides.py;
with --chapters [NAME ...] lists the exercises of these chapters, or of all, at their ends, too"""
import ast
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

from memseg_nb import widgets
from memseg_nb.exercises import engine as course

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "nbs" / "guides" / "lecturers.md"
BLOCK = re.compile(r"(<!-- chapters -->\n).*?(<!-- /chapters -->)", re.DOTALL)


class Chapter(NamedTuple):
    "What the table says of a chapter"
    name: str             # of its notebook
    title: str
    seconds: int | None   # from its box; None: not measured
    cells: int
    prose: float          # share of the cells that are Markdown
    exercises: list[str]  # their keys
    widgets: list[str]    # that it shows, by class; `Explore` is one of the chapter's own


def widgets_in(code):
    "Names of the widgets that some code makes, each as often as it does; definitions of classes don't count"
    known = "|".join(["Explore", *widgets.__all__])
    return [name for tree in [ast.parse(re.sub(r"^\s*[!%].*$", "", code, flags=re.MULTILINE))]
            for node in ast.walk(tree) if isinstance(node, ast.Call)
            for name in re.findall(rf"^({known})(?:\.of_\w+)?$", ast.unparse(node.func))]


def chapters():
    "All chapters in their order"
    keys = {}
    for one in course.exercises(): keys.setdefault(one.chapter, []).append(one.key)
    for path in sorted((ROOT / "nbs").glob("[0-9]*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        text = {kind: ["".join(c["source"]) for c in cells if c["cell_type"] == kind]
                for kind in ("markdown", "code")}
        prose, code = "\n".join(text["markdown"]), [c for c in text["code"]
                                                    if not re.search(r"^#\| *export", c, re.MULTILINE)]
        title, seconds = (re.search(r"^# (.+)", prose, re.MULTILINE)[1],
                          re.search(r"\*\*Run time\*\* (\d+) s", prose))
        yield Chapter(path.stem, title, int(seconds[1]) if seconds else None, len(cells),
                      len(text["markdown"]) / len(cells),
                      keys.get(path.stem, []), widgets_in("\n".join(code)))


def table():
    "The table, without chapters that nobody has measured"
    lines = ["| chapter | runs | cells | prose | exercises | widgets |", "|---|---|---|---|---|---|"]
    for one in chapters():
        if one.seconds is None: continue
        keys = one.exercises
        listed = f"{keys[0]} to {keys[-1]}" if len(keys) > 1 else "".join(keys)
        shown = ", ".join(dict.fromkeys(f"`{name}`" for name in one.widgets))
        lines.append(f"| [{one.name.partition('_')[0]} {one.title}](../{one.name}.ipynb) | {one.seconds} s | "
                     f"{one.cells} | {one.prose:.0%} | {listed} | {shown} |")
    return "\n".join(lines) + "\n"


def exercises_of(chapter):
    "The section `Exercises` of a chapter: its exercises, where they are done, and where words and symbols are explained"
    mine = [one for one in course.exercises() if one.chapter == chapter]
    place, = {path.stem for path in (ROOT / "nbs" / "exercises").glob("*.ipynb")
              if f'check("{mine[0].key}", ' in path.read_text().replace('\\"', '"')}
    lines = [f"- {one.key} {one.title} ({one.kind})" for one in mine]
    return ("## Exercises\n\n" + "\n".join(lines) + f"\n\nIn [their own notebook](exercises/{place}.ipynb), "
            "with a checker that says what is wrong; `memseg course progress` shows what is solved. Words: "
            "[glossary](guides/glossary.md), symbols: [notation](guides/notation.md).\n\n")


def with_exercises(cells, text):
    "The cells, with the section put before the summary, or replaced where it is already"
    cells = json.loads(json.dumps(cells))
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] != "markdown" or not re.search(r"^## Summary", source, re.MULTILINE): continue
        source = re.sub(r"^## Exercises\n.*?(?=^## Summary)", "", source, flags=re.DOTALL | re.MULTILINE)
        source = re.sub(r"^## Summary", lambda found: text + found[0], source, count=1, flags=re.MULTILINE)
        cell["source"] = source.splitlines(keepends=True)
    return cells


def list_exercises(names):
    "Write the section into those chapters (none named: all) that have exercises; outputs stay"
    for one in chapters():
        path = ROOT / "nbs" / f"{one.name}.ipynb"
        notebook = json.loads(path.read_text())
        if ((names and one.name not in names) or not one.exercises
            or not any("## Summary" in "".join(c["source"]) for c in notebook["cells"])):
            continue
        notebook["cells"] = with_exercises(notebook["cells"], exercises_of(one.name))
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    if "--chapters" in sys.argv: list_exercises(sys.argv[sys.argv.index("--chapters") + 1:])
    GUIDE.write_text(BLOCK.sub(lambda found: found[1] + table() + found[2], GUIDE.read_text()))
