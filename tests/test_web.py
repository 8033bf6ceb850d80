"What the widgets on a page without a kernel load: graphs that compute what the library computes, in few bytes"

import base64
import copy
import gzip
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("anywidget")

from memseg_nb.deployment.onnx import KEEP  # noqa: E402
from memseg_nb.evaluation.evaluate import confusion  # noqa: E402
from memseg_nb.files import MemSegError  # noqa: E402
from memseg_nb.metrics import image_auroc, image_score  # noqa: E402
from memseg_nb.products.catalogue import PRODUCTS, render_product  # noqa: E402
from memseg_nb.recipe import load_recipe  # noqa: E402
from memseg_nb.simulation import flaws, perlin, textures  # noqa: E402
from memseg_nb.widgets import AnomalyStudio, PerlinPlayground  # noqa: E402
from memseg_nb.widgets.threshold_explorer import roc_points  # noqa: E402
from memseg_nb.widgets.painter import cover  # noqa: E402
from memseg_nb.widgets.playgrounds import studio_changes  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
from live import assets, graphs, network  # noqa: E402

GRAPHS = ("perlin", "studio", "texture", "paint", "flaw", "scores", "network")


class Site:
    "The files as a page reads them"
    def __init__(self, root):
        self.root, self.sessions = root, {}
        self.known, self.fixtures = (json.loads((root / f"{name}.json").read_text())
                                     for name in ("assets", "fixtures"))
        self.outputs = self.read("fixtures.bin", self.fixtures["arrays"])

    def open(self, name):
        data = (self.root / name).read_bytes()
        return gzip.decompress(data) if name.endswith(".gz") else data

    def read(self, name, table):
        data = self.open(name)
        return {key: np.frombuffer(data, one["dtype"], int(np.prod(one["shape"])), one["offset"])
                .reshape(one["shape"]) for key, one in table.items()}

    def run(self, graph, **inputs):
        if graph not in self.sessions:
            self.sessions[graph] = onnxruntime.InferenceSession(
                self.open(self.known["graphs"][graph]["file"]))
        session = self.sessions[graph]
        feed = {name: one.numpy() if isinstance(one, torch.Tensor) else np.asarray(one)
                for name, one in inputs.items()}
        return dict(zip([one.name for one in session.get_outputs()], session.run(None, feed)))

    def memory(self, product):
        known = self.known["products"][product]["memory"]
        return self.read(known["file"], known["arrays"])


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "All that a page gets, with a network for small photos and a short training"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "_STEPS", 4)
        folder = tmp_path_factory.mktemp("site") / "live"
        returned = assets.write_site_assets(folder, size=64)
    made = Site(folder)
    assert json.loads(json.dumps(returned)) == made.known
    return made


@pytest.fixture(scope="session")
def page():
    "A product's small network"
    return assets.page_detector("hex_nut", (64, 64))


def draws(site):
    return site.read(site.known["draws"]["file"], site.known["draws"]["arrays"])


@pytest.mark.parametrize("graph", GRAPHS)
def test_graphs_give_what_the_library_gives(site, graph):
    cases, tolerances = site.fixtures["cases"][graph], site.fixtures["tolerances"]
    assert len(cases) >= 2
    for case in cases:
        inputs = {name: site.outputs[key] for name, key in case["inputs"].items()}
        inputs |= site.memory(case["memory"]) if "memory" in case else {}
        found = site.run(graph, **inputs)
        assert set(found) == set(case["outputs"]) == set(site.known["graphs"][graph]["outputs"])
        assert set(inputs) == set(site.known["graphs"][graph]["inputs"])
        for name, key in case["outputs"].items():
            wanted = site.outputs[key]
            assert found[name].dtype == wanted.dtype and found[name].shape == wanted.shape, name
            gap = np.abs(found[name].astype(float) - wanted.astype(float))
            is_mask = name in ("mask", "product", "noise_mask")
            assert (gap.mean() if is_mask else gap.max()) <= tolerances.get(name, 0), name


def test_cases_differ(site):
    "A graph that forgot an input would not be noticed by two equal cases"
    for graph in GRAPHS:
        first, second = site.fixtures["cases"][graph][:2]
        for part in ("inputs", "outputs"):
            same = [np.array_equal(site.outputs[a], site.outputs[b])
                    for a, b in zip(first[part].values(), second[part].values())]
            assert not all(same), graph


@pytest.mark.parametrize("seed, a, b", [(3, 5, 5), (17, 1, 4), (98, 0, 2)])
def test_a_seed_of_the_playground_gives_the_notebooks_noise(site, seed, a, b):
    panel = PerlinPlayground((256, 256)).set(a=a, b=b, seed=seed, rotation=-12, threshold=.25)
    angles = draws(site)["angles"][seed, :33 * 33].reshape(33, 33)[:2**a + 1, :2**b + 1]
    found = site.run("perlin", angles=angles, rotation=np.float32(-12), threshold=np.float32(.25))
    assert np.allclose(found["noise"], panel.noise(), atol=1e-5)
    assert found["share"] == pytest.approx(found["mask"].mean(), abs=1e-6)
    assert found["histogram"].sum() == (np.abs(found["noise"]) <= 1.2).sum()


@pytest.mark.parametrize("values", [
    dict(product="hex_nut", seed=2, threshold=.2),
    dict(product="hex_nut", seed=55, source="structure", opacity=1., largest=3),
    dict(product="tablet", seed=8, source="structure", smallest=4, largest=1, opacity=.5, threshold=.1),
    dict(product="tablet", seed=4, foreground="darker than", level=150, threshold=.1),
    dict(product="wood", seed=12, foreground="brighter than", level=100, threshold=.1)])
def test_a_seed_of_the_studio_gives_the_notebooks_anomaly(site, values):
    studio = AnomalyStudio("hex_nut", (256, 256)).set(**values)
    image, made = studio.simulate()
    assert made.tries[0] == 1  # the page draws once
    ready = torch.zeros(256, 256) if "level" in values else made.foreground[0]
    found = site.run("studio", **assets.studio_inputs(studio, draws(site), image, ready, made.source[0]))
    for name, wanted in (("product", made.foreground), ("mask", made.masks), ("noise_mask", made.noise_mask)):
        assert (found[name] != wanted[0].numpy()).mean() < 1e-3, name
    assert np.abs(found["source"] - made.source[0].numpy()).max() < 1e-4
    changed = found["mask"] == made.masks[0].numpy()
    assert np.abs(found["anomaly"] - made.images[0].numpy())[:, changed].max() < 1e-4


@pytest.mark.parametrize("seed, largest", [(0, 5), (31, 5), (62, 3), (93, 0)])
def test_a_seed_of_the_studio_gives_the_notebooks_texture(site, seed, largest):
    "From the sheet that the page loads, stored without loss, to the window in its colours"
    studio, drawn = (
        AnomalyStudio("hex_nut", (256, 256)).set(seed=seed, largest=largest, threshold=-0.5),
        draws(site),
    )
    _, made = studio.simulate()
    assert made.tries[0] == 1
    known = Image.open(site.root / site.known["studio"]["sheets"][drawn["sheet"][seed, largest]])
    sheet = torch.from_numpy(np.array(known)).movedim(-1, 0).float() / 255
    found = site.run(
        "texture", sheet=sheet, window=drawn["window"][seed, largest], colours=drawn["colours"][seed, largest]
    )
    assert np.abs(found["texture"] - made.source[0].numpy()).max() < 1e-5


def test_nothing_of_a_sheet_that_a_seed_shows_is_left_out(site):
    "Black is only what no window of any seed reaches"
    drawn, side = draws(site), textures._sheet_side((assets.SIDE,))
    numbers = torch.Generator().manual_seed(0)
    sheets = torch.randint(1, 256, (64, 3, side, side), dtype=torch.uint8, generator=numbers)
    kept = assets.reached(sheets, drawn)
    assert .05 < (kept == 0).float().mean() < .2
    for which, window in zip(drawn["sheet"].ravel(), drawn["window"].reshape(-1, 5).tolist()):
        whole, left = (
            textures._window(some[which], (assets.SIDE, assets.SIDE), window) for some in (sheets, kept)
        )
        assert torch.equal(whole, left)


@pytest.mark.parametrize("values", [
    dict(), dict(product="wood", foreground="table", row="tile", smallest=3, largest=2, opacity=1., seed=5),
    dict(number=2, foreground="darker than", level=7, threshold=-.05, source="structure")])
def test_the_template_filled_in_is_the_studios_own_code(site, values):
    studio = AnomalyStudio("hex_nut", (256, 256)).set(**values)
    changes, told = studio_changes({name: studio[name] for name in studio.controls}), site.known["studio"]
    filled = {one["name"]: changes[f"{one['section']}.{one['key']}"] for one in told["settings"]}
    words = {name: repr(value) for name, value in filled.items()} | dict(
        product=repr(studio["product"]),
        category=repr(studio.settings()[1]),
        number=studio["number"],
        seed=studio["seed"],
    )
    text = told["code"]
    for name, value in words.items(): text = text.replace(f"{{{name}}}", str(value))
    assert text == studio.code()
    lines = [
        f"{one['key']} = {filled[one['name']]}"
        for one in told["settings"]
        if str(filled[one["name"]]) != one["value"]
    ]
    assert lines == [line for line in studio.ini().splitlines() if "=" in line]


def test_a_template_is_refused_where_a_value_is_not_found_once(monkeypatch):
    monkeypatch.setitem(assets._EXAMPLE, "seed", 98)
    with pytest.raises(MemSegError, match="manual_seed.97. stands in it 0 times"):
        assets.code_template(AnomalyStudio("hex_nut", (64, 64)))


def test_stamps_are_the_painters_flaws_but_for_displaced_pieces():
    made = assets.stamps((64, 64))
    assert (
        len(made["kind"]) == assets.STAMPS * len(flaws.KINDS)
        and (np.bincount(made["kind"]) == assets.STAMPS).all()
    )
    for k, seed in enumerate(made["seed"]):
        shape, _ = flaws.draw_shape(np.random.default_rng(seed), (64, 64), flaws.KINDS[made["kind"][k]])
        assert np.array_equal(made["shape"][k], np.round(shape * 255)), k
    first = made["kind"] == flaws.KINDS.index("crack")
    assert made["seed"][first].tolist() == [1, 2, 3, 4, 5, 6] and len(set(made["which"])) >= 3
    assert (
        assets._stamp(flaws.KINDS.index("stain"), 2, (64, 64)) is None
    )  # a piece of the product from somewhere else


def test_the_studios_rule_is_never_empty(site):
    case = site.fixtures["cases"]["studio"][0]
    inputs = {name: site.outputs[key] for name, key in case["inputs"].items()}
    found = site.run("studio", **inputs | dict(direction=1, level=np.float32(255)))
    assert found["product"].all()


def test_draws_are_those_of_the_library(site):
    drawn = draws(site)
    for seed, low, high in ((0, 0, 5), (99, 2, 3), (41, 4, 4)):
        generator = torch.Generator().manual_seed(seed)
        wanted = torch.randint(low, high + 1, (1, 2), generator=generator)[0]
        assert drawn["exponents"][seed, low, high].tolist() == wanted.tolist()
        gradients, side = perlin.lattice(wanted[None], generator, high)[0].numpy(), 2 ** high + 1
        angles = drawn["angles"][seed, 2:2 + side * side].reshape(side, side)
        assert np.allclose(np.stack([np.sin(angles), np.cos(angles)], -1), gradients, atol=1e-6)
        assert drawn["rotation"][seed, high] == perlin.uniform((1,), -90, 90, generator).item()
    assert (np.sort(drawn["pieces"], -1) == np.arange(32)).all()


def test_numbers_are_given_in_order_and_within_the_block_only():
    generator = torch.Generator().manual_seed(3)
    with graphs.Drawn() as drawn:
        first = perlin.uniform((2,), 0, 1, generator), torch.randn(3, generator=generator)
    assert all(torch.equal(a, b) for a, b in zip(drawn.noted, first)) and len(drawn.noted) == 2
    with pytest.raises(ZeroDivisionError), graphs.Drawn(torch.ones(2), torch.zeros(3)):
        assert perlin.uniform((2,), 0, 1, generator).tolist() == [1, 1]
        assert torch.rand(3).tolist() == [0, 0, 0]
        1 / 0
    assert torch.equal(perlin.uniform((2,), 0, 1, torch.Generator().manual_seed(3)), first[0])


@pytest.mark.parametrize("points", [[(30., 30.)] * 2, [(3., 60.), (50., 10.)],
                                    [(1., 1.), (60., 5.), (5., 60.), (40., 40.)]])
def test_strokes_of_any_length(site, points):
    image, colour = (torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)),
                     torch.tensor([1., 0., .5]))
    found = site.run("paint", image=image, points=torch.tensor(points), radius=torch.tensor(3.5),
                     colour=colour)["painted"]
    wanted = torch.lerp(image, colour[:, None, None], cover(points, 3.5, (64, 64)))
    assert np.allclose(found, wanted, atol=1e-5) and (found != image.numpy()).any()


def test_decisions_and_curve_with_equal_scores(site):
    scores, labels = np.array([.2, .7, .7, .1, .4], np.float32), np.array([0, 1, 0, 0, 1], np.uint8)
    for threshold in (.05, .4, .7):
        found = site.run("scores", scores=scores, labels=labels, threshold=np.float32(threshold))
        table = confusion(scores, labels > 0, np.float32(threshold))
        assert [int(found[name]) for name in ("tp", "fp", "tn", "fn")] == [
            table[f"{name}s"]
            for name in ("true_positive", "false_positive", "true_negative", "false_negative")]
    fpr, tpr = roc_points(scores, labels > 0)
    assert sorted(set(zip(found["fpr"].round(5), found["tpr"].round(5)))) == sorted(
        set(zip(fpr.round(5).astype("f"), tpr.round(5).astype("f"))))
    assert (len(found["tpr"]) == 6 and found["tpr"][-1] == found["fpr"][-1] == 1
            and (np.diff(found["tpr"]) >= 0).all())


def test_one_network_serves_every_product(site, page):
    "The memory of a product that was not there when the graph was made"
    image = render_product("hex_nut", (64, 64), defect=PRODUCTS["hex_nut"].defects[0])[0]
    memory = network.memory_arrays(page.detector.model)
    found, wanted = site.run("network", image=image, forced=-1, **memory), page.detector.predict(image)
    assert (np.allclose(found["map"], wanted.map, atol=1e-3)
            and found["score"] == pytest.approx(wanted.score, abs=1e-3))
    other = site.run("network", image=image, forced=-1, **site.memory("tablet"))
    assert np.abs(other["map"] - found["map"]).max() > .1  # it does look at the memory


def test_forced_samples(site, page):
    image = render_product("hex_nut", (64, 64))[0]
    memory = network.memory_arrays(page.detector.model)
    found = [site.run("network", image=image, forced=k, **memory) for k in (-1, 0, 9)]
    assert [int(one["index"]) for one in found] == [found[0]["distances"].argmin(), 0, 9]
    assert all(np.array_equal(one["distances"], found[0]["distances"]) for one in found)


def test_shrunk_weights_are_whole_steps(page):
    steps, state = page.small.steps, page.small.model.state_dict()
    assert sum(state[name].numel() for name in steps) > 20_000_000
    for name, step in steps.items():
        whole = state[name] / step
        assert (whole - whole.round()).abs().max() < 1e-3 and whole.abs().max() <= 127.01, name
        assert state[name].shape[:1] == step.shape[:1]


def test_shrinking_leaves_the_original_alone_and_rounds_as_told():
    model = network.remembering("hex_nut", (64, 64), 2).model
    before = copy.deepcopy(model.state_dict())
    near, far = network.shrink(model, .01, .01), network.shrink(model, 1., 1.)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    image = render_product("hex_nut", (64, 64), defect=PRODUCTS["hex_nut"].defects[0])[0][None]
    own = model.anomaly_map(image)
    gaps = [(small.model.anomaly_map(image) - own).abs().mean() for small in (near, far)]
    assert gaps[0] < .02 < gaps[1]
    assert network.weight_bytes(far) < network.weight_bytes(near) / 2
    assert len(network.shrink(model, samples=1).model.memory.layer1) == 1
    assert set(KEEP) - {"decoder.merge.4.1"} <= set(network.FINE)


def test_small_enough(site):
    files = site.known["files"]
    network = site.known["graphs"]["network"]["file"]
    memory = site.known["products"]["tablet"]["memory"]["file"]
    assert files[network]["stored"] + files[memory]["stored"] <= 12_000_000
    assert files[network]["bytes"] > 20_000_000  # whole numbers of 8 bits, nothing left out
    assert all(
        files[f"{name}.onnx.gz"]["stored"] < 15_000
        for name in ("perlin", "studio", "texture", "paint", "scores")
    )


def test_a_small_network_judges_as_the_whole_one(page):
    whole = network.remembering("hex_nut", (64, 64)).model
    images, masks = network.unseen_photos("hex_nut", (64, 64), good=4, defective=1)
    labels, found = masks.flatten(1).any(1), {}
    for name, model in (("whole", whole), ("small", page.small.model)):
        maps = model.anomaly_map(images)
        pixels = image_auroc(maps.flatten(), masks.flatten())
        found[name] = maps, pixels, image_auroc(image_score(maps, 0.0015), labels)
    assert (found["whole"][0] - found["small"][0]).abs().mean() < 0.1
    assert found["small"][1] > found["whole"][1] - 0.05
    assert found["small"][2] > found["whole"][2] - 0.05


def test_the_table_of_files_is_true(site):
    there = {str(path.relative_to(site.root)) for path in site.root.rglob("*") if path.is_file()}
    assert there == set(site.known["files"]) | {"assets.json"}
    for name, known in site.known["files"].items():
        stored = (site.root / name).read_bytes()
        assert known["stored"] == len(stored) and known["sha256"] == hashlib.sha256(stored).hexdigest(), name
        assert known["bytes"] == len(site.open(name)), name


def test_widgets_begin_as_in_the_notebook(site):
    widgets, panel = site.known["widgets"], PerlinPlayground((256, 256))
    assert set(widgets) == {"perlin", "studio", "threshold", "monitor", "painter-tablet", "explorer-tablet"}
    assert widgets["perlin"]["status"] == panel.status and widgets["perlin"]["question"] == panel.question
    assert list(widgets["perlin"]["controls"]) == list(panel.controls)
    slider = widgets["perlin"]["controls"]["threshold"]
    assert slider == dict(kind="slider", description="threshold T", value=.5, min=-1., max=1., step=.01,
                          disabled=False)
    for name, known in widgets.items():
        assert known["items"] and known["status"] and known["hint"], name
        for item in known["items"]:
            assert item["alt"] and (site.root / item["src"]).is_file() and not item["src"].startswith("data:")
    for kind, item in zip((".webp", ".svg", ".webp"), widgets["perlin"]["items"]):
        assert item["src"].endswith(kind)
    assert widgets["studio"]["controls"]["product"]["options"] == list(assets.PLACES)
    assert widgets["explorer-tablet"]["controls"]["compare"]["options"] == ["nearest", *map(str, range(10))]


def test_the_rest_of_what_a_page_needs(site):
    known = site.known
    table = base64.b64decode(known["colours"]["viridis"])
    assert (len(table) == 768 and list(table[:3]) == [68, 1, 84]
            and known["colours"]["magma"] != known["colours"]["viridis"])
    assert set(known["studio"]["rules"]) == set(load_recipe().foreground_table)
    assert known["studio"]["rules"]["hazelnut"] == dict(level=50., direction=1)
    assert known["studio"]["rules"]["bottle"] == dict(level=250., direction=2)
    assert len(known["products"]["tablet"]["painter"]["photos"]) == 6
    kinds = [photo["kind"] for photo in known["products"]["tablet"]["painter"]["photos"]]
    assert kinds.count("good") == 4 and set(kinds[4:]) <= set(PRODUCTS["tablet"].defects)
    assert (len(known["monitor"]["losses"]) == len(known["monitor"]["steps"]) == 4
            and len(known["monitor"]["heatmaps"]) >= 1)
    assert len(known["threshold"]["scores"]) == len(known["threshold"]["labels"]) == len(
        known["threshold"]["thumbs"])


@pytest.mark.parametrize("products, says", [(("tablet", "teapot"), "teapot"), ((), "at least one")])
def test_products_that_are_not_there(tmp_path, products, says):
    with pytest.raises(MemSegError, match=says): assets.write_site_assets(tmp_path / "out", products)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(MemSegError, match="choose another folder"): assets.write_site_assets(place)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_all_or_nothing(tmp_path, monkeypatch):
    def half(folder, *_):
        folder.write("perlin.onnx", b"half")
        raise OSError("disk full")
    monkeypatch.setattr(assets, "_write", half)
    with pytest.raises(OSError): assets.write_site_assets(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_size_that_the_network_cannot_take(tmp_path):
    with pytest.raises(MemSegError, match="multiples of 32"):
        assets.write_site_assets(tmp_path / "out", size=50)
    assert not list(tmp_path.iterdir())
