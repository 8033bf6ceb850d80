"What the library exports, read from its source; nothing is imported"

import ast
import functools
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "memseg_nb"
SHOWN_DUNDERS = ("__init__", "__call__")
LONGEST_CONSTANT = 12  # lines


@dataclass(frozen=True)
class Name:
    "Something a module defines"

    module: str  # "simulation"
    name: str  # "blend", or "Simulator.__call__"
    kind: str  # "function", "class", "method" or "constant"
    header: str  # its signature as written, comments included; a constant's assignment
    doc: str  # its docstring
    line: int  # where it begins, from 1
    lesson: str  # the notebook that exports it, without suffix
    methods: tuple["Name", ...] = ()


@dataclass(frozen=True)
class Module:
    "One file of the library"

    name: str  # "simulation"
    doc: str  # its docstring
    source: str  # its text
    lessons: tuple[str, ...]  # notebooks that export into it
    exported: tuple[Name, ...]


@functools.cache
def modules() -> dict[str, Module]:
    "Every public module of the library by name"
    paths = [p for p in sorted(PACKAGE.glob("*.py")) if not p.name.startswith("_")]
    return {path.stem: _read(path) for path in paths}


def _read(path: Path) -> Module:
    source = path.read_text()
    lines, tree = source.splitlines(), ast.parse(source)
    nodes = {}
    for node in tree.body:
        for name in _defined(node):
            nodes.setdefault(name, node)
    public = ast.literal_eval(nodes["__all__"].value) if "__all__" in nodes else []
    exported = tuple(_describe(path.stem, name, nodes[name], lines) for name in public if name in nodes)
    lessons = dict.fromkeys(re.findall(r"^# %% \.\./nbs/(\w+)\.ipynb", source, flags=re.MULTILINE))
    return Module(path.stem, ast.get_docstring(tree) or "", source, tuple(lessons), exported)


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    return [leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]


def _describe(module: str, name: str, node: ast.stmt, lines: list[str], owner: str = "") -> Name:
    lesson = next(
        (
            m[1]
            for line in reversed(lines[: node.lineno])
            if (m := re.match(r"# %% \.\./nbs/(\w+)\.ipynb", line))
        ),
        "",
    )
    full = f"{owner}.{name}" if owner else name
    if isinstance(node, ast.FunctionDef):
        kind = "method" if owner else "function"
        return Name(module, full, kind, _function_header(node, lines), _doc(node), _first(node), lesson)
    if isinstance(node, ast.ClassDef):
        public = [
            n
            for n in node.body
            if isinstance(n, ast.FunctionDef) and (not n.name.startswith("_") or n.name in SHOWN_DUNDERS)
        ]
        methods = tuple(_describe(module, n.name, n, lines, name) for n in public)
        return Name(
            module, full, "class", _class_header(node, lines), _doc(node), _first(node), lesson, methods
        )
    text = lines[node.lineno - 1 : node.end_lineno]
    if len(text) > LONGEST_CONSTANT:
        text = text[: LONGEST_CONSTANT - 2] + ["    ...", text[-1]]
    return Name(module, full, "constant", "\n".join(text), "", node.lineno, lesson)


def _doc(node: ast.AST) -> str:
    return ast.get_docstring(node) or ""


def _first(node: ast.stmt) -> int:
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])


def _function_header(node: ast.FunctionDef, lines: list[str]) -> str:
    "From the decorators to the colon"
    body = node.body[0]
    text = lines[_first(node) - 1 : body.lineno - 1]
    if body.lineno == node.lineno or not text:
        text = [*text, lines[body.lineno - 1][: body.col_offset]]
    return textwrap.dedent("\n".join(text)).rstrip()


def _class_header(node: ast.ClassDef, lines: list[str]) -> str:
    "Decorators, the line with its bases, and its fields with their comments"
    end = node.body[0].lineno - 1 if node.body[0].lineno > node.lineno else node.lineno
    text = lines[_first(node) - 1 : end]
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
    for field in fields:
        text += lines[field.lineno - 1 : field.end_lineno]
    return textwrap.dedent("\n".join(text)).rstrip()


@functools.cache
def _by_name() -> dict[str, list[Name]]:
    found: dict[str, list[Name]] = {}
    for module in modules().values():
        for entry in module.exported:
            for each in (entry, *entry.methods):
                found.setdefault(each.name, []).append(each)
    return found


def find(
    text: str,  # what stands between back-ticks: `blend`, `simulation.blend`, `Simulator.__call__`
    here: str = "",  # module of the page it stands on
    imported: dict | None = None,  # name -> module, of what the page imports from the library
) -> Name | Module | None:
    "What a back-ticked name means, or None where it's not certainly one of the library's"
    text = text.removesuffix("()").removeprefix("memseg_nb.")
    first, _, rest = text.partition(".")
    if rest and first in modules() and (found := _by_name().get(rest)):
        return next((each for each in found if each.module == first), None)
    candidates = _by_name().get(text, [])
    own = [each for each in candidates if each.module == here]
    taken = [each for each in candidates if each.module == (imported or {}).get(first)]
    if own or taken:
        return (own or taken)[0]
    telling = "_" in text.strip("_") or text != text.lower()  # plain words are left alone
    return candidates[0] if len(candidates) == 1 and telling else None
