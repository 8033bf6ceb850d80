"""What the widgets need on a page without a kernel: graphs, pictures, settings, and what the tests compare"""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim

from memseg_nb.data.images import ImageSet, find_images
from memseg_nb.deployment.detector import Detector
from memseg_nb.evaluation.evaluate import confusion
from memseg_nb.files import MemSegError
from memseg_nb.metrics import image_score
from memseg_nb.products.catalogue import PRODUCTS, render_product, write_products
from memseg_nb.recipe import Recipe, check_size, flatten, load_recipe
from memseg_nb.simulation import flaws
from memseg_nb.simulation.foreground import parse_rule
from memseg_nb.simulation.textures import _sheet_side, _window
from memseg_nb.training.steps import split
from memseg_nb.training.thresholds import censored, choose_thresholds, false_alarm_threshold, hazard_line
from memseg_nb.training.train import make_simulator
from memseg_nb.widgets import (
    AnomalyStudio,
    DefectPainter,
    MemoryExplorer,
    PerlinPlayground,
    ThresholdExplorer,
    TrainingMonitor,
)
from memseg_nb.widgets.base import Panel, png
from memseg_nb.widgets.threshold_explorer import roc_points
from memseg_nb.widgets.painter import _COLOURS, cover

from live import home
from live.graphs import SIDE, STUDIO, Drawn, as_graph, draws, pack, small_graphs
from live.network import (
    MOST,
    OUTPUTS,
    Small,
    memory_arrays,
    memory_graphs,
    network_graph,
    shrink,
    squeeze,
    unseen_photos,
)

class PaintGraph(nn.Module):
    "A stroke on a photo, as the painter makes it; a dot is its point twice"
    def forward(self, image: Tensor, points: Tensor, radius: Tensor, colour: Tensor) -> Tensor:
        return torch.lerp(image, colour[:, None, None], cover(points, radius, image.shape[1:]))


def paint_graph(size: tuple[int, int]):  # onnx.ModelProto
    "The painter's stroke as a graph"
    inputs = dict(image=torch.rand(3, *size), points=torch.rand(5, 2), radius=torch.tensor(2.),
                  colour=torch.rand(3))
    return as_graph(PaintGraph(), inputs, ("painted",), {"points": {0: Dim("points", min=2, max=100_000)}})

PASTED = ("level", "texture", "blurred", "contrast")  # what a page fills a flaw with
EASE = 0.5  # as in the painter


class FlawGraph(nn.Module):
    """A flaw on a photo, as the painter pastes it.

    `flaws.add_flaws` with what it draws handed in; a graph has no branches, so that all fillings are computed
    and one is taken."""

    def __init__(self, foreign: Tensor):  # what a flaw may be filled with, (F, 3, H, W)
        super().__init__()
        self.register_buffer("foreign", foreign)

    def fillings(self, grey, solid, strength, numbers, grain) -> Tensor:
        "What may shine through the shape, in the order of PASTED"
        values = grey, flaws._inside(grey, solid), flaws._spread(grey), strength[:, None, None]
        foreign, found = self.foreign.mean(1), []
        for name in PASTED:
            given = numbers[: COUNTS[name]].view(-1, 1, 1, 1)  # as the filling draws them
            with Drawn(given if len(given) > 1 else given[0], grain):
                found.append(flaws._FILLS[name][0](*values, foreign, torch.Generator()))
        return torch.stack(found)

    def forward(self, image, shape, kind, which, strength, numbers, grain) -> Tensor:
        images, shapes = image[None], shape[None]
        grey, solid = images.mean(1), shapes > flaws.SOLID
        contents = self.fillings(grey, solid, strength, numbers, grain[None])[which[0]]
        share = torch.where(kind < len(flaws.THIN), 0.25, 0.15)[:, None, None]
        least = (0.04 + share * flaws._spread(grey)) * (1 + 3 * EASE)
        filled = torch.lerp(grey, contents, shapes)
        filled = flaws.assure(grey, filled, shapes, least, strength.sign()[:, None, None])
        return torch.where(shapes[:, None] > 0, flaws.relight(images, grey, filled), images)[0]


def flaw_graph(size: tuple[int, int]):  # onnx.ModelProto
    "The painter's flaw as a graph"
    foreign = torch.stack([render_product(name, size)[0] for name in ("wood", "woven_fabric")])
    kind, which = torch.tensor([0]), torch.tensor([1])  # one tensor for both would become one input
    inputs = dict(image=torch.rand(3, *size), shape=torch.rand(size), kind=kind, which=which,
                  strength=torch.tensor([-0.3]), numbers=torch.rand(4), grain=torch.rand(size))
    return as_graph(FlawGraph(foreign), inputs, ("painted",))


COUNTS = dict(level=1, texture=4, blurred=2, contrast=1)  # uniform numbers that a filling draws
STAMPS = 6  # of each kind


def _stamp(kind: int, seed: int, size: tuple[int, int]) -> dict | None:
    "Shape and draws of a flaw, as the painter draws them; None if it is filled with a displaced piece"
    shape, _ = flaws.draw_shape(np.random.default_rng(seed), size, flaws.KINDS[kind])
    generator = torch.Generator().manual_seed(seed)
    strength = flaws.draw_strength(1, EASE, generator)
    name = flaws.FILLS[int(flaws.choose_fills(torch.tensor([kind]), generator))]
    if name not in PASTED:
        return None
    numbers = flaws.uniform((COUNTS[name],), 0, 1, generator)
    grained = name == "level" and numbers[0] >= .75
    grain = torch.randn(1, *size, generator=generator)[0] if grained else torch.zeros(size)
    return dict(
        shape=(shape * 255).round().astype(np.uint8),
        kind=kind,
        which=PASTED.index(name),
        strength=strength.item(),
        numbers=np.resize(numbers.numpy(), 4),
        grain=grain.numpy(),
        seed=seed,
    )

def stamps(size: tuple[int, int]) -> dict[str, np.ndarray]:
    "Flaws to be pasted, so many of each kind, by what `FlawGraph` is handed; shapes in steps of 1/255"
    found = []
    for kind in range(len(flaws.KINDS)):
        made = (_stamp(kind, seed, size) for seed in range(1, 1000))
        found += [one for one, _ in zip((one for one in made if one), range(STAMPS))]
    kinds = dict(shape=np.uint8, kind=np.int32, which=np.int32, seed=np.int32)
    return {
        name: np.stack([one[name] for one in found]).astype(kinds.get(name, np.float32)) for name in found[0]
    }

class Folder:
    "Files of the page, and what is known of them"
    def __init__(self, root: Path): self.root, self.files, self.pictures = root, {}, {}

    def write(self, name: str, data: bytes, huffman: bool=False) -> str:
        "Writes a file, compressed if its name ends in .gz; returns the name"
        stored = squeeze(data, huffman) if name.endswith(".gz") else data
        (self.root / name).parent.mkdir(exist_ok=True)
        (self.root / name).write_bytes(stored)
        self.files[name] = dict(bytes=len(data), stored=len(stored),
                                sha256=hashlib.sha256(stored).hexdigest())
        return name

    def picture(self, name: str, content, **how) -> str:
        "An image without loss, or a mask"
        return self.packed(name, png(content, **how))

    def packed(self, name: str, data: bytes) -> str:
        "A PNG as a WebP without loss; the name of an earlier one, where that is the same picture"
        file = io.BytesIO()
        Image.open(io.BytesIO(data)).convert("RGB").save(file, "WEBP", lossless=True)
        if (known := file.getvalue()) not in self.pictures:
            self.pictures[known] = self.write(f"pictures/{name}.webp", known)
        return self.pictures[known]

_KINDS = {"IntSlider": "slider", "FloatSlider": "slider", "SelectionSlider": "choice", "Dropdown": "menu",
          "Text": "text", "ColorPicker": "colour", "FileUpload": "file", "Button": "button"}


def describe(control) -> dict:
    "A control of a widget, for the page"
    known = dict(kind=_KINDS[type(control).__name__], description=control.description)
    for name in ("value", "min", "max", "step", "tooltip", "disabled"):
        value = getattr(control, name, None)
        if isinstance(value, (int, float, str, bool)): known[name] = value
    if hasattr(control, "options"): known["options"] = [str(one) for one in control.options]
    return known | ({"whole": True} if type(control).__name__ == "IntSlider" else {})

def state(panel: Panel, folder: Folder, name: str) -> dict:
    "What a page shows of a widget before anything is moved"
    items = []
    for item in panel.board.items:
        head, data = item["src"].split(",", 1)
        place, data = f"{name}-{item['name']}", base64.b64decode(data)
        items.append(item | {"src": folder.write(f"pictures/{place}.svg", data) if "svg" in head
                             else folder.packed(place, data)})
    return dict(question=panel.question, hint=panel.hint, items=items, status=panel.status,
                controls={key: describe(control) for key, control in panel.controls.items()})

class PageDetector(NamedTuple):
    "What a page has of a product"
    detector: Detector  # with the small network, and thresholds chosen with it
    small: Small        # its network
    good: Tensor        # the photos that it remembers, (N, 3, H, W)


def page_detector(product: str, size: tuple[int, int], photos: int=10) -> PageDetector:
    "A small network that remembers good photos of an embedded product; nothing is trained"
    recipe = load_recipe("formulas").replace(**{"image.height": size[0], "image.width": size[1],
                                                "memory.samples": photos})
    with tempfile.TemporaryDirectory() as root:
        write_products(root, product, size, train=photos + 20, good=1, defective=0, progress=False)
        folder = Path(root) / product / "train" / "good"
        small = shrink(Detector.remember(folder, recipe, "cpu").model)
        parts = split(find_images(folder), photos, 0., recipe.training.seed)
        memory, others = ImageSet(parts.memory, size), ImageSet(parts.train, size)
        found = choose_thresholds(small.model, others, make_simulator(recipe, product), recipe, versions=2)
        maps = torch.cat([small.model.anomaly_map(others.batch([k])) for k in range(len(others))])
        scores = image_score(maps, recipe.evaluation.top_share)  # not raised: visitors paint faint defects
        threshold = false_alarm_threshold(scores.tolist(), recipe.evaluation.false_alarms)
        return PageDetector(Detector(small.model, recipe, threshold, found.pixel), small,
                            memory.batch(range(photos)))

PLACES = ("hex_nut", "tablet", "wood", "brushed_metal")  # in the studio; the last one is its lesson's
_SIGNS = {">": 1, "<=": 2}


def _rules() -> dict[str, dict]:
    "The foreground table, as the graph understands it"
    table = {name: None if rule == "off" else parse_rule(rule)
             for name, rule in load_recipe().foreground_table.items()}
    return {name: dict(level=rule.level, direction=_SIGNS[rule.sign]) if rule else dict(level=0., direction=0)
            for name, rule in table.items()}

# its values stand in the code where a page fills in others
_EXAMPLE = dict(product="tablet", number=2, foreground="brighter than", level=211, smallest=1, largest=4,
                threshold=.37, source="structure", opacity=.63, seed=97)


def code_template(studio: AnomalyStudio) -> str:
    "The program that the studio writes, with names in braces where a control's value stands"
    text = studio.set(**_EXAMPLE).code()
    places = {"render_product('tablet'": "render_product({product}", "index=2)": "index={number})",
              ", 'tablet')": ", {category})",
              "'>211'": "{method}", "exponent': 1": "exponent': {smallest}",
              "exponent': 4": "exponent': {largest}",
              "threshold': 0.37": "threshold': {threshold}", "texture_share': 0.0": "texture_share': {share}",
              "opacity_min': 0.63": "opacity_min': {opacity}",
              "opacity_max': 0.63": "opacity_max': {opacity}",
              "manual_seed(97)": "manual_seed({seed})"}
    for value, name in places.items():
        if text.count(value) != 1:
            raise MemSegError(f"the studio's code: {value} stands in it {text.count(value)} times: "
                              "expected once")
        text = text.replace(value, name)
    return text

def _settings(studio: AnomalyStudio) -> list[dict]:
    "What the studio may change, in settings.ini's order: section, key, shipped value, name"
    names = dict(re.findall(r"'([\w.]+)': \{(\w+)\}", code_template(studio)))
    return [dict(zip(("section", "key"), key.split(".", 1))) | dict(value=str(value), name=names[key])
            for key, value in flatten(studio.base).items() if key in names]


def reached(sheets: Tensor, drawn: dict) -> Tensor:
    "Sheets with black where no seed's window lies: an eighth of them, which nobody would see"
    blank = torch.zeros(len(sheets), 1, *sheets.shape[2:], requires_grad=True)
    parts, windows = blank.unbind(), zip(drawn["sheet"].ravel(), drawn["window"].reshape(-1, 5).tolist())
    sum(_window(parts[which], (SIDE, SIDE), window).sum() for which, window in windows).backward()
    return sheets * (blank.grad > 0)


def _sheets(folder: Folder, studio: AnomalyStudio, drawn: dict) -> list[str]:
    "The sheets that textures are cut from, which the studio has rendered"
    names = []
    for k, sheet in enumerate(reached(studio._textures.sheets(_sheet_side((SIDE, SIDE))), drawn)):
        file = io.BytesIO()
        picture = Image.fromarray(sheet.movedim(0, -1).contiguous().numpy())
        picture.save(file, "WEBP", lossless=True)  # the code shown on the page makes the picture shown
        names.append(folder.write(f"sheets/{k}.webp", file.getvalue()))
    return names

def _studio(folder: Folder, photos: int, drawn: dict) -> tuple[dict, dict]:
    "The studio's state, and its photos, foregrounds, textures and rules"
    studio, goods = AnomalyStudio(PLACES[0], (SIDE, SIDE)), {product: [] for product in PLACES}
    studio.controls["product"].options, studio.controls["number"].max = PLACES, photos - 1
    for product, k in ((product, k) for product in PLACES for k in range(photos)):
        image, made = studio.set(product=product, number=k).simulate()
        name = f"studio-{product}-{k}"
        goods[product].append(dict(image=folder.picture(name, image), alt=f"good {product}, number {k}",
                                   foreground=folder.picture(f"{name}-foreground", made.foreground[0])))
    studio.set(product=PLACES[0], number=0)
    told = dict(
        code=code_template(AnomalyStudio(PLACES[0], (SIDE, SIDE))),
        settings=_settings(AnomalyStudio(PLACES[0], (SIDE, SIDE))),
    )
    return state(studio, folder, "studio"), dict(
        photos=goods, sheets=_sheets(folder, studio, drawn), rules=_rules(), **told
    )

def _thresholds(folder: Folder, detector: Detector, product: str) -> tuple[dict, dict]:
    "The threshold explorer's state, and its scores, labels, thumbnails and curve"
    images, masks = unseen_photos(product, detector.recipe.image.size)
    maps = torch.cat([detector.model.anomaly_map(some) for some in images.split(8)])
    scores = image_score(maps, detector.recipe.evaluation.top_share).double().numpy()
    labels = masks.flatten(1).any(1).numpy()
    kinds = ["good"] * int((~labels).sum()) + [kind for kind in PRODUCTS[product].defects for _ in range(3)]
    names = [f"{kind} {kinds[:k].count(kind)}" for k, kind in enumerate(kinds)]
    panel, (fpr, tpr) = (ThresholdExplorer(scores, labels, detector.threshold, names, images.__getitem__),
                         roc_points(scores, labels))
    thumbs = [folder.write(f"pictures/threshold-{k}.webp", home._webp([one], 88))
              for k, one in enumerate(images)]
    return state(panel, folder, "threshold"), dict(
        scores=scores.tolist(), labels=labels.astype(int).tolist(), names=names, thumbs=thumbs,
        threshold=detector.threshold, fpr=fpr.tolist(), tpr=tpr.tolist())

def _bytes(photo: Tensor) -> np.ndarray:
    "A photo as a camera gives it, (H, W, 3), uint8"
    return (photo * 255).round().to(torch.uint8).movedim(0, -1).numpy()


def _painter(folder: Folder, detector: Detector, product: str) -> tuple[dict, dict]:
    "The painter's state, and its photos"
    kinds = [("good", k) for k in range(4)] + [(kind, 0) for kind in PRODUCTS[product].defects[:2]]
    size = detector.recipe.image.size
    photos, crisp = ([render_product(product, (times * size[0], times * size[1]), index=k,
                                     defect=None if kind == "good" else kind)[0] for kind, k in kinds]
                     for times in (1, home.CRISP))
    panel = DefectPainter(detector=detector, photos=[_bytes(photo) for photo in photos])
    files = [dict(image=folder.picture(f"photo-{product}-{k}", photo), kind=kind, alt=f"{product}, {kind}",
                  crisp=folder.write(f"home/{product}-{k}.webp", home._webp([large], 88)))
             for k, (photo, large, (kind, _)) in enumerate(zip(photos, crisp, kinds))]
    return state(panel, folder, f"painter-{product}"), dict(photos=files, brushes=_COLOURS)

def _explorer(folder: Folder, page: PageDetector, product: str) -> tuple[dict, dict]:
    "The memory explorer's state, its samples and test photos"
    kinds, size, files = [*PRODUCTS[product].defects, None], page.detector.recipe.image.size, []
    tests = {f"{kind or 'good'} {k}": render_product(product, size, defect=kind, index=k) for kind in kinds
             for k in range(2)}
    for name, (image, mask) in tests.items():
        file = f"test-{product}-{name.replace(' ', '-')}"
        files.append(dict(name=name, image=folder.picture(file, image),
                          mask=folder.picture(f"{file}-mask", mask)))
    panel = MemoryExplorer(model=page.detector.model, good=page.good, tests=tests)
    thumbs = [folder.picture(f"sample-{product}-{k}", image) for k, image in enumerate(page.good)]
    return state(panel, folder, f"explorer-{product}"), dict(samples=thumbs, tests=files)

_STEPS = 40  # of the training that is recorded


def _monitor(folder: Folder, product: str="hex_nut", side: int=64) -> tuple[dict, dict]:
    "The training monitor's state after a small training, and what it noted"
    recipe = load_recipe("formulas").replace(**{
        "image.height": side, "image.width": side, "training.minutes": 0., "training.steps": _STEPS,
        "training.precision": "float32", "training.warm_start": "off", "training.norms": "learn",
        # from random weights: there is something to be seen
        "training.learning_rate": .002, "memory.samples": 6})
    photo = render_product(product, (side, side), defect=PRODUCTS[product].defects[0])[0]
    with tempfile.TemporaryDirectory() as root:
        write_products(root, product, (side, side), train=16, good=1, defective=1, progress=False)
        panel = TrainingMonitor(root, product, Path(root) / "run", recipe, _bytes(photo), every=5)
        panel.start()
        panel.wait()
    if panel.error: raise panel.error
    panel.set(data="data", out="runs/watched")
    notes = panel.notes
    heatmaps = [dict(step=step,
                     image=folder.picture(f"monitor-step{step}", map, cmap="magma", limits=(0., 1.)))
                for step, map in notes.heatmaps.items()]
    return state(panel, folder, "monitor"), dict(steps=notes.steps, losses=notes.losses, heatmaps=heatmaps,
                                                 photo=folder.picture("monitor-photo", photo))

def _network_cases(detector: Detector, product: str) -> list:
    "Inputs of the network, and what the library says"
    found, size, share = [], detector.recipe.image.size, detector.recipe.evaluation.top_share
    for kind, forced in ((None, -1), (PRODUCTS[product].defects[0], -1), (PRODUCTS[product].defects[1], 2)):
        image = render_product(product, size, defect=kind)[0]
        index = None if forced < 0 else torch.tensor([forced])
        with torch.no_grad(): told = detector.model.explain(image[None], index)
        map = told.probability[0]
        shown = [maps[0].mean(0) for maps in told.match.difference] + [maps[0, 0] for maps in told.maps]
        outputs = dict(zip(OUTPUTS, (map, image_score(map[None], share)[0], told.match.distances[0],
                                     told.match.index[0], *shown, *(maps[0] for maps in told.features[1:]))))
        found.append((dict(image=image, forced=torch.tensor(forced)), outputs))
    return found

def _perlin_cases(drawn: dict) -> list:
    "Fixtures of the Perlin playground"
    found, panel = [], PerlinPlayground((SIDE, SIDE))
    for a, b, degrees, threshold, seed in ((2, 3, 0, .5, 0), (5, 1, -37, .2, 42), (0, 0, 90, .1, 99)):
        noise = panel.set(a=a, b=b, rotation=degrees, threshold=threshold, seed=seed).noise()
        mask = noise > threshold
        angles = torch.from_numpy(drawn["angles"][seed, :33 * 33].reshape(33, 33)[:2**a + 1, :2**b + 1]
                                  .copy())
        found.append((dict(angles=angles, rotation=torch.tensor(float(degrees)),
                           threshold=torch.tensor(threshold)),
                      dict(noise=noise, mask=mask.to(torch.uint8), share=mask.float().mean(),
                           histogram=torch.from_numpy(np.histogram(noise, 50, (-1.2, 1.2))[0]).int())))
    return found

def texture_inputs(studio: AnomalyStudio, drawn: dict, sheets: Tensor) -> dict:
    "What the texture's graph is handed for a studio's settings; sheets as bytes"
    place = studio["seed"], max(studio["smallest"], studio["largest"])
    return dict(sheet=sheets[drawn["sheet"][place]] / 255, window=torch.tensor(drawn["window"][place]),
                colours=torch.tensor(drawn["colours"][place]))


def studio_inputs(
    studio: AnomalyStudio, drawn: dict, image: Tensor, foreground: Tensor, texture: Tensor
) -> dict:
    "What the graph is handed for a studio's settings"
    low, high = sorted((studio["smallest"], studio["largest"]))
    rows, columns = 2 ** drawn["exponents"][studio["seed"], low, high].astype(int) + 1
    side = 2 ** high + 1
    angles = drawn["angles"][studio["seed"], 2:2 + side * side].reshape(side, side)[:rows, :columns]
    direction = {"brighter than": 1, "darker than": 2}.get(studio["foreground"], 0)
    f, seed = torch.tensor, studio["seed"]
    return dict(image=image, foreground=foreground.to(torch.uint8), level=f(float(studio["level"])),
                direction=f(direction),
                angles=f(angles), rotation=f(drawn["rotation"][seed, high]), threshold=f(studio["threshold"]),
                texture=texture,
                pieces=f(drawn["pieces"][seed, high].astype(int)), changes=f(drawn["changes"][seed, high]),
                kind=f(int(studio["source"] == "structure")), opacity=f(studio["opacity"]))

def flaw_inputs(made: dict, k: int) -> dict:
    "What the flaw's graph is handed beside the photo, for stamp number k"
    f = torch.tensor
    return dict(
        shape=f(made["shape"][k] / np.float32(255)),
        kind=f([int(made["kind"][k])]),
        which=f([int(made["which"][k])]),
        strength=f(made["strength"][k : k + 1]),
        numbers=f(made["numbers"][k]),
        grain=f(made["grain"][k]),
    )

def _studio_cases(drawn: dict) -> list:
    "Fixtures of the studio"
    found, studio = [], AnomalyStudio(PLACES[0], (SIDE, SIDE))
    for values in (dict(seed=1),
                   dict(product="tablet", seed=7, source="structure", largest=4, opacity=.4, threshold=.3),
                   dict(product="wood", foreground="brighter than", level=120, seed=3, largest=3, smallest=1,
                        source="structure")):
        image, made = studio.set(**values).simulate()
        inputs = studio_inputs(studio, drawn, image, made.foreground[0], made.source[0])
        masks = [one[0].to(torch.uint8) for one in (made.foreground, made.noise_mask, made.masks)]
        outputs = (masks[0], made.noise[0], *masks[1:], made.source[0], made.images[0],
                   made.masks[0].float().mean())
        found.append((inputs, dict(zip(STUDIO, outputs))))
    return found


def _texture_cases(drawn: dict) -> list:
    "Fixtures of the textures"
    found, studio = [], AnomalyStudio(PLACES[0], (SIDE, SIDE))
    for values in (dict(seed=8), dict(seed=55, largest=3)):
        source = studio.set(**values).simulate()[1].source[0]
        sheets = studio._textures.sheets(_sheet_side((SIDE, SIDE)))
        found.append((texture_inputs(studio, drawn, sheets), dict(texture=source)))
    return found

def _paint_cases(size: tuple) -> list:
    "Fixtures of the painter"
    found, image = [], render_product("hex_nut", size)[0]
    for points, radius in (([(20., 30.), (60., 40.), (70., 90.)], 2.), ([(64., 64.), (64., 64.)], 6.5)):
        colour = torch.tensor([.7, .1, .2])
        painted = torch.lerp(image, colour[:, None, None], cover(points, radius, size))
        found.append((dict(image=image, points=torch.tensor(points), radius=torch.tensor(radius),
                           colour=colour), dict(painted=painted)))
    return found


def _flaw_cases(detector: Detector, product: str) -> list:
    "Fixtures of pasted flaws: what the painter's button gives"
    size, found = detector.recipe.image.size, []
    made, photo = stamps(size), _bytes(render_product(product, size)[0])
    painter = DefectPainter(detector=detector, photos=[photo])
    for k in range(0, len(made["kind"]), STAMPS // 2):
        painter.clear()
        painter._pasted = int(made["seed"][k]) - 1
        before = painter.set(kind=flaws.KINDS[made["kind"][k]]).image
        painter.paste()
        found.append((dict(image=before) | flaw_inputs(made, k), dict(painted=painter.image)))
    return found

def _score_cases(known: dict) -> list:
    "Fixtures of the threshold explorer"
    found, scores, labels = [], np.array(known["scores"], np.float32), np.array(known["labels"], np.uint8)
    for threshold in (known["threshold"], .1):
        threshold = float(np.float32(threshold))
        table = confusion(scores, labels > 0, threshold)
        fpr, tpr = roc_points(scores, labels > 0)
        values = [torch.tensor(table[f"{name}s"])
                  for name in ("true_positive", "false_positive", "true_negative", "false_negative")]
        outputs = dict(zip(("tp", "fp", "tn", "fn"), values)) | dict(
            tpr=torch.tensor(tpr).float(), fpr=torch.tensor(fpr).float())
        found.append((dict(scores=torch.from_numpy(scores), labels=torch.from_numpy(labels),
                           threshold=torch.tensor(threshold)), outputs))
    return found

TOLERANCES = dict(  # largest difference; of masks: share of the pixels that may differ; of others: none
    noise=1e-5, share=1e-4, histogram=2, mask=1e-3, product=1e-3, noise_mask=1e-3, painted=1e-5, anomaly=1e-4,
    source=1e-4, texture=1e-5, map=1e-3, score=1e-3, distances=1., tpr=1e-6, fpr=1e-6,
    **{f"{what}{k}": 1e-3 for what in ("difference", "attention", "layer") for k in (1, 2, 3)})


def _fixtures(folder: Folder, cases: dict) -> dict:
    "Inputs and outputs as one file and its table"
    arrays, table = {}, {}
    for graph, some in cases.items():
        table[graph] = []
        for k, (inputs, outputs, *memory) in enumerate(some):
            known = dict(inputs={}, outputs={}, **({"memory": memory[0]} if memory else {}))
            for part, tensors in (("inputs", inputs), ("outputs", outputs)):
                for name, tensor in tensors.items():
                    key = f"{graph}.{k}.{part}.{name}"
                    arrays[key] = tensor.detach().numpy()
                    known[part][name] = key
            table[graph].append(known)
    data, where = pack(arrays)
    return dict(file=folder.write("fixtures.bin", data), arrays=where, cases=table,
                tolerances=TOLERANCES)

def _onnx_types(graph) -> dict:
    "Names, types and shapes of a graph's inputs and outputs"
    kinds = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64"}
    def one(value):
        shape = [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
        return dict(type=kinds[value.type.tensor_type.elem_type], shape=shape)
    return {part: {value.name: one(value) for value in getattr(graph.graph, part[:-1])}
            for part in ("inputs", "outputs")}


def _colours() -> dict:
    "256 colours each, red, green, blue, as base64"
    levels = np.linspace(0, 1, 256)
    return {name: base64.b64encode(colormaps[name](levels, bytes=True)[:, :3].tobytes()).decode()
            for name in ("viridis", "magma")}

def _graphs(folder: Folder, page: PageDetector) -> dict:
    "The graphs, and what goes in and out of them"
    recipe = page.detector.recipe
    graphs = small_graphs() | {"paint": paint_graph(recipe.image.size), "flaw": flaw_graph(recipe.image.size)}
    graphs |= memory_graphs(page.small.model)
    network = network_graph(page.small, recipe.image.size, recipe.evaluation.top_share)
    files = {name: folder.write(f"{name}.onnx.gz", graph.SerializeToString())
             for name, graph in graphs.items()}
    files["network"] = folder.write("network.onnx.gz", network.SerializeToString(), huffman=True)
    return {name: dict(file=files[name]) | _onnx_types(graph)
            for name, graph in (graphs | {"network": network}).items()}


def _photos(recipe: Recipe) -> dict:
    "What a page needs to choose a threshold by a visitor's good photos, as `false_alarm_threshold` does"
    from scipy.stats import t

    rate, counts = recipe.evaluation.false_alarms, range(2, MOST + 1)
    reach = [float(t.ppf(1 - rate, count - 1) * (1 + 1 / count) ** .5) for count in counts]
    tops = [censored(count, rate) for count in counts]
    lines = [(top, *(hazard_line(top / count) if top else (0., 0.))) for count, top in zip(counts, tops)]
    return dict(most=MOST, rate=rate, reach=[None, None, *reach], lines=[None, None, *lines])


def _product(folder: Folder, page: PageDetector, product: str) -> tuple[dict, dict]:
    "The states of the two widgets that need a product's memory, and what they need"
    data, table = pack(memory_arrays(page.detector.model))
    memory = dict(file=folder.write(f"memory-{product}.bin.gz", data), arrays=table)
    painter, photos = _painter(folder, page.detector, product)
    explorer, tests = _explorer(folder, page, product)
    known = dict(memory=memory, painter=photos, explorer=tests, threshold=page.detector.threshold,
                 pixel_threshold=page.detector.pixel_threshold)
    return {f"painter-{product}": painter, f"explorer-{product}": explorer}, known

def _write(folder: Folder, products: tuple, size: tuple, photos: int) -> dict:
    "All files"
    drawn, pages = draws(), {product: page_detector(product, size) for product in products}
    parts = dict(graphs=_graphs(folder, pages[products[0]]),
                 photos=_photos(pages[products[0]].detector.recipe))
    for name, arrays in (("draws", drawn), ("flaws", stamps(size))):
        data, table = pack(arrays)
        parts[name] = dict(file=folder.write(f"{name}.bin.gz", data), arrays=table)
    first, crisp = (render_product(products[0], (times * size[0], times * size[1]))[0]
                    for times in (1, home.CRISP))
    first = torch.from_numpy(_bytes(first)).movedim(-1, 0) / 255  # as the painter begins with it
    parts["home"] = home.pictures(folder.write, pages[products[0]].detector, first, crisp)
    widgets, parts["products"] = {"perlin": state(PerlinPlayground((SIDE, SIDE)), folder, "perlin")}, {}
    widgets["studio"], parts["studio"] = _studio(folder, photos, drawn)
    widgets["threshold"], parts["threshold"] = _thresholds(folder, pages[products[0]].detector, products[0])
    widgets["monitor"], parts["monitor"] = _monitor(folder)
    for product, page in pages.items():
        states, parts["products"][product] = _product(folder, page, product)
        widgets |= states
    cases = dict(perlin=_perlin_cases(drawn), studio=_studio_cases(drawn), texture=_texture_cases(drawn),
                 paint=_paint_cases(size), flaw=_flaw_cases(pages[products[0]].detector, products[0]),
                 scores=_score_cases(parts["threshold"]))
    cases["network"] = [(*case, product) for product in products
                        for case in _network_cases(pages[product].detector, product)]
    folder.write("fixtures.json", json.dumps(_fixtures(folder, cases)).encode())
    return dict(size=size[0], side=SIDE, stamps=STAMPS, kinds=flaws.KINDS, colours=_colours(),
                widgets=widgets, **parts)

def write_site_assets(
    folder: str | Path,                      # absent or empty; it appears when it is complete
    products: tuple[str, ...]=("tablet",),   # that have a memory for the network
    size: int=128,                           # of the network's images, pixels
    photos: int=3,                           # of each product in the studio
) -> dict:                                   # what assets.json holds
    "Everything that the widgets need on a page without a kernel"
    folder = Path(folder)
    check_size((size, size))
    if not products: raise MemSegError("no products: expected at least one, such as ('tablet',)")
    if unknown := sorted({*products} - {*PRODUCTS}):
        raise MemSegError(f"product {unknown[0]!r}: unknown, there are {', '.join(PRODUCTS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MemSegError(f"{folder}: exists and is not empty; choose another folder or remove it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        place = Folder(hidden)
        known = _write(place, tuple(products), (size, size), photos) | dict(files=place.files)
        (hidden / "assets.json").write_text(json.dumps(known, indent=1))
        hidden.chmod(0o755)
        os.replace(hidden, folder)  # an empty folder gives way
    finally: shutil.rmtree(hidden, ignore_errors=True)
    return known
