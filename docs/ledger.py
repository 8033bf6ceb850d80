"The ledger of paper and code: the rows of all lessons' tables *Paper and code* on one page"

import json
import re
from dataclasses import dataclass
from pathlib import Path

import chapters
import course
import library
import links

VERDICTS = {
    "as the paper": r"as (in )?the paper|as defined there|as Hou",
    "deviates": r"deviates",
    "not in the paper": r"extension",
    "unspecified, we chose": r"unspecified|we chose|our choice|\bours\b|release",
}
ELSEWHERE = r"$|-$|nowhere|not in |computer graphics|(?!MemSeg).*\b(19|20)\d\d\b"


@dataclass(frozen=True)
class Row:
    "One line of a lesson's table"

    symbol: str  # as the lesson writes it; LaTeX between dollars
    where: str  # section of the paper, or who else said it
    functions: str  # the cell as written, names between back-ticks
    remark: str  # the lesson's words
    lesson: str  # "model/02_memory"

    @property
    def verdict(self) -> str:
        "How the row stands to the paper, one of `VERDICTS`"
        return verdict(self.remark, self.where)


def split_cells(
    line: str,  # of a Markdown table
) -> list[str]:
    "The cells of one line; `\\|` belongs to its cell"
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def verdict(
    remark: str,  # last cell of a row
    where: str,  # its place in the paper
) -> str:  # one of VERDICTS
    "What a row says about paper and code: what its remark names first, else what the place tells"
    places = {kind: re.search(words, remark) for kind, words in VERDICTS.items()}
    named = {kind: found.start() for kind, found in places.items() if found}
    kind = min(named, key=named.get) if named else None
    if re.match(ELSEWHERE, where):
        return "deviates" if kind == "deviates" else "not in the paper"
    if kind:
        return kind
    if re.search("unspecified|release", where):
        return "unspecified, we chose"
    return "deviates" if re.search("instead of|any (size|number)", remark) else "as the paper"


def rows_of(
    path: Path,  # a notebook
    lesson: str = "",  # its name
) -> list[Row]:
    "The rows of the table below the heading *Paper and code*"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    after = re.split(r"^## Paper and code *$", prose, flags=re.MULTILINE)
    if len(after) < 2:
        return []
    lines = re.findall(r"^\|.*\|$", after[1].split("\n## ")[0], re.MULTILINE)
    found = []
    for line in lines[2:]:
        symbol, *others = split_cells(line)
        where = others[0] if len(others) > 2 else ""
        found.append(Row(symbol, where, others[-2], others[-1], lesson))
    return found


def rows() -> list[Row]:
    "The rows of all lessons in the order of the course"
    return [row for lesson in course.lessons()
            for row in rows_of(course.NOTEBOOKS / f"{lesson}.ipynb", lesson)]


def words(row: Row) -> list[str]:
    "What a row's function cell has between back-ticks, as far as it is a name"
    return re.findall(r"`([\w.]+)(?:\(\))?`", row.functions)


def find(
    word: str,  # "memory.Match", or "Match"
    module: str,  # of the lesson
) -> library.Name | None:
    "What of the library a word in a table is; settings, arguments and fields are nothing of it"
    found = library.find(word, module)
    if isinstance(found, library.Name):
        return found
    entries = [entry for each in library.modules().values() for entry in each.exported]
    known = [entry for entry in entries if entry.name == word]
    return known[0] if len(known) == 1 else None


def page() -> str:
    "The ledger as a page of the site"
    everything = rows()
    counts = {kind: sum(row.verdict == kind for row in everything) for kind in VERDICTS}
    parts = [
        "# Ledger",
        ":::{container} subtitle\nEvery symbol and step of the paper, the function that computes it, "
        "and how it stands to the paper\n:::",
        "These are the tables *Paper and code* of the lessons, in the order of the course. A test "
        "looks up every function that is named here, and a test that calls it. "
        + ", ".join(f"{count} rows: *{kind}*" for kind, count in counts.items()) + ". "
        "Where the values of the settings come from stands in the [recipe](../reference/settings.md).",
    ]
    for lesson in chapters.lessons():
        markdown = links.Markdown(f"nbs/{lesson.notebook}.ipynb", "results/ledger", lesson.module,
                                  chapters.imports(chapters.read(lesson.path)["cells"]))
        lines = [f"| {row.symbol} | {row.where} | {row.functions} | *{row.verdict}* | {row.remark} |"
                 for row in everything if row.lesson == lesson.notebook]
        if lines:
            table = "| what | where | function | verdict | remark |\n| --- | --- | --- | --- | --- |\n"
            parts += [f"## [{lesson.title}](../{lesson.page}.ipynb)",
                      table + markdown("\n".join(lines))]
    return "\n\n".join(parts) + "\n"
