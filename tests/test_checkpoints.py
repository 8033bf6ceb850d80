"Files that are whole or not there, that run nothing, and run folders that can't be mixed up."
import contextlib
import json
import os
import pickle
import re
import shutil
import signal
import stat
import struct
import time

import pytest
import torch
from safetensors.torch import save_file

from memseg_nb.deployment.detector import Detector
from memseg_nb.deployment.onnx import photos_of
from memseg_nb.evaluation.evaluate import evaluate
from memseg_nb.files import MemSegError, clean_up, digest, replacing
from memseg_nb.training.checkpoints import (MAY_CHANGE, Run, check_same, fingerprint, load_checkpoint,
                                            load_json,
                                            load_model, load_state, save_json, save_state)
from memseg_nb.training.train import train
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


def test_equal_tensors_are_equal_bytes(state):
    "... whatever the order of the names; 20 times, since an order that changes is right now and then"
    before = state.read_bytes()
    for _ in range(20):
        save_state(state, dict(reversed(TENSORS.items())), {"step": 7})
        assert state.read_bytes() == before


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_writer_leaves_nothing_that_stays(tmp_path):
    "Killed while it writes: what lies there then has a name that `clean_up` knows"
    tensors = {"a": torch.zeros(2**24)}
    child = os.fork()
    if not child:
        try:
            for _ in range(1000): save_state(tmp_path / "state", tensors, {})
        finally: os._exit(1)
    while not hidden_bytes(tmp_path): time.sleep(.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    clean_up(tmp_path)
    assert list(tmp_path.glob(".*")) == []


def hidden_bytes(folder):
    "Size of the hidden files in a folder, which may be renamed at any time"
    found = 0
    for path in folder.glob(".*"):
        with contextlib.suppress(FileNotFoundError): found += path.stat().st_size
    return found


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


def test_a_record_whose_values_have_changed_is_refused(tmp_path):
    "... also where each is right by itself: every digit, and every letter of a name"
    path = tmp_path/"run.json"
    save_json(path, {"threshold": .4142, "category": "hex_nut", "split": {1: ("a.png",)}})
    assert load_json(path) == {"threshold": .4142, "category": "hex_nut", "split": {"1": ["a.png"]}}
    whole = path.read_text()
    for text, other in (("4142", "1424"), ("4142", "4143"), ("hex_nut", "hex_nuu"), ("a.png", "b.png"),
                        ('"1"', '"2"')):
        path.write_text(whole.replace(text, other))
        with pytest.raises(MemSegError, match="run.json is damaged or was edited: .*copy it again"):
            load_json(path)
    seal = json.loads(whole)["sha256"]
    unsealed = whole.replace(f',\n  "sha256": "{seal}"', "")
    path.write_text(unsealed.replace(".4142", ".5"))  # an edit that is meant
    assert load_json(path)["threshold"] == .5


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
    with pytest.raises(MemSegError, match=r"run.json: status = done, but there is no model.safetensors"):
        again.finished
    run.model_file.touch()
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
    with pytest.raises(MemSegError, match="can't be made"):
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
        run.update(model_sha256=digest(run.model_file))
        with pytest.raises(MemSegError, match="doesn't fit its recipe.ini"):
            load_model(run)
    replace(run.model_file, b"{}" + bytes(100))
    with pytest.raises(MemSegError, match="damaged"):
        load_model(run)


# what is read back is checked

def flipped(data, place):
    "The bytes with one bit of one byte changed; `place` is a share of the length"
    k = int(place * len(data))
    return data[:k] + bytes([data[k] ^ 64]) + data[k + 1:]


def zeroed(data, size=10**6):
    "The bytes with zeros at the end"
    return data[:-size] + bytes(size)


@pytest.mark.parametrize("damage",
                         [lambda data: flipped(data, .3), lambda data: flipped(data, .9999), zeroed])
def test_a_damaged_model_is_refused_and_so_is_another_one(tiny_run, tmp_path, damage):
    run = copy_of(tiny_run, tmp_path / "run")
    replace(run.model_file, damage(tiny_run.model_file.read_bytes()))
    with pytest.raises(MemSegError, match="model.safetensors is not the file that the training wrote"):
        load_model(run)
    run.update(model_sha256=digest(run.model_file))
    with pytest.raises(MemSegError, match="model.safetensors is damaged: its SHA-256"):  # its own digest
        load_model(run)
    tensors, metadata = load_state(tiny_run.model_file)
    tensors["decoder.head.bias"] += 1  # whole, of the same settings, and of another run
    save_state(run.model_file, tensors, metadata)
    run.update(model_sha256=tiny_run.record["model_sha256"])
    with pytest.raises(MemSegError, match="of another run"):
        load_model(run)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tiny_run, tmp_path, value):
    run = copy_of(tiny_run, tmp_path / "run")
    tensors, metadata = load_state(run.model_file)
    tensors["encoder.layer4.0.conv1.weight"].view(-1)[7] = value
    save_state(run.model_file, tensors, metadata)
    run.update(model_sha256=digest(run.model_file))
    with pytest.raises(MemSegError, match="model.safetensors: .* not finite"):
        load_model(run)


def test_an_answer_that_is_not_finite_is_refused(tiny_run):
    model = load_model(tiny_run)
    model.decoder.head.bias.data[0] = 3e38
    model.decoder.head.weight.data.fill_(3e38)
    with pytest.raises(MemSegError, match="anomaly map has values that are not finite"):
        model.anomaly_map(torch.rand(1, 3, 64, 64))


def test_an_older_run_has_no_digest_and_loads_with_a_note(tiny_run, tmp_path, capsys):
    run, other = copy_of(tiny_run, tmp_path / "run"), tmp_path / "plain"
    tensors, metadata = load_state(run.model_file)
    save_file(tensors, other, {"memseg": json.dumps(metadata)})
    replace(run.model_file, other.read_bytes())
    save_json(run.record_file, {k: v for k, v in run.record.items() if k != "model_sha256"})
    load_model(run)
    assert capsys.readouterr().out.count("note: ") == 1
    load_model(tiny_run)
    assert capsys.readouterr().out == ""


ENTRIES = [("threshold", value)
           for value in (float("nan"), float("inf"), 2, -.1, True, None, "0.5", [.5])] + [
    ("pixel_threshold", 1.5), ("steps_done", 10**30), ("steps_done", 1.5), ("steps_done", "3"),
    ("seconds", -1),
    ("status", "finished"), ("status", None), ("format", 2), ("category", 7), ("data", None),
    ("notes", "none"),
    ("notes", [1]), ("weights", []), ("split", None), ("model_sha256", "0"), ("model_sha256", 5)]


@pytest.mark.parametrize("key, value", ENTRIES)
def test_a_wrong_entry_of_the_record_names_file_and_key(tiny_run, tmp_path, key, value):
    run = copy_of(tiny_run, tmp_path / "run")
    replace(run.record_file, json.dumps(run.record | {key: value}).encode())
    for use in (load_model, Detector.load, evaluate,
                lambda run: train(out=run.folder, resume=True, progress=False)):
        with pytest.raises(MemSegError, match=rf"run.json: {key} = .*: needs .*damaged or was edited"):
            use(run)


@pytest.mark.parametrize("key", ["threshold", "pixel_threshold", "category", "data", "split"])
def test_a_missing_entry_of_the_record_names_file_and_key(tiny_run, tmp_path, key):
    run = copy_of(tiny_run, tmp_path / "run")
    replace(run.record_file, json.dumps({k: v for k, v in run.record.items() if k != key}).encode())
    with pytest.raises(MemSegError, match=f"run.json: {key} is missing"):
        {"split": photos_of, "category": evaluate, "data": evaluate}.get(key, Detector.load)(run)


@pytest.mark.parametrize("key, value", [("memory", "a.png"), ("train", [1]), ("shared", 1), ("note", None)])
def test_a_wrong_split_names_file_and_key(tiny_run, tmp_path, key, value):
    run = copy_of(tiny_run, tmp_path / "run")
    changed = run.record | dict(split=run.record["split"] | {key: value})
    replace(run.record_file, json.dumps(changed).encode())
    with pytest.raises(MemSegError, match=f"run.json: split: {key} = "):
        load_model(run)


def test_done_without_a_model_is_said(tiny_run, tmp_path):
    run = copy_of(tiny_run, tmp_path / "run")
    run.model_file.unlink()
    for use in (load_model, lambda run: train(out=run.folder, resume=True, progress=False)):
        with pytest.raises(MemSegError, match="run.json: status = done, but there is no model.safetensors"):
            use(run)


@pytest.mark.parametrize("line", ["steps = 1e30", "steps = nan", "learning_rate = nan", "learning_rate = inf",
                                  "seed = -1", "workers = true", "steps ="])
def test_a_wrong_value_of_the_recipe_names_file_and_key(tiny_run, tmp_path, line):
    run = copy_of(tiny_run, tmp_path / "run")
    key, text = line.split(" =")[0], run.recipe_file.read_text()
    replace(run.recipe_file, re.sub(rf"(?m)^{key} = .*$", line, text).encode())
    with pytest.raises(MemSegError, match=rf"recipe.ini: \[training\] {key} = .*: needs "):
        load_model(run)


@pytest.mark.parametrize("key, value", [("step", 10**30), ("step", "3"), ("step", None), ("step", -1),
                                        ("seconds", True), ("seconds", []), ("scaler", None), ("step", ...)])
def test_a_wrong_entry_of_a_checkpoint_names_file_and_key(tmp_path, tiny_recipe, key, value):
    run = Run.create(tmp_path / "run", tiny_recipe)
    metadata = dict(kind="checkpoint", recipe=fingerprint(tiny_recipe), step=1, seconds=1., scaler={})
    metadata = {k: v for k, v in (metadata | {key: value}).items() if v is not ...}
    save_state(run.checkpoint_file, TENSORS, metadata)
    with pytest.raises(MemSegError, match=f"checkpoint.safetensors: {key} "):
        load_checkpoint(run, None)


def test_numbers_of_a_checkpoint_are_finite_and_whole(tmp_path, tiny_recipe):
    run = Run.create(tmp_path / "run", tiny_recipe)
    metadata = dict(kind="checkpoint", recipe=fingerprint(tiny_recipe), step=1, seconds=1., scaler={})
    save_state(run.checkpoint_file, dict(a=torch.tensor([1., torch.nan])), metadata)
    with pytest.raises(MemSegError, match="checkpoint.safetensors: a has values that are not finite"):
        load_checkpoint(run, None)
    save_state(run.checkpoint_file, TENSORS, metadata)
    whole = run.checkpoint_file.read_bytes()
    for place in .9, .99:
        run.checkpoint_file.write_bytes(flipped(whole, place))
        with pytest.raises(MemSegError, match="is damaged"):
            load_checkpoint(run, None)


def test_the_record_is_plain_json(tiny_run):
    record = json.loads(tiny_run.record_file.read_text())
    assert record["status"] == "done" and record["steps_done"] == 3 and record["weights"]["used"] == "random"
    assert {"category", "data", "versions", "split", "threshold", "pixel_threshold", "device"} < record.keys()


def test_a_notebook_shows_what_a_run_is(tiny_run, tmp_path):
    shown = tiny_run._repr_html_()
    assert repr(tiny_run) == f"Run({str(tiny_run.folder)!r})"
    assert "<td>hex_nut</td>" in shown and "<td>done</td>" in shown and "AUROC" not in shown
    assert f"<td>{tiny_run.record['threshold']:.3f}</td>" in shown
    run = Run(tmp_path / "<b>")
    assert "&lt;b&gt;" in run._repr_html_() and "<b>" not in run._repr_html_(), "nothing there yet"
    shutil.copytree(tiny_run.folder, run.folder)
    run.metrics_file.write_text('{"image_auroc": 0.91234}')
    assert "<td>image AUROC</td><td>0.912</td>" in run._repr_html_()
    run.record_file.write_text("{")
    assert "damaged" in run._repr_html_(), "words, no error"
