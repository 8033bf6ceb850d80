"""Sets up the course on a student's machine, without a network, and opens it

    python3 start.py               asks for nothing; a second call opens the same course again
    python3 start.py --to FOLDER   elsewhere than in `memseg-course` in the home folder

`make class` puts this file beside the folder `wheels`, which holds the package and all that it needs.
"""
import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

WHEELS = Path(__file__).resolve().parent / "wheels"
OLDEST = (3, 11)  # Python


def run(*command):
    "Run a program; stop with its error if it fails"
    if code := subprocess.run([str(word) for word in command]).returncode: sys.exit(code)


def set_up(
    folder: Path,  # of the student; its parts are made unless they are there
) -> Path:         # of the programs: python, memseg, jupyter
    "Install the package into a virtual environment, and copy the course beside it"
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    ready = folder / "venv" / "ready"
    if not ready.exists():
        if not any(WHEELS.glob("memseg_nb-*.whl")):
            sys.exit(
                f"{WHEELS}: holds no memseg_nb wheel; fill it with `make class`, on a machine with a network"
            )
        print(f"setting up {folder}: some minutes, once")
        venv.create(folder / "venv", with_pip=True, clear=True)
        run(
            programs / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-index",
            "--find-links",
            WHEELS,
            "memseg-nb[lab]",
        )
        ready.touch()
    if not (folder / "course").exists():  # answers of a student stay
        run(programs / "memseg", "course", "copy", folder / "course")
    return programs


def main():
    parser = argparse.ArgumentParser(description="Set up the MemSeg course without a network, and open it")
    parser.add_argument(
        "--to", type=Path, default=Path.home() / "memseg-course", help="folder of the student"
    )
    parser.add_argument("--no-lab", action="store_true", help="set up only, and don't open JupyterLab")
    given = parser.parse_args()
    if sys.version_info < OLDEST:
        sys.exit(f"Python {sys.version.split()[0]}: needs {'.'.join(map(str, OLDEST))} or newer")
    programs = set_up(given.to.resolve())
    if not given.no_lab:
        run(programs / "jupyter", "lab", "--notebook-dir", given.to / "course", "nbs/00_overview.ipynb")


if __name__ == "__main__": main()
