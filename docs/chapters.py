"From a notebook of the course to a page: what nbdev's directives mean there, links, alt texts, anchors"

import ast
import copy
import functools
import html
import json
import re
from dataclasses import dataclass
from pathlib import Path

import course
import decks
import figures
import laboratory
import library
import links

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "nbs"
EXERCISES = NOTEBOOKS / "exercises"
DIRECTIVE = re.compile(r"^#\|\s*([\w-]+):?[ \t]*(.*)\n?", flags=re.MULTILINE)
BOX = "**You will be able to**"
# on folds
IMPORTS, CHECK, CHECKER = "Imports and set-up", "A check of these numbers", "The checker, and the solution"
STILL = "This picture stands still here: it is one state of a widget, which has its controls in the notebook."
BARE = "notebooks"  # folder of what can be downloaded, beside the pages' sources
SHORT = 24  # characters of a description that stays in the code
WIDGET = "application/vnd.jupyter.widget-view+json"
@dataclass(frozen=True)
class Chapter:
    "A notebook of the rooms, and what it says of itself"

    notebook: str  # "simulation/04_anomalies"
    title: str  # "Simulation"
    subtitle: str  # the line under it
    run_time: str  # seconds, as the box says, or ""
    module: str  # module it exports: "simulation.anomalies", or ""
    part: str  # of the course; "" for a reference notebook

    @property
    def name(self) -> str:
        "Its name without the number"
        return course.name(self.notebook)

    @property
    def page(self) -> str:
        "Its place on the site"
        return course.page(self.notebook)

    @property
    def path(self) -> Path:
        "Its file"
        return course.NOTEBOOKS / f"{self.notebook}.ipynb"


def read(path: Path) -> dict:
    "A notebook with each source as one text"
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


@functools.cache
def chapters() -> tuple[Chapter, ...]:
    "All lessons in the order of the course, then the reference notebooks"
    return tuple(_chapter(name, course.NOTEBOOKS / f"{name}.ipynb") for name in course.notebooks())


def lessons() -> list[Chapter]:
    "All lessons in the order of the course"
    return [chapter for chapter in chapters() if chapter.part]


def _chapter(notebook: str, path: Path) -> Chapter:
    parts = [part.title for part in course.parts() if notebook in part.lessons]
    return Chapter(notebook, *_head_of(path), parts[0] if parts else "")


def _head_of(path: Path) -> tuple[str, str, str, str]:
    "Title, subtitle, run time and module"
    cells = read(path)["cells"]
    head = next(c["source"] for c in cells if c["cell_type"] == "markdown")
    title = re.search(r"^# (.+)$", head, flags=re.MULTILINE)
    if not title:
        raise SystemExit(f"{path.name}: its first Markdown cell has no title")
    subtitle = re.search(r"^> ((?!\*\*).+(?:\n> (?!\*\*).+)*)", head, flags=re.MULTILINE)
    time = re.search(r"\*\*Run time\*\* (\d+) s", head)
    code = "\n".join(c["source"] for c in cells if c["cell_type"] == "code")
    module = re.search(r"^#\|\s*default_exp ([\w.]+)", code, flags=re.MULTILINE)
    return (
        title[1].strip(),
        subtitle[1].replace("\n> ", " ") if subtitle else "",
        time[1] if time else "",
        module[1].removesuffix(".__init__") if module else "",
    )


@functools.cache
def exercises() -> list[tuple[Path, str, set[str]]]:
    "Every notebook of exercises with its title and the names of the lessons whose exercises it has"
    found = []
    for path in sorted(EXERCISES.glob("[0-9]*.ipynb")):
        if course.page(f"exercises/{path.stem}").startswith("course/"):
            continue  # the engine
        cells = read(path)["cells"]
        head = next(c["source"] for c in cells if c["cell_type"] == "markdown")
        title = re.search(r"^# (.+)$", head, flags=re.MULTILINE)[1]
        title = re.sub(r"^Exercises:\s*", "", title)
        code = "\n".join(c["source"] for c in cells if c["cell_type"] == "code")
        keys = set(re.findall(r"""check\(\s*["'](\w+)\.\d""", code))
        found.append((path, title[:1].upper() + title[1:], keys))
    return found


def grouped() -> list[tuple[str, str, list[Chapter]]]:
    "Title, description and lessons of every part of the course"
    known = lessons()
    return [(part.title, part.about, [c for c in known if c.part == part.title])
            for part in course.parts()]


def navigation() -> list[tuple[str, list[tuple[str, list[tuple[str, str]]]]]]:
    "Groups of the course's sidebar: heading, and its parts with a title, and pages with theirs"
    groups: dict[str, list] = {}
    for part, (title, _, group) in zip(course.parts(), grouped()):
        pages = [(chapter.page, chapter.title) for chapter in group]
        groups.setdefault(course.KINDS[part.kind], []).append((title, pages))
    groups["Exercises"] = [
        ("", [(course.page(f"exercises/{path.stem}"), title) for path, title, _ in exercises()])
    ]
    groups["Reference notebooks"] = [("", [(c.page, c.title) for c in chapters() if not c.part])]
    return list(groups.items())


@functools.cache
def neighbours() -> dict[str, tuple]:  # page -> page before and page after, with titles
    "Where Previous and Next lead: along the main path, or along the parts that are no part of it"
    found = {}
    ends = ("course/index", "The course")
    for _, parts in navigation():
        pages = [ends, *(page for _, pages in parts for page in pages), ends]
        found |= {here[0]: (before, after) for before, here, after in zip(pages, pages[1:-1], pages[2:])}
    return found


def imports(cells: list[dict]) -> dict[str, str]:
    "Name -> module, of everything the code imports from the library"
    found = {}
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        for node in ast.walk(parse(cell["source"])):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("memseg_nb."):
                found |= {alias.asname or alias.name: node.module.partition(".")[2] for alias in node.names}
    return found


def parse(code: str) -> ast.Module:
    "The syntax tree of a cell; lines for the shell or IPython don't count"
    return ast.parse(re.sub(r"^\s*[!%].*$", "pass", code, flags=re.MULTILINE))


def without_alts(code: str) -> str:
    "Code as a page shows it: a picture's description is said of the picture, and shortened in the code"
    found = []
    for node in ast.walk(parse(code)):
        if isinstance(node, ast.Call):
            named = [word.value for word in node.keywords if word.arg == "alt"]
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            found += named or (node.args[1:2] if name == "show" else [])
    found = [each for each in found if isinstance(each, (ast.Constant, ast.JoinedStr))]
    lines = code.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)

    def place(line: int, column: int) -> int:  # columns are counted in bytes
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    for node in sorted(found, key=lambda each: -each.lineno):
        first, last = place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)
        if last - first > SHORT:
            before = re.sub(r",\s*(alt=)?\Z", r", \1", code[:first])
            code = f'{before}"..."{code[last:]}'
    return code


def page(
    path: Path,  # a notebook
    site_page: str,  # its place on the site
    played: tuple[dict, ...] | list[dict] = (),  # its widgets whose states are there, as plays.known has them
    keep=lambda name, content: None,  # called with every figure's file name and content
) -> tuple[
    dict, dict[str, str]
]:  # the notebook for the page, and images to copy: file of the repository -> file of the site
    "What myst-nb renders"
    notebook = read(path)
    lesson = site_page.startswith("course/")  # or a reference notebook
    tasks = site_page.startswith("exercises/")
    module = _head_of(path)[3] if lesson else ""
    markdown = links.Markdown(
        path.relative_to(ROOT).as_posix(), site_page, module, imports(notebook["cells"])
    )
    cells, first = (
        [],
        next(k for k, cell in enumerate(notebook["cells"]) if cell["cell_type"] == "markdown"),
    )  # its head
    last = {
        _live(o): number for number, cell in enumerate(notebook["cells"]) for o in cell.get("outputs", [])
    }
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "markdown":
            text = re.sub(r"^###", "##", cell["source"], flags=re.MULTILINE) if tasks else cell["source"]
            text = re.sub(
                r"^---[ \t]*\n", "", text, flags=re.MULTILINE
            )  # a line before a heading is no part of the page
            text = markdown(text)
            if number == first and site_page == "overview":  # there its title is the package's name
                text = re.sub(r"\A# .+", "# Overview", text)
            if number == first and lesson:
                name = path.relative_to(NOTEBOOKS).with_suffix("").as_posix()
                text = _head(text, _chapter(name, path), path)
            cells.append(_markdown_cell(text))
        elif cell["cell_type"] == "code":
            for output in cell.get("outputs", []):  # its links lead to notebooks; a page has its sidebar
                if table := "".join(output.get("data", {}).get("text/markdown", "")):
                    output["data"]["text/markdown"] = re.sub(r"\[([^]]+)\]\([\w/]+\.ipynb\)", r"\1", table)
            # the last of a kind on a page moves, those before it are pictures
            alive = number in last.values()
            cells += _code(cell, site_page, module, fold=tasks, alive=alive, played=played, keep=keep)
    if not lesson and path.parent != NOTEBOOKS:
        cells.insert(1, _markdown_cell(_facts([_download(path)])))
    cells = _merge_folded(cells)
    kernel = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}, markdown.images


def _merge_folded(cells: list[dict]) -> list[dict]:
    "Folded cells without outputs that follow each other become one"
    made = []
    for cell in cells:
        before = made[-1] if made else None
        if all(
            c and "hide-input" in c["metadata"].get("tags", []) and not c["outputs"] for c in (before, cell)
        ):
            before["source"] += "\n\n" + cell["source"]
            if cell["metadata"]["mystnb"].get("code_prompt_show") != IMPORTS:  # that is what it is opened for
                before["metadata"]["mystnb"] = cell["metadata"]["mystnb"]
        else:
            made.append(cell)
    return made


def _markdown_cell(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def _head(text: str, chapter: Chapter, path: Path) -> str:
    "Title, subtitle, box and a line of links, each with a class of its own"
    above = f'<p class="eyebrow">{html.escape(chapter.part or "Reference notebook")}</p>'
    text = re.sub(r"^(# .+)$", rf"{above}\n\n\1", text, count=1, flags=re.MULTILINE)
    before, quote, after = _quotes(text)
    blocks = [
        re.sub(r"^> ?", "", block, flags=re.MULTILINE).strip()
        for block in re.split(r"\n(?!>)", quote)
        if block.strip()
    ]
    blocks = [part for block in blocks for part in ([block] if BOX not in block else _split_box(block))]
    made = []
    for block in blocks:
        name = "chapter-box" if BOX in block else "subtitle"
        made.append(f":::{{container}} {name}\n{block}\n:::")
    tasks = [p for p, _, names in exercises() if chapter.name in names]
    facts = [_download(path)]
    if chapter.module:
        words = f"Reference of <code>memseg_nb.{chapter.module}</code>"
        facts += [f'<a href="../reference/{chapter.module}.html">{words}</a>']
    facts += [
        f'<a href="../{course.page(f"exercises/{task.stem}")}.html">Exercises</a>' for task in tasks
    ]
    facts += [deck] if (deck := decks.link(chapter.page, "Slides", chapter.name)) else []
    return f"{before}\n\n" + "\n\n".join(made) + f"\n\n{_facts(facts)}\n{after}"


def _download(path: Path) -> str:
    return f"{{download}}`Notebook <../../{BARE}/{path.relative_to(NOTEBOOKS).as_posix()}>`"


def bare(path: Path) -> str:
    "A notebook to be downloaded: without outputs, which its page shows and a run makes again"
    notebook = read(path)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return json.dumps(notebook, ensure_ascii=False, separators=(",", ":")) + "\n"


def _facts(facts: list[str]) -> str:
    return ":::{container} chapter-links\n" + " ".join(facts) + "\n:::"


def _split_box(block: str) -> list[str]:
    before, mark, rest = block.partition(BOX)
    return [part for part in (before.strip(), mark + rest) if part]


def _quotes(text: str) -> tuple[str, str, str]:
    "What comes before the first block quotes, these, and what follows"
    found = re.search(r"(?:^>.*\n?|^\s*\n(?=>))+", text, flags=re.MULTILINE)
    return (text[: found.start()].rstrip(), found[0], text[found.end() :]) if found else (text, "", "")


def _code(
    cell: dict, site_page: str, module: str, fold: bool = False, alive: bool = True, played=(),
    keep=lambda name, content: None,
) -> list[dict]:
    directives = {m[1]: m[2].strip() for m in DIRECTIVE.finditer(cell["source"])}
    source = DIRECTIVE.sub("", cell["source"]).strip("\n")
    outputs = [] if "hide" in directives or directives.get("output") == "false" else cell.get("outputs", [])
    live = next((name for output in outputs if alive and (name := _live(output))), "")
    moving = next((one for one in played for output in outputs if one["question"] == _words(output)[0]), None)
    still = not (live or moving) and any(_asks(output) for output in outputs)
    outputs = [output for output in outputs if not live or not _live(output) or _still(output)]
    outputs = [output for output in outputs if not moving or _words(output)[0] != moving["question"]]
    widget = next((output for output in outputs if WIDGET in output.get("data", {})), None)
    outputs = [_plain(output) for output in outputs if output is not widget]
    folder = links.relative(site_page, figures.FOLDER)
    outputs = [figures.shown(output, folder, keep) for output in outputs if output.get("data", True)]
    if not source or ("default_exp" in directives and len(directives) == 1):
        return []
    only_imports = all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in parse(source).body)
    tags = ["remove-input"] if directives.get("echo") == "false" or "hide_input" in directives else []
    tags += (
        ["hide-input"]
        if only_imports or "hide" in directives or directives.get("code-fold") == "true"
        else []
    )
    made = []
    if fold and "export" in directives:
        tags.append("hide-input")  # how answers are checked gives them away
    elif "export" in directives or "exports" in directives:
        names = [name for node in parse(source).body for name in library._defined(node)]
        tags += ["library"] if not only_imports else []
        made += [_markdown_cell(label)] if (label := _label(names, site_page, module)) else []
    words = IMPORTS if only_imports else CHECKER if fold else CHECK if "assert " in source else IMPORTS
    prompt = {"code_prompt_show": words, "code_prompt_hide": words}
    made.append(
        {
            "cell_type": "code",
            "execution_count": None,
            "source": without_alts(source),
            "outputs": outputs,
            "metadata": {"tags": tags, "mystnb": prompt if "hide-input" in tags else {}},
        }
    )
    slot = laboratory.slot(live, site_page, bool(outputs)) if live else _slot(widget) if widget else ""
    if moving:
        slot = laboratory.played(moving, site_page.rpartition("/")[2], site_page)
    if still and not widget:
        slot = f'<p class="widget-note">{STILL}</p>'
    return [*made, _markdown_cell(slot)] if slot else made


def _words(output: dict) -> tuple[str, str]:
    "Question and status that a widget's output begins with"
    question, _, status = "".join(output.get("data", {}).get("text/plain", "")).partition("\n")
    return question, status


def _asks(output: dict) -> bool:
    "Whether an output is that of a widget: a question, and what it shows"
    question, status = _words(output)
    return question.endswith("?") and bool(status)


def _live(output: dict) -> str:
    "The live widget that this output of a cell is"
    question, status = _words(output)
    return laboratory.asked(question) or "" if status else ""


def _still(output: dict) -> bool:
    "Whether a live widget's output shows something else than the widget does at first"
    return ("image/png" in output["data"]
            and _words(output)[1] != laboratory.facts()["widgets"][_live(output)]["status"])


def _slot(output: dict) -> str:
    "Where a widget lives: its question and what it shows at first, in words"
    question, status = _words(output)
    if not status:
        return ""
    return (
        f'<div class="widget-slot">\n<p class="widget-question">{html.escape(question)}</p>\n'
        f'<p class="widget-status">{html.escape(status)}</p>\n'
        '<p class="widget-note">A widget: in the notebook it has controls and '
        "pictures that follow them.</p>\n</div>"
    )


def _label(names: list[str], site_page: str, module: str) -> str:
    "Anchors for a cell of the library, and links to the reference"
    entries = [
        entry for name in names if (entry := library.find(name, module)) and isinstance(entry, library.Name)
    ]
    entries = [entry for entry in entries if entry.name in names and entry.module == module]
    if not entries:
        return ""
    shown = ", ".join(
        f'<a id="code-{e.name}" href="{links.address(e, site_page)}"><code>{e.name}</code></a>'
        for e in entries
    )
    return f'<p class="library-label"><span>memseg_nb.{module}</span> {shown}</p>'


def _plain(output: dict) -> dict:
    "Only what a page shows"
    output = copy.deepcopy(output)
    output.pop("execution_count", None)
    if output["output_type"] == "execute_result":
        output["execution_count"] = None
    return output
