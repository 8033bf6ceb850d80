"""Builds the site: python docs/build.py [--out _docs]

The notebooks, the library's source and the Markdown files become pages in build/docs/source, Sphinx makes HTML
of them, and everything a page loads lies beside it: the result is a folder of static files that any web server
can serve. What is up to date isn't made again. Slides are published where `make slides` has made some.
"""

import argparse
import gzip
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import chapters
import course
import decks
import figures
import laboratory
import ledger
import library
import licences
import links
import moved
import npm
import pages
import plays
import reference
import stamp
from PIL import Image

DOCS = Path(__file__).parent
ROOT = DOCS.parent
WORK = ROOT / "build" / "docs"
SOURCE, STATIC, HTML = WORK / "source", WORK / "static", WORK / "html"
NEEDED = {"sphinx": "sphinx", "myst_nb": "myst-nb", "pydata_sphinx_theme": "pydata-sphinx-theme"}


class Progress:
    "Says which part of the build begins, and how long it has taken until then"

    def __init__(self):
        self.start = time.perf_counter()

    def __call__(self, what: str) -> None:
        print(f"{time.perf_counter() - self.start:4.0f} s  {what}", flush=True)


class Writer:
    "Files below a folder: written only when they differ, and what nobody wrote is removed at the end"

    def __init__(self, folder: Path):
        self.folder, self.written = folder, set()

    def text(self, name: str, text: str) -> None:
        self.bytes(name, text.encode())

    def bytes(self, name: str, data: bytes) -> None:
        path = self.folder / name
        self.written.add(path)
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def tidy(self) -> None:
        for path in self.folder.rglob("*"):
            if path.is_file() and path not in self.written:
                path.unlink()


def check_outputs() -> None:
    "Pages show saved outputs: these have to be those of the code"
    if old := stamp.stale():
        raise SystemExit(
            f"outputs older than their code: {', '.join(old)}\n"
            f"run them: python docs/stamp.py --run {' '.join(old)}"
        )


def write_sources(writer: Writer) -> None:
    "Everything Sphinx reads"
    images, downloads = {}, Writer(WORK / chapters.BARE)
    drawn = Writer(STATIC / Path(figures.FOLDER).name)
    for path in stamp.everywhere():
        downloads.text(path.relative_to(chapters.NOTEBOOKS).as_posix(), chapters.bare(path))
        page = links.page_of(path.relative_to(ROOT).as_posix())
        notebook, found = chapters.page(path, page, plays.known(stamp.name_of(path)), drawn.bytes)
        writer.text(f"{page}.ipynb", json.dumps(notebook, indent=1))
        images |= found
    downloads.tidy()
    drawn.tidy()
    if still := [name for name in plays.notebooks() if not plays.known(name)]:
        print(f"{len(still)} pages with widgets that stand still: python docs/plays.py", flush=True)
    (WORK / "origins.json").write_text(json.dumps(origins(), indent=1))
    writer.text("course/index.md", pages.contents())
    writer.text("results/ledger.md", ledger.page())
    writer.text(f"{laboratory.PAGE}.md", laboratory.text())
    writer.text(f"{laboratory.OWN}.md", laboratory.photos())
    for module in library.modules().values():
        writer.text(f"reference/{module.name}.md", reference.page(module))
        writer.text(f"source/{module.name}.md", reference.source(module))
    writer.text("reference/index.md", reference.index())
    writer.text("reference/settings.md", reference.settings((ROOT / "settings.ini").read_text()))
    writer.text("results/index.md", pages.results())
    writer.text("licences.md", licences.page())
    images |= _markdown(writer)
    for origin, target in images.items():
        writer.bytes(target, (ROOT / origin).read_bytes())


def origins() -> dict[str, str]:
    "Page -> file of the repository that its text stands in"
    paths = [*stamp.everywhere(), *pages.GUIDES.glob("*.md"), *(DOCS / "howto").glob("*.md")]
    found = {links.page_of(path.relative_to(ROOT).as_posix()): path for path in paths}
    notebooks = {
        name: f"nbs/{module.lessons[0]}.ipynb" for name, module in library.modules().items() if module.lessons
    }
    return ({page: path.relative_to(ROOT).as_posix() for page, path in found.items()}
            | {f"reference/{name}": path for name, path in notebooks.items()} | {"index": "docs/index.md"})


def _markdown(writer: Writer) -> dict[str, str]:
    "Guides, how-to pages, cards and the home page"
    guides = pages.in_order([*pages.GUIDES.glob("*.md"), *pages.GUIDES.glob("*.ipynb")], pages.GUIDE_ORDER)
    howto = pages.in_order([p for p in (DOCS / "howto").glob("*.md")], pages.HOWTO_ORDER)
    writer.text("howto/index.md", pages.listing("How to", "Short answers for work", howto))
    if guides:
        writer.text(
            "guides/index.md",
            pages.listing("Guides", "For those who teach, and for those who have much to compute", guides),
        )
    cards = [ROOT / "data" / "README.md", ROOT / "memseg_nb" / "weights" / "README.md"]
    images = {}
    for path in [path for path in [*guides, *howto, *cards] if path.suffix == ".md"]:
        page = links.page_of(path.relative_to(ROOT).as_posix())
        text, found = pages.rewritten(path, page)
        writer.text(f"{page}.md", text)
        images |= found
    writer.text("index.md", home_page(bool(guides)))
    return images


def home_page(has_guides: bool) -> str:
    "docs/index.md with the figures of its pictures"
    facts, product = laboratory.home(), laboratory.PRODUCTS[0]
    last, first = facts["scores"][-1], facts["scores"][0]
    text = (DOCS / "index.md").read_text()
    values = {
        "PRODUCT": product.replace("_", " "),
        "STROKE": json.dumps(facts["stroke"]),
        "MEGABYTES": f"{laboratory.size_of('painter'):.1f}",
        "WHY_STILL": laboratory.WHY_STILL,
        "SCORES": json.dumps(facts["scores"]),
        "THRESHOLD": str(facts["threshold"]),
        "FRAMES": str(facts["frames"]),
        "LAST": str(facts["frames"] - 1),
        "FIRST_SCORE": f"{first:.2f}",
        "LAST_SCORE": f"{last:.2f}",
        "GOOD": str(len(laboratory.facts()["products"][product]["explorer"]["samples"])),
        "LESSONS": str(len(course.lessons())),
        "NAMES": str(sum(len(m.exported) for m in library.modules().values())),
        "GUIDES": "Guides <guides/index>\n" if has_guides else "",
    }
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def copy_static() -> None:
    "Assets that aren't in docs/_static"
    npm.copy_assets(STATIC)
    laboratory.copy_assets(STATIC)


def sphinx(fresh: bool, draft: bool) -> None:
    """HTML from the sources into build/docs/html; a warning is an error.

    Sphinx looks only at what has changed. After a failure, or when pages came or went, links anywhere may be dead
    or mended: then it looks at all."""
    record = WORK / "pages"
    names = "\n".join(
        sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*") if path.is_file())
    )
    everything = fresh or not record.exists() or record.read_text() != names
    record.unlink(missing_ok=True)
    shutil.rmtree(HTML / "_static", ignore_errors=True)  # Sphinx copies files there, and removes none
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-c",
        str(DOCS),
        "-d",
        str(WORK / "doctrees"),
        "-q",
        *([] if draft else ["-W", "--keep-going"]),
        "-j",
        str(min(4, os.cpu_count() or 1)),
        *(["-E", "-a"] if everything else []),
        str(SOURCE),
        str(HTML),
    ]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise SystemExit("the pages have mistakes: see above; nothing is published with warnings")
    if not draft:
        record.write_text(names)


def publish(out: Path) -> None:
    "The finished pages and what they use, and nothing else"
    shutil.rmtree(out, ignore_errors=True)
    unused = re.compile(
        r'\s*<script defer src="[^"]*/fontawesome\.js[^>]*></script>'
    )  # 1.5 MB for icons that a font has as well
    searching = re.compile(
        r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^>]*></script>'
    )  # the index of all words, which only the page of results needs
    shutil.copytree(
        HTML,
        out,
        ignore=shutil.ignore_patterns(
            ".buildinfo*", "objects.inv", "*.map", "_sources", "fontawesome.js", "fa-brands*",
            "webpack-macros.html",
        ),
    )
    for path in (out / "_images").glob("*.png"):
        Image.open(path).save(path.with_suffix(".webp"), "WEBP", quality=90)  # a fifth of the size
    for path in (out / "_downloads").rglob("*.ipynb"):  # memseg.js unpacks them: a quarter of the size
        path.with_suffix(".ipynb.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
        path.unlink()
    used = set()
    for path in out.rglob("*.html"):
        text = unused.sub("", path.read_text()).replace('"Color mode"', '"Colour mode"')
        text = text if path.name == "search.html" else searching.sub("", text)
        listed = " data-toc" if "bd-sidebar-secondary" in text else ""
        text = text.replace(' data-theme="auto">', ">", 1)
        text = text.replace("<html ", f'<html data-theme="light"{listed} ', 1)  # where no script says which
        text = re.sub(
            r'<img (?![^>]*\swidth=)([^>]*_images/([\w-]+\.(?:png|svg))")', partial(_sized, out), text
        )
        text = re.sub(r'(_images/[\w-]+)\.png"', r'\1.webp"', text)
        text = re.sub(r'(_downloads/\w+/\w+\.ipynb)"', r'\1.gz" data-packed', text)
        # names, numbers, operators, brackets and blanks look like text: a third of a lesson's page
        text = re.sub(r'<span class="(?:n|nb|bp|mf|mi|si|o|p|pm|w)">([^<]*)</span>', r"\1", text).replace(
            "<pre><span></span>", "<pre>"
        )
        text = text.replace('class="reference internal"', 'class="reference"')
        parts = re.split(r"(<pre.*?</pre>)", text, flags=re.DOTALL)
        parts[::2] = [re.sub(r"\n\s+", "\n", part) for part in parts[::2]]  # the templates' indents
        parts[1::2] = [  # in code, one shorter tag for all colours
            re.sub(r'<span class="(\w+)">([^<]*)</span>', r"<i class=\1>\2</i>", part) for part in parts[1::2]
        ]
        text = "".join(parts)
        path.write_text(text)
        used |= set(re.findall(r'_images/([\w.-]+)"', text))
    for path in (out / "_images").iterdir():
        if path.name not in used:
            path.unlink()  # of earlier versions of a notebook
    (out / ".nojekyll").touch()  # GitHub Pages would leave out folders that begin with an underscore


def _sized(out: Path, found: re.Match) -> str:
    "A picture's tag with its size, so that its room is there before it has come"
    size = figures.size((out / "_images" / found[2]).read_bytes())
    return f'<img width="{size[0]}" height="{size[1]}" {found[1]}' if size else found[0]


def build(out: Path, fresh: bool = False, draft: bool = False) -> None:
    "The whole site into the folder `out`"
    if missing := [package for module, package in NEEDED.items() if not importlib.util.find_spec(module)]:
        raise SystemExit(f"{', '.join(missing)}: not installed: pip install 'memseg-nb[docs]'")
    if not draft:
        check_outputs()
    if fresh:
        for folder in (SOURCE, STATIC, WORK / "doctrees", HTML):
            shutil.rmtree(folder, ignore_errors=True)
    writer, said = Writer(SOURCE), Progress()
    decks.refresh()
    said("assets: network, pictures, JavaScript")
    copy_static()
    said("sources of the pages")
    write_sources(writer)
    writer.tidy()
    plays.copy_assets(STATIC)  # after the pages, which name some: states may be made meanwhile
    said("pages, by Sphinx")
    sphinx(fresh, draft)
    said("what is published")
    publish(out)
    decks.publish(out)
    moved.publish(out, draft)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "_docs")
    parser.add_argument("--fresh", action="store_true", help="make everything again")
    parser.add_argument(
        "--draft", action="store_true", help="while writing: old outputs and warnings are no errors"
    )
    options = parser.parse_args()
    start = time.perf_counter()
    build(options.out.resolve(), options.fresh, options.draft)
    found = list(options.out.rglob("*.html"))
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(
        f"{len(found)} pages, {size / 1e6:.1f} MB in {options.out} "
        f"after {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
