"""The library against anomalib, in turns in one process: nbs/results/peers.csv.

anomalib is no dependency of the project. In an environment of its own, which has what memseg needs as well:

    pip install "anomalib==2.7.*" -e .
    python tests/measure_peers.py
"""

import csv
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator, generate_perlin_noise
from anomalib.metrics.aupro import _AUPRO

from memseg_nb.simulation.perlin import perlin_noise
from memseg_nb.bench.speed import Workshop, counted_aupro, synthetic_maps
from memseg_nb.bench.timing import compare

OUT = Path(__file__).parents[1] / "nbs" / "results" / "peers.csv"
FIELDS = ("work", "peer", "threads", "peer_ms", "ours_ms", "ratio", "lowest", "highest", "note")


def noise(shop: Workshop):
    "Fields of Perlin noise, random lattices, theirs not turned"
    draw = torch.Generator().manual_seed(0)
    def theirs(): return generate_perlin_noise(*shop.size)
    found = compare(theirs, lambda: perlin_noise(32, shop.size, draw, rotation=0), turns=7,
                    counts=(1, 32))
    yield "Perlin noise, one field", found, "ours: 32 at once"


def simulation(shop: Workshop):
    "Eight simulated anomalies, textures from files"
    draw = torch.Generator().manual_seed(0)
    generator = PerlinAnomalyGenerator(shop.textures[0].parent, probability=1.)
    def theirs():
        for image in shop.images: generator(image)
    for cache, note in ((2**29, "textures in memory after the first use"),
                        (0, "every texture read from disk anew")):
        simulator = shop.simulator(cache)
        for _ in range(16): simulator(shop.images, draw)  # reads the textures
        found = compare(theirs, lambda: simulator(shop.images, draw), turns=7)
        yield "8 simulated anomalies", found, f"ours: {note}; theirs reads anew"


def aupro(shop: Workshop):
    "AUPRO of 100 maps with 180 regions"
    maps, masks = synthetic_maps(100, shop.side)
    given = torch.from_numpy(maps), torch.from_numpy(masks).int()
    def theirs():
        metric = _AUPRO()
        metric.update(*given)
        return metric.compute()
    gap = abs(float(theirs()) - counted_aupro(maps, masks))
    assert gap < 1e-3, gap
    yield ("AUPRO, 100 maps, 180 regions", compare(theirs, lambda: counted_aupro(maps, masks), turns=3),
           f"differ by {gap:.0e}")


def measure(threads: int):
    "Lines of the table, by FIELDS"
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        shop = Workshop(folder)
        for work in (noise, simulation, aupro):
            for name, found, note in work(shop):
                times = (f"{1e3 * value:.4g}" for value in found[:2])
                line = (name, "anomalib " + version("anomalib"), threads, *times,
                        *(f"{r:.3g}" for r in found[2:]), note)
                print(*line, sep=", ", flush=True)
                yield line


if __name__ == "__main__":
    threads = torch.get_num_threads()
    lines = [line for count in sorted({1, threads}) for line in measure(count)]
    with open(OUT, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([FIELDS, *lines])
