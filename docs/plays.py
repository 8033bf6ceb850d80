"""Lets the lessons' own widgets move on their pages: python docs/plays.py [NAME ...]

Runs the notebooks that ask a question with `Explore`, up to its answer, and computes what the widget shows for its
whole grid of controls: pictures and sentences, in build/docs/plays. Where a grid is large its steps are coarse, but the
values that the answer speaks of are among them. A page of the site that finds them there lets its
reader move the controls, and loads nothing but the pictures that are looked at. What is up to date is not made again.
"""

import argparse
import gzip
import hashlib
import json
import math
import re
import shutil
import sys
from pathlib import Path

import chapters
import course
import library
import stamp

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "build" / "docs" / "plays"
STATES = 48  # of a widget, about; sliders are thinned out, menus are not
MOST = 432  # with the values that the answer speaks of
FINEST = 13  # values of a slider, about


def notebooks() -> list[str]:
    "Names of the notebooks that have such a widget, but for the one that defines it"
    paths = [course.NOTEBOOKS / f"{name}.ipynb" for name in course.notebooks()]
    texts = {stamp.name_of(path): path.read_text() for path in paths}
    return [name for name, text in texts.items()
            if re.search(r"\bExplore\(", text) and "class Explore(" not in text]


def digest(name: str) -> str:
    "Of a notebook's code and of what it reaches of the library"
    path = course.NOTEBOOKS / f"{name}.ipynb"
    modules = {module.replace(".", "/") for module in chapters.imports(chapters.read(path)["cells"]).values()}
    files = [
        file
        for module in modules
        for file in (library.PACKAGE / f"{module}.py", library.PACKAGE / module / "__init__.py")
        if file.exists()
    ]
    own = Path(__file__).read_bytes()
    return hashlib.sha256(f"{stamp.digest(path)} {library.digest(*files)}".encode() + own).hexdigest()


def known(name: str) -> list[dict]:
    "Widgets of a notebook whose states are there and up to date"
    record = CACHE / name / "states.json"
    if not record.exists():
        return []
    found = json.loads(record.read_text())
    return found["widgets"] if found["made_from"] == digest(name) else []


def values(control, room: float, wanted=()) -> list:
    "A control's values, the first one and those wanted included; of a slider no more than `room` beside them"
    if hasattr(control, "options"):
        return list(control.options)
    steps = round((control.max - control.min) / control.step)
    count = max(2, min(int(room), FINEST, steps + 1))
    some = {control.min + round(k * steps / (count - 1)) * control.step for k in range(count)}
    if isinstance(control.value, int):
        some = {int(round(one)) for one in some}
    wanted = thinned(sorted({*wanted, control.value}), FINEST, control.value)
    for one in wanted:
        others = sorted(some, key=lambda other: abs(other - one))
        some -= {*others[:1], *(other for other in others if abs(other - one) < control.step / 2)}
    return sorted({*some, *wanted})


def thinned(some: list, count: int, kept) -> list:
    "No more than `count` of sorted numbers, evenly taken, `kept` among them"
    if len(some) <= count:
        return some
    taken = {some[round(k * (len(some) - 1) / (count - 1))] for k in range(count)}
    return sorted(taken - {min(taken, key=lambda one: abs(one - kept))} | {kept})


def grid(panel, visited: dict[str, list]) -> dict[str, list]:
    "Values of every control, so that there are about `STATES` combinations and no more than `MOST`"
    sliders = [name for name, control in panel.controls.items() if not hasattr(control, "options")]
    fixed = math.prod(len(control.options) for name, control in panel.controls.items()
                      if name not in sliders)
    least = 3 if fixed * 3 ** len(sliders) <= MOST / 2 else 2
    room = max(least, (STATES / fixed) ** (1 / len(sliders))) if sliders else 0
    axes = {name: values(control, room, visited.get(name, ())) for name, control in panel.controls.items()}
    while math.prod(map(len, axes.values())) > MOST and sliders:
        widest = max(sliders, key=lambda name: len(axes[name]))
        if len(axes[widest]) == 2:
            break
        axes[widest] = thinned(axes[widest], len(axes[widest]) - 1, panel.controls[widest].value)
    return axes


def _value(option):
    "An option may be a pair of its name and its value"
    return option[1] if isinstance(option, tuple) else option


def record(panel, folder: Path, number: int) -> dict:
    "Compute a panel's states and write their pictures; what the page is told"
    import itertools

    from memseg_nb.files import MemSegError

    start = [*getattr(panel, "begun", {name: panel[name] for name in panel.controls}).values()]
    for control, value in zip(panel.controls.values(), start):
        control.unobserve_all()  # nothing is shown here
        control.value = value
    axes, states = grid(panel, getattr(panel, "visited", {})), []
    for chosen in itertools.product(*axes.values()):
        try:
            pictures, status = panel.look(**{name: _value(one) for name, one in zip(axes, chosen)})
        except MemSegError as error:  # the widget says so, too
            pictures, status = [], str(error)
        items = [_written(picture, folder) for picture in pictures]
        states.append({"status": status, "items": items})
    controls = []
    for (name, some), control in zip(axes.items(), panel.controls.values()):
        names = [
            option[0] if isinstance(option, tuple) else option for option in getattr(control, "options", some)
        ]
        shown = [
            f"{one:.3f}".rstrip("0").rstrip(".") if isinstance(one, float) else str(one) for one in names
        ]
        kind = "select" if hasattr(control, "options") else "choice"
        at = [_value(one) for one in some].index(start[len(controls)])
        controls.append(
            {"name": name, "kind": kind, "label": control.description, "options": shown, "value": shown[at]}
        )
    return {
        "question": panel.question,
        "hint": panel.hint,
        "controls": controls,
        "states": states,
        "number": number,
    }


def _written(picture, folder: Path) -> dict:
    "A picture's file, the same for the same content, and its words"
    import base64
    import io

    from PIL import Image

    item = picture.item()
    head, data = item["src"].split(",", 1)
    data, end = base64.b64decode(data), "svg"
    if "svg" not in head:
        end, image = "webp", Image.open(io.BytesIO(data))
        most = 2 * item["width"]  # twice as dense as it is shown
        if image.width > most:
            image = image.resize((most, round(image.height * most / image.width)), Image.LANCZOS)
        files = []
        for how in {"quality": 70}, {"lossless": True}:  # that is smaller for masks
            file = io.BytesIO()
            image.save(file, "WEBP", method=6, **how)
            files.append(file.getvalue())
        data = min(files, key=len)
    name = f"{hashlib.sha256(data).hexdigest()[:12]}.{end}"
    (folder / name).write_bytes(data)
    return {key: item[key] for key in ("name", "alt", "caption", "width", "newline")} | {"src": name}


SEEN = """
import memseg_nb.widgets.base as _base
_seen, _begin, _set = [], _base.Explore.__init__, _base.Explore.set
def _noted(self, *arguments, **controls):
    _begin(self, *arguments, **controls)
    self.begun, self.visited = {name: self[name] for name in controls}, {name: [] for name in controls}
    _seen.append(self)
def _moved(self, **values):
    _set(self, **values)
    for name, value in values.items(): self.visited[name].append(value)
    return self
_base.Explore.__init__, _base.Explore.set = _noted, _moved
"""
KEEP = """
import sys as _sys, json as _json, pathlib as _pathlib
_sys.path.insert(0, {docs!r})
import plays as _plays
_folder = _pathlib.Path({folder!r})
_made = [_plays.record(panel, _folder, k) for k, panel in enumerate(_seen)]
(_folder / "made.json").write_text(_json.dumps(_made))
"""


def end(cells: list[dict]) -> int:
    "How many cells there are until the answer to the last question: the section with the last `Explore` is over"
    last = max(k for k, cell in enumerate(cells) if re.search(r"\bExplore\(", cell["source"]))
    heads = [k for k, cell in enumerate(cells)
             if k > last and cell["cell_type"] == "markdown" and re.search(r"^##? ", cell["source"], re.M)]
    return heads[0] if heads else len(cells)


def make(name: str) -> None:
    "Run a notebook up to the answer to its last question, and keep the states"
    import nbformat
    from nbclient import NotebookClient

    path, folder = course.NOTEBOOKS / f"{name}.ipynb", CACHE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    notebook = nbformat.read(path, as_version=4)
    keep = KEEP.format(docs=str(ROOT / "docs"), folder=str(folder))
    notebook.cells = [nbformat.v4.new_code_cell(SEEN), *notebook.cells[: end(notebook.cells)],
                      nbformat.v4.new_code_cell(keep)]
    NotebookClient(notebook, timeout=1800, kernel_name="python3",
                   resources={"metadata": {"path": str(path.parent)}}).execute()
    widgets = json.loads((folder / "made.json").read_text())
    if not widgets:
        raise RuntimeError("ran, but showed no such widget")
    (folder / "made.json").unlink()
    (folder / "states.json").write_text(json.dumps({"made_from": digest(name), "widgets": widgets}))


def packed(widget: dict) -> bytes:
    "A widget's controls and states for its page: each picture and its words once, states as numbers of them"
    known: dict[str, int] = {}
    states = [
        [state["status"], [known.setdefault(json.dumps(item), len(known)) for item in state["items"]]]
        for state in widget["states"]
    ]
    told = {"controls": widget["controls"], "items": [json.loads(item) for item in known], "states": states}
    return gzip.compress(json.dumps(told, separators=(",", ":")).encode(), 9, mtime=0)


def copy_assets(static: Path) -> None:
    "The states that are up to date, for the pages"
    target = static / "plays"
    shutil.rmtree(target, ignore_errors=True)
    for name in notebooks():
        widgets = known(name)
        if not widgets:
            continue
        place = target / course.name(name)
        place.mkdir(parents=True)
        for widget in widgets:
            (place / f"{widget['number']}.json.gz").write_bytes(packed(widget))
        for picture in (CACHE / name).iterdir():
            if picture.suffix in (".webp", ".svg"):
                shutil.copyfile(picture, place / picture.name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks; none: all that need it")
    options = parser.parse_args()
    there = notebooks()
    asked = [name.removeprefix("nbs/").removesuffix(".ipynb") for name in options.names]
    if wrong := [name for name in asked if name not in there]:
        raise SystemExit(f"{', '.join(wrong)}: no widget `Explore` in such a notebook")
    todo, failed = asked or [name for name in there if not known(name)], {}
    for number, name in enumerate(todo, 1):
        print(f"{number} of {len(todo)}: {name}", flush=True)
        try:
            make(name)
        except Exception as error:  # the others don't wait for it
            failed[name] = (str(error).strip() or type(error).__name__).splitlines()[-1]
    if failed:
        raise SystemExit("\n".join(f"{name}: no states: {why}" for name, why in failed.items()))


if __name__ == "__main__":
    sys.exit(main())
