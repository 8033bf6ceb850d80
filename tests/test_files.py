"Files: whole or not there, errors that say what to do, folders, digests."
import csv
import hashlib
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from memseg_nb.files import (WRITTEN, MemSegError, claim, clean_up, digest, guarded, locked, make_folder,
                             plain, read_csv, replacing, whole_file, write_csv)


def test_a_file_is_whole_or_not_there(tmp_path):
    "Whatever ends the block, the old file stays and nothing lies beside it"
    path = tmp_path/"note"
    path.write_text("old")
    for reason in OSError("the disk is full"), KeyboardInterrupt(), ValueError():
        with pytest.raises(type(reason)):
            with whole_file(path) as part:
                part.write_text("half")
                raise reason
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with whole_file(str(path)) as part:
        part.write_text("new")
        assert path.read_text() == "old" and part.parent == tmp_path and part.name.startswith(".")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_two_threads_that_write_one_file_dont_mix(tmp_path):
    path, both = tmp_path/"note", threading.Barrier(2, timeout=10)

    def write_slowly(letter):
        with whole_file(path) as part, part.open("w") as file:
            file.write(letter)
            both.wait()
            file.write(letter)
    with ThreadPoolExecutor(2) as pool: list(pool.map(write_slowly, "ab"))
    assert path.read_text() in ("aa", "bb") and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_and_the_old_file_stays(tmp_path):
    path = tmp_path / "note"
    path.write_text("old")
    with pytest.raises(MemSegError, match="note: can't be written .No space left.*make room"):
        with replacing(path) as part:
            part.write_text("half")
            raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("sync", [True, False])
def test_the_bytes_are_on_the_disk_before_the_name_changes(tmp_path, monkeypatch, sync):
    done, replace, fsync = [], os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda *names: done.append("renamed") or replace(*names))
    monkeypatch.setattr(os, "fsync", lambda file: done.append(
        "folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "synced") or fsync(file))
    with replacing(tmp_path / "note", sync=sync) as part: part.write_text("new")
    assert done == (["synced", "renamed", "folder"] if sync
                    else ["renamed"]) and (tmp_path / "note").read_text() == "new"


def test_a_folder_is_made_with_those_above_it(tmp_path):
    assert make_folder(str(tmp_path / "a" / "b")).is_dir() and make_folder(tmp_path).is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(MemSegError, match="file'?: can't be made .*choose another"):
        make_folder(tmp_path / "file")


def test_the_digest_is_that_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * 5000)
    assert digest(tmp_path / "file") == hashlib.sha256(bytes(range(256)) * 5000).hexdigest()


def test_importing_the_library_changes_no_umask_and_one_set_later_counts(tmp_path):
    import torch

    from memseg_nb.training.checkpoints import save_state
    before = os.umask(0o027)
    try:
        save_state(tmp_path / "state", {"a": torch.zeros(2)}, {})
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o640
    finally:
        assert os.umask(before) == 0o027


# locks

HOLD = """
import sys, time
from memseg_nb.files import locked
with locked(sys.argv[1]):
    open(sys.argv[1] + "/result", "w").close()
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    "Another process that holds the lock of `tmp_path`"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_folder_in_use_is_refused_and_a_killed_holder_lets_go(tmp_path, holder):
    with pytest.raises(MemSegError, match=rf"in use by process {holder.pid} on .* since \d\d\d\d-\d\d-\d\d"):
        with locked(tmp_path):
            pytest.fail("two at a time")
    holder.kill()
    holder.wait()
    assert (tmp_path/".lock").exists()
    with locked(tmp_path):
        assert f"process {os.getpid()}" in (tmp_path/".lock").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_one_process_locks_a_folder_once_and_again_later(tmp_path):
    for _ in range(2):
        with locked(tmp_path/"."), pytest.raises(MemSegError, match=f"in use by process {os.getpid()}"):
            with locked(tmp_path):
                pytest.fail("two at a time")
        tmp_path.mkdir()  # nothing was written to it, so it is gone
    with pytest.raises(FileNotFoundError), locked(tmp_path):
        (tmp_path/"a").touch()
        open(tmp_path/"missing")


@pytest.mark.parametrize("begin", [clean_up, lambda out: claim(out, ["table.csv"])],
                         ids=["clean_up", "claim"])
def test_only_what_the_dead_have_left_is_removed(tmp_path, holder, begin):
    holder.kill()
    holder.wait()
    for process in holder.pid, os.getpid():
        (tmp_path/f".model.safetensors.{process}.1.part").write_text("half")
        (tmp_path/f".hex_nut.{process}.ab_1.part"/"train").mkdir(parents=True)
    for name in ("own.part", ".part", ".a.part", ".notes.x.1.part", "thesis.1.2.part"):
        (tmp_path/name).touch()
    before = {path.name for path in tmp_path.iterdir()}
    begin(tmp_path)
    gone = before - {path.name for path in tmp_path.iterdir()}
    assert gone == {f".model.safetensors.{holder.pid}.1.part", f".hex_nut.{holder.pid}.ab_1.part"}


def test_a_folder_of_results_may_hold_files_of_the_user(tmp_path):
    "What is in the way is named and left alone, whatever it is; what was listed may be replaced"
    out = tmp_path/"out"
    assert claim(out, ["a", "b"]) == out and list(out.iterdir()) == [out/WRITTEN]
    (out/"a").write_text("ours")
    claim(out, ["a", "c"])
    (out/"d").mkdir()
    (out/"e").symlink_to("nowhere")
    (out/"f").write_text("the user's own")
    before = (out/WRITTEN).read_bytes()
    for name in "def":
        with pytest.raises(MemSegError, match=f"out/{name}: is in the way"):
            claim(out, ["a", "new", name])
    assert (out/WRITTEN).read_bytes() == before and (out/"f").read_text() == "the user's own"
    (out/WRITTEN).write_text("[damaged")
    with pytest.raises(MemSegError, match="out/a: is in the way"):
        claim(out, ["a"])


@pytest.mark.parametrize("text", ["=1+2", "+x", "-x.png", "@SUM(A1)", "\tx", "\rx", "\n=x", "'=x",
                                  "''-", "='"])
def test_no_spreadsheet_runs_a_cell(text):
    assert guarded(text)[0] == "'" and plain(guarded(text)) == text


@pytest.mark.parametrize("cell", ["", "a=b", "'quoted'", "-0.5", "+1e3", "1", -3, -.5, True, None, "\u00e9-"])
def test_other_cells_stay_as_they_are(cell):
    assert guarded(cell) is cell and (not isinstance(cell, str) or plain(cell) == cell)


def test_a_table_comes_back_as_texts(tmp_path):
    "Formulas too, commas and line breaks, names that are no UTF-8; read by the standard library as well"
    path, rows = tmp_path/"table.csv", [("=1+2.png", .5, None), ("a, \"b\"\nc", True, -1), ("", "", "-x")]
    write_csv(path, ("file", "score", "note"), rows)
    told = [["" if cell is None else str(cell) for cell in row] for row in rows]
    assert [list(row.values()) for row in read_csv(path, ("file", "note"))] == told
    with path.open(newline="") as file: raw = list(csv.reader(file))
    assert raw[0] == ["file", "score", "note"] and [row[0][:1] for row in raw[1:]] == ["'", "a", ""]
    write_csv(path, ["file"], [["\udce9.png"]])
    assert read_csv(path) == [{"file": "\\udce9.png"}]


def test_a_table_that_fails_leaves_the_old_one(tmp_path):
    write_csv(path := tmp_path/"table.csv", ["a"], [["1"]])
    with pytest.raises(ZeroDivisionError): write_csv(path, ["a"], ([1/0] for _ in "x"))
    assert read_csv(path) == [{"a": "1"}] and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content, words", [
    (None, "can't be read .*needs the table"), (b"a\n\xff\n", "can't be read"),
    (b"b\n1\n", "has no column a: needs the table")])
def test_what_is_no_table_is_named(tmp_path, content, words):
    path = tmp_path/"table.csv"
    if content is not None: path.write_bytes(content)
    with pytest.raises(MemSegError, match=f"table.csv: {words}"): read_csv(path, ["a"])
