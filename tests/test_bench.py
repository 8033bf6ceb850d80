"The benchmark: equal results before equal work, ratios by hand, tables that survive; nothing is asserted by the clock"

import math
import platform
import re

import numpy as np
import pytest
import torch

from memseg_nb.files import WRITTEN
from memseg_nb.bench import naive as peers
from memseg_nb.bench import speed
from memseg_nb.bench import timing
from memseg_nb.model.losses import memseg_loss
from memseg_nb.metrics import rank, rank_score
from memseg_nb.simulation.perlin import improved_gradients, perlin, perlin_noise
from memseg_nb.files import MemSegError
from memseg_nb.recipe import load_recipe
from memseg_nb.bench.speed import PARTS, ROWS, Workshop, step_parts
from memseg_nb.simulation.anomalies import Simulator
from memseg_nb.training.steps import StepData, train_step
from memseg_nb.bench.timing import (Case, Ceiling, Measured, compare, operations, peak_memory,
                                    summarise)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    "A workshop of 64 x 64 pixels with one turn of everything; its model is not to be trained"
    shop = Workshop(tmp_path_factory.mktemp("shop"), quick=True, side=64)
    shop.turns = 1
    return shop


@pytest.fixture
def once(monkeypatch):
    "Comparisons that call each function once and measure 2 s against 1 s a piece of work"
    def compare_once(baseline, ours, turns=5, counts=(1, 1), threads=None):
        baseline(), ours()
        return summarise([(2., 1.)])
    monkeypatch.setattr(timing, "compare", compare_once)


def measured(shop, name):
    "The lines of a row"
    return [line.measure(shop) if isinstance(line, Case) else line for line in ROWS[name](shop)]


# timing

def test_ratio_by_hand():
    found = summarise([(.040, .010), (.090, .018), (.042, .014)])
    assert found == pytest.approx((.042, .014, 4, 3, 5))


def test_in_turns_a_slowing_machine_does_no_harm():
    pairs = [(1.1 ** k, 1.1 ** (k + 1)) for k in range(0, 20, 2)]
    assert summarise(pairs).ratio == pytest.approx(1 / 1.1)


def test_compare_calls_in_turns():
    calls = []
    found = compare(lambda: calls.append("a"), lambda: calls.append("b"), turns=3, least=0)
    assert re.sub(r"(.)\1*", r"\1", "".join(calls)) == "ababab"  # how often in a turn is the Timer's choice
    assert found.lowest <= found.ratio <= found.highest


def test_counts_divide_the_times(monkeypatch):
    monkeypatch.setattr(timing, "timed", lambda function, *more: [8., 6., 9.])
    found = compare(lambda: None, lambda: None, turns=2, counts=(2, 16))
    assert (found.baseline, found.ours, found.ratio) == (4, .5, 8)


@pytest.mark.parametrize("threads", [1, 2, None])
def test_threads_are_set_for_both_and_given_back(threads):
    before, seen = torch.get_num_threads(), []
    def note(): seen.append(torch.get_num_threads())
    compare(note, note, turns=1, threads=threads, least=0)
    assert set(seen) == {threads or before} and torch.get_num_threads() == before


def test_the_better_of_two_is_the_ceiling():
    ceiling = Ceiling(100., 200., 400., 300., 20.)
    assert (ceiling.float32, ceiling.bfloat16) == (200, 400)


def test_operations_of_a_product():
    a, b = torch.zeros(3, 5), torch.zeros(5, 7)
    assert operations(lambda: a @ b) == 2 * 3 * 5 * 7


def test_peak_of_another_process():
    (small, one), (large, many) = peak_memory(timing.hold, 1), peak_memory(timing.hold, 200)
    if small is None: pytest.skip("this system doesn't tell")
    assert (one, many) == (1, 200) and 190 < large - small < 230


def test_a_process_that_fails_says_why():
    with pytest.raises(MemSegError, match=r"hold\('much',\) in a process of its own failed: TypeError"):
        peak_memory(timing.hold, "much")


# peers compute the same

@pytest.mark.parametrize("cells, size", [((8, 16), (64, 64)), ((1, 32), (64, 96)), ((4, 4), (32, 64))])
def test_perlin_is_the_same_field(cells, size):
    arrows = np.random.default_rng(0).standard_normal((cells[0] + 1, cells[1] + 1, 2))
    ours = perlin(torch.from_numpy(arrows)[None], torch.tensor([cells]), size)[0]
    assert np.allclose(peers.numpy_perlin(arrows, size), ours.numpy(), atol=1e-6)


def test_perlin_of_the_package():
    pytest.importorskip("noise")
    ours = perlin(improved_gradients(9, 9)[None], torch.tensor([[8, 8]]), (64, 64))[0].numpy()
    assert np.allclose(peers.package_perlin((64, 64), 8), ours, atol=1e-5)


def test_simulation_is_of_the_same_kind(shop):
    array = (shop.images[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    rng = np.random.default_rng(0)
    theirs = [peers.peer_simulate(array, shop.textures, rng, shop.recipe) for _ in range(80)]
    ours = shop.simulator()(shop.images[:1].expand(80, -1, -1, -1), torch.Generator().manual_seed(0))
    area = np.array([mask.mean() for _, mask in theirs]), ours.masks.flatten(1).float().mean(1).numpy()
    assert all(part.min() > 0 for part in area)
    assert .4 < np.median(area[0]) / np.median(area[1]) < 2.5
    for image, mask in theirs:
        assert image.dtype == np.float32 and 0 <= image.min() and image.max() <= 1 + 1e-6
        assert np.allclose(image[~mask], array[~mask] / 255, atol=1e-6)


def test_pieces_of_the_structural_source_are_those_of_the_image():
    changes = ("mirror", "rotation", "brightness", "saturation", "hue")
    recipe = load_recipe(overrides=[f"simulation.{name}=0" for name in changes])
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
    image[..., 1:] = image[..., :1]  # grey: unharmed by the way through hue and saturation
    made = peers.peer_structure(image, np.random.default_rng(1), recipe)
    cells = [sorted(part[r * 8:(r + 1) * 8, c * 8:(c + 1) * 8].tobytes() for r in range(4) for c in range(8))
             for part in (image, made)]
    assert cells[0] == cells[1] and not np.array_equal(image, made)


def test_match_is_the_same(shop):
    features = shop.model.encoder(shop.images)
    index, distances, difference = peers.loop_match(features, shop.model.memory)
    match = shop.model.memory(features)
    assert torch.equal(index, match.index) and torch.allclose(distances, match.distances, rtol=1e-4)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(difference, match.difference))


def test_loss_is_the_same():
    draw, recipe = torch.Generator().manual_seed(0), load_recipe().loss
    logits, masks = 3 * torch.randn(4, 2, 24, 16, generator=draw), torch.rand(4, 24, 16, generator=draw) > .8
    assert torch.allclose(peers.peer_loss(logits, masks, recipe), memseg_loss(logits, masks, recipe).total,
                          atol=1e-6)


def test_logits_are_the_same(shop):
    plain = peers.plain_copy(shop.model).eval()
    with torch.no_grad(): ours, theirs = shop.model.eval()(shop.images), peers.peer_logits(plain, shop.images)
    assert torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3)


def test_the_obvious_step_learns_and_leaves_the_model_alone(shop):
    before = {name: value.clone() for name, value in shop.model.state_dict().items()}
    plain = peers.plain_copy(shop.model)
    step = peers.PeerStep(plain, peers.PeerData(shop.photos[:8], shop.textures, shop.recipe))
    assert math.isfinite(step())
    # the stem learns there
    assert not torch.equal(plain.encoder.conv1.weight, before["encoder.conv1.weight"])
    assert all(torch.equal(value, before[name]) for name, value in shop.model.state_dict().items())


def test_aupro_is_the_same():
    maps, masks = speed.synthetic_maps(20, 64, seed=5)
    rounded = rank_score(rank(maps))
    assert peers.exact_aupro(rounded, masks) == pytest.approx(speed.counted_aupro(rounded, masks), abs=1e-6)
    exact = peers.exact_aupro(maps, masks)
    assert peers.region_aupro(torch.from_numpy(maps), torch.from_numpy(masks)) == pytest.approx(
        exact, abs=1e-4)
    assert speed.counted_aupro(maps, masks) == pytest.approx(exact, abs=1e-5)


# inputs and parts of a step

def hooks_of(state):
    return [hook for part in state.model.modules() for hook in (part._forward_hooks, part._forward_pre_hooks)
            if hook]


def test_all_parts_of_a_step_are_there(shop):
    state = shop.state()
    parts = step_parts(state, shop.data, shop.recipe, steps=1)
    assert tuple(parts) == PARTS and all(value > 0 for value in parts.values())
    assert state.step == 2 and not hooks_of(state)


def test_parts_sum_to_the_whole_and_change_nothing(shop, monkeypatch):
    read = []
    def clock():
        "Counts its readings"
        read.append(len(read))
        return float(len(read))
    monkeypatch.setattr(speed, "timer", clock)
    watched, plain = shop.state(), shop.state()
    parts = step_parts(watched, shop.data, shop.recipe, steps=1)
    other = step_parts(shop.state(), shop.data, shop.recipe, steps=1)
    # the first reading and the first step don't count
    assert parts == other and sum(parts.values()) == len(read) / 4 - .5
    for step in range(2): train_step(plain, shop.data[step], shop.recipe, 1e-3)
    left, right = watched.model.state_dict(), plain.model.state_dict()
    assert all(torch.allclose(left[name].float(), right[name].float(), atol=1e-5) for name in left)


def test_hooks_are_gone_after_a_failure(shop):
    class Broken:
        def __call__(self, *arguments): raise RuntimeError("no")
    state = shop.state()
    with pytest.raises(RuntimeError):
        step_parts(state, StepData(shop.data.images, Broken(), shop.recipe), shop.recipe)
    assert not hooks_of(state)


def test_simulator_reads_textures_from_the_folder(shop):
    simulator = shop.simulator(0)
    assert isinstance(simulator, Simulator) and len(simulator.textures) == len(shop.textures) == 24
    assert simulator.textures.cache_bytes == 0


# rows

def test_a_line_follows_from_its_case(shop, monkeypatch):
    monkeypatch.setattr(timing, "compare", lambda *given: summarise([(4., .5), (6., .5)]))
    shop = Workshop(shop.folder)
    shop.ceiling = Ceiling(100., 200., 0., 0., 50.)
    case = Case("work", "loops", abs, abs, 2, lambda found: f"{found.baseline:.0f} s", pieces=8,
                unit="images/s", ceiling="float32", amount=25e9)
    assert case.measure(shop) == Measured("work", "loops", 5000, 500, 10, 8, 12, share=.25, ceiling="float32",
                                          rate=16, unit="images/s", note="5 s")
    case.ceiling = "bfloat16"  # that this machine can't
    assert case.measure(shop)._replace(share=None, ceiling="") == case.measure(shop)


EXPECTED = {"ceiling": (5, 0), "perlin": (3, 2), "simulation": (2, 2), "data": (2, 2), "match": (1, 1),
            "aupro": (2, 2)}


@pytest.mark.parametrize("name", EXPECTED)
def test_rows(name, shop):
    "So many lines, so many of them comparisons; each share is of a ceiling that was measured"
    lines = measured(shop, name)
    compared = [line for line in lines if line.ratio]
    assert len(lines) == EXPECTED[name][0] and len(compared) - EXPECTED[name][1] in (0, name == "perlin")
    for line in compared:
        assert line.baseline and math.isclose(line.ours_ms / line.baseline_ms * line.ratio, 1, rel_tol=1e-6)
    for line in lines:
        if line.share: assert line.share == pytest.approx(by_hand(name, line, shop))


def by_hand(name, line, shop):
    "The share of the ceiling, from the work counted in another way"
    if name == "perlin":  # of one field instead of 32
        angle, draw = 90 if "turned" in line.work else 0, torch.Generator().manual_seed(0)
        work = operations(lambda: perlin_noise(1, shop.size, draw, rotation=angle))
    else:  # 8 images and 30 samples of layers 1 to 3, 4 bytes a number
        side = shop.side // 4
        work = 4 * 38 * (64 * side**2 + 128 * (side // 2)**2 + 256 * (side // 4)**2)
    return work / (line.ours_ms / 1e3) / 1e9 / getattr(shop.ceiling, line.ceiling)


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_gets_every_batch_each_time(workers):
    data = [torch.full((2,), float(k)) for k in range(5)]
    get = speed.loading(data, 5, workers)
    assert get() == get() == 5


def test_batches_of_the_obvious_way_differ_and_can_be_repeated(shop):
    batches = peers.PeerData(shop.photos[:8], shop.textures, shop.recipe)
    (one, mask), (again, _), (other, _) = batches[3], batches[3], batches[4]
    assert one.shape == (8, 3, 64, 64) and torch.equal(one, again) and not torch.equal(one, other)
    assert not mask[:4].any() and mask[4:].flatten(1).any(1).all()


def test_simulation_is_timed_on_one_thread(shop):
    cases = [*ROWS["simulation"](shop), *ROWS["data"](shop)]
    assert [case.threads for case in cases] == [1] * 4


@pytest.mark.parametrize("native", [True, False])
def test_step_and_inference_rows(shop, once, monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    lines = [line for name in ("step", "parts", "inference") for line in measured(shop, name)]
    text = "\n".join(line.work for line in lines)
    for part in (*PARTS, "training step", "float32", "bfloat16", "batch 1", "batch 8"): assert part in text
    half = [line for line in lines if "bfloat16" in line.work]
    assert all(bool(line.ours_ms) == native for line in half)  # what would be imitated isn't measured ...
    assert native or all("imitate bfloat16" in line.note for line in half)  # ... and says so


def test_growth_row(shop, monkeypatch):
    monkeypatch.setattr(speed, "timed", lambda function: [3., 2., 4.])
    series, lines = {}, list(ROWS["growth"](shop))
    for line in lines: series.setdefault(line.work, []).append(line.at)
    assert len(series) == 4 and [1, 10, 30, 60, 120] in series.values()
    assert all(line.ours_ms == 2000 for line in lines)
    assert all(points == sorted(points) for points in series.values())


def test_without_the_package_the_row_says_so(shop, monkeypatch):
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)
    *_, last = ROWS["perlin"](shop)
    assert last.note == "not installed" and "package noise" == last.baseline


def test_a_runtime_that_is_not_there_says_so(shop, monkeypatch):
    def missing(shop, model): raise MemSegError("onnxruntime is not installed")
    monkeypatch.setattr(speed, "RUNTIMES", {"ONNX Runtime, float32": missing})
    assert all("onnxruntime is not installed" in line.note for line in ROWS["inference"](shop))


def test_scoring_many_maps_batch_by_batch():
    spent, high, aupro, auroc = speed.score_many(70, 64)
    parts = [speed.synthetic_maps(50, 64, 0), speed.synthetic_maps(20, 64, 50)]
    maps, masks = (np.concatenate(part) for part in zip(*parts))
    assert (aupro == pytest.approx(speed.counted_aupro(maps, masks)) and .5 < auroc < 1 and 0 <= high <= 70
            and spent > 0)


def test_synthetic_maps_have_the_regions_they_should():
    from memseg_nb.metrics import label_regions
    maps, masks = speed.synthetic_maps(100, 256)
    assert label_regions(masks)[1] == 180 and maps.dtype == np.float32 and 0 <= maps.min() and maps.max() <= 1


def test_without_a_gpu_it_is_not_measured(shop):
    assert [line.note for line in ROWS["device"](shop)] == ["not measured: no GPU here"]


def test_the_rows_of_a_device(shop, once):
    lines = [case.measure(shop) for case in speed.on_device(shop, "cpu")]
    names = " ".join(line.work for line in lines)
    for work in ("Perlin", "anomalies", "match", "training step", "batch 1", "batch 32", "bfloat16"):
        assert work in names
    assert all("extrapolated" in line.note for line in lines if "training" in line.work)
    pieces = [case.pieces for case in speed.on_device(shop, "cpu")]
    assert [line.rate for line in lines] == pieces and pieces.count(32) == 3


# tables

def lines_of(*measured):
    return [dict(row="match") | line._asdict() for line in measured]


def test_table_reads_back(tmp_path):
    given = lines_of(Measured("a, b", "c", 1.5, .5, 3., 2.5, 4., share=.25, ceiling="copy", at=8.,
                              note="x | \"y\""),
                     Measured("nothing"))
    timing.write_table(given, tmp_path / "t.csv")
    assert timing.read_table(tmp_path / "t.csv") == given


def test_markdown_has_a_section_a_kind_and_no_empty_columns():
    text = timing.markdown([dict(row="ceiling") | Measured("copy", rate=12.34, unit="GB/s")._asdict(),
                           dict(row="match") | Measured(
                               "m", "loops", 40., 4., 10., 9., 11., share=.5, ceiling="copy")._asdict()])
    assert "| work | rate |" in text and "| copy | 12.3 GB/s |" in text
    assert "10.0 (9.0 .. 11.0)" in text and "50% copy" in text and "note" not in text


def test_every_row_has_a_section():
    assert {"conditions", *ROWS} == {name for names in timing.SECTIONS for name in names.split()}


def test_figure_of_nothing_and_of_everything(tmp_path):
    timing.plots.save(timing.figure([]), tmp_path / "nothing.png")
    lines = [dict(row=name) | Measured("w: x", "b", 2., 1., 2., 1., 3., at=2.)._asdict() for name in ROWS]
    timing.plots.save(timing.figure(lines), tmp_path / "all.png")
    assert (tmp_path / "all.png").stat().st_size > 1000


# bench

def test_unknown_row(tmp_path):
    with pytest.raises(MemSegError, match="row 'perlim' of the benchmark: unknown, did you mean perlin"):
        speed.bench(tmp_path, rows=["perlim"])
    with pytest.raises(MemSegError, match="unknown, there are ceiling, perlin"):
        speed.bench(tmp_path, rows=["xyz"])


def test_unknown_device(tmp_path):
    if torch.cuda.is_available(): pytest.skip("there is one")
    with pytest.raises(MemSegError, match="device cuda"): speed.bench(tmp_path, device="cuda")


def fake(name, *measured, stop=None):
    def row(shop):
        "Made up"
        yield from measured
        if stop: raise stop
    return {name: row}


def test_interrupted_tables_are_complete(tmp_path, monkeypatch):
    made_up = fake("match", Measured("first", "b", 2., 1., 2., 1., 3.), stop=KeyboardInterrupt()) | fake(
        "memory", Measured("never"))
    monkeypatch.setattr(speed, "ROWS", made_up)
    with pytest.raises(KeyboardInterrupt, match="holds the 5 lines"):
        speed.bench(tmp_path, quick=True, progress=False)
    assert timing.read_table(tmp_path / "bench.csv")[-1]["work"] == "first"
    assert ("first" in (tmp_path / "bench.md").read_text()
            and "never" not in (tmp_path / "bench.md").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"bench.csv", "bench.md", "bench.png", WRITTEN}


def test_tables_grow_line_by_line(tmp_path, monkeypatch):
    seen = []
    def row(shop):
        "Looks at the file between its lines"
        for k in range(3):
            yield Measured(f"line {k}")
            seen.append(timing.read_table(tmp_path / "bench.csv")[-1]["work"])
    monkeypatch.setattr(speed, "ROWS", {"match": row})
    speed.bench(tmp_path, progress=False)
    assert seen == ["line 0", "line 1", "line 2"]


@pytest.mark.parametrize("error",
                         [MemSegError("too bad"), RuntimeError("too bad\nreally"), OSError("too bad")])
def test_a_row_that_fails_does_not_stop_the_others(error, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "ROWS", fake("match", stop=error) | fake("memory", Measured("fine")))
    lines = speed.bench(tmp_path, quick=True)
    assert lines[-2]["note"] == "failed: too bad" and lines[-1]["work"] == "fine"
    assert "[2/2] memory: Made up" in capsys.readouterr().out


def test_quick_run_of_two_rows(tmp_path, capsys):
    lines = speed.bench(tmp_path / "new" / "folder", quick=True, rows=["perlin", "device"], device="cpu")
    last = timing.read_table(tmp_path / "new" / "folder" / "bench.csv")[-1]
    assert last["note"] == "not measured: no GPU here"
    assert [line["row"] for line in lines if line["row"] != "conditions"][0] == "perlin"
    assert "Perlin noise, one field of 128 x 128" in capsys.readouterr().out
    notes = " ".join(line["note"] for line in lines)
    assert "PyTorch" in notes and "quick" in notes


def test_conditions_name_no_host(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "my-own-machine")
    assert "my-own-machine" not in str(speed.conditions(Workshop(tmp_path)))
