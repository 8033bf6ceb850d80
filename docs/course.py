"The course as nbs/course.toml lists it, and what the notebooks are called on the site"

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "nbs"
KINDS = {
    "main": "The main path",
    "further": "Further",
    "workshop": "Workshop",
}


@dataclass(frozen=True)
class Part:
    "A few lessons that belong together"

    title: str
    about: str
    kind: str  # one of KINDS
    lessons: tuple[str, ...]  # "simulation/01_perlin", in their order


@functools.cache
def parts() -> tuple[Part, ...]:
    "All parts of the course in their order"
    listed = tomllib.loads((NOTEBOOKS / "course.toml").read_text(encoding="utf-8"))["part"]
    made = tuple(Part(p["title"], p["about"], p["kind"], tuple(p["lessons"])) for p in listed)
    for lesson in (lesson for part in made for lesson in part.lessons):
        if not (NOTEBOOKS / f"{lesson}.ipynb").is_file():
            raise SystemExit(f"nbs/course.toml: there is no notebook nbs/{lesson}.ipynb")
    return made


def lessons() -> list[str]:
    "All lessons in their order: the main path first"
    return [lesson for part in parts() for lesson in part.lessons]


def name(
    notebook: str,  # "simulation/01_perlin", "01_recipe" or "exercises/04_simulation"
) -> str:
    "The last part of a notebook's address on the site: its name without the number"
    return re.sub(r"^\d+\w*?_", "", notebook.rpartition("/")[2])


def page(notebook: str) -> str:
    "The place of a notebook's page on the site, without suffix"
    folder = notebook.partition("/")[0]
    if notebook == "index":
        return "overview"
    if folder == "guides":
        return notebook
    if folder == "exercises" and name(notebook) != "engine":
        return f"exercises/{name(notebook)}"
    return f"course/{name(notebook)}"


def notebooks() -> list[str]:
    "Every notebook of the rooms that has a page of its own: lessons first, then the others by name"
    rooms = [
        path.relative_to(NOTEBOOKS).with_suffix("").as_posix()
        for path in sorted(NOTEBOOKS.rglob("[0-9]*.ipynb"))
        if not {"_proc", ".ipynb_checkpoints"} & set(path.parts)
    ]
    others = [each for each in rooms if page(each).startswith("course/") and each not in lessons()]
    found = [*lessons(), *others]
    places = [page(each) for each in found]
    if twice := {place for place in places if places.count(place) > 1}:
        raise SystemExit(f"{', '.join(sorted(twice))}: two notebooks have this address; rename one")
    return found
