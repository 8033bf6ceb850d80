"What the library exports, read from its source; nothing is imported"

import ast
import functools
import hashlib
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path, PurePath

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "memseg_nb"
SHOWN_DUNDERS = ("__init__", "__call__")
LONGEST_CONSTANT = 12  # lines
EXPORTED_FROM = re.compile(r"^# %% (?:\.\./)+nbs/([\w/]+)\.ipynb", flags=re.MULTILINE)


@dataclass(frozen=True)
class Name:
    "Something a module defines"

    module: str  # "simulation.anomalies"
    name: str  # "blend", or "Simulator.__call__"
    kind: str  # "function", "class", "method" or "constant"
    header: str  # its signature as written, comments included; a constant's assignment
    doc: str  # its docstring
    line: int  # where it begins, from 1
    lesson: str  # the notebook that exports it: "simulation/04_anomalies"
    methods: tuple["Name", ...] = ()


@dataclass(frozen=True)
class Module:
    "One file of the library"

    name: str  # "simulation.anomalies"
    doc: str  # its docstring
    source: str  # its text
    lessons: tuple[str, ...]  # notebooks that export into it
    exported: tuple[Name, ...]


def dotted(
    path: PurePath,  # of a file, from the package's folder
) -> str:  # "simulation.anomalies"; "widgets" for widgets/__init__.py
    "What Python calls a file of the library"
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def modules() -> dict[str, Module]:
    "Every public module of the library by its name; of the exercises only the engine"
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = dotted(path.relative_to(PACKAGE))
        hidden = path.name.startswith("_") and (path.name != "__init__.py" or path.parent == PACKAGE)
        if not hidden and not re.match(r"exercises(?!\.engine$)", name):
            found[name] = _read(path, name)
    return {name: module for name, module in found.items() if module.doc}


def digest(
    *programs: Path,  # that use the library
) -> str:  # 64 hexadecimal digits
    "A digest of these programs, of what they reach of the library, of its weights and its recipes"
    code = [_meaning(path) for path in sorted({*programs, *reached(*programs)})]
    return hashlib.sha256("\0".join([*code, _data()]).encode()).hexdigest()


@functools.cache
def _data() -> str:
    "A digest of weights and recipes"
    files = [*sorted(PACKAGE.glob("weights/*.safetensors")), *sorted(PACKAGE.glob("recipes/*.ini"))]
    parts = [hashlib.sha256(path.read_bytes()).digest() for path in [*files, ROOT / "settings.ini"]]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def reached(*programs: Path) -> set[Path]:
    "Modules of the library that these programs import, and what those import"
    found, waiting = set(), [*programs]
    while waiting:
        path = waiting.pop()
        for target in _imported(path) - found:
            found.add(target)
            waiting.append(target)
    return found


@functools.cache
def _imported(path: Path) -> set[Path]:
    "Files of the library that a file imports"
    inside = path.is_relative_to(PACKAGE)
    package = path.relative_to(ROOT).parent.parts if inside else ()
    files = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            place = ROOT.joinpath(*name.split("."))
            files |= {file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()}
    return {file for file in files if file.is_relative_to(PACKAGE) and file != PACKAGE / "__init__.py"}


@functools.cache
def _meaning(path: Path) -> str:
    "A file's code without comments and docstrings, whatever its layout"
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _read(path: Path, module: str) -> Module:
    source = path.read_text()
    lines, tree = source.splitlines(), ast.parse(source)
    nodes = {}
    for node in tree.body:
        for name in _defined(node):
            nodes.setdefault(name, node)
    public = ast.literal_eval(nodes["__all__"].value) if "__all__" in nodes else []
    exported = tuple(_describe(module, name, nodes[name], lines, tree) for name in public if name in nodes)
    lessons = dict.fromkeys(EXPORTED_FROM.findall(source))
    return Module(module, ast.get_docstring(tree) or "", source, tuple(lessons), exported)


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


def _describe(
    module: str, name: str, node: ast.stmt, lines: list[str], tree: ast.Module, owner: str = ""
) -> Name:
    lesson = next(
        (
            m[1]
            for line in reversed(lines[: node.lineno])
            if (m := EXPORTED_FROM.match(line))
        ),
        "",
    )
    full = f"{owner}.{name}" if owner else name
    if isinstance(node, ast.FunctionDef):
        kind = "method" if owner else "function"
        return Name(module, full, kind, _function_header(node, lines), _doc(node), _first(node), lesson)
    if isinstance(node, ast.ClassDef):
        public = [n for n in _bodies(node, tree) if isinstance(n, ast.FunctionDef)
                  and (not n.name.startswith("_") or n.name in SHOWN_DUNDERS)]
        methods = tuple(_describe(module, n.name, n, lines, tree, name) for n in public)
        return Name(
            module, full, "class", _class_header(node, lines), _doc(node), _first(node), lesson, methods
        )
    text = lines[node.lineno - 1 : node.end_lineno]
    if len(text) > LONGEST_CONSTANT:
        text = text[: LONGEST_CONSTANT - 2] + ["    ...", text[-1]]
    return Name(module, full, "constant", "\n".join(text), "", node.lineno, lesson)


def _bodies(node: ast.ClassDef, tree: ast.Module) -> list[ast.stmt]:
    "What a class defines, and what it has from private classes of its module"
    private = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef) and n.name.startswith("_")}
    own = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
    above = [n for base in node.bases if isinstance(base, ast.Name) and base.id in private
             for n in _bodies(private[base.id], tree) if getattr(n, "name", "") not in own]
    return [*node.body, *above]


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


def module_named(
    text: str,  # "simulation.anomalies", or "anomalies"
) -> str | None:
    "The module of this name, or the only one whose name ends so"
    if text in modules():
        return text
    ends = [name for name in modules() if name.endswith(f".{text}")]
    return ends[0] if len(ends) == 1 else None


def find(
    text: str,  # what stands between back-ticks: `blend`, `anomalies.blend`, `Simulator.__call__`
    here: str = "",  # module of the page it stands on
    imported: dict | None = None,  # name -> module, of what the page imports from the library
) -> Name | Module | None:
    "What a back-ticked name means, or None where it's not certainly one of the library's"
    text = text.removesuffix("()").removeprefix("memseg_nb.")
    if "." in text and text in modules():
        return modules()[text]
    words = text.split(".")
    for cut in range(len(words) - 1, 0, -1):  # the longest module first
        place = ".".join(words[:cut])
        place = module_named(place) or place  # or a room
        known = _by_name().get(".".join(words[cut:]), [])
        found = [each for each in known if f"{each.module}.".startswith(f"{place}.")]
        if len(found) == 1:
            return found[0]
    candidates = _by_name().get(text, [])
    own = [each for each in candidates if each.module == here]
    taken = [each for each in candidates if each.module == (imported or {}).get(words[0])]
    if own or taken:
        return (own or taken)[0]
    telling = "_" in text.strip("_") or text != text.lower()  # plain words are left alone
    return candidates[0] if len(candidates) == 1 and telling else None
