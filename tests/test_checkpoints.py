"Files that are whole or not there, that run nothing, and run folders that can't be mixed up."
import json
import os
import pickle
import stat
import struct

import pytest
import torch
from safetensors.torch import save_file

from memseg_nb.files import replacing
from memseg_nb.training.checkpoints import (MAY_CHANGE, Run, check_same, fingerprint, load_json,
                                            load_model, load_state, save_json, save_state)
from memseg_nb.files import MemSegError
from memseg_nb.recipe import flatten, load_recipe

TENSORS = {"matrix": torch.arange(6.).view(2, 3), "number": torch.tensor(3),
           "mask": torch.tensor([True, False]),
           "half": torch.tensor([.5], dtype=torch.bfloat16), "empty": torch.empty(0, 4),
           "turned": torch.arange(6.).view(2, 3).T,
           "maps": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)}


@pytest.fixture
def state(tmp_path):
    save_state(tmp_path / "state", TENSORS, {"step": 7})
    return tmp_path / "state"


def test_a_round_trip_keeps_every_bit(state):
    tensors, metadata = load_state(state)
    assert metadata == {"step": 7} and tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], value) and tensors[name].dtype == value.dtype
               for name, value in TENSORS.items())


def test_others_may_read_what_the_umask_allows(tmp_path, state):
    (tmp_path / "plain").write_text("")
    assert stat.S_IMODE(state.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(state, monkeypatch):
    before = state.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(MemSegError, match="no space left.*make room"):
        save_state(state, TENSORS, {"step": 8})
    assert state.read_bytes() == before and [path.name for path in state.parent.iterdir()] == ["state"]


def test_an_interrupted_write_leaves_the_old_file(state):
    with pytest.raises(KeyboardInterrupt):
        with replacing(state) as part:
            part.write_bytes(b"half")
            raise KeyboardInterrupt
    assert load_state(state)[1] == {"step": 7} and len(list(state.parent.iterdir())) == 1


def test_an_output_that_cannot_be_written_is_said(tmp_path):
    for save in (lambda path: save_state(path, TENSORS, {}), lambda path: save_json(path, {})):
        with pytest.raises(MemSegError, match="nowhere.*can't be written"):
            save(tmp_path / "nowhere" / "file")


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_a_cut_off_file_is_refused(state, keep):
    state.write_bytes(state.read_bytes()[:keep])
    with pytest.raises(MemSegError, match="cut off, damaged"):
        load_state(state)


class Evil:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [pickle.dump, lambda what, file: torch.save({"weights": what}, file)],
                         ids=["pickle", "torch.save"])
def test_a_pickle_is_refused_and_not_run(tmp_path, write):
    with open(tmp_path / "state", "wb") as file:
        write(Evil(tmp_path / "owned"), file)
    with pytest.raises(MemSegError, match="not a safetensors file"):
        load_state(tmp_path / "state")
    assert not (tmp_path / "owned").exists()


def test_a_hostile_header_is_refused(tmp_path, state):
    body = state.read_bytes()[8:]
    for head in (struct.pack("<Q", 2**63) + body, struct.pack("<Q", 10**6) + b"[" * 10**6,
                 struct.pack("<Q", 2) + b"{}" + body):
        (tmp_path / "bad").write_bytes(head)
        with pytest.raises(MemSegError):
            load_state(tmp_path / "bad")


@pytest.mark.parametrize("metadata", [None, {}, {"memseg": "{"}, {"memseg": "[1]"}, {"memseg": "[" * 10**5}])
def test_metadata_that_is_not_ours_is_refused(tmp_path, metadata):
    save_file({"a": torch.zeros(1)}, tmp_path / "state", metadata)
    with pytest.raises(MemSegError):
        load_state(tmp_path / "state")


def test_no_file_and_a_folder_are_said(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(MemSegError, match="no file"):
            load_state(path)


def test_metadata_without_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError):
        save_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 10**5, "\udcff"])
def test_a_record_that_is_damaged_is_said(tmp_path, text):
    (tmp_path / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(MemSegError, match="run.json"):
        load_json(tmp_path / "run.json")


def test_the_fingerprint_is_of_all_that_decides_the_weights():
    recipe = load_recipe()
    assert set(MAY_CHANGE) < set(flatten(recipe))
    other = recipe.replace(**{"training.device": "cpu", "training.workers": 3, "training.minutes": 2,
                              "data.root": "x"})
    assert fingerprint(other) == fingerprint(recipe) == fingerprint(load_recipe())
    for name, value in {"training.seed": 1, "image.height": 64, "data.textures": "dtd",
                        "memory_samples.cup": 3}.items():
        assert fingerprint(recipe.replace(**{name: value})) != fingerprint(recipe), name


# runs

def test_a_new_run_holds_its_recipe_and_record(tmp_path, tiny_recipe):
    run = Run.create(tmp_path / "a run, with spaces", tiny_recipe, category="nut")
    again = Run.open(str(run.folder))
    assert again.recipe == tiny_recipe and again.record["category"] == "nut" and not again.finished
    run.update(status="done", threshold=.5)
    assert again.finished and again.record["category"] == "nut" and again.record["threshold"] == .5


def test_an_empty_folder_may_be_used_and_another_not(tmp_path, tiny_recipe):
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty", tiny_recipe)
    with pytest.raises(MemSegError, match="already holds a run.*--resume"):
        Run.create(tmp_path / "empty", tiny_recipe)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("years of work")
    with pytest.raises(MemSegError, match="not empty.*thesis.tex.*--out"):
        Run.create(tmp_path / "used", tiny_recipe)


def test_a_folder_that_cannot_be_made_is_said(tmp_path, tiny_recipe):
    (tmp_path / "file").write_text("")
    with pytest.raises(MemSegError, match="can't make the run folder"):
        Run.create(tmp_path / "file" / "run", tiny_recipe)


def test_what_is_no_run_cannot_be_opened(tmp_path, tiny_recipe):
    with pytest.raises(MemSegError, match="no run folder"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(MemSegError, match="neither recipe.ini nor run.json"):
        Run.open(tmp_path)
    run = Run.create(tmp_path / "run", tiny_recipe)
    run.recipe_file.unlink()
    with pytest.raises(MemSegError, match="half-written.*without recipe.ini"):
        Run.open(run)
    run.recipe_file.write_text("[training]\nsteps = many\n")
    with pytest.raises(MemSegError, match="steps"):
        Run.open(run)


def test_a_discarded_run_leaves_nothing(tmp_path, tiny_recipe):
    Run.create(tmp_path / "run", tiny_recipe).discard()
    assert not (tmp_path / "run").exists()


def test_other_settings_are_listed(tmp_path, tiny_recipe):
    run = Run.create(tmp_path / "run", tiny_recipe)
    check_same(run, tiny_recipe.replace(**{"training.workers": 2, "data.root": "moved"}))
    with pytest.raises(MemSegError,
                       match=r"training.seed: 3 here, 0 there; image.height|image.height.*training.seed: 3"):
        check_same(run, tiny_recipe.replace(**{"training.seed": 3, "image.height": 96}))
    with pytest.raises(MemSegError, match="training.minutes: 1.0 here, 0.0 there"):  # from steps to the clock
        check_same(run, tiny_recipe.replace(**{"training.minutes": 1}))


def test_minutes_may_change_where_the_clock_decides(tmp_path, tiny_recipe):
    timed = tiny_recipe.replace(**{"training.minutes": 1})
    check_same(Run.create(tmp_path / "run", timed), timed.replace(**{"training.minutes": 2}))


def test_a_finished_run_can_be_loaded(tiny_run):
    model = load_model(tiny_run)
    assert not model.training and len(model.memory.layer1) == 3
    assert model.anomaly_map(torch.rand(1, 3, 64, 64)).isfinite().all()


def copy_of(run, folder):
    "A run folder with links to the files of another"
    folder.mkdir()
    for path in run.folder.iterdir():
        if path.is_file():
            os.link(path, folder / path.name)
    return Run(folder)


def replace(path, data):
    path.unlink()  # a link to a file of another run
    path.write_bytes(data)


def test_a_run_that_is_not_done_is_not_used(tiny_run, tmp_path):
    run = copy_of(tiny_run, tmp_path / "run")
    run.update(status="interrupted")
    with pytest.raises(MemSegError, match="interrupted, 3 steps done.*--resume"):
        load_model(run)


def test_weights_of_other_settings_are_refused(tiny_run, tmp_path):
    run = copy_of(tiny_run, tmp_path / "run")
    run.recipe.replace(**{"loss.l1": .5}).save(run.recipe_file)
    with pytest.raises(MemSegError, match="other settings"):
        load_model(run)


def test_weights_of_another_network_are_refused(tiny_run, tmp_path):
    run = copy_of(tiny_run, tmp_path / "run")
    tensors, metadata = load_state(run.model_file)
    for change in ({"decoder.head.bias": torch.zeros(3)}, {"surprise": torch.zeros(1)}):
        save_state(run.model_file, tensors | change, metadata)
        with pytest.raises(MemSegError, match="doesn't fit its recipe.ini"):
            load_model(run)
    replace(run.model_file, b"{}" + bytes(100))
    with pytest.raises(MemSegError, match="damaged"):
        load_model(run)


def test_the_record_is_plain_json(tiny_run):
    record = json.loads(tiny_run.record_file.read_text())
    assert record["status"] == "done" and record["steps_done"] == 3 and record["weights"]["used"] == "random"
    assert {"category", "data", "versions", "split", "threshold", "pixel_threshold", "device"} < record.keys()
