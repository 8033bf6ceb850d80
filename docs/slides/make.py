"""Slides of all lessons: python docs/slides/make.py [--out build/slides] [LESSON ...]

A folder of static pages, one a lesson, that reveal.js shows without a network: formulas are typeset while the slides
are made, and everything a page loads lies beside it. `s` on a slide opens the speaker's view with the prose of the lesson.
"""

import argparse
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from PIL import Image
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent)]
import chapters
import figures
import npm
from cut import Slide, deck

NPM = ROOT / "build" / "slides-npm"
REVEAL = ("dist/reveal.css", "dist/reveal.js", "plugin/notes/notes.js", "LICENSE")
CODE_STYLE = HtmlFormatter(nowrap=True, style="default")
# MathJax doesn't know how wide these letters are
HALVES = {"½": r"\tfrac12", "¼": r"\tfrac14", "¾": r"\tfrac34"}
LOCK = ("package.json", "package-lock.json")


def fetch() -> Path:  # folder of reveal.js
    "reveal.js at the locked version, checked by npm against the locked hash; once"
    wanted = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in LOCK)).hexdigest()
    record = NPM / "fetched"
    if not record.exists() or record.read_text() != wanted:
        program = shutil.which("npm")
        if not program:
            raise SystemExit("npm: not found: slides need reveal.js; install Node.js 18 or newer (Debian, "
                             "Ubuntu: apt install npm)")
        NPM.mkdir(parents=True, exist_ok=True)
        for name in LOCK:
            shutil.copy(HERE / name, NPM)
        command = [program, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=NPM, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"npm ci: failed in {NPM}: is there a network, or a registry that npm knows?\n"
                             f"{done.stderr}")
        record.write_text(wanted)
    return NPM / "node_modules" / "reveal.js"


# Words and formulas


class Words:
    "Markdown to HTML; formulas are left as marks, and typeset all at once by `typeset`"

    def __init__(self):
        self.formulas: dict[tuple[str, bool], int] = {}
        self.markdown = MarkdownIt("commonmark",
                                   {"html": False}).enable("table").use(dollarmath_plugin, allow_space=False)
        self.markdown.add_render_rule("math_inline", lambda _, tokens, k, *rest: self.mark(tokens[k].content))
        for name in ("math_block", "math_inline_double"):
            self.markdown.add_render_rule(name,
                                          lambda _, tokens, k, *rest: self.mark(tokens[k].content, True))

    def mark(self, tex: str, display: bool = False) -> str:
        tex = re.sub("[½¼¾]", lambda found: HALVES[found[0]], tex.strip())
        number = self.formulas.setdefault((tex, display), len(self.formulas))
        return f"\0{number}\0"

    def inline(self, text: str) -> str: return self.markdown.renderInline(text)

    def block(self, text: str) -> str:
        "Prose for the notes: links to notebooks become their words, pictures are left out"
        text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
        text = re.sub(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:)[^)]*\)", r"\1", text)
        text = re.sub(r"^#+ (.+)$", r"**\1**", re.sub(r"^# .+$", "", text, flags=re.MULTILINE),
                      flags=re.MULTILINE)
        return self.markdown.render(text).replace("\0", "\1")

    def typeset(self) -> tuple[list[str], str]:  # SVG a formula, and their style
        "All formulas, by MathJax in one run of node"
        node = shutil.which("node")
        if not node:
            raise SystemExit("node: not found: formulas are typeset by MathJax; install Node.js 18 or newer")
        command = [node, str(HERE / "formulas.js"), str(npm.fetch() / "mathjax")]
        done = subprocess.run(command, input=json.dumps(list(self.formulas)), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"formulas: MathJax failed\n{done.stderr}")
        made = json.loads(done.stdout)
        wrong = [tex for (tex, _), svg in zip(self.formulas, made["svg"]) if 'data-mml-node="merror"' in svg]
        if wrong:
            raise SystemExit(f"formula that MathJax doesn't understand: {wrong[0]}")
        return made["svg"], made["style"]


def glyphs_once(text: str) -> str:
    "A deck in which each letter's outline stands once, however many formulas have it"
    text = re.sub(r"MJX-\d+-TEX", "MJX-TEX", re.sub(r' data-(?:mml-node|mjx-texclass|c)="[^"]*"', "", text))
    known = set()

    def first(found: re.Match) -> str:
        new = found[1] not in known
        known.add(found[1])
        return found[0] if new else ""

    return re.sub(r'<path id="([^"]+)"[^>]*></path>', first, text)


# HTML


def page(chapter: chapters.Chapter, slides: list[Slide], words: Words, pictures: Path) -> str:
    "A lesson's deck; its pictures are written to a folder"
    pictures.mkdir(parents=True, exist_ok=True)
    body = "\n".join(_slide(slide, words, pictures) for slide in slides)
    template = (HERE / "deck.html").read_text()
    values = dict(TITLE=html.escape(chapter.title), BODY=body, FOOT=html.escape(chapter.title))
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def _slide(slide: Slide, words: Words, pictures: Path) -> str:
    level = "h1" if slide.kind == "title" else "h2"
    lead = f'<p class="lead">{words.inline(slide.lead)}</p>' if slide.lead else ""
    line = f'<p class="line">{words.inline(slide.line)}</p>' if slide.line else ""
    things, narrow = [], ""
    things += [f'<div class="equation">{words.mark(tex, True)}</div>' for tex in slide.equations]
    if slide.points:
        things.append("<ul>" + "".join(f"<li>{words.inline(point)}</li>" for point in slide.points) + "</ul>")
    if slide.rows:
        things.append(_table(slide.rows, words))
    if slide.code:
        code = highlight(slide.code, PythonLexer(), CODE_STYLE)
        code = re.sub(r'<span class="[npw]">([^<]*)</span>', r"\1", code)  # these have no colour
        things.append('<pre class="code" tabindex="0" '
                      f'style="--letters:{_widest(slide.code, 52)}"><code>{code}</code></pre>')
    if slide.printed:
        things.append('<pre class="printed" '
                      f'style="--letters:{_widest(slide.printed, 52)}">{html.escape(slide.printed)}</pre>')
    if slide.picture:
        alt, data = slide.picture[0], figures.packed(slide.picture[1])
        file = pictures / figures.name(data, "webp" if data.startswith(b"RIFF") else "svg")
        file.write_bytes(data)
        width, height = _size(data)
        narrow = " beside" if width < 1.5 * height and (slide.equations or slide.line) else ""
        things.append(f'<figure><img src="{pictures.name}/{file.name}" alt="{html.escape(alt)}" '
                      f'width="{width}" height="{height}"></figure>')
    head = f"<header>{lead}<{level}>{words.inline(slide.title)}</{level}>{line}</header>"
    return (f'<section class="{slide.kind}{narrow}">{head}<div class="things">{"".join(things)}</div>'
            f'<aside class="notes">{words.block(slide.notes)}</aside></section>')


def _size(data: bytes) -> tuple[int, int]:
    "Width and height of a picture"
    if data.startswith(b"RIFF"):
        return Image.open(io.BytesIO(data)).size
    return tuple(round(float(one)) for one in re.search(rb'viewBox="0 0 ([\d.]+) ([\d.]+)"', data).groups())


def _widest(text: str, least: int) -> int: return max(least, *map(len, text.splitlines()))


def _table(rows: list[list[str]], words: Words) -> str:
    def line(row, tag):
        return "<tr>" + "".join(f"<{tag}>{words.inline(cell)}</{tag}>" for cell in row) + "</tr>"
    long = " long" if max(sum(map(len, row)) for row in rows[1:]) > 100 else ""  # letters
    dense = f' class="dense{long}"' if len(rows[0]) > 4 or len(rows) > 9 else ""
    body = "".join(line(row, "td") for row in rows[1:])
    return f"<table{dense}><thead>{line(rows[0], 'th')}</thead><tbody>{body}</tbody></table>"


def index(counts: dict[str, int]) -> str:
    "The list of all decks"
    parts = []
    for title, about, group in chapters.grouped():
        here = [c for c in group if c.name in counts]
        rows = "".join(f'<li><a href="{c.name}.html">{html.escape(c.title)}</a> '
                       f'{html.escape(c.subtitle)} <span>{counts[c.name]} slides</span></li>' for c in here)
        parts += [f"<h2>{html.escape(title)}</h2><ul>{rows}</ul>"] if here else []
    return (HERE / "index.html").read_text().replace("{{BODY}}", "\n".join(parts))


def build(out: Path, only: list[str] | None = None) -> dict[str, int]:  # slides a lesson
    "All decks into a folder"
    reveal, words = fetch(), Words()
    shutil.rmtree(out, ignore_errors=True)
    (out / "assets").mkdir(parents=True)
    chosen = [c for c in chapters.lessons() if not only or c.name in only]
    decks = {c.name: deck(c) for c in chosen}
    pages = {c.name: page(c, decks[c.name], words, out / c.name) for c in chosen}
    svg, style = words.typeset()
    # the speaker's view lacks our style: there browsers set formulas themselves
    seen = [re.search("<math.*?</math>", one, flags=re.DOTALL)[0] for one in svg]
    for name, text in pages.items():
        text = glyphs_once(re.sub("\0(\\d+)\0", lambda found: svg[int(found[1])], text))
        text = re.sub("\1(\\d+)\1", lambda found: seen[int(found[1])], text)
        (out / f"{name}.html").write_text(text)
    counts = {name: len(slides) for name, slides in decks.items()}
    (out / "index.html").write_text(index(counts))
    for file in REVEAL:
        shutil.copy(reveal / file, out / "assets" / Path(file).name)
    css = (HERE / "deck.css").read_text() + style + HtmlFormatter(style="default").get_style_defs(".code")
    (out / "assets" / "deck.css").write_text(css)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("lessons", nargs="*", help="only these, such as anomalies")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "slides")
    options = parser.parse_args()
    known = [c.name for c in chapters.lessons()]
    if unknown := [name for name in options.lessons if name not in known]:
        raise SystemExit(f"{unknown[0]}: no such lesson: there are {', '.join(known)}")
    start = time.perf_counter()
    counts = build(options.out.resolve(), options.lessons)
    print(f"{len(counts)} decks, {sum(counts.values())} slides in {options.out} after "
          f"{time.perf_counter() - start:.0f} s: open {options.out / 'index.html'}")


if __name__ == "__main__":
    main()
