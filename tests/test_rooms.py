"The rooms of the package: imports go one way, from a room to those below it, and never in a circle"
import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from lesson_contract import ROOT

LIBRARY = ROOT / "memseg_nb"

# Room, or module beside the rooms -> what it may import, wherever the import stands.
BASE = {"recipe", "files", "plots", "metrics"}
MAY = {one: BASE for one in sorted(BASE)}
MAY["data"] = BASE
MAY["products"] = MAY["simulation"] = BASE | {"data"}
MAY["model"] = {"recipe", "files"}
MAY["training"] = BASE | {"data", "simulation", "model"}
MAY["pretraining"] = MAY["evaluation"] = MAY["training"] | {"training"}
MAY["deployment"] = MAY["evaluation"] | {"evaluation"}
BELOW = MAY["deployment"] | {"deployment", "pretraining", "products"}
MAY["widgets"] = BELOW
MAY["bench"] = BELOW | {"widgets"}
MAY["exercises"] = BELOW | {"widgets", "bench"}
MAY["cli"] = BELOW | {"widgets", "bench", "exercises"}
MAY["memseg_nb"] = BELOW | {"widgets"}  # the front door, memseg_nb/__init__.py


def name_of(path):
    "memseg_nb/model/memory.py -> model.memory, memseg_nb/widgets/__init__.py -> widgets"
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "memseg_nb"


MODULES = {name_of(path): path for path in LIBRARY.rglob("*.py") if path.name != "_modidx.py"}


def room(module):
    "What stands on the left in MAY: model.memory -> model"
    return module.partition(".")[0]


def library_imports(code, package=""):
    "Modules of the library that `code` imports, at its top or in a function; `package`: the room it lies in"
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names if alias.name.startswith("memseg_nb.")]
        elif isinstance(node, ast.ImportFrom):
            inside = ["memseg_nb", *filter(None, package.split("."))]
            start = inside[:len(inside) + 1 - node.level] if node.level else []
            origin = ".".join([*start, *filter(None, [node.module])])
            if origin.split(".")[0] != "memseg_nb": continue
            wanted = [f"{origin}.{a.name}" if f"{origin}.{a.name}"[10:] in MODULES else origin
                      for a in node.names if a.name != "__version__"]
        elif (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
              and str(node.args[0].value).startswith("memseg_nb.")
              and ast.unparse(node.func).endswith("import_module")):
            wanted = [node.args[0].value]
        else:
            continue
        yield from (name.removeprefix("memseg_nb.") for name in wanted)


def graph():
    "Module -> the modules it imports"
    found = {}
    for name, path in MODULES.items():
        package = ".".join(path.relative_to(LIBRARY).parts[:-1])
        found[name] = set(library_imports(path.read_text(), package)) - {name}
    return found


def test_imports_go_down_only():
    up = [f"{name} imports {other}" for name, others in sorted(graph().items()) for other in sorted(others)
          if room(other) != room(name) and room(other) not in MAY.get(room(name), ())]
    assert not up, "\n".join(up)


def test_every_room_has_its_place():
    assert {room(name) for name in MODULES} == set(MAY)


def test_no_module_and_no_room_stands_in_a_circle():
    found = graph()
    rooms = {}
    for name, others in found.items():
        rooms.setdefault(room(name), set()).update({room(other) for other in others} - {room(name)})
    for one in (found, rooms):
        try:
            TopologicalSorter(one).prepare()
        except CycleError as fault:
            pytest.fail(" -> ".join(fault.args[1]))


def test_imports_are_found_wherever_they_stand():
    code = ("from memseg_nb import metrics\nimport memseg_nb.model.memory as m\nimport torch\n"
            "def f():\n    from memseg_nb.data.images import x\n    from ..simulation.perlin import y\n"
            "class A:\n    from . import encoder\n    from .losses import z\n    from .. import recipe\n"
            "    b = importlib.import_module('memseg_nb.cli')\n")
    assert sorted(library_imports(code, "model")) == [
        "cli", "data.images", "metrics", "model.encoder", "model.losses", "model.memory", "recipe",
        "simulation.perlin"]
    assert list(library_imports("from .recipe import x\nfrom . import plots, __version__", "")) == [
        "recipe", "plots"]
