"""What every lesson has, in its order; says which notebook lacks what

    python tests/lesson_contract.py [simulation/01_perlin ...]

A lesson is a notebook that nbs/course.toml lists; every other notebook is a reference notebook. What holds for all
of them (clean, runs, neither too long nor too wide) is in tests/test_notebooks.py.
"""
import io
import json
import re
import sys
import tokenize
import tomllib
from pathlib import Path

import measure_lessons

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"
SECTIONS = ["The picture", "By hand", "Naive, then fast", "Play", "Break it", "Paper and code", "Exercises",
            "Summary"]
OVERVIEW = "00_overview"    # opens the course; it has a form of its own
OVERVIEW_SECTIONS = ["Only good photos", "Differences and commonalities", "The network",
                     "A defect, found live", "Play", "The course", "Summary"]
OVERVIEW_CELLS, OVERVIEW_WIDGETS = 40, 2
BOX = ["You will be able to", "You need first", "Run time", "Paper"]
LONGEST, PROSE = 88, 2 / 7  # lines of a code cell; share of Markdown among all cells, at least
WIDTH = 100                 # characters of a line of code in a notebook
EXERCISE = r"^- (\w+\.\d+) "
PREDICT = "### Predict, change, measure"


def notebooks():
    "All notebooks below nbs/, sorted by their path"
    return sorted(path for path in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def name_of(path):
    "The name of a notebook below nbs/: simulation/01_perlin"
    return path.relative_to(NBS).with_suffix("").as_posix()


def course():
    "Lesson -> kind of its part (main, further, workshop), in the order of nbs/course.toml"
    parts = tomllib.loads((NBS / "course.toml").read_text(encoding="utf-8"))["part"]
    return {lesson: part["kind"] for part in parts for lesson in part["lessons"]}


def sections(notebook):
    "Heading -> the cells below it, up to the next heading of the same rank; what stands above the first under ''"
    found, heading = {"": []}, ""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts = (re.split(r"^## (.+)$", source, flags=re.MULTILINE) if cell["cell_type"] == "markdown"
                 else [source])
        found[heading].append(dict(cell, source=parts[0]))
        for heading, text in zip(parts[1::2], parts[2::2]):  # noqa: B020 - the last goes on in the next cell
            heading = heading.strip()
            found.setdefault(heading, []).append(dict(cell, source=text))
    return found


def lacks(path):
    "What a lesson lacks, in words; an empty list where it lacks nothing"
    notebook = json.loads(Path(path).read_text())
    found = sections(notebook)
    if Path(path).stem == OVERVIEW:
        return (_order(found, OVERVIEW_SECTIONS) + _box(path, found) + _cells(notebook)
                + _play(found.get("Play", []), OVERVIEW_WIDGETS) + _overview(notebook, found))
    return (_order(found, SECTIONS) + _box(path, found) + _cells(notebook) + _figure(path, notebook)
            + _play(found.get("Play", [])) + _table(found) + _exercises(path, found))


def _order(found, wanted):
    missing = [f"section {name!r}" for name in wanted if name not in found]
    if not missing and [name for name in found if name in wanted] != wanted:
        missing.append(f"the order {', '.join(wanted)}")
    return missing


def _overview(notebook, found):
    "Short, the whole figure, and the map of the course as a table with every part"
    parts = tomllib.loads((NBS / "course.toml").read_text(encoding="utf-8"))["part"]
    shown = "".join("".join(output.get("data", {}).get("text/markdown", ""))
                    for cell in found.get("The course", []) for output in cell.get("outputs", []))
    code = "\n".join("".join(cell["source"]) for cell in found.get("The network", []))
    missing = [] if "show_network()" in code else ["the figure of the whole network"]
    titles = [part["title"] for part in parts]
    missing += [f"the part {title!r} in its map" for title in titles if f"**{title}**" not in shown]
    count = len(notebook["cells"])
    if count > OVERVIEW_CELLS: missing.append(f"brevity: {count} cells, {OVERVIEW_CELLS} at the most")
    return missing


def _figure(path, notebook):
    "A lesson of the main path shows the figure of the network, before its code begins, with its own part lit"
    name = Path(path).with_suffix("").as_posix()
    if not any(name.endswith(lesson) and kind == "main" for lesson, kind in course().items()): return []
    first = "\n".join("".join(cell["source"]) for cell in notebook["cells"][:8]
                      if cell["cell_type"] == "code")
    return [] if re.search(r'show_network\("', first) else ["the figure of the network, near its top"]


def _box(path, found):
    head = "".join(cell["source"] for cell in found[""])
    missing = [f"{label!r} in its box" for label in BOX if f"**{label}**" not in head]
    if measure_lessons.read(path) is None:
        missing.append("measured run time and memory in its box: python tests/measure_lessons.py")
    return missing


def too_wide(code, width=WIDTH):
    "Numbers of the lines over `width`, from 1; a line that is nothing but a string, or a part of one, may be longer"
    lines, text, begun = code.split("\n"), set(), []
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "FSTRING_START": begun.append(token.start)  # from Python 3.12 on
        if kind not in ("STRING", "FSTRING_END"): continue
        (first, left), (last, right) = begun.pop() if kind == "FSTRING_END" else token.start, token.end
        rows = set(range(first, last + 1))
        if lines[first - 1][:left].strip(): rows.discard(first)
        if lines[last - 1][right:].strip(): rows.discard(last)
        text |= rows
    return [row for row, line in enumerate(lines, 1) if len(line) > width and row not in text]


def misfits(path):
    "What of the code of any notebook is too long or too wide: file, cell (from 0) and line (from 1)"
    notebook, found = json.loads(Path(path).read_text()), []
    for k, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code": continue
        code = "".join(cell["source"])
        if (count := len(code.splitlines())) > LONGEST:
            found.append(f"{Path(path).name}, cell {k}: {count} lines, {LONGEST} at the most")
        found += [f"{Path(path).name}, cell {k}, line {row}: over {WIDTH} characters"
                  for row in too_wide(code)]
    return found


def _cells(notebook):
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    share = kinds.count("markdown") / len(kinds)
    return [f"prose: {share:.0%} of its cells"] if share < PROSE else []


def _play(cells, count=1):
    """So many questions in italics, and widgets that show something: their output has a picture and its words.

    What checks the answer is folded."""
    prose = " ".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown").replace("\n", " ")
    shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    widgets = [data for data in shown if "?" in "".join(data.get("text/plain", "")).split("\n")[0]]
    asked = len(re.findall(r"(?<!\*)\*[^*]+\?[^*]*\*(?!\*)", prose))
    lacking = [("a question in italics", asked), ("a widget", len(widgets))]
    some = "" if count == 1 else f": {count} are needed"
    told = [cell for cell in cells if cell["source"].startswith("#| hide")
            and not cell["metadata"].get("jupyter", {}).get("source_hidden")]
    return [f"{words} under Play{some}" for words, there in lacking if there < count] + [
        f"folded checks under Play: cell {cell['id']} tells the answer" for cell in told]


def _table(found):
    rows = [line for cell in found.get("Paper and code", [])
            for line in cell["source"].splitlines() if re.match(r"\|.*\|$", line)]
    return [] if len(rows) >= 3 else ["a table under Paper and code"]


def _exercises(path, found):
    "One to five are listed under Exercises; on the main path each stands before that, in place"
    prose = "\n".join(cell["source"] for cell in found.get("Exercises", []))
    keys = re.findall(EXERCISE, prose, flags=re.MULTILINE)
    missing = [] if 1 <= len(keys) <= 5 else [f"1 to 5 exercises: it has {len(keys)}"]
    name = Path(path).with_suffix("").as_posix()
    main = any(name.endswith(lesson) and kind == "main" for lesson, kind in course().items())
    if not main: return missing
    above = [cell["source"] for title, cells in found.items() if title != "Exercises" for cell in cells]
    missing += [f"exercise {key} in place" for key in keys
                if not any(text.startswith(f"### Exercise {key} ") for text in above)]
    if not any(PREDICT in text for text in above): missing.append("a task to predict, change and measure")
    return missing


if __name__ == "__main__":
    names = sys.argv[1:] or list(course())
    faults = [f"{name} lacks {each}" for name in names for each in lacks(NBS / f"{name}.ipynb")]
    faults += [each for name in names for each in misfits(NBS / f"{name}.ipynb")]
    print("\n".join(faults), end="\n" if faults else "")
    sys.exit(bool(faults))
