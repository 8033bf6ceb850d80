"""Which code the saved outputs of the notebooks come from.

A notebook holds its outputs, and the pages show them. Nothing in a notebook says whether they were made by the
code above them, so this is kept in `nbs/results/outputs.json`: notebook -> digest of its code at its last run. The
pages aren't built when a notebook's code has another digest, or none. The record has one line a notebook, and
git joins the lines of two branches (`.gitattributes`): where a notebook has two digests, either may be the one.

    python docs/stamp.py                   says whose outputs are older than their code; exit code 1 if there are any
    python docs/stamp.py --run NAME ...    runs these notebooks (--run alone: all that need it), keeps their outputs
    python docs/stamp.py --trust NAME ...  notes the code without a run: for those that you have just run otherwise

What counts is what the code does: comments, blank lines and line breaks may change, and so may the prose. A change
in another module doesn't make a notebook's outputs old: the tests run every notebook with its assertions, and those
hold the numbers in the prose.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "nbs"
RECORD = NOTEBOOKS / "results" / "outputs.json"


def digest(
    path: Path,  # a notebook
) -> str:  # 16 hexadecimal digits
    "Of its code, whatever the layout"
    cells = json.loads(path.read_text())["cells"]
    codes = [_meaning("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    return hashlib.sha256("\n".join(code for code in codes if code).encode()).hexdigest()[:16]


def _meaning(code: str) -> str:
    "The syntax tree as text; code for the shell or IPython as it stands"
    magic = re.findall(r"^\s*[!%].*$", code, flags=re.MULTILINE)
    try:
        tree = ast.parse(re.sub(r"^(\s*)[!%].*$", r"\1pass", code, flags=re.MULTILINE))
    except SyntaxError:
        return code
    return "\n".join([ast.unparse(tree), *magic]).strip()


def everywhere() -> list[Path]:
    "All notebooks, in every room"
    left_out = {".ipynb_checkpoints", "_proc"}
    return [path for path in sorted(NOTEBOOKS.rglob("*.ipynb")) if not left_out & set(path.parts)]


def notebooks() -> list[Path]:
    "All that have code"
    return [path for path in everywhere() if '"code"' in path.read_text()]


def name_of(path: Path) -> str:
    "01_recipe, or simulation/04_anomalies"
    return path.relative_to(NOTEBOOKS).with_suffix("").as_posix()


def record() -> dict[str, set[str]]:
    "Notebook -> digests of the code at its last run; more than one after two branches were joined"
    known: dict[str, set[str]] = {}
    text = RECORD.read_text() if RECORD.exists() else ""
    for name, value in re.findall(r'"([^"]+)": "(\w+)"', text):
        known.setdefault(name, set()).add(value)
    return known


def stale() -> list[str]:
    "Names of the notebooks whose outputs are older than their code"
    known = record()
    paths = {name_of(path): path for path in notebooks()}
    return [name for name, path in paths.items() if digest(path) not in known.get(name, ())]


def note(names: list[str]) -> None:
    "Write down the code of these notebooks; forget notebooks that are gone"
    paths = {name_of(path): path for path in notebooks()}
    if empty := [name for name in names if '"output_type"' not in paths[name].read_text()]:
        raise SystemExit(
            f"{', '.join(empty)}: no outputs at all: python docs/stamp.py --run {' '.join(empty)}"
        )
    known = {name: values for name, values in record().items() if name in paths}
    known |= {name: {digest(paths[name])} for name in names}
    lines = [f'"{name}": "{value}"' for name in sorted(known) for value in sorted(known[name])]
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def run(name: str) -> None:
    "Run a notebook from top to bottom, save its outputs, clean it as nbdev does"
    import nbformat
    from nbclient import NotebookClient
    from nbdev.clean import nbdev_clean

    sys.path.insert(0, str(ROOT / "tests"))
    from strip_views import strip

    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(
        ignore_cleanup_errors=True
    ) as temporary:  # a kernel leaves its own behind
        NotebookClient(
            notebook, timeout=600, startup_timeout=300, kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}}
        ).execute(env=os.environ | {"TMPDIR": temporary})
    nbformat.write(notebook, path)
    nbdev_clean(fname=str(path))
    strip(path)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", nargs="*", metavar="NAME")
    parser.add_argument("--trust", nargs="+", metavar="NAME")
    options = parser.parse_args()
    names = [name_of(path) for path in notebooks()]
    asked = [
        name.removesuffix(".ipynb").removeprefix("nbs/")
        for name in [*(options.run or []), *(options.trust or [])]
    ]
    if wrong := [name for name in asked if name not in [*names, "all"]]:
        raise SystemExit(f"{', '.join(wrong)}: no such notebook in nbs/")
    asked = names if "all" in asked else asked
    if options.run is not None:
        for name in asked or stale():
            print(f"running {name}", flush=True)
            run(name)
            note([name])
    elif options.trust:
        note(asked)
    left = stale()
    for name in left:
        print(f"nbs/{name}.ipynb: its outputs are older than its code, or nobody noted its run")
    if left:
        print(f"run them: python docs/stamp.py --run {' '.join(left)}")
    return int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
