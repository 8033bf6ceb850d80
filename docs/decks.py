"""Slides on the site: where build/slides holds them, they are published too, and pages link to them"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import figures
import links

DOCS = Path(__file__).parent
ROOT = DOCS.parent
FOLDER = ROOT / "build" / "slides"
MADE_BY = DOCS / "slides"
TARGET = "slides"  # folder of the site


def there(
    name: str = "index",  # of a lesson; "index": the list of all decks
) -> bool:
    "Whether there is a deck"
    return (FOLDER / f"{name}.html").is_file()


def link(page: str, words: str, name: str = "index") -> str:  # HTML; empty where there is no deck
    "From a page to a deck"
    if not there(name):
        return ""
    return f'<a href="{links.relative(page, f"{TARGET}/{name}.html")}">{words}</a>'


def old() -> bool:
    "Whether the decks are older than what they are cut from"
    sources = [*(ROOT / "nbs").rglob("[0-9]*.ipynb"), ROOT / "nbs" / "course.toml"]
    sources += MADE_BY.glob("*.*")
    return there() and (FOLDER / "index.html").stat().st_mtime < max(path.stat().st_mtime for path in sources)


def refresh() -> None:
    "Decks that are older than the notebooks are made anew; where there are none, none are made"
    if not old():
        return
    done = subprocess.run(
        [sys.executable, str(MADE_BY / "make.py"), "--out", str(FOLDER)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"the slides in {FOLDER} are old, and new ones couldn't be made:\n{done.stderr}")


def publish(out: Path) -> None:
    """Copies the decks; their list leads back to the course, and the last line of a deck to its lesson.

    A picture that the lesson's page has too is loaded from there."""
    if not there():
        return
    shutil.copytree(FOLDER, out / TARGET)
    shared = {path.name for path in (out / figures.FOLDER).glob("*")}
    for path in (out / TARGET).glob("*/*"):
        if path.name in shared:
            path.unlink()
    for path in (out / TARGET).glob("*.html"):
        text = path.read_text().replace(
            "<h1>Slides</h1>", '<p><a href="../course/index.html">The course</a></p>\n<h1>Slides</h1>'
        )
        text = re.sub(
            r'src="[\w-]+/(\w+\.(?:webp|svg))"',
            lambda found: f'src="../{figures.FOLDER}/{found[1]}"' if found[1] in shared else found[0], text,
        )
        lesson = f"../course/{path.stem}.html"
        path.write_text(
            re.sub(
                r"(<footer class=\"foot\">.* · )(.+?)(</footer>)", rf'\1<a href="{lesson}">\2</a>\3', text
            )
        )
