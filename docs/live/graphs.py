"""The library's own functions as graphs that a browser runs.

A page has no Python, and a second program that does the same thing in JavaScript would drift away from this one.
So the functions are exported; what they draw at random is an input of the graph, which makes a seed the same
picture everywhere. Masks agree but for pixels whose noise is within rounding of the threshold.
"""

import inspect
import io
import logging
import warnings
from contextlib import contextmanager, redirect_stderr

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.overrides import TorchFunctionMode

from memseg_nb.deployment.onnx import need
from memseg_nb.evaluation.evaluate import confusion
from memseg_nb.recipe import Recipe, load_recipe
from memseg_nb.simulation import perlin, textures
from memseg_nb.simulation.anomalies import Simulator, blend, structure
from memseg_nb.simulation.foreground import Rule, grey, open_close

SEEDS = 100  # of the sliders
SIDE = 256  # of the pictures, pixels
PERLIN = ("noise", "mask", "share", "histogram")
STUDIO = ("product", "noise", "noise_mask", "mask", "source", "anomaly", "share")
SCORES = ("tp", "fp", "tn", "fn", "tpr", "fpr")


class Drawn(TorchFunctionMode):
    """Within the block torch's uniform and normal numbers are noted; where some are given, these come instead.

    torch asks this object before each of its functions, in this thread and this block only."""

    DRAWS = (torch.rand, torch.randn, torch.Tensor.uniform_)

    def __init__(self, *given: Tensor):
        super().__init__()
        self.given, self.noted = list(given), []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function not in self.DRAWS:
            return function(*args, **(kwargs or {}))
        number = len(self.noted)
        drawn = self.given[number] if self.given else function(*args, **(kwargs or {})).clone()
        self.noted.append(drawn)
        return drawn


@contextmanager
def _quiet():
    "Without the exporter's notes on shapes that aren't known before a call"
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _nested(module: nn.Module, shapes: list) -> tuple:
    "One an argument of `forward`; those of its *arguments together"
    kinds = [one.kind for one in inspect.signature(module.forward).parameters.values()]
    plain = sum(kind is not inspect.Parameter.VAR_POSITIONAL for kind in kinds)
    return (*shapes[:plain], tuple(shapes[plain:])) if plain < len(kinds) else tuple(shapes)


def as_graph(
    module: nn.Module,
    inputs: dict[str, Tensor],  # by name, in the order of `forward`; examples
    outputs: tuple[str, ...],  # names
    dynamic: dict | None = None,  # input -> axis -> `torch.export.Dim`
):  # onnx.ModelProto
    "A module as an ONNX graph, without notes on where in the source each node came from"
    need("onnx"), need("onnxscript")
    shapes = _nested(module, [dynamic.get(name, {}) for name in inputs]) if dynamic else None
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(module.eval(), tuple(inputs.values()), input_names=list(inputs),
                                    output_names=list(outputs), opset_version=20, dynamo=True,
                                    dynamic_shapes=shapes, verbose=False)
    made = program.model_proto
    inside = made.graph
    parts = (inside.node, inside.initializer, inside.input, inside.output, inside.value_info, [inside])
    for part in (one for some in parts for one in some):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    return made


def _noise(angles: Tensor, degrees: Tensor, size: tuple[int, int]) -> Tensor:
    "Perlin noise on one lattice, turned; (1, H, W)"
    cells = torch.tensor([[angles.shape[0] - 1, angles.shape[1] - 1]])
    gradients = torch.stack((angles.sin(), angles.cos()), dim=-1)[None]
    return perlin.rotate(perlin.perlin(gradients, cells, size) * 2**0.5, degrees[None])


class PerlinGraph(nn.Module):
    "The Perlin playground: noise, mask, share of the area, histogram"

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def forward(self, angles: Tensor, rotation: Tensor, threshold: Tensor) -> tuple:
        noise = _noise(angles, rotation, self.size)[0]
        mask = perlin.binarise(noise, threshold)
        flat = noise.flatten()
        bars, inside = ((flat + 1.2) * (50 / 2.4)).long().clamp(0, 49), (flat.abs() <= 1.2).float()
        histogram = torch.zeros(50).scatter_add(0, bars, inside)  # counts what is in range, as NumPy does
        return noise, mask.to(torch.uint8), mask.float().mean(), histogram.int()


class StudioGraph(nn.Module):
    """The anomaly studio: from a good image to an anomaly.

    A graph has no branches: both sources and both directions of the rule are computed, and one is taken."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.recipe, self.radii = recipe.simulation, (recipe.foreground.opening, recipe.foreground.closing)

    def product(self, image: Tensor, foreground: Tensor, level: Tensor, direction: Tensor) -> Tensor:
        "The mask that was given, or one from a rule; never empty"
        brightness = grey(image)
        bright, dark = (open_close(Rule(sign, level)(brightness), *self.radii) for sign in (">", "<="))
        ready = foreground[None] > 0
        mask = (ready & (direction == 0)) | (bright & (direction == 1)) | (dark & (direction == 2))
        return mask | ~mask.any()

    def structure(self, image: Tensor, changes: Tensor, pieces: Tensor) -> Tensor:
        "Shuffled pieces of the image"
        degrees, mirrored, colours = changes[:1], changes[1:3].view(1, 1, 2), changes[3:].view(1, 3)
        with Drawn(degrees, mirrored, colours, pieces.argsort().float()[None]):
            return structure(image, torch.Generator(), self.recipe)

    def forward(self, image, foreground, level, direction, angles, rotation, threshold, texture, pieces,
                changes, kind, opacity) -> tuple:
        image = image[None]
        product = self.product(image, foreground, level, direction)
        noise = _noise(angles, rotation, image.shape[2:])
        noise_mask = perlin.binarise(noise, threshold)
        mask = noise_mask & product
        source = torch.where(kind == 1, self.structure(image, changes, pieces), texture[None])
        made = blend(image, source, mask, opacity[None])
        masks = [one[0].to(torch.uint8) for one in (product, noise_mask, mask)]
        return masks[0], noise[0], masks[1], masks[2], source[0], made[0], mask.float().mean()


def _along(start: Tensor, count: Tensor, side: int, whole: int) -> tuple[Tensor, Tensor]:
    """How much each of `whole` pixels counts for `side` new ones made from `count`, and the unit.

    PyTorch resamples bytes with weights that are whole numbers of 2^-15 (of 2^-14 where one weight is 1) and
    rounds after each axis. Products of such numbers are exact in float32, so windows agree to the bit."""
    scale, pixel = count / side, torch.arange(whole, dtype=torch.float64) - start
    centre = (torch.arange(side, dtype=torch.float64) + 0.5) * scale
    weights = (1 - (pixel + 0.5 - centre[:, None]).abs() / scale.clamp_min(1)).clamp_min(0)
    weights = weights * ((pixel >= 0) & (pixel < count))
    weights = weights / weights.sum(1, keepdim=True)
    unit = torch.where(weights.max() * 2**15 + 0.5 < 2**15, 2**15, 2**14)
    return (weights * unit + 0.5).floor().float(), unit.float()


class TextureGraph(nn.Module):
    "`ProceduralTextures.sample`: a square window of a sheet, mirrored, turned and recoloured"

    def __init__(self, side: int):
        super().__init__()
        self.side, self.whole = side, textures._sheet_side((side,))

    def cut(self, image: Tensor, zoom: Tensor, down: Tensor, right: Tensor) -> Tensor:
        "The window, brought to its size column by column and then row by row"
        count = (self.side * (0.5 * 3**zoom).clamp(max=self.whole / self.side)).round()
        places = [(share * (self.whole - count + 1)).floor() for share in (right, down)]
        (columns, unit), (rows, other) = (_along(place, count, self.side, self.whole) for place in places)
        image = (image @ columns.T / unit + 0.5).floor()
        return (rows @ image / other + 0.5).floor()

    def forward(self, sheet: Tensor, window: Tensor, colours: Tensor) -> Tensor:
        zoom, down, right, mirror, turn = window.double().unbind()
        cut = self.cut((sheet * 255).round(), zoom, down, right)
        cut = torch.where(mirror < 0.5, cut.flip(2), cut)
        turned = torch.stack([cut.rot90(k, (1, 2)) for k in range(4)])
        return textures._recolour(turned[(turn * 4).long()][None] / 255, colours[None])[0]


class ScoresGraph(nn.Module):
    "The four kinds of decision at a threshold, and the ROC curve from the strictest threshold on"

    def forward(self, scores: Tensor, labels: Tensor, threshold: Tensor) -> tuple:
        labels = labels > 0
        table = confusion(scores, labels, threshold)
        kinds = ("true_positive", "false_positive", "true_negative", "false_negative")
        counts = [torch.tensor(table[f"{kind}s"]) for kind in kinds]
        levels = torch.cat([scores.sort(descending=True).values, scores.new_full((1,), -torch.inf)])
        called = scores > levels[:, None]
        rates = [(called & group).sum(1) / group.sum().clamp_min(1) for group in (labels, ~labels)]
        return *counts, *rates


def small_graphs() -> dict:  # name -> onnx.ModelProto
    "Noise, anomaly, texture and decisions as graphs; lattices and numbers of images may differ"
    f, many = torch.tensor, Dim("images", min=2, max=100_000)
    lattice = {"angles": {0: Dim("rows", min=2, max=33), 1: Dim("columns", min=2, max=33)}}
    noise = dict(angles=torch.zeros(5, 9), rotation=f(3.0), threshold=f(0.5))
    image, mask = torch.zeros(3, SIDE, SIDE), torch.ones(SIDE, SIDE, dtype=torch.uint8)
    studio = dict(image=image, foreground=mask, level=f(128.0), direction=f(0), **noise,
                  texture=torch.zeros(3, SIDE, SIDE), pieces=torch.arange(32),
                  changes=torch.full((6,), 0.5), kind=f(0), opacity=f(0.8))
    side = textures._sheet_side((SIDE,))
    texture = dict(sheet=torch.zeros(3, side, side), window=torch.full((5,), 0.5),
                   colours=torch.full((4,), 0.5))
    scores = dict(scores=torch.linspace(0, 1, 7), labels=torch.ones(7, dtype=torch.uint8),
                  threshold=f(0.5))
    return {
        "perlin": as_graph(PerlinGraph((SIDE, SIDE)), noise, PERLIN, lattice),
        "studio": as_graph(StudioGraph(load_recipe()), studio, STUDIO, lattice),
        "texture": as_graph(TextureGraph(SIDE), texture, ("texture",)),
        "scores": as_graph(ScoresGraph(), scores, SCORES,
                           {name: {0: many} for name in ("scores", "labels")}),
    }


def draws() -> dict[str, np.ndarray]:  # by name; first axis: seed
    """The random numbers of the Perlin playground and of the studio, as the library draws them.

    The playground takes the first 33 x 33 numbers of a seed as angles, the studio first takes two for the size
    of the lattice: one row of numbers serves both. What follows in the studio depends on the largest exponent,
    because a smaller lattice uses up fewer numbers."""
    found = dict(angles=np.empty((SEEDS, 33 * 33 + 2), np.float32),
                 exponents=np.zeros((SEEDS, 6, 6, 2), np.uint8),
                 rotation=np.empty((SEEDS, 6), np.float32), changes=np.empty((SEEDS, 6, 6), np.float32),
                 pieces=np.empty((SEEDS, 6, 32), np.uint8), sheet=np.empty((SEEDS, 6), np.uint8),
                 window=np.empty((SEEDS, 6, 5), np.float32), colours=np.empty((SEEDS, 6, 4), np.float32))
    bank = textures.ProceduralTextures(size=32)  # what it draws doesn't depend on its size
    bank.sheets(textures._sheet_side((32, 32)))  # rendered now, with random numbers of its own
    fresh = torch.Generator().manual_seed
    for largest in range(6):
        with_structure, with_texture = (_simulator(share, largest, bank) for share in (0.0, 1.0))
        for seed in range(SEEDS):
            for smallest in range(largest + 1):
                found["exponents"][seed, smallest, largest] = torch.randint(
                    smallest, largest + 1, (2,), generator=fresh(seed))
            _, turn, _, _, degrees, mirrored, colours, order = _draws_of(with_structure, seed)
            *_, window, tint = _draws_of(with_texture, seed)
            changes = torch.cat([degrees, mirrored.flatten(), colours.flatten()])
            place = seed, largest
            found["rotation"][place], found["changes"][place] = turn, changes
            found["pieces"][place] = order.argsort()[0]
            found["sheet"][place] = int(window[0, 0].item() * bank.bank)
            found["window"][place], found["colours"][place] = window[0, 1:], tint[0]
    for seed in range(SEEDS):
        found["angles"][seed] = perlin.uniform((33 * 33 + 2,), 0, 2 * torch.pi, fresh(seed))
    return found


def _simulator(share: float, largest: int, bank: textures.ProceduralTextures) -> Simulator:
    "One whose first noise meets the product; `share` 1: with a texture, 0: with a structure"
    recipe = load_recipe().replace(**{"perlin.largest_exponent": largest, "perlin.threshold": -1.0,
                                      "simulation.texture_share": share})
    return Simulator(recipe.perlin, recipe.simulation, bank, "off")


def _draws_of(simulator: Simulator, seed: int) -> list[Tensor]:
    "What one anomaly draws, in order"
    with Drawn() as drawn:
        simulator(torch.zeros(1, 3, 32, 32), torch.Generator().manual_seed(seed))
    return drawn.noted


def pack(
    arrays: dict[str, np.ndarray],
) -> tuple[bytes, dict]:  # one after the other; dtype, shape and offset of each
    "Arrays as one file, and a table of what lies where; each begins at a multiple of 8, as browsers want it"
    table, parts, at = {}, [], 0
    for name, array in arrays.items():
        at += -at % 8
        table[name] = dict(dtype=str(array.dtype), shape=list(array.shape), offset=at)
        parts.append((at, np.ascontiguousarray(array).tobytes()))
        at += array.nbytes
    whole = bytearray(at)
    for start, part in parts:
        whole[start : start + len(part)] = part
    return bytes(whole), table
