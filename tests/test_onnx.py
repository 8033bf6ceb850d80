"ONNX files and other ways to compute: PyTorch's answer, everything inside, clear words for what is wrong"
import copy
import csv
import functools
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from memseg_nb.deployment import onnx as export
from memseg_nb.deployment import runtimes
from memseg_nb.training.checkpoints import Run, fingerprint
from memseg_nb.deployment.detector import Detector
from memseg_nb.model.encoder import Features
from memseg_nb.deployment.onnx import (FACTS, FixedMemory, export_onnx, fold_norms, quantise, to_graph,
                                       write_graph)
from memseg_nb.data.images import find_images, read_image
from memseg_nb.model.memory import Memory
from memseg_nb.metrics import image_score
from memseg_nb.model.memseg import MemSeg
from memseg_nb.files import MemSegError, digest
from memseg_nb.recipe import load_recipe
from memseg_nb.deployment.runtimes import Bfloat16, OnnxModel, cost, cost_table, in_precision

SIZE = (64, 64)
SMALL = load_recipe("formulas", ["image.height=64", "image.width=64", "memory.samples=4"])
UNTRAINED = SMALL.replace(**{"training.steps": 0})  # what `Detector.remember` makes of it


@pytest.fixture(scope="module")
def nuts(tiny_data):
    "Folder of good photos"
    return tiny_data / "hex_nut" / "train" / "good"


@pytest.fixture(scope="module")
def instant(nuts):
    "A detector whose network was trained on formulas: its maps are not all alike"
    return Detector.remember(nuts, SMALL, "cpu")


@pytest.fixture(scope="module")
def photos(tiny_data):
    "Test images, good and defective, (B, 3, 64, 64)"
    paths = sorted((tiny_data / "hex_nut" / "test").rglob("*.png"))
    return torch.stack([read_image(path) for path in paths])


@pytest.fixture(scope="module")
def graph(instant):
    "Its network as a graph; not to be changed"
    return to_graph(instant.model, SIZE, SMALL.evaluation.top_share)


@pytest.fixture(scope="module")
def file(instant, tmp_path_factory):
    "It as a file"
    return export_onnx(instant, tmp_path_factory.mktemp("files") / "nut.onnx")


@pytest.fixture
def traced(graph, monkeypatch):
    "Tracing takes seconds: where the graph itself isn't the question, take the one there is"
    monkeypatch.setattr(export, "to_graph", lambda *args: copy_of(graph))


def copy_of(graph):
    return type(graph).FromString(graph.SerializeToString())


def run_graph(graph, images):
    "Maps and scores of a graph"
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(result) for result in session.run(None, {"image": images.numpy()})]


# the same answer

@pytest.mark.parametrize("batch", [1, 5])
def test_a_file_gives_the_maps_and_scores_of_pytorch(instant, file, photos, batch):
    images = photos[:batch]
    expected = instant.model.anomaly_map(images)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    maps, scores = session.run(["map", "score"], {"image": images.numpy()})
    assert maps.shape == (batch, *SIZE) and scores.shape == (batch,)
    assert maps.dtype == scores.dtype == np.float32
    assert np.allclose(maps, expected, atol=1e-4)
    assert np.allclose(scores, image_score(expected, SMALL.evaluation.top_share), atol=1e-4)
    assert expected.std() > .01, "a network that says the same everywhere proves nothing"


def variant(instant, **settings):
    "A network of other settings, with the same weights"
    model = copy.deepcopy(instant.model)
    for name, value in settings.items():
        if name == "exposure":
            model.encoder.exposure.fill_(value)
        else:
            setattr(model.memory, name, value)
    return model.eval()


@pytest.mark.parametrize("settings", [dict(exposure=0.), dict(match="level"), dict(difference="squared"),
                                      dict(match="level", exposure=.3)], ids=str)
def test_every_setting_is_in_the_graph(instant, photos, settings):
    images, model = torch.cat([photos[:3], .5 * photos[3:5]]), variant(instant, **settings)
    expected = model.anomaly_map(images)
    assert not torch.allclose(expected, instant.model.anomaly_map(images), atol=1e-3), "no effect"
    maps, _ = run_graph(to_graph(model, SIZE, .01), images)
    assert torch.allclose(maps, expected, atol=1e-4)


def test_a_size_that_is_not_square(instant, photos):
    model = copy.deepcopy(instant.model)
    wide = torch.cat([photos, photos.flip(3)[..., :32]], 3)
    model.remember([wide[:4]])
    maps, _ = run_graph(to_graph(model, (64, 96), .01), wide[4:6])
    assert torch.allclose(maps, model.anomaly_map(wide[4:6]), atol=1e-4)


@pytest.mark.parametrize("match", ["joint", "level"])
@pytest.mark.parametrize("difference", ["absolute", "squared"])
@pytest.mark.parametrize("samples", [1, 7])
def test_the_fixed_memory_is_the_memory(match, difference, samples):
    draw = torch.Generator().manual_seed(samples)
    def features(count):
        shapes = (64, 8), (128, 4), (256, 2)
        return Features(None, *(torch.rand(count, c, s, s, generator=draw) for c, s in shapes))
    memory = Memory(match, difference)
    memory.fill(features(7))
    some = Memory(match, difference)
    some.fill(Features(None, *(level[:samples] for level in (memory.layer1, memory.layer2, memory.layer3))))
    new = features(3)
    expected, found = some(new), FixedMemory(memory, samples)(new)
    assert torch.equal(found.index, expected.index)
    assert torch.allclose(found.distances, expected.distances, rtol=1e-4)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found.difference, expected.difference))
    assert all(map(torch.equal, FixedMemory(memory, samples).spread(), memory.spread())), "units as trained"


def test_folding_changes_no_answer_and_not_the_model_that_is_exported(instant, photos, file):
    folded = fold_norms(copy.deepcopy(instant.model).eval())
    assert not [part for part in folded.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert torch.allclose(folded.anomaly_map(photos), instant.model.anomaly_map(photos), atol=1e-4)
    assert [part for part in instant.model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert isinstance(instant.model.memory, Memory) and isinstance(instant.model, MemSeg)


# fewer bits

def test_half_precision_halves_the_file(traced, instant, file, photos, tmp_path):
    half = export_onnx(instant, tmp_path / "half.onnx", "float16")
    assert half.stat().st_size < .51 * file.stat().st_size
    maps, expected = OnnxModel(half).anomaly_map(photos), instant.model.anomaly_map(photos)
    assert (maps - expected).abs().max() < .05 and (maps - expected).abs().mean() < 1e-3


def test_eight_bits(traced, instant, nuts, file, photos, tmp_path):
    small = export_onnx(instant, tmp_path / "8.onnx", "int8", photos=nuts)
    assert small.stat().st_size < .35 * file.stat().st_size
    model, expected = OnnxModel(small), instant.model.anomaly_map(photos)
    assert (model.anomaly_map(photos) - expected).abs().mean() < .02 and model.facts["precision"] == "int8"
    again = export_onnx(instant, tmp_path / "again.onnx", "int8", photos=nuts)
    assert again.read_bytes() == small.read_bytes(), "the same photos, the same file"


def test_what_is_kept_is_not_quantised(graph, photos):
    nodes = {name: node for node in quantise(graph, photos[:1]).graph.node for name in [node.name]}
    for name, node in export.convolutions(graph).items():
        in_8_bits = nodes[node].input[0].endswith("DequantizeLinear_Output")
        assert in_8_bits != name.startswith(export.KEEP), name


def test_bfloat16_is_near_and_leaves_the_model_alone(instant, photos):
    before = copy.deepcopy(instant.model.state_dict())
    maps, expected = Bfloat16(instant.model).anomaly_map(photos), instant.model.anomaly_map(photos)
    assert maps.dtype == torch.float32 and (maps - expected).abs().mean() < .01
    assert not torch.equal(maps, expected)
    assert all(map(torch.equal, before.values(), instant.model.state_dict().values()))


def test_auto_takes_the_faster_and_says_so(instant, monkeypatch, capsys):
    monkeypatch.setattr(runtimes, "milliseconds", lambda look, image, repeats: next(times))
    times = iter([20., 10.])
    assert isinstance(in_precision(instant.model, "auto", SIZE), Bfloat16)
    assert capsys.readouterr().out == "float32 20 ms an image, bfloat16 10 ms an image: bfloat16\n"
    times = iter([10., 20.])
    assert in_precision(instant.model, "auto", SIZE) is instant.model


def test_fewer_samples(instant, file, photos, tmp_path):
    few = export_onnx(instant, tmp_path / "few.onnx", memory_samples=2)
    assert few.stat().st_size < file.stat().st_size and OnnxModel(few).facts["samples"] == 2
    model = copy.deepcopy(instant.model)
    model.memory = FixedMemory(model.memory, 2)
    assert torch.allclose(OnnxModel(few).anomaly_map(photos), model.anomaly_map(photos), atol=1e-4)
    for count in (0, 5):
        with pytest.raises(MemSegError, match="this memory has 4, so 1 to 4"):
            export_onnx(instant, tmp_path / "none.onnx", memory_samples=count)


def test_cost_by_hand():
    masks = torch.zeros(4, 2, 2, dtype=torch.bool)
    masks[2:, 0] = True
    images = torch.where(masks, .8, .2)[:, None].repeat(1, 3, 1, 1)
    same, other = cost({"a": lambda x: x[:, 0], "b": lambda x: 1 - x[:, 0]}, images, masks, .25, 1)
    assert same[2:5] == (0, 0, 0) and same.image_auroc == same.pixel_auroc == 1
    assert other.map_difference == pytest.approx(.6) and other.mean_map_difference == pytest.approx(.6)
    assert other.score_difference == pytest.approx(.6) and other.pixel_auroc == 0 and other.milliseconds > 0
    assert "| b |" in cost_table([same, other]) and "0.6000" in cost_table([same, other])
    assert "| - |" in cost_table(cost({"a": lambda x: x[:, 0]}, images[:2], masks[:2], .25, 1))


# what the file says

def test_all_is_in_the_file(instant, file, tmp_path):
    shutil.copy(file, tmp_path / "alone.onnx")
    model = onnx.load(tmp_path / "alone.onnx", load_external_data=False)
    onnx.checker.check_model(model)
    facts = {fact.key: fact.value for fact in model.metadata_props}
    assert set(facts) == {*FACTS, "sha256", "bits", "good_scores", "photos"}
    assert facts["recipe"] == fingerprint(UNTRAINED) and facts["samples"] == "4"
    assert float(facts["threshold"]) == instant.threshold
    assert float(facts["pixel_threshold"]) == instant.pixel_threshold
    shapes = {port.name: [d.dim_param or d.dim_value for d in port.type.tensor_type.shape.dim]
              for port in (*model.graph.input, *model.graph.output)}
    assert shapes == {"image": ["batch", 3, 64, 64], "map": ["batch", 64, 64], "score": ["batch"]}
    assert model.opset_import[0].version == 20


def test_the_file_tells_nothing_of_where_it_was_made(file):
    data = file.read_bytes()
    for word in (b"site-packages", b".py", b"/home/", b"/tmp/", b"stack_trace"):
        assert word not in data, word


def test_a_detector_of_a_file_answers_like_that_of_the_run(instant, file, tiny_data, tmp_path):
    detector, photo = Detector.load(file), sorted((tiny_data / "hex_nut" / "test" / "good").iterdir())[0]
    assert detector.recipe.image.size == SIZE and detector.threshold == instant.threshold
    ours, theirs = detector.predict(photo), instant.predict(photo)
    assert abs(ours.score - theirs.score) < 1e-4 and torch.allclose(ours.map, theirs.map, atol=1e-4)
    done = detector.predict_folder(photo.parent, tmp_path / "out", progress=False)
    rows = list(csv.DictReader(done.table.open()))
    assert len(rows) == 4 and float(rows[0]["score"]) == pytest.approx(theirs.score, abs=1e-3)


# from a run

def test_a_run_with_runtime_onnx_writes_its_file_once(tiny_run, tiny_data, tmp_path, monkeypatch, graph):
    run = tmp_path / "run"
    shutil.copytree(tiny_run.folder, run)
    photo = sorted((tiny_data / "hex_nut" / "test" / "good").iterdir())[0]
    first = Detector.load(run, runtime="onnx")
    file = run / "model-float32.onnx"
    assert file.is_file() and first.model.facts["category"] == "hex_nut"
    assert first.model.facts["weights"] == digest(run / "model.safetensors")
    torch_score = Detector.load(run, "cpu").predict(photo).score
    assert first.predict(photo).score == pytest.approx(torch_score, abs=1e-4)
    monkeypatch.setattr(runtimes, "export_onnx", lambda *args: pytest.fail("written again"))
    Detector.load(run, runtime="onnx")
    made = []
    monkeypatch.setattr(export, "to_graph", lambda *args: copy_of(graph))
    monkeypatch.setattr(runtimes, "export_onnx", lambda *args: made.append(args) or export_onnx(*args))
    model = onnx.load(file)
    facts = {fact.key: fact.value for fact in model.metadata_props}
    write_graph(model, file, facts | {"weights": "of another training"})
    Detector.load(run, runtime="onnx")
    file.write_bytes(file.read_bytes()[:99])
    Detector.load(run, runtime="onnx")
    Run(run).update(threshold=.125)
    assert Detector.load(run, runtime="onnx").threshold == .125
    assert len(made) == 3, "made of other weights, then damaged, then of another threshold"


def test_the_ranges_come_from_images_that_the_run_was_trained_on(traced, tiny_run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(export, "calibration_images", lambda paths, recipe, category:
                        seen.append((paths, category)) or torch.rand(1, 3, 64, 64))
    export_onnx(tiny_run, tmp_path / "8.onnx", "int8")
    (paths, category), = seen
    assert {path.name for path in paths} == set(tiny_run.record["split"]["train"]) and category == "hex_nut"


def test_calibration_has_good_images_and_defects(nuts):
    images = export.calibration_images(find_images(nuts), SMALL, "hex_nut", 3)
    good, spoilt = images.chunk(2)
    assert len(images) == 6 and ((good - spoilt).abs().flatten(1).max(1).values > .05).all()
    assert torch.equal(images, export.calibration_images(find_images(nuts), SMALL, "hex_nut", 3))


# what can be wrong

def refused(says, act, *args, **kwargs):
    with pytest.raises(MemSegError, match=says):
        act(*args, **kwargs)


def test_wrong_requests(instant, file, tiny_run, nuts, tmp_path):
    out = tmp_path / "out.onnx"
    refused("precision 'int4': expected float32, float16, int8", export_onnx, instant, out, "int4")
    refused("int8 without good photos", export_onnx, instant, out, "int8")
    refused("no such folder", export_onnx, instant, out, "int8", photos=tmp_path / "none")
    refused("no run folder", export_onnx, tmp_path / "none", out)
    refused("OnnxModel can't be exported", export_onnx, Detector.load(file), out)
    refused("runtime 'tensorrt': expected torch or onnx", Detector.load, tiny_run, "cpu", "tensorrt")
    refused("precision 'int8' with runtime torch", Detector.load, tiny_run, "cpu", precision="int8")
    refused("nut.onnx is float32, not int8", Detector.load, file, precision="int8")
    refused("computes on the CPU", Detector.load, file, "cuda")
    assert not list(tmp_path.iterdir())


def test_an_image_of_another_size(file):
    refused(r"images of shape \(1, 3, 32, 64\): this file needs \(batch, 3, 64, 64\)",
            OnnxModel(file).anomaly_map, torch.zeros(1, 3, 32, 64))


def test_files_that_are_none(file, graph, tmp_path):
    for name, data in dict(empty=b"", text=b"no graph at all", cut=file.read_bytes()[:50_000]).items():
        (tmp_path / f"{name}.onnx").write_bytes(data)
        refused(f"{name}.onnx", Detector.load, tmp_path / f"{name}.onnx")
    refused("no file", Detector.load, tmp_path / "none.onnx")
    refused("not written by memseg export", OnnxModel,
            write_graph(copy_of(graph), tmp_path / "stranger.onnx", {}))


@pytest.mark.parametrize("key, value", [("height", "tall"), ("height", 33), ("width", 10**6), ("samples", 0),
                                        ("samples", 10**30), ("threshold", "nan"), ("threshold", 2),
                                        ("threshold", True), ("threshold", None), ("threshold", ""),
                                        ("pixel_threshold", "inf"), ("top_share", -1), ("precision", "int4")])
def test_a_wrong_fact_names_file_and_key(file, graph, tmp_path, key, value):
    path = write_graph(copy_of(graph), tmp_path / "wrong.onnx", OnnxModel(file).facts | {key: value})
    refused(f"wrong.onnx: {key} = '{value}': needs ", Detector.load, path)


@pytest.mark.parametrize("place", [.2, .5, .8, .999])
def test_a_changed_file_is_refused(file, tmp_path, place):
    data, path = bytearray(file.read_bytes()), tmp_path / "changed.onnx"
    data[int(place * len(data))] ^= 64
    path.write_bytes(data)
    refused("changed.onnx", Detector.load, path)


def test_a_changed_threshold_of_a_file_is_refused(file, tmp_path):
    model = onnx.load(file)
    next(fact for fact in model.metadata_props if fact.key == "threshold").value = "0.001"
    onnx.save(model, tmp_path / "changed.onnx")
    refused("changed.onnx is damaged or was changed: its SHA-256", Detector.load, tmp_path / "changed.onnx")


def test_an_older_file_has_no_digest_and_loads_with_a_note(file, tmp_path, capsys):
    model = onnx.load(file)
    del model.metadata_props[[fact.key for fact in model.metadata_props].index("sha256")]
    onnx.save(model, tmp_path / "old.onnx")
    Detector.load(tmp_path / "old.onnx")
    assert capsys.readouterr().out.count("note: ") == 1
    Detector.load(file)
    assert capsys.readouterr().out == ""


def test_an_answer_of_a_file_that_is_not_finite_is_refused(file, graph, tmp_path):
    broken = copy_of(graph)
    bias = next(one for one in broken.graph.initializer if one.name.endswith("decoder.head.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(2, np.nan, np.float32), bias.name))
    facts = {name: value for name, value in OnnxModel(file).facts.items()
             if name not in ("good_scores", "photos")}
    model = OnnxModel(write_graph(broken, tmp_path / "nan.onnx", facts))
    refused("anomaly map has values that are not finite", model.anomaly_map, torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(instant, file, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    act = functools.partial(OnnxModel, file) if package == "onnxruntime" else functools.partial(
        export_onnx, instant, tmp_path / "out.onnx")
    refused(rf"the package {package} is missing: pip install 'memseg-nb\[onnx\]'", act)


def test_a_file_is_written_whole_or_not_at_all(graph, tmp_path, monkeypatch):
    out = tmp_path / "a.onnx"
    out.write_text("what was there before")
    def full(*args):
        raise OSError("disk full")
    monkeypatch.setattr("memseg_nb.training.checkpoints.os.replace", full)
    refused("disk full", write_graph, copy_of(graph), out, {})
    assert out.read_text() == "what was there before" and list(tmp_path.iterdir()) == [out]


# the command line

def scores(folder):
    "Scores by file name"
    return {row["file"]: float(row["score"]) for row in csv.DictReader((folder / "scores.csv").open())}


def test_export_and_predict_on_the_command_line(memseg, tiny_run, tiny_data, tmp_path):
    run, photos, file = tmp_path / "run", tiny_data / "hex_nut" / "test" / "good", tmp_path / "nut.onnx"
    shutil.copytree(tiny_run.folder, run)
    code, out, _ = memseg("export", run, "--out", file, "--precision", "float16", "--samples", 2)
    assert code == 0 and f"memseg predict {file}" in out and OnnxModel(file).facts["samples"] == 2
    assert memseg("export", run, "--out", file)[0] == 0 and OnnxModel(file).facts["precision"] == "float32"
    commands = {"torch": [run], "file": [file], "runtime": [run, "--runtime", "onnx"],
                "bfloat16": [run, "--precision", "bfloat16"]}
    for name, (what, *options) in commands.items():
        answers = tmp_path / name
        code, out, err = memseg("predict", what, photos, "--out", answers, "--device", "cpu", *options)
        assert code == 0 and "4 photos" in out, err
        tolerance = .02 if name == "bfloat16" else 1e-4
        assert scores(answers) == pytest.approx(scores(tmp_path / "torch"), abs=tolerance)
    assert (run / "model-float32.onnx").is_file()


def test_export_without_a_run(memseg, traced, nuts, tmp_path, monkeypatch):
    monkeypatch.setattr("memseg_nb.deployment.answers.load_recipe", lambda *args: SMALL)
    code, out, _ = memseg("export", "--memory", nuts, "--out", tmp_path / "8.onnx", "--precision", "int8")
    assert code == 0 and " MB" in out and OnnxModel(tmp_path / "8.onnx").facts["precision"] == "int8"


@pytest.mark.parametrize("arguments", ["export --out x.onnx", "export run --memory good --out x.onnx",
                                       "export run --out x.onnx --precision int3", "export run",
                                       "predict --memory good photos --out x --precision bfloat16"])
def test_usage_errors(memseg, arguments):
    assert memseg(*arguments.split())[0] == 2


def test_what_fails_is_said(memseg, tiny_run, tmp_path):
    out = tmp_path / "x"
    photos = tmp_path / "photos"
    photos.mkdir()
    code, _, err = memseg("predict", tiny_run.folder, photos, "--out", out, "--runtime", "tensorrt")
    assert code == 2 and "'torch', 'onnx'" in err
    (tmp_path / "bad.onnx").write_text("nothing")
    code, _, err = memseg("predict", tmp_path / "bad.onnx", photos, "--out", out)
    assert code == 1 and "bad.onnx can't be run" in err
