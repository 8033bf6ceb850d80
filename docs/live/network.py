"""The network for a page: about four bits a weight instead of 32, and one file for all products.

Weights become whole numbers times a step for each channel that a convolution makes, which a compressed file
holds in few bits; the memory of a product is an input of the graph, in 8 bits a number.
"""

import copy
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from memseg_nb.deployment.detector import Detector
from memseg_nb.deployment.onnx import FixedMemory, fold_norms, need
from memseg_nb.metrics import image_score
from memseg_nb.model.attention import unit_difference
from memseg_nb.model.encoder import Features
from memseg_nb.model.memory import LEVELS, Match, Memory, channel_spread, differences, pool
from memseg_nb.model.memseg import MemSeg, probability
from memseg_nb.products.catalogue import PRODUCTS, render_product, write_products
from memseg_nb.recipe import load_recipe

from live.graphs import as_graph

# what keeps fine steps, as in `onnx.KEEP`: the frozen encoder, whose noise would be difference to the
# memory, and the decoder's parts where the finest attended difference comes in, and its last ones
FINE = ("encoder.conv1", "encoder.layer1", "encoder.layer2", "encoder.layer3", "decoder.merge.2",
        "decoder.merge.4", "decoder.head")


class Small(NamedTuple):
    "A network whose weights are whole numbers times a step for each channel that a convolution makes"
    model: MemSeg
    steps: dict[str, Tensor]  # name of the weights -> steps, (channels, 1, 1, 1)

def shrink(
    model: MemSeg,            # its memory filled; unchanged
    step: float=.5,           # of the weights, in units of the root of their mean square
    fine: float=.06,          # the same for the convolutions whose names begin as `FINE`
    samples: int | None=None, # of the memory; None: all
) -> Small:
    "The same network with rounded weights and a memory of 8 bits a number"
    small, steps = fold_norms(copy.deepcopy(model).cpu().eval().requires_grad_(False)), {}
    for name, part in small.named_modules():
        if isinstance(part, nn.Conv2d):
            weight, unit = part.weight.data, fine if name.startswith(FINE) else step
            size = weight.square().mean((1, 2, 3), keepdim=True).sqrt() * unit
            size = size.maximum(weight.abs().amax((1, 2, 3), keepdim=True) / 127).clamp_min(1e-12)
            part.weight.data, steps[f"{name}.weight"] = (weight / size).round() * size, size
    small.memory.keep([_eight_bits(getattr(small.memory, name)[:samples])[0] for name in LEVELS])
    for k, unit in enumerate(unit_difference(small.memory), 1):
        getattr(small, f"unit{k}").copy_(unit)
    return Small(small, steps)

def _eight_bits(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    "Maps (N, C, h, w) from 0 on, rounded; the whole numbers, and the step of each channel"
    step = maps.amax((0, 2, 3), keepdim=True).clamp_min(1e-6) / 255
    whole = (maps / step).round()
    return whole * step, whole.to(torch.uint8), step.flatten()

def _sums(features: Tensor, bank: Tensor) -> Tensor:  # (B, C, h, w), (N, C, h, w) -> (B, N)
    "Sum of the absolute differences between images and samples, however many there are"
    return (features.flatten(1)[:, None] - bank.flatten(1)).abs().sum(-1)


class OpenMemory(FixedMemory):
    "A fixed memory that can be told which sample to compare with; below 0: the nearest"
    def __init__(self, memory: Memory):
        super().__init__(memory)
        for name in LEVELS:
            setattr(self, name, getattr(memory, name).contiguous())  # pooled in the graph
        self.register_buffer("forced", torch.tensor(-1))

    def forward(self, features: Features, index: None=None) -> Match:
        "Best match of one image, or that with the forced sample"
        ours, theirs = [[pool(getattr(maps, name), self.pooling) for name in LEVELS]
                        for maps in (features, self)]
        sums = sum(_sums(a, b) for a, b in zip(ours, theirs))
        index = torch.where(self.forced < 0, sums.argmin(-1), self.forced)
        return Match(index, sums, differences(ours, theirs, index, self.difference))

class _Explaining(nn.Module):
    "A network whose `forward` tells everything"
    def __init__(self, network: MemSeg):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor):
        return self.network.explain(image)


MEMORY = tuple(f"{what}{k}" for what in ("memory", "steps", "spread", "unit") for k in (1, 2, 3))
OUTPUTS = ("map", "score", "distances", "index",
           *(f"{what}{k}" for what in ("difference", "attention", "layer") for k in (1, 2, 3)))
MOST = 30  # samples of a memory, as in the paper
SAMPLES = Dim("samples", min=2, max=MOST)

class PageNetwork(nn.Module):
    "A network that is handed its memory; one image (3, H, W) to map, score, and what the memory explorer shows"

    def __init__(self, model: MemSeg, top_share: float):
        super().__init__()
        network = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        network.memory = OpenMemory(network.memory)
        self.whole = _Explaining(fold_norms(network).to(memory_format=torch.contiguous_format))
        self.top_share = top_share

    def forward(self, image: Tensor, forced: Tensor, *memory: Tensor) -> tuple:
        parts = dict(zip(MEMORY, memory))
        state = {"network.memory.forced": forced}
        for k, name in enumerate(LEVELS, 1):
            state[f"network.memory.{name}"] = parts[f"memory{k}"].float() * parts[f"steps{k}"][:, None, None]
            state[f"network.memory.{name}_spread"] = parts[f"spread{k}"][:, None, None]
            state[f"network.unit{k}"] = parts[f"unit{k}"][:, None, None]
        found = torch.func.functional_call(self.whole, state, (image[None],))
        map = probability(found.logits)
        shown = [maps[0].mean(0) for maps in found.match.difference] + [maps[0, 0] for maps in found.maps]
        return (map[0], image_score(map, self.top_share)[0], found.match.distances[0], found.match.index[0],
                *shown, *(maps[0] for maps in found.features[1:]))

class KeepGraph(nn.Module):
    "From features of good images, (N, C, h, w) a level, to a memory of 8 bits a number"
    def forward(self, *layers: Tensor) -> tuple:
        kept, whole, steps = zip(*map(_eight_bits, layers))
        return *whole, *steps, *(channel_spread(maps).flatten() for maps in kept)

class OthersGraph(nn.Module):
    "Which other sample is nearest to one of a memory, and how far off it is in each channel"
    def forward(self, own: Tensor, *memory: Tensor) -> tuple:
        maps = [pool(whole.float() * step[:, None, None]).contiguous()
                for whole, step in zip(memory[:3], memory[3:])]
        mine = [level.index_select(0, own) for level in maps]
        sums = sum(_sums(one, level) for one, level in zip(mine, maps))[0]
        sums = torch.where(torch.arange(sums.shape[0]) == own, torch.inf, sums)
        gaps = differences(mine, maps, sums.argmin()[None])
        return sums.argmin(), *(gap[0].mean((1, 2)) for gap in gaps)

KEPT = tuple(f"{what}{k}" for what in ("memory", "steps", "spread") for k in (1, 2, 3))
OTHERS = ("nearest", "usual1", "usual2", "usual3")

def memory_graphs(
    model: MemSeg,  # its memory filled with at least two samples
) -> dict:          # name -> onnx.ModelProto
    "What makes a memory of a visitor's own photos"
    layers = {f"layer{k}": getattr(model.memory, name).contiguous() for k, name in enumerate(LEVELS, 1)}
    whole = {name: torch.from_numpy(array) for name, array in memory_arrays(model).items()
             if name[:-1] in ("memory", "steps")}
    many = {name: {0: SAMPLES} for name in (*layers, "memory1", "memory2", "memory3")}
    return {"keep": as_graph(KeepGraph(), layers, KEPT, many),
            "others": as_graph(OthersGraph(), dict(own=torch.tensor([0])) | whole, OTHERS, many)}

def memory_arrays(
    model: MemSeg,              # its memory filled
) -> dict[str, np.ndarray]:     # what `PageNetwork` is handed, by name
    "A memory in 8 bits a number"
    arrays = {}
    for k, name in enumerate(LEVELS, 1):
        maps = getattr(model.memory, name)
        _, whole, step = _eight_bits(maps)
        arrays[f"memory{k}"], arrays[f"steps{k}"] = whole.numpy(), step.numpy()
        arrays[f"spread{k}"] = model.memory.spread()[k - 1].flatten().numpy()
        arrays[f"unit{k}"] = getattr(model, f"unit{k}").flatten().numpy()
    return {name: np.ascontiguousarray(arrays[name]) for name in MEMORY}

def network_graph(
    small: Small,           # the graph is handed a memory of 2 to `MOST` samples
    size: tuple[int, int],  # (height, width)
    top_share: float,       # of the pixels, for the score
):                          # onnx.ModelProto
    "The network for a page"
    memory = {name: torch.from_numpy(array) for name, array in memory_arrays(small.model).items()}
    inputs = dict(image=torch.rand(3, *size), forced=torch.tensor(-1)) | memory
    many = {name: {0: SAMPLES} for name in MEMORY[:3]}
    return store_whole(as_graph(PageNetwork(small.model, top_share), inputs, OUTPUTS, many), small.steps)

def store_whole(
    graph,                     # onnx.ModelProto; changed in place
    steps: dict[str, Tensor],  # as in `Small`
):                             # the same
    "Weights as 8-bit whole numbers, each with steps that make them what they were"
    onnx, made, scales = need("onnx"), [], []
    for tensor in graph.graph.initializer:
        name = tensor.name
        step = next((one.numpy() for end, one in steps.items() if name.endswith(f".{end}")), None)
        if step is None:
            continue
        whole = np.round(onnx.numpy_helper.to_array(tensor) / step).astype(np.int8)
        tensor.CopyFrom(onnx.numpy_helper.from_array(whole, f"{name}_whole"))
        scales.append(onnx.numpy_helper.from_array(step, f"{name}_step"))
        made += [onnx.helper.make_node("Cast", [f"{name}_whole"], [f"{name}_float"],
                                       to=onnx.TensorProto.FLOAT),
                 onnx.helper.make_node("Mul", [f"{name}_float", f"{name}_step"], [name])]
    nodes = [*made, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.extend(scales)
    return graph

def squeeze(data: bytes, huffman: bool=False) -> bytes:
    "gzip, the same bytes for the same content; `huffman`: for numbers in which nothing repeats"
    press = zlib.compressobj(9, zlib.DEFLATED, 31, 9,
                             zlib.Z_HUFFMAN_ONLY if huffman else zlib.Z_DEFAULT_STRATEGY)
    return press.compress(data) + press.flush()


def weight_bytes(small: Small) -> int:
    "How large the weights are in a compressed file"
    state = small.model.state_dict()
    return len(squeeze(b"".join((state[name] / step).round().to(torch.int8).numpy().tobytes()
                                for name, step in small.steps.items()), huffman=True))

def remembering(product: str, size: tuple[int, int], photos: int=10) -> Detector:
    "The detector that remembers so many photos of an embedded product; nothing is trained"
    recipe = load_recipe("formulas").replace(**{"image.height": size[0], "image.width": size[1]})
    with tempfile.TemporaryDirectory() as folder:
        write_products(folder, product, size, train=photos, good=1, defective=0, progress=False)
        return Detector.remember(Path(folder) / product / "train" / "good", recipe, "cpu")


def unseen_photos(product: str, size: tuple[int, int], good: int=12,
                  defective: int=3) -> tuple[Tensor, Tensor]:
    "Photos of a product and their masks; so many good ones, and of each kind of defect"
    jobs = [(None, k) for k in range(good)] + [(kind, k) for kind in PRODUCTS[product].defects
                                               for k in range(defective)]
    images, masks = zip(*(render_product(product, size, defect=kind, index=k) for kind, k in jobs))
    return torch.stack(images), torch.stack(masks)
