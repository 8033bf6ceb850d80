"""Runs every lesson and writes its measured run time and memory into the box at its top

    python tests/measure_lessons.py [simulation/01_perlin ...]
"""
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
BOX = re.compile(r"\*\*Run time\*\*:? ?(?:not measured yet|(\d+) s(?: and (\d+\.\d) GB of memory)? on 2 CPU "
                 r"cores, measured)")
PEAK = """
import pathlib, re, resource, sys
try: peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024  # Linux
except (OSError, TypeError): peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print("peak", peak)
"""


class Cost(NamedTuple):
    "What a run of a notebook took"
    seconds: float    # from top to bottom, the start of the kernel included
    gigabytes: float  # the kernel's peak memory, 10^9 bytes


def run(path, timeout=600):
    "Execute a notebook from top to bottom in a kernel of its own; nothing is saved"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(PEAK))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(
        ignore_cleanup_errors=True
    ) as temporary:  # a kernel leaves its own behind
        NotebookClient(notebook, timeout=timeout, startup_timeout=300, kernel_name="python3",
                       resources={"metadata": {"path": str(path.parent)}},
                       ).execute(env=os.environ | {"TMPDIR": temporary})
    seconds = time.perf_counter() - start
    told = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
    return Cost(seconds, int(re.search(r"peak (\d+)", told)[1]) / 1e9)


def read(path):
    "The cost that stands in the box; None where it lacks one"
    prose = "\n".join("".join(c["source"]) for c in json.loads(path.read_text())["cells"]
                      if c["cell_type"] == "markdown")
    found = BOX.search(prose)
    return Cost(float(found[1]), float(found[2])) if found and found[2] else None


def write(path, cost):
    "Puts the cost into the notebook's box; nothing else changes"
    notebook = json.loads(path.read_text())
    line = (f"**Run time** {max(1, round(cost.seconds))} s and {cost.gigabytes:.1f} GB of memory on 2 CPU "
            "cores, measured")
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and BOX.search(source):
            cell["source"] = BOX.sub(line, source, count=1).splitlines(keepends=True)
            break
    else:
        sys.exit(f"{path.name}: no box with **Run time**")
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    from lesson_contract import course
    for name in sys.argv[1:] or course():
        path = ROOT / "nbs" / f"{name}.ipynb"
        cost = run(path)
        write(path, cost)
        print(f"{name}: {cost.seconds:.0f} s, {cost.gigabytes:.1f} GB", flush=True)
