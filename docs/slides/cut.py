"""What of a lesson goes on its slides, and what into the speaker's notes

The rule. A slide shows one thing: a picture, with the equations that lead to it; or equations; or a short piece of code
with what it prints. Above it stands one sentence of at most 170 letters, the first of the prose that leads to the thing.
All of that prose goes into the notes. Of the table "Paper and code" two columns are shown, of the summary its sentences.
Code that is longer than 14 lines, and text output beyond the sections "By hand" and "Break it", stay in the notebook.
"""

import base64
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import chapters
from ledger import verdict

SENTENCE = 170  # letters above the thing
BULLET = 240  # letters of a point in a list, or of the question of "Play"
CODE = 14  # lines
PRINTED = 8  # lines of output
ROWS = 12  # of a table that a cell makes, with its head
LETTERS = 1200  # in all its cells
WIDEST = 110  # letters of a line of code or output
SHOWS_CODE = {"By hand": 2, "Naive, then fast": 2}  # sections whose code is shown, and how many pieces of it
EQUATION = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)


@dataclass
class Slide:
    "One slide; what is empty isn't there"

    title: str
    line: str = ""  # Markdown, one sentence
    equations: list[str] = field(default_factory=list)  # TeX
    picture: tuple[str, bytes] | None = None  # alt text, and PNG or SVG
    code: str = ""
    printed: str = ""
    points: list[str] = field(default_factory=list)  # Markdown, one a point
    rows: list[list[str]] = field(default_factory=list)  # Markdown; the first is the head
    notes: str = ""  # Markdown
    kind: str = ""  # title, question, summary, or nothing
    lead: str = ""  # what stands above the title


# Words


def sentences(text: str) -> list[str]:
    "The sentences of the paragraphs of some Markdown; lists, tables, quotes, fences and equations aren't sentences"
    text = re.sub(r"^(```|~~~).*?^\1", "", EQUATION.sub("", text), flags=re.DOTALL | re.MULTILINE)
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = " ".join(line.strip() for line in paragraph.strip().splitlines())
        if paragraph and not re.match(r"[#|>:]|[-*] |\d+\. ", paragraph):
            found += re.split(r"(?<=[.!?:][\"*)])\s+(?=[A-Z\"`$*(])|(?<=[.!?:])\s+(?=[A-Z\"`$*(])", paragraph)
    return [sentence.strip() for sentence in found if sentence.strip()]


def bare(text: str) -> str:
    "Links become their words: a lecturer's slide leads nowhere"
    return re.sub(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^)]*\)", r"\1", text)


def headline(text: str) -> tuple[str, str]:
    "A few words in bold that a paragraph begins with, or a heading of the third order; and the sentence after them"
    bold = re.findall(r"^(?:### (.+)|\*\*([^*\n]{2,60}?)(?:[.:]\*\*|\*\*[.:])(?=\s))", text,
                      flags=re.MULTILINE)
    name = next((a or b for a, b in reversed(bold)), "")
    if name:
        text = text[text.rindex(name) + len(name) :].lstrip("*.: ")
    fit = [s for s in sentences(text) if len(bare(s)) <= SENTENCE and len(s.split()) > 2 and s[0] != "("]
    return name.rstrip("."), bare(fit[0]).rstrip(":") if fit else ""


def table(text: str) -> list[list[str]]:
    "The first table, without the line below its head"
    lines = re.findall(r"^\|(.+)\|\s*$", text, flags=re.MULTILINE)
    rows = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    return [row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]


# From cells to things


def things(cells: list[dict]) -> list[tuple[str, list]]:
    "The lesson's sections, each with its prose, equations, pictures and code in their order"
    made = [("", [])]
    for cell in cells:
        if cell["source"].startswith("### Exercise ") or "course.check(" in cell["source"]:
            continue  # for the lab, not for the lecture
        if cell["cell_type"] == "markdown":
            for part in re.split(r"^(## .+)$", cell["source"], flags=re.MULTILINE):
                if part.startswith("## "):
                    made.append((part[3:].strip(), []))
                elif part.strip():
                    made[-1][1].append(("prose", part))
        elif cell["cell_type"] == "code":
            made[-1][1].extend(_shown(cell))
    return made


def _shown(cell: dict) -> list:
    "What a code cell may bring to a slide: code with what it prints, pictures, tables"
    directives = {found[1]: found[2].strip() for found in chapters.DIRECTIVE.finditer(cell["source"])}
    if "hide" in directives or directives.get("output") == "false":
        return []
    source, exported = chapters.DIRECTIVE.sub("", cell["source"]).strip("\n"), "export" in directives
    printed, found = "", []
    for output in cell.get("outputs", []):
        data, meta = output.get("data", {}), output.get("metadata", {})
        kind = next((kind for kind in ("image/svg+xml", "image/webp", "image/png") if kind in data), "")
        if kind:  # the sharpest first
            words = "".join(data.get("text/plain", [])).partition("\n")[2]
            alt, content = meta.get("image/png", {}).get("alt", "") or words, "".join(data[kind])
            svg = kind == "image/svg+xml"
            found.append(("picture", (alt, content.encode() if svg else base64.b64decode(content))))
        elif "text/markdown" in data:
            text = "".join(data["text/markdown"])
            name = re.search(r"^\*\*(.+)\*\*$", text, flags=re.MULTILINE)
            found += [("table", (name[1] if name else "", rows))
                      for rows in [table(text)]
                      if 1 < len(rows) <= ROWS and sum(map(len, sum(rows, []))) <= LETTERS]
        elif "text/html" not in data:
            printed += "".join(output.get("text", [])) + "".join(data.get("text/plain", [])) + "\n"
    if "default_exp" in directives and not found:
        return []
    return found or [("code", (source, printed.strip("\n"), exported))]


def short(text: str, lines: int) -> bool:
    "Whether it can be read from the last row"
    return bool(text) and len(text.splitlines()) <= lines and max(map(len, text.splitlines())) <= WIDEST


# From things to slides


def section(title: str, parts: list) -> list[Slide]:
    "The slides of one section"
    slides, text, equations = [], "", []
    code_left = SHOWS_CODE.get(title, 0)

    def add(**shown) -> None:
        nonlocal text, equations
        name, line = headline(text)
        lines = sum(len(shown.get(key, "").splitlines()) for key in ("code", "printed"))
        if len(equations) > (0 if lines > 9 else 1 if shown else 3):
            slides.extend(_equations(title, name, line, equations, text))
            equations, text, line = [], "", ""
        if not shown and not equations:
            return
        slides.append(Slide(name or title, line, equations, notes=text, lead=title if name else "", **shown))
        text, equations = "", []

    for kind, value in parts:
        if kind == "prose":
            equations += [re.sub(r"\\tag\*?\{[^}]*\}", "", tex) for tex in EQUATION.findall(value)]
            text += "\n\n" + value
        elif kind == "picture":
            add(picture=value)
            if not slides[-1].line:
                slides[-1].line = value[0]  # what is to be seen, in words
        elif kind == "table":
            add(rows=value[1])
            slides[-1].line = value[0] or slides[-1].line
        elif kind == "code" and code_left and _worth(title, *value):
            add(code=value[0], printed=value[1])
            code_left -= 1
        elif kind == "code" and title == "Break it" and short(value[1], PRINTED) and text.strip():
            add(printed=value[1])
    if equations:
        add()
    if not slides and text.strip():
        slides.append(_points(title, text, parts))
    elif text.strip():
        slides[-1].notes += "\n\n" + text
    return slides


def _worth(title: str, source: str, printed: str, exported: bool) -> bool:
    "Whether a section shows this code: by hand what is computed, then the naive version and the library's"
    if not short(source, CODE) or printed and not short(f"{source}\n{printed}", CODE + 1):
        return False
    if title == "By hand":
        return bool(printed) or "assert" in source
    return exported or bool(re.search(r"^(def|class) _?naive", source, flags=re.MULTILINE | re.IGNORECASE))


def _equations(title: str, name: str, line: str, equations: list[str], text: str) -> list[Slide]:
    "Three equations a slide"
    groups = [equations[k : k + 3] for k in range(0, len(equations), 3)]
    made = [Slide(name or title, line, group, lead=title if name else "") for group in groups]
    made[0].notes = text
    return made


def _points(title: str, text: str, parts: list) -> Slide:
    "A section without anything to look at: how its paragraphs begin, and what it prints first"
    starts = []
    for paragraph in re.split(r"\n\s*\n", text):
        first = [bare(s).rstrip(":") for s in sentences(paragraph) if len(bare(s)) <= BULLET]
        starts += first[:1]
    printed = next((value[1] for kind, value in parts if kind == "code" and short(value[1], PRINTED)), "")
    return Slide(title, points=starts[: 3 if printed else 4], printed=printed, notes=text)


def _play(parts: list) -> list[Slide]:
    "The question, and the widget's picture"
    text = "\n\n".join(value for kind, value in parts if kind == "prose")
    found = re.search(r"(?<!\*)\*([^*]+\?)\*", text)
    pictures = [value for kind, value in parts if kind == "picture"]
    question = " ".join(found[1].split()) if found else headline(text)[1]
    if len(question) > BULLET:
        question = sentences(question)[0]
    return [Slide("Play", bare(question), picture=pictures[0] if pictures else None, notes=text,
                  kind="question")]


def _ledger(parts: list) -> list[Slide]:
    "What, which function, and how it stands to the paper"
    text = "\n\n".join(value for kind, value in parts if kind == "prose")
    rows = [row for row in table(text) if len(row) > 1]
    if not rows:
        return []
    second = next((k for k, name in enumerate(rows[0]) if k
                   and re.search(r"function|key|\bhere\b|library", name.lower())), 1)
    kept = [[rows[0][0], rows[0][second], "as the paper?"]]
    for row in rows[1:]:
        if len(row) > second:
            status = verdict(row[-1], row[1] if len(row) > 3 else "")
            kept.append([bare(row[0]), bare(row[second]), status])
    while len(kept) > 9 or sum(max(-(-len(cell) // 34) for cell in row) for row in kept) > 12:
        kept.pop()
    return [Slide("Paper and code", rows=kept, notes=text)]


def _list(title: str, parts: list) -> list[Slide]:
    "The exercises"
    text = "\n\n".join(value for kind, value in parts if kind == "prose")
    return [Slide(title, points=[bare(p) for p in re.findall(r"^- (.+)$", text, flags=re.MULTILINE)][:8],
                  notes=text)]


def _summary(parts: list) -> list[Slide]:
    text = "\n\n".join(value for kind, value in parts if kind == "prose")
    return [Slide("Summary", points=[bare(s) for s in sentences(text) if len(bare(s)) <= 330][:5], notes=text,
                  kind="summary")]


def _title(chapter: chapters.Chapter, parts: list) -> Slide:
    "Part, title, and what the listeners will be able to do"
    text = "\n\n".join(value for kind, value in parts if kind == "prose")
    box = re.search(r"\*\*You will be able to\*\*(.+?)(?=\n>\s*\n|\Z)", text, flags=re.DOTALL)
    goals = re.split(r";\s+", re.sub(r"\n>\s*", " ", box[1]).strip().rstrip(".")) if box else []
    return Slide(chapter.title, bare(chapter.subtitle), points=[bare(goal) for goal in goals][:5], notes=text,
                 kind="title", lead=chapter.part)


def deck(chapter: chapters.Chapter) -> list[Slide]:
    "The slides of a lesson"
    cells = chapters.read(chapter.path)["cells"]
    (_, head), *sections = things(cells)
    slides = [_title(chapter, head)]
    slides += [Slide("The network", picture=value) for kind, value in head if kind == "picture"]
    ways = {"Play": _play, "Paper and code": _ledger, "Summary": _summary,
            "Exercises": lambda p: _list("Exercises", p)}
    for title, parts in sections:
        slides += ways[title](parts) if title in ways else section(title, parts)
    return slides
