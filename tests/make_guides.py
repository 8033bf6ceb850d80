"""Fills the table of chapters in the lecturers' guide from the notebooks: python tests/make_guides.py;
with --chapters lists each chapter's exercises at its end, too"""
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "nbs" / "guides" / "lecturers.md"
BLOCK = re.compile(r"(<!-- chapters -->\n).*?(<!-- /chapters -->)", re.DOTALL)


def chapters():
    "For each chapter: its name, title, seconds from its box (None: not measured), words of prose, exercises"
    from memseg_nb.course import exercises
    keys = {}
    for one in exercises(): keys.setdefault(one.chapter, []).append(one.key)
    for path in sorted((ROOT / "nbs").glob("[0-9]*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        title, seconds = re.search(r"^# (.+)", prose, re.MULTILINE)[1], re.search(r"\*\*Run time\*\* (\d+) s", prose)
        yield path.stem, title, int(seconds[1]) if seconds else None, len(prose.split()), keys.get(path.stem, [])


def table():
    "The table, without chapters that nobody has measured"
    lines = ["| chapter | runs | words | exercises |", "|---|---|---|---|"]
    for name, title, seconds, words, keys in chapters():
        if seconds is None: continue
        number = name.partition("_")[0]
        listed = f"{keys[0]} to {keys[-1]}" if len(keys) > 1 else "".join(keys)
        lines.append(f"| [{number} {title}](../{name}.ipynb) | {seconds} s | {round(words, -2)} | {listed} |")
    return "\n".join(lines) + "\n"


def exercises_of(chapter):
    "The section `Exercises` of a chapter: its exercises, where they are done, and where words and symbols are explained"
    from memseg_nb.course import exercises
    mine = [one for one in exercises() if one.chapter == chapter]
    place, = {path.stem for path in (ROOT / "nbs" / "exercises").glob("*.ipynb")
              if f'check("{mine[0].key}", ' in path.read_text().replace('\\"', '"')}
    lines = [f"- {one.key} {one.title} ({one.kind})" for one in mine]
    return ("## Exercises\n\n" + "\n".join(lines) + f"\n\nIn [their own notebook](exercises/{place}.ipynb), with a checker that "
            "says what is wrong; `memseg course progress` shows what is solved. Words: [glossary](guides/glossary.md), "
            "symbols: [notation](guides/notation.md).\n\n")


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


def list_exercises():
    "Write the section into all chapters that have exercises; outputs stay"
    for name, *_, keys in chapters():
        path = ROOT / "nbs" / f"{name}.ipynb"
        notebook = json.loads(path.read_text())
        if not keys or not any("## Summary" in "".join(c["source"]) for c in notebook["cells"]): continue
        notebook["cells"] = with_exercises(notebook["cells"], exercises_of(name))
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    if "--chapters" in sys.argv: list_exercises()
    GUIDE.write_text(BLOCK.sub(lambda found: found[1] + table() + found[2], GUIDE.read_text()))
