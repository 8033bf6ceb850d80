"A class without a network: one command sets up a student's machine; and the files for mybinder.org"
import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
START = ROOT / "docs" / "class" / "start.py"


def wheelhouse(folder):
    "start.py beside a wheel that stands for the package: it has the extra `lab`, and `memseg course copy`"
    (folder / "wheels").mkdir(parents=True)
    info = "memseg_nb-1.0.dist-info"
    files = {
        "stand_in.py": "import pathlib, sys\n\ndef main():\n    assert sys.argv[1:3] == ['course', 'copy']\n"
                       "    nbs = pathlib.Path(sys.argv[3]) / 'nbs'\n    nbs.mkdir(parents=True)\n"
                       "    (nbs / '00_overview.ipynb').write_text('as it came')\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: memseg-nb\nVersion: 1.0\nProvides-Extra: lab\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nmemseg = stand_in:main\n"}
    def line(name, text):
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        return f"{name},sha256={digest},{len(text.encode())}\n"
    files[f"{info}/RECORD"] = "".join(line(*one) for one in files.items()) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / "wheels" / "memseg_nb-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items(): wheel.writestr(name, text)
    (folder / "start.py").write_text(START.read_text())
    return folder / "start.py"


def start(script, folder):
    return subprocess.run(
        [sys.executable, script, "--to", folder, "--no-lab"], capture_output=True, text=True
    )


@pytest.mark.full
def test_one_command_sets_up_a_machine_and_a_second_call_keeps_the_answers(tmp_path):
    script, student = wheelhouse(tmp_path / "a stick"), tmp_path / "a student"
    first = start(script, student)
    assert first.returncode == 0 and "once" in first.stdout, first.stderr
    overview = student / "course" / "nbs" / "00_overview.ipynb"
    assert overview.read_text() == "as it came"
    overview.write_text("my answers")
    again = start(script, student)
    assert again.returncode == 0 and again.stdout == "" and overview.read_text() == "my answers"


def test_without_wheels_nothing_is_made_and_the_message_says_what_to_do(tmp_path):
    (tmp_path / "start.py").write_text(START.read_text())
    told = start(tmp_path / "start.py", tmp_path / "student")
    assert told.returncode and "make class" in told.stderr and not (tmp_path / "student").exists()


def test_the_makefile_fills_the_folder_that_the_script_reads():
    rule = (ROOT / "Makefile").read_text().split("\nclass:")[1].split("\n\n")[0]
    assert "--wheel-dir class/wheels '.[lab]'" in rule and "cp docs/class/start.py class/" in rule
    assert "`make TORCH=cpu class`" in (ROOT / "nbs" / "guides" / "lecturers.md").read_text()


def test_mybinder_installs_what_the_lessons_need_and_opens_the_first_one():
    lines = [
        line for line in (ROOT / ".binder" / "requirements.txt").read_text().splitlines() if line[0] != "#"
    ]
    assert ".[lab]" in lines  # pip reads it in the folder of the repository
    constraint = next(line.split()[1] for line in lines if line.startswith("--constraint"))
    assert (ROOT / ".binder" / constraint).resolve() == ROOT / "constraints.txt"
    version = re.fullmatch(r"python-3\.(\d+)\s*", (ROOT / ".binder" / "runtime.txt").read_text())
    assert int(version[1]) >= 11
    badge = re.search(r"https://mybinder\.org/v2/gh/([\w-]+/[\w-]+)/HEAD\?labpath=([^)\s]+)",
                      (ROOT / "README.md").read_text())
    assert f'Repository = "https://github.com/{badge[1]}"' in (ROOT / "pyproject.toml").read_text()
    assert (ROOT / badge[2].replace("%2F", "/")).is_file()
