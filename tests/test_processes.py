"Two processes train one network: on the same images they find what one would have found, and either may fail"
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY

from memseg_nb.training.checkpoints import Run, load_state, read_losses
from memseg_nb.training.processes import Lost, Team, average, connected, join, team_of
from memseg_nb.data.images import ImageSet, open_category
from memseg_nb.files import MemSegError
from memseg_nb.training.steps import Batch, StepData, learning_rate, new_trainer, split, train_step
from memseg_nb.training.train import fresh_model, make_simulator, train

ROOT = Path(__file__).parents[1]

COMMON = """
import hashlib, json, os, signal, sys
from pathlib import Path
import torch
from torch import nn
from memseg_nb.training import train as training
from memseg_nb.training.processes import average, join, together
from memseg_nb.files import MemSegError
from memseg_nb.recipe import load_recipe
rank, (data, out, *overrides) = int(os.environ["RANK"]), sys.argv[1:]
recipe, out = load_recipe(overrides=overrides), Path(out)

def run(name, recipe, callback=None):
    "How it ended, in one word or by its message"
    try:
        training.train(data, "hex_nut", out / name, recipe, progress=False, callback=callback)
        return "done"
    except SystemExit: return "silent"
    except (KeyboardInterrupt, MemSegError) as error: return str(error)
"""

MANY = (
    COMMON
    + """
found, seen = {}, []
warm = recipe.replace(**{"encoder.weights": "formulas", "training.warm_start": "auto", "training.norms": "frozen"})

def weights(model):
    "A hash of all bits that are trained"
    code = hashlib.sha256()
    for value in model.parameters(): code.update(value.detach().contiguous().numpy().tobytes())
    return code.hexdigest()

found["whole"] = run("whole", warm, lambda step, losses, model: seen.append(weights(model)))
found["digests"], seen = seen, []
found["learning"] = run("learning", recipe, lambda step, losses, model: seen.append(weights(model)))
found["learning digests"] = seen

def press(step, losses, model):
    if (rank, step) == (1, 1): os.kill(os.getpid(), signal.SIGINT)
found["stopped"] = run("stopped", recipe, press)
found["uneven"] = run("uneven", recipe.replace(**{"training.good": 3}))
seen = []
found["timed"] = run("timed", recipe.replace(**{"training.minutes": .05}), lambda step, *_: seen.append(step))
found["steps"] = seen

with join() as team:
    found["average"] = average(torch.tensor([1. + rank, 4.])).tolist()
    found["told"] = team.tell(lambda: f"by {rank}")
    found["decided"] = team.decide(.25 * (rank + 1), rank == 1)
    net = nn.Sequential(nn.BatchNorm2d(3))
    together(net, net.forward, frozen=False)(torch.full((2, 3, 4, 4), float(rank))).sum().backward()
    found["norm"] = [type(net[0]).__name__, net[0].running_mean.tolist()]  # on CPUs each has its own
(out / f"rank{rank}.json").write_text(json.dumps(found))
"""
)

FAIL = COMMON + """
from memseg_nb.cli import main
real = training.train_step
def step(state, *rest):
    if rank == 1 and state.step == 1:
        if (out / "die").exists(): os._exit(9)
        raise MemSegError("the second process has a stone in its shoe")
    return real(state, *rest)
training.train_step = step
words = [word for setting in overrides for word in ("--set", setting)]
main(["train", "--data", data, "--category", "hex_nut", "--out", str(out / "run"), *words])
"""


def launch(folder, script, data, out, settings=()):
    "Two processes by PyTorch's launcher"
    (folder / "script.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               str(folder / "script.py"), str(data), str(out), *TINY, *settings]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def both(tiny_data, tmp_path_factory):
    "Several trainings by two processes: their folder, and what each process saw"
    folder = tmp_path_factory.mktemp("both")
    done = launch(folder, MANY, tiny_data, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def shares(tiny_data, recipe, size):
    "The data of each process, and the memory's images"
    category = open_category(tiny_data)
    parts = split(category.train, recipe.memory.samples, recipe.training.held_back, recipe.training.seed)
    images, simulator = ImageSet(parts.train, recipe.image.size), make_simulator(recipe, "hex_nut")
    return ([StepData(images, simulator, recipe, rank, size) for rank in range(size)],
            ImageSet(parts.memory, (64, 64)))


# who does what

def test_shares_are_disjoint_and_complete_and_simulated_with_own_seeds(tiny_data, tiny_recipe):
    recipe = tiny_recipe.replace(**{"training.good": 4, "training.simulated": 4})
    (whole,), _ = shares(tiny_data, recipe, 1)
    for step in range(3):
        parts = [data[step] for data in shares(tiny_data, recipe, 2)[0]]
        places = torch.cat([part.source for part in parts])
        assert sorted(places.tolist()) == sorted(whole[step].source.tolist())
        assert all(len(part.images) == 4 and not part.masks[:2].any() for part in parts)
        assert all(part.masks[2:].flatten(1).any(1).all() for part in parts)
        assert not torch.equal(parts[0].masks, parts[1].masks)
        again = shares(tiny_data, recipe, 2)[0][1][step]
        assert all(torch.equal(a, b) for a, b in zip(again, parts[1]))


def test_a_batch_that_does_not_divide_is_refused(tiny_data, tiny_recipe):
    with pytest.raises(MemSegError, match="shared by 4 processes.*training.good=4"):
        shares(tiny_data, tiny_recipe, 4)


def test_the_environment_says_who_is_who():
    assert team_of({}) == Team(0, 1, 0) and team_of({}).first
    told = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "there"}
    assert team_of(told) == Team(5, 8, 1) and not team_of(told).first
    with pytest.raises(MemSegError, match="WORLD_SIZE=8 without MASTER_ADDR"):
        team_of({"WORLD_SIZE": "8"})
    with pytest.raises(MemSegError, match="use torchrun"):
        team_of({"RANK": "first"})


def test_alone_nothing_is_exchanged():
    numbers = torch.ones(2)
    with join() as team:
        assert team == Team() and average(numbers) is numbers
        assert team.tell(lambda: 3) == 3 and team.decide(.5, True) == (.5, True)


def test_only_a_broken_connection_means_that_another_process_is_lost():
    with pytest.raises(Lost, match="another process.*--resume"), connected():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(Lost), connected(): raise torch.distributed.DistNetworkError("no store")
    with pytest.raises(RuntimeError, match="shapes"), connected(): raise RuntimeError("shapes differ")


# two processes

def test_two_processes_find_what_one_finds_on_the_same_images(both, tiny_data, tiny_recipe):
    "The images of both, in one process; batch norms keep the statistics of the warm start"
    recipe = tiny_recipe.replace(**{"encoder.weights": "formulas", "training.warm_start": "auto",
                                    "training.norms": "frozen"})
    data, memory = shares(tiny_data, recipe, 2)
    model, _, _ = fresh_model(recipe)
    model.remember([memory.batch(range(3))])
    state, losses = new_trainer(model, recipe), []
    state.frozen = True
    for step in range(3):
        batch = Batch(*map(torch.cat, zip(*(part[step] for part in data))))
        losses.append(train_step(state, batch, recipe, learning_rate((step + .5) / 3, recipe.training)))
    run = Run.open(both[0] / "whole")
    assert read_losses(run)["total"] == pytest.approx([loss.total for loss in losses], rel=1e-4)
    theirs, _ = load_state(run.model_file)
    for name, value in state.model.state_dict().items():
        assert torch.allclose(theirs[name].float(), value.float(), rtol=1e-3, atol=1e-4), name


def test_both_end_with_the_same_bits_and_one_writes(both):
    folder, found = both
    for name, digests in (("whole", "digests"), ("learning", "learning digests")):
        assert [one[name] for one in found] == ["done", "done"]
        assert found[0][digests] == found[1][digests] and len(set(found[0][digests])) == 3
        record, rows = (Run.open(folder / name).record,
                        list(csv.reader((folder / name / "losses.csv").open())))
        assert record["processes"] == 2 and record["status"] == "done"
        assert [row[0] for row in rows] == ["step", "1", "2", "3"]
        own = any("each process's own images" in note for note in record["notes"])
        assert own == (name == "learning")


def test_what_processes_tell_each_other(both):
    for rank, one in enumerate(both[1]):
        assert one["average"] == [1.5, 4.] and one["told"] == "by 0" and one["decided"] == [.25, True]
        assert one["norm"][0] == "BatchNorm2d" and one["norm"][1] == pytest.approx([.1 * rank] * 3)


def test_ctrl_c_at_one_stops_both_and_one_process_goes_on(both):
    folder, found = both
    assert "saved up to step 1" in found[0]["stopped"] and found[1]["stopped"] == "silent"
    assert Run.open(folder / "stopped").record["status"] == "interrupted"
    resumed = train(out=folder / "stopped", resume=True, progress=False)
    assert resumed.finished and resumed.record["processes"] == 1 and read_losses(resumed)["step"] == [1, 2, 3]


def test_an_error_of_all_is_said_once_and_leaves_no_folder(both):
    folder, found = both
    answers = sorted(one["uneven"] for one in found)
    assert answers[0] == "silent" and "shared by 2 processes" in answers[1]
    assert not (folder / "uneven").exists()


def test_the_clock_stops_all_at_the_same_step(both):
    _, found = both
    assert ([one["timed"] for one in found] == ["done", "done"]
            and found[0]["steps"] == found[1]["steps"] != [])


@pytest.mark.parametrize("how", ["raise", "die"])
def test_one_that_fails_ends_the_run(tiny_data, tmp_path, how):
    if how == "die":
        (tmp_path / "die").touch()
    done = launch(tmp_path, FAIL, tiny_data, tmp_path)
    said = re.findall(r"memseg: error: (.*)", done.stderr)
    assert done.returncode != 0 and len(said) <= 1
    assert "stone in its shoe" in said[0] if how == "raise" else not said or "another process" in said[0]
    run = Run.open(tmp_path / "run")
    assert not run.finished and run.checkpoint_file.exists()
