"Pages that are not notebooks: course, guides, how-to, data cards, model card, results"

import csv
import html
import re
from pathlib import Path

import chapters
import charts
import course
import decks
import laboratory
import links

ROOT = Path(__file__).parents[1]
GUIDES = ROOT / "nbs" / "guides"
RESULTS = ROOT / "nbs" / "results"
GUIDE_ORDER = ("lecturers", "glossary", "notation", "scaling")
HOWTO_ORDER = ("own-data", "mvtec", "offline", "export", "live")


def contents() -> str:
    "The list of all lessons, part by part, then exercises and reference notebooks"
    first = chapters.lessons()[0]
    parts = [
        "# The course",
        ":::{container} subtitle\nOne idea a lesson, in the order in which the method is understood\n"
        ":::",
        "Each lesson begins with a picture and a number to check by hand, writes the naive code, "
        "then the library's, with the same assertion after each; then it takes the piece away, to "
        f"see what it was good for. Begin with [{first.title}]({first.name}.ipynb) and follow the "
        "main path: nothing on it needs a lesson that is not on it. To run and change the lessons, "
        "`make lab` opens them in JupyterLab.",
        *(
            [f"For lectures: {deck}, one deck a lesson."]
            if (deck := decks.link("course/index", "slides"))
            else []
        ),
    ]
    kind = ""
    for part, (title, about, group) in zip(course.parts(), chapters.grouped()):
        if part.kind != kind:
            kind = part.kind
            parts.append(f"## {course.KINDS[kind]}")
        rows = "\n".join(
            f"| [{c.title}]({c.name}.ipynb) | {c.subtitle} | {c.run_time + ' s' if c.run_time else ''} |"
            for c in group
        )
        parts += [
            f"### {title}",
            about + ".",
            ":::{container} lessons\n| lesson | what it is about | runs in |\n| --- | --- | --: |\n"
            f"{rows}\n:::",
            _tree(title, group),
        ]
    if found := chapters.exercises():
        pairs = [(title, f"../{course.page(f'exercises/{path.stem}')}") for path, title, _ in found]
        rows = "\n".join(f"- [{title}]({page}.ipynb)" for title, page in pairs)
        tree = "\n".join(f"{title} <{page}>" for title, page in pairs)
        parts += [
            "## Exercises",
            "To be solved in the notebooks, where each answer is checked and a wrong one gets a hint; here "
            "to be read.", rows, f"```{{toctree}}\n:hidden:\n:caption: Exercises\n\n{tree}\n```",
        ]
    if others := [c for c in chapters.chapters() if not c.part]:
        rows = "\n".join(f"| [{c.title}]({c.name}.ipynb) | {c.subtitle} |" for c in others)
        parts += [
            "## Reference notebooks",
            "The mechanism that the library needs besides the method: no lessons, but each with its "
            "code and an example.",
            f":::{{container}} lessons\n| notebook | what it holds |\n| --- | --- |\n{rows}\n:::",
            _tree("Reference notebooks", others),
        ]
    return "\n\n".join(parts) + "\n"


def _tree(caption: str, group: list[chapters.Chapter]) -> str:
    pages = "\n".join(f"{c.title} <{c.name}>" for c in group)
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```"


def in_order(paths: list[Path], order: tuple[str, ...]) -> list[Path]:
    "Those with a place first, the others by name"
    return sorted(paths, key=lambda p: (order.index(p.stem) if p.stem in order else len(order), p.stem))


def title(text: str, path: Path) -> str:
    "The first heading"
    found = re.search(r"^# (.+)$", text, flags=re.MULTILINE)
    if not found:
        raise SystemExit(f"{path.name}: has no title (# ...)")
    return found[1]


def listing(heading: str, about: str, paths: list[Path]) -> str:
    "A page that lists pages"
    rows, tree = [], []
    for path in paths:
        text = path.read_text() if path.suffix == ".md" else chapters.read(path)["cells"][0]["source"]
        rows.append(f"- [{title(text, path)}]({path.name}){_first_sentence(text)}")
        tree.append(path.stem)
    newline = "\n"
    return (
        f"# {heading}\n\n:::{{container}} subtitle\n{about}\n:::\n\n{newline.join(rows)}\n\n"
        f"```{{toctree}}\n:hidden:\n\n{newline.join(tree)}\n```\n"
    )


def _first_sentence(text: str) -> str:
    "What a page says of itself, for the list"
    if quote := re.search(r"^> (.+(?:\n> .+)*)", text, flags=re.MULTILINE):
        return ": " + quote[1].replace("\n> ", " ").strip()
    paragraph = re.search(r"\A# .+\n\s*\n([^#`|\[\n].+(?:\n.+)*)", text)
    sentence = re.match(r"[^\[`$]+?[.:](?=\s|$)", paragraph[1].replace("\n", " ")) if paragraph else None
    return ": " + sentence[0].rstrip(".:") if sentence else ""


def results() -> str:
    "What the README says was reached, and the tables of nbs/results as they were measured"
    others = (
        "Which weights this package brings and where they are good and bad: [model card](model-card.md). "
        "What was measured on: [data sets](data.md). How paper and code compare, symbol by symbol: [the "
        "ledger](ledger.md)."
    )
    parts = [
        "# Results",
        ":::{container} subtitle\nOnly what was run, with the command that runs it again\n:::",
        others,
        _reached(),
    ]
    for path in sorted(RESULTS.glob("*.csv")) if RESULTS.exists() else []:
        drawn, count = charts.chart(path), len(charts.rows(path))
        parts += [
            f"## {path.stem.replace('_', ' ').capitalize()}",
            *([drawn] if drawn else []),
            f'<details class="folded-table"><summary>The table: {count} rows, from '
            f"<code>nbs/results/{path.name}</code></summary>",
            table(path),
            "</details>",
        ]
    parts.append("```{toctree}\n:hidden:\n\nModel card <model-card>\nData sets <data>\nLedger <ledger>\n```")
    return "\n\n".join(parts) + "\n"


def _reached() -> str:
    "The section of the overview, without its first words"
    cells = [cell["source"] for cell in chapters.read(ROOT / "nbs" / "index.ipynb")["cells"]]
    text = re.search(r"^## Results.*?(?=^## |\Z)", "\n\n".join(cells), re.MULTILINE | re.DOTALL)[0]
    text = re.sub(
        r"\A## Results\s+(Only what was run[^\n]*\n\s*)?", "## Measured figures\n\n", text
    )
    return links.Markdown("nbs/index.ipynb", "results/index")(text)


def table(path: Path) -> str:
    "A CSV file as a table; numbers to the right, to three decimals where they have more"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    comments = [line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#")]
    head, *rows = list(csv.reader(lines))
    numeric = [all(_number(row[k]) for row in rows if k < len(row)) for k in range(len(head))]
    marks = " | ".join("--:" if n else "---" for n in numeric)
    body = "\n".join("| " + " | ".join(_cell(value) for value in row) + " |" for row in rows)
    words = " ".join(comments)
    return (
        words + "\n\n" if words else ""
    ) + f"| {' | '.join(h.replace('_', ' ') for h in head)} |\n| {marks} |\n{body}"


def _number(text: str) -> bool:
    return bool(re.fullmatch(r"\s*|-|[-+]?\d+(\.\d*)?(e[-+]?\d+)?%?", text.strip()))


def _cell(text: str) -> str:
    if re.fullmatch(r"[-+]?\d+\.\d{4,}", text):
        text = f"{float(text):.3f}" if abs(float(text)) < 100 else f"{float(text):.0f}"
    return html.escape(text).replace("|", "\\|") or "–"


def rewritten(
    path: Path,  # a Markdown file of the repository
    page: str,  # its place on the site
) -> tuple[str, dict[str, str]]:  # its text for the site, and images to copy
    "Links and names lead to pages; a quote right below the title is the subtitle"
    markdown = links.Markdown(path.relative_to(ROOT).as_posix(), page)
    text = markdown(path.read_text())
    if (mark := "<!-- live-files -->") in text:
        text = text.replace(mark, laboratory.table())
    shown = f"They are on this site too: {deck}." if (deck := decks.link(page, "all decks")) else ""
    text = text.replace("<!-- slides -->", shown)
    text = re.sub(
        r"\A(# .+\n\s*\n)((?:>.*\n)+)",
        lambda m: (
            m[1] + ":::{container} subtitle\n" + re.sub(r"^> ?", "", m[2], flags=re.MULTILINE) + ":::\n"
        ),
        text,
    )
    return text, markdown.images
