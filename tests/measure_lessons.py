"Runs every lesson and writes its measured run time into the box at its top: python tests/measure_lessons.py [NAME ...]"
import json
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


def measure(path):
    "Seconds that the notebook takes from top to bottom, the start of the kernel included"
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    return time.perf_counter() - start


def write(path, seconds):
    "Puts the time into the notebook's box; nothing else changes"
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and "**Run time**" in source:
            line = f"**Run time** {max(1, round(seconds))} s on 2 CPU cores, measured"
            source = re.sub(r"\*\*Run time\*\*:? ?(not measured yet|\d+ s on 2 CPU cores, measured)", line, source)
            cell["source"] = source.splitlines(keepends=True)
            break
    else:
        sys.exit(f"{path.name}: no box with **Run time**")
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    names = sys.argv[1:] or [p.stem for p in sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))]
    for name in names:
        path = ROOT / "nbs" / f"{name}.ipynb"
        seconds = measure(path)
        write(path, seconds)
        print(f"{name}: {seconds:.0f} s")
