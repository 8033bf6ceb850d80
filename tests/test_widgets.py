"Widgets: what they show is what the library computes; each is driven without a browser here"
import io
import re
import shutil
import threading
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from xml.etree import ElementTree

pytest.importorskip("anywidget", reason="widgets need anywidget: pip install 'memseg-nb[lab]'")

import ipywidgets

from memseg_nb.evaluation.evaluate import confusion
from memseg_nb.widgets.threshold_explorer import confusion_table, roc_points
from memseg_nb.data.images import read_image, save_image
from memseg_nb.metrics import PixelMetrics, area, image_auroc, label_regions, rates
from memseg_nb.widgets.monitor import smooth
from memseg_nb.widgets.painter import cover, place
from memseg_nb.widgets.base import (FRONT, Chart, Explore, Panel, Picture, legend, menu, png, point, slider,
                                    svg, ticks, value_at)
from memseg_nb.simulation.perlin import binarise
from memseg_nb.products.catalogue import render_product
from memseg_nb.files import MemSegError
from memseg_nb.recipe import load_recipe
from memseg_nb.training.train import make_simulator, read_losses, train
from memseg_nb.widgets import (AnomalyStudio, DefectPainter, MemoryExplorer, PerlinPlayground,
                               ThresholdExplorer, TrainingMonitor)

SIZE = (64, 64)


def pixels(picture):
    "What the browser is given, as an array"
    return np.asarray(Image.open(io.BytesIO(png(picture.content, picture.cmap, picture.limits)))
                      .convert("RGB"))


def every(widget):
    "A widget and all that is in it"
    yield widget
    for child in getattr(widget, "children", ()): yield from every(child)


# panels

@pytest.mark.parametrize("picture, shape", [
    (torch.rand(3, 8, 12), (8, 12)), (torch.rand(8, 12), (8, 12)), (torch.rand(8, 12) > .5, (8, 12)),
    (np.full((4, 4), 3.), (4, 4))])
def test_png_of_any_picture(picture, shape):
    image = Image.open(io.BytesIO(png(picture)))
    assert image.size == shape[::-1] and image.format == "PNG"


def test_limits_fix_the_colours():
    dark, bright = torch.zeros(2, 2), torch.tensor([[0., 1.], [1., 1.]])
    assert (png(dark, limits=(0, 1)) == png(dark)
            and png(bright / 2, limits=(0, 1)) != png(bright, limits=(0, 1)))


def test_masks_are_black_and_white():
    values = np.asarray(Image.open(io.BytesIO(png(torch.tensor([[True, False]])))).convert("L"))
    assert values.tolist() == [[255, 0]]


def test_chart_is_well_formed_and_escapes_words():
    chart = (Chart((0, 10), (0, 1), "a < b & c", "y")
             .bars([0, 5, 10], [.5, 1.]).line([0, 10], [0, 1]).upright(9, "T < 1"))
    root = ElementTree.fromstring(svg(legend(point(chart, 5, .5), {"x": "#000000"})))
    words = [node.text for node in root.iter() if node.tag.endswith("text")]
    assert "a < b & c" in words and "T < 1" in words and "x" in words
    # no range at all
    assert ElementTree.fromstring(svg(Chart((2, 2), (0, 0)).bars([2, 2], [0]))).tag.endswith("svg")


def test_a_click_finds_the_value_that_was_drawn_there():
    chart = Chart((-1, 3), (0, 1))
    assert all(np.isclose(value_at(chart, chart.across(x) / chart.size[0]), x) for x in (-1, 0, .5, 3))


@pytest.mark.parametrize("low, high", [(0, 1), (-1.2, 1.2), (0, 123456), (0, 1e-4), (3, 3.001)])
def test_ticks_are_round_and_inside(low, high):
    numbers = ticks(low, high)
    assert 2 <= len(numbers) <= 9 and min(numbers) >= low - 1e-12 and max(numbers) <= high * (1 + 1e-9)


def test_picture_needs_words():
    with pytest.raises(TypeError):
        Picture("mask", torch.zeros(2, 2))


class Counting(Panel):
    question, hint = "How often?", "Move it."
    updates = 0

    def update(self):
        self.updates += 1
        if self["low"] > .9: raise MemSegError("too high: needs 0.9 at most")
        self.show([Picture("flat", torch.full((4, 4), self["low"]), "flat", "flat", limits=(0, 1))],
                  f"low {self['low']:.2f}")


def test_panel_updates_once_for_several_values():
    panel = Counting(dict(low=slider("low", .5, 0., 1.), kind=menu("kind", ["a", "b"])))
    assert panel.updates == 1
    panel.set(low=.2, kind="b")
    assert panel.updates == 2 and panel.status == "low 0.20" and panel.board.status == panel.status
    panel.controls["low"].value = .3  # as the browser does
    assert panel.updates == 3


def test_panel_says_errors_and_goes_on():
    panel = Counting(dict(low=slider("low", .5, 0., 1.)))
    assert panel.set(low=.95).status == "too high: needs 0.9 at most"
    assert panel.set(low=.1).status == "low 0.10"
    with pytest.raises(MemSegError, match="there are low"):
        panel.set(high=1)


def test_panel_is_displayed_as_a_widget_and_as_words():
    bundle, _ = Counting(dict(low=slider("low", .5, 0., 1.)))._repr_mimebundle_()
    assert ("application/vnd.jupyter.widget-view+json" in bundle
            and bundle["text/plain"] == "How often?\nlow 0.50")


def test_a_page_without_a_kernel_shows_the_last_picture_or_chart():
    def look(high):
        picture = Picture("steps", np.eye(4) * high, f"diagonal of {high:.1f}", "steps")
        return ([picture] if high < .9 else [
            Picture("chart", Chart((0, 1), (0, 1), "x", "y"), "empty", "chart")]), f"up to {high:.1f}"

    panel = Explore("How high?", look, high=slider("high", .5, 0., 1.))
    bundle, metadata = panel._repr_mimebundle_()
    assert Image.open(io.BytesIO(bundle["image/png"])).size > (50, 50)
    assert metadata["image/png"]["alt"] == "up to 0.5"
    bundle, _ = panel.set(high=1.)._repr_mimebundle_()
    assert "image/png" not in bundle and bundle["image/svg+xml"].startswith("<svg")


def test_explore_says_what_its_function_could_not_do():
    def look(size):
        if size > 2: raise MemSegError("size 3: expected 1 or 2; move the slider back")
        return [Picture("one", np.zeros((4, 4)), "black")], f"size {size}"

    panel = Explore("How large?", look, size=slider("size", 1, 1, 4))
    assert panel.set(size=2).status == "size 2"
    assert panel.set(size=3).status.startswith("size 3: expected 1 or 2")


def test_front_end_draws_and_does_not_compute():
    scripts = [(FRONT / name).read_text() for name in ("board.js", "canvas.js")]
    assert not [word for script in scripts for word in ("http", "import ", "eval(", "fetch(")
                if word in script]
    assert 'setAttribute("role", "status")' in scripts[0] and "aria-label" in scripts[1]


@pytest.mark.parametrize("make", [
    lambda: PerlinPlayground(SIZE), lambda: AnomalyStudio("tablet", SIZE), lambda: TrainingMonitor("nowhere"),
    lambda: ThresholdExplorer([.1, .4, .6, .9], [0, 0, 1, 1], .5)],
    ids=["PerlinPlayground", "AnomalyStudio", "TrainingMonitor", "ThresholdExplorer"])
def test_every_widget_asks_and_labels(make):
    widget = make()
    assert widget.question.endswith("?") and widget.hint and widget.status
    assert all(control.description for control in widget.controls.values())
    assert all(picture.alt for picture in widget.pictures.values())
    assert all(picture.cmap in ("viridis", "magma") for picture in widget.pictures.values())
    assert [item["alt"] for item in widget.board.items] == [
        picture.alt for picture in widget.pictures.values()]


# Perlin playground

def test_perlin_numbers_are_the_librarys():
    playground = PerlinPlayground(SIZE).set(a=3, b=1, rotation=30, threshold=.2, seed=4)
    mask = binarise(playground.noise(), .2)
    assert torch.equal(playground.pictures["mask"].content, mask)
    assert f"8 x 2 cells: {mask.float().mean():.1%} of the area" in playground.status
    assert f"in {label_regions(mask)[1]} piece" in playground.status


def test_perlin_threshold_draws_no_new_noise():
    playground = PerlinPlayground(SIZE)
    before = playground.noise()
    assert playground.set(threshold=-.3).noise() is before and playground.set(seed=5).noise() is not before


# anomaly studio

def test_studio_shows_the_simulator():
    studio = AnomalyStudio("tablet", SIZE).set(source="structure", opacity=.6, seed=8, threshold=.2, number=3)
    recipe, category = studio.settings()
    image = render_product("tablet", SIZE, split="train", index=3)[0]
    made = make_simulator(recipe, category)(image[None], torch.Generator().manual_seed(8))
    assert torch.equal(studio.pictures["anomaly"].content, made.images[0])
    assert torch.equal(studio.pictures["mask"].content, made.masks[0]) and not made.is_texture[0]
    assert f"{made.masks[0].float().mean():.1%} of the image" in studio.status


@pytest.mark.parametrize("settings", [
    dict(source="texture", foreground="brighter than", level=90, smallest=1, largest=3),
    dict(source="structure", foreground="table", row="bottle", opacity=.3),
    dict(foreground="off", threshold=.1, number=5)])
def test_exported_code_runs_and_gives_the_same_picture(settings):
    studio = AnomalyStudio("hex_nut", SIZE).set(seed=2, **settings)
    told = {}
    exec(studio.code(), told)
    assert torch.equal(told["made"].images[0], studio.pictures["anomaly"].content)


def test_ini_lines_load(tmp_path):
    studio = AnomalyStudio("hex_nut", SIZE).set(foreground="darker than", level=77, opacity=.25, threshold=.3)
    (tmp_path / "my.ini").write_text(studio.ini())
    recipe = load_recipe(tmp_path / "my.ini")
    assert recipe == studio.settings()[0] and recipe.foreground.method == "<=77"
    assert "learning_rate" not in studio.ini()


def upload(studio, name, content):
    studio.controls["upload"].value = (
        dict(name=name, content=content, type="", size=len(content), last_modified=datetime.now()),)


def test_own_image(tmp_path, monkeypatch):
    studio = AnomalyStudio("hex_nut", SIZE)
    image = render_product("wood", (96, 64), index=1)[0]
    path = save_image(tmp_path / "mine.png", image)
    upload(studio, "mine.png", path.read_bytes())
    assert studio["product"] == "own image" and studio.controls["number"].disabled
    monkeypatch.chdir(tmp_path)
    told = {}
    exec(studio.code(), told)
    assert torch.equal(told["made"].images[0], studio.pictures["anomaly"].content)


def test_own_image_that_is_none():
    studio = AnomalyStudio("hex_nut", SIZE)
    studio.set(product="own image")
    assert "no image yet" in studio.status
    studio.export()
    assert "no image yet" in studio.exported.value
    upload(studio, "cut.png", b"\x89PNG\r\n")
    assert studio.status.startswith("cut.png: is not an image")
    assert studio.set(product="hex_nut").status.startswith("The anomaly covers")


def test_twelve_more():
    studio = AnomalyStudio("tablet", SIZE)
    studio.more()
    more = [picture for name, picture in studio.pictures.items() if name.startswith("more")]
    assert len(more) == 12 and len(studio.pictures) == 19 and "Twelve" in studio.status
    assert len({pixels(picture).tobytes() for picture in more}) == 12
    assert len(studio.set(seed=3).pictures) == 7


def test_a_photo_of_ones_own_without_an_upload(tmp_path):
    photo = render_product("hex_nut", (96, 128))[0]
    save_image(tmp_path / "nut.png", photo)
    studio = AnomalyStudio(size=SIZE, photo=tmp_path / "nut.png").set(seed=3)
    assert studio["product"] == "own image" and studio.controls["number"].disabled
    made = {}
    exec(studio.code(), made)  # the program that it shows makes the anomaly that it shows
    assert torch.equal(made["made"].images[0], studio.pictures["anomaly"].content)
    held = AnomalyStudio(size=SIZE, photo=photo).set(seed=3)
    assert torch.allclose(held.image(), studio.image(), atol=.01)
    assert held.set(product="tablet").status.startswith("The anomaly covers")
    with pytest.raises(MemSegError, match="none.png: no such file"): AnomalyStudio(photo="none.png")


def test_widgets_say_what_they_take():
    with pytest.raises(MemSegError, match="product, 'nut': needs one of .*hex_nut"): AnomalyStudio("nut")
    studio = AnomalyStudio("tablet", SIZE)
    with pytest.raises(MemSegError, match="source, 'wood': needs one of texture, structure"):
        studio.set(source="wood")
    with pytest.raises(MemSegError, match="opacity, 'high': needs a number 0 to 1"):
        studio.set(opacity="high")
    with pytest.raises(MemSegError, match=r"nut: needs one of .*hex_nut.*of_run\(RUN\)"):
        MemoryExplorer("nut")


def test_a_run_in_the_wrong_place_is_told_where_it_belongs(tiny_run):
    "Whatever a folder is mistaken for, the error names the call that takes it"
    for folder in tiny_run.folder, str(tiny_run.folder), tiny_run:
        for widget, says in ((ThresholdExplorer, r"for a run, ThresholdExplorer.of_run\(RUN\)"),
                             (MemoryExplorer, r"for a run, MemoryExplorer.of_run\(RUN\)"),
                             (DefectPainter, r"for a run, DefectPainter\(detector=Detector.load\(RUN\)"),
                             (AnomalyStudio, r"photo of your own, AnomalyStudio\(photo=FILE\)")):
            with pytest.raises(MemSegError, match=says): widget(folder)
    with pytest.raises(MemSegError, match="labels=, as many"): ThresholdExplorer([.1, .2], [True], .5)


# memory explorer

def test_memory_of_a_run(tiny_run, tiny_data, tmp_path):
    explorer = MemoryExplorer.of_run(tiny_run)
    names, train = tiny_run.record["split"]["memory"], tiny_data / "hex_nut" / "train" / "good"
    assert torch.equal(explorer.good, torch.stack([read_image(train / name) for name in names]))
    # the memory's own photos are at no distance from themselves: these are the photos, in this order
    features = explorer.model.encoder(explorer.good)
    assert explorer.model.memory(features).index.tolist() == list(range(len(names)))
    kinds = [name.split()[0] for name in explorer.tests]
    assert kinds.count("good") == 2 and len(set(kinds)) > 1
    for name, (image, mask) in explorer.tests.items():
        assert image.shape[1:] == mask.shape and mask.any() == (name.split()[0] != "good")
    other = shutil.copytree(tiny_data / "hex_nut", tmp_path / "hex_nut")  # other photos of these names
    for name in names: shutil.copy(other / "test" / "good" / "000.png", other / "train" / "good" / name)
    with pytest.raises(MemSegError, match="3 photos of the memory are gone or have changed"):
        MemoryExplorer.of_run(tiny_run, other)
    with pytest.raises(MemSegError, match="no such run|no run"): MemoryExplorer.of_run(tmp_path / "none")
    with pytest.raises(MemSegError, match="needs good="):
        MemoryExplorer(model=explorer.model, good=explorer.good[:1], tests=explorer.tests)


@pytest.fixture(scope="module")
def explorer():
    from memseg_nb.widgets.memory_explorer import example_memory
    return MemoryExplorer("tablet", *example_memory("tablet", SIZE, 6))


def test_match_is_the_networks(explorer):
    name = list(explorer.tests)[0]
    explorer.set(test=name, samples=6, compare="nearest")
    explained = explorer.model.explain(explorer.tests[name][0][None])
    assert int(explained.match.index) == int(explorer.match.index)
    for level in range(3):
        assert torch.equal(explorer.pictures[f"M{level + 1}"].content, explained.maps[level][0, 0])
        assert torch.equal(explorer.pictures[f"DI{level + 1}"].content,
                           explained.match.difference[level][0].mean(0))
    assert (f"number {int(explained.match.index)}, distance "
            f"{explained.match.distances.min():,.0f}" in explorer.status)


def test_fewer_samples(explorer):
    distances = explorer.model.memory(explorer.features()[0]).distances[0]
    for count in (1, 3, 6):
        explorer.set(samples=count, compare="nearest")
        assert int(explorer.match.index) == int(distances[:count].argmin())


def test_a_click_forces_a_sample_and_a_second_frees_it(explorer):
    explorer.set(samples=6, compare="nearest")
    chart = explorer.pictures["distances"].content
    share = float(chart.across(4) / chart.size[0])
    explorer.hear(None, {"kind": "click", "name": "distances", "x": share, "y": .5}, [])
    assert explorer["compare"] == "4" and int(explorer.match.index) == 4
    assert torch.equal(explorer.pictures["sample"].content, explorer.good[4])
    explorer.hear(None, {"kind": "click", "name": "distances", "x": share, "y": .5}, [])
    assert explorer["compare"] == "nearest"


def test_matches_by_level_are_refused(explorer):
    model = SimpleNamespace(memory=SimpleNamespace(match="level"))
    with pytest.raises(MemSegError, match="joint"):
        MemoryExplorer(model=model, good=explorer.good, tests=explorer.tests)


# threshold explorer

SCORES = np.array([.1, .3, .35, .8, .3, .7, .9, .95])
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1], bool)


def test_roc_is_the_librarys():
    fpr, tpr = roc_points(SCORES, LABELS)
    assert np.isclose(area(fpr, tpr), image_auroc(SCORES, LABELS))
    assert (fpr[0], tpr[0]) == (0, 0) and (fpr[-1], tpr[-1]) == (1, 1)


def test_decisions_and_flips():
    thresholds = ThresholdExplorer(SCORES, LABELS, .5, images=lambda k: torch.full((3, 8, 8), k / 8))
    assert not thresholds.flips()
    thresholds.set(threshold=.75)
    now = thresholds["threshold"]
    assert abs(now - .75) < .01
    found = confusion(SCORES, LABELS, now)
    assert (f"{found['true_positives']} of 4 defective images are found and {found['false_positives']} of "
            "4" in thresholds.status)
    assert thresholds.flips() == [5] and "flip5" in thresholds.pictures
    assert "now good, wrong" in thresholds.pictures["flip5"].caption
    assert thresholds.table.value == confusion_table(found) and "<caption>" in thresholds.table.value
    assert f"AUROC {image_auroc(SCORES, LABELS):.3f}" in thresholds.pictures["roc"].alt


def test_pixels_give_a_pro_curve():
    counts, generator = PixelMetrics(), torch.Generator().manual_seed(0)
    masks = torch.zeros(4, 16, 16, dtype=torch.bool)
    masks[:, 4:8, 4:9] = True
    counts.update((torch.rand(4, 16, 16, generator=generator) * .5 + masks * .4).clamp(0, 1), masks)
    thresholds = ThresholdExplorer(SCORES, LABELS, .5, pixels=counts, pixel_threshold=.45)
    found = rates(counts)
    at = (found.thresholds >= .45).sum() - 1
    assert (f"{found.pro[at]:.0%} of a defect's area, {found.fpr[at]:.1%} of the good "
            "surface" in thresholds.status)
    assert f"{counts.aupro():.3f}" in thresholds.pictures["pro"].alt


@pytest.mark.parametrize("labels", [np.zeros(8, bool), np.ones(8, bool)])
def test_one_class_alone(labels):
    assert "0 of 0" in ThresholdExplorer(SCORES, labels, .5).status
    assert ThresholdExplorer([.5], [True], .5).status


def test_click_into_the_histogram_moves_the_threshold():
    thresholds = ThresholdExplorer(SCORES, LABELS, .5)
    chart = thresholds.pictures["scores"].content
    thresholds.hear(
        None, {"kind": "click", "name": "scores", "x": float(chart.across(.2) / chart.size[0]), "y": .5}, [])
    assert abs(thresholds["threshold"] - .2) < .02


def test_a_button_stores_the_threshold(tiny_run, tmp_path):
    from memseg_nb.evaluation.evaluate import evaluate
    from memseg_nb.training.checkpoints import Run
    assert not [one for one in every(ThresholdExplorer(SCORES, LABELS, .5).widget)
                if isinstance(one, ipywidgets.Button)], "nowhere to store it: no button"
    shutil.copytree(tiny_run.folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    if not (run.folder / "scores.csv").exists(): evaluate(run, progress=False)
    thresholds, before = ThresholdExplorer.of_run(run), run.record["threshold"]
    store, = (one for one in every(thresholds.widget) if isinstance(one, ipywidgets.Button))
    thresholds.set(threshold=min(thresholds.scores) + .01)
    level, flips = thresholds["threshold"], thresholds.flips()
    store.click()
    assert run.record["threshold"] == level
    assert run.record["thresholds"]["says"] == "threshold explorer: by hand"
    assert f"is stored in {run.record_file}; before it was {before:.3f}" in thresholds.status
    assert flips and not thresholds.flips(), "they count from the stored one now"
    shutil.rmtree(run.folder)
    store.click()
    assert thresholds.status.startswith("Not stored: no run folder")


def test_from_a_run(tiny_run, tiny_data):
    from memseg_nb.evaluation.evaluate import evaluate
    if not (tiny_run.folder / "scores.csv").exists():
        with pytest.raises(MemSegError, match="memseg evaluate"):
            ThresholdExplorer.of_run(tiny_run)
        evaluate(tiny_run, progress=False)
    quick, whole = ThresholdExplorer.of_run(tiny_run), ThresholdExplorer.of_run(tiny_run, pixels=True)
    assert np.allclose(quick.scores, whole.scores, atol=1e-5) and (quick.labels == whole.labels).all()
    assert "pro" in whole.pictures and "pro" not in quick.pictures and quick.images(0).shape[0] == 3
    assert quick.first == tiny_run.record["threshold"]


# painter

@pytest.fixture(scope="module")
def painter():
    return DefectPainter("hex_nut", size=(128, 128))


def test_a_stroke_raises_the_score_and_can_be_taken_back(painter):
    painter.clear()
    clean = painter.answer.score
    painter.set(brush="dark", radius=2)
    painter.paint([(34, 50), (52, 40)])
    painter.paint([(52, 40), (60, 44)], fresh=False)
    assert painter.answer.score > clean and "changed pixels are found" in painter.status
    assert f"Score {painter.answer.score:.3f}" in painter.status
    assert torch.equal(painter.answer.map, painter.detector.predict(painter.image).map)
    painter.undo()  # both pieces were one stroke
    assert torch.equal(painter.image, painter.original()) and painter.answer.score == clean
    painter.undo()
    assert torch.equal(painter.image, painter.original())


def test_paint_covers_what_it_should(painter):
    painter.clear()
    painter.set(brush="colour", colour="#00ff00", radius=3)
    painter.paint([(20, 30)])
    assert torch.allclose(painter.image[:, 30, 20], torch.tensor([0., 1., 0.]))
    changed = (painter.image != painter.original()).any(0)
    assert torch.equal(changed, cover([(20, 30)], 3, (128, 128)) > 0)
    painter.clear()


def test_the_brush_alone_asks_no_network(painter, monkeypatch):
    monkeypatch.setattr(type(painter), "look", lambda self: pytest.fail("asked"))
    painter.set(brush="bright", radius=5)
    assert painter.canvas.radius == 5


def test_messages_of_the_canvas_are_answered(painter, monkeypatch):
    sent = []
    monkeypatch.setattr(type(painter.canvas), "send",
                        lambda self, content, buffers=None: sent.append(content))
    painter.hear_canvas(None, {"kind": "paint", "points": [[40, 40], [60, 60]], "fresh": True}, [])
    assert not torch.equal(painter.image, painter.original()) and sent == [{"kind": "done"}]
    painter.hear_canvas(None, {"kind": "undo"}, [])
    assert torch.equal(painter.image, painter.original())
    with pytest.raises(Exception):  # and answered even then, or the browser would wait for ever
        painter.hear_canvas(None, {"kind": "paint", "points": "nonsense", "fresh": True}, [])
    assert len(sent) == 3


def test_pasted_flaws_differ(painter):
    painter.clear()
    painter.set(kind="crack")
    images = []
    for _ in range(2):
        painter.paste()
        images.append(painter.image)
        painter.clear()
    assert not torch.equal(*images)


def test_own_detector_and_photos(tmp_path, painter):
    path = save_image(tmp_path / "photo.png", render_product("hex_nut", (160, 160), index=7)[0])
    own = DefectPainter(detector=painter.detector, photos=[path, render_product("hex_nut", (96, 96))[0]])
    assert "product" not in own.controls and own.image.shape == (3, 128, 128)
    assert own.set(number=1).status.startswith("Score")
    with pytest.raises(MemSegError, match="neither"):
        DefectPainter(detector=painter.detector, photos=[])


def test_places_have_names():
    assert {place((y, x, y + 2, x + 2), (90, 90)) for y in (5, 45, 80) for x in (5, 45, 80)} == {
        "at the upper left", "at the upper side", "at the upper right", "at the left side", "in the middle",
        "at the right side", "at the lower left", "at the lower side", "at the lower right"}


# training monitor

def watched(tiny_data, tiny_recipe, out, kind=TrainingMonitor, **more):
    return kind(tiny_data, "hex_nut", out, tiny_recipe.replace(**{"training.steps": 4}), every=2, **more)


def test_watching_changes_nothing(tiny_data, tiny_recipe, tmp_path):
    monitor = watched(tiny_data, tiny_recipe, tmp_path / "watched")
    monitor.start()
    assert monitor.wait(120) and monitor.error is None and "Step 4: done" in monitor.status
    alone = train(tiny_data, "hex_nut", tmp_path / "alone", monitor.recipe, progress=False)
    assert read_losses(alone)["total"] == read_losses(monitor.run)["total"]
    assert {"losses", "photo", "heatmap", "step1"} <= set(monitor.pictures)
    assert not monitor.buttons["start"].disabled and monitor.buttons["stop"].disabled


def test_stop_and_resume(tiny_data, tiny_recipe, tmp_path):
    class Stopping(TrainingMonitor):
        def step(self, step, losses, model):
            if step == 2: self.stop()
            super().step(step, losses, model)

    monitor = watched(tiny_data, tiny_recipe, tmp_path / "run", Stopping, photo=render_product("hex_nut")[0])
    monitor.start()
    assert monitor.wait(120) and "Step 2: stopped" in monitor.status
    fresh = watched(tiny_data, tiny_recipe, tmp_path / "run")  # as after a restart of the kernel
    fresh.resume()
    assert fresh.wait(120) and fresh.notes.steps == [1, 2, 3, 4] and "Step 4: done" in fresh.status
    again = watched(tiny_data, tiny_recipe, tmp_path / "through")
    again.start()
    again.wait(120)
    assert np.allclose(read_losses(fresh.run)["total"], read_losses(again.run)["total"], atol=1e-6)


def test_what_goes_wrong_is_said(tiny_data, tiny_recipe, tmp_path):
    monitor = TrainingMonitor(tmp_path / "nowhere", out=tmp_path / "run", recipe=tiny_recipe)
    monitor.start()
    assert monitor.wait(60) and "no such folder" in monitor.status and isinstance(monitor.error, MemSegError)
    monitor.resume()
    assert monitor.wait(60) and "no run folder" in monitor.status


def test_the_last_word_is_the_trainings(tiny_recipe, tmp_path):
    said = []
    class Recorded(TrainingMonitor):
        def show(self, pictures, status):
            said.append((threading.current_thread() is threading.main_thread(), status))
            super().show(pictures, status)

    monitor = Recorded(tmp_path / "nowhere", out=tmp_path / "run", recipe=tiny_recipe)
    monitor.start()
    assert monitor.wait(60) and not monitor.buttons["start"].disabled
    assert said[-2:] == [(True, "reading photos ..."), (False, monitor.status)]
    assert "no such folder" in monitor.status


def test_two_threads_never_draw_at_the_same_time(tiny_recipe, tmp_path):
    inside, free, drawing = threading.Event(), threading.Event(), []
    class Held(TrainingMonitor):
        def show(self, pictures, status):
            drawing.append("begins")
            if threading.current_thread() is not threading.main_thread():
                inside.set()
                free.wait(60)
            super().show(pictures, status)
            drawing.append("ends")

    monitor = Held(tmp_path / "nowhere", out=tmp_path / "run", recipe=tiny_recipe)
    monitor.start()
    assert inside.wait(60)
    threading.Timer(.1, free.set).start()
    monitor.update()  # must wait until the training's thread has drawn
    assert monitor.wait(60) and drawing == ["begins", "ends"] * (len(drawing) // 2)


def test_one_training_at_a_time(tiny_data, tiny_recipe, tmp_path):
    monitor = watched(tiny_data, tiny_recipe, tmp_path / "run")
    monitor.start()
    monitor.start()
    assert "running" in monitor.status
    monitor.stop()
    monitor.wait(120)


def test_running_mean():
    assert np.allclose(smooth([1., .5, .5]), [1., .95, .905]) and smooth([]) == []


# the notebooks

def test_no_saved_views_of_widgets():
    "A saved view would be shown as an error until the cell is run; a saved state differs in each run"
    for path in sorted((Path(__file__).parents[1] / "nbs").glob("**/*.ipynb")):
        assert not {"widget-view+json", "widget-state+json"} & set(
            re.findall(r"widget-\w+\+json", path.read_text())), (
                f"{path.name}: remove the views: python tests/strip_views.py")
