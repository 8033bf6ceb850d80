"""Times the library against naive versions of itself, side by side in one run: `make bench`

Every row is a ratio (naive time / our time): seconds differ from machine to machine, ratios far less. Each pair is
timed in turns; the ratio is the median of the turns, the spread its smallest and largest.
"""
import statistics
import time

import numpy as np
import torch
from noise import pnoise2
from scipy import ndimage
from sklearn.metrics import auc, roc_curve

from memseg_nb.encoder import Features
from memseg_nb.memory import Memory
from memseg_nb.metrics import PixelMetrics
from memseg_nb.perlin import perlin_noise


def seconds(function):
    "How long one call takes"
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(name, naive, ours, per_call=1, turns=5):
    "One row of the table: `naive` does 1 / `per_call` of the work of `ours`"
    naive(), ours()
    pairs = [(seconds(naive) * per_call, seconds(ours)) for _ in range(turns)]
    ratios = [slow / fast for slow, fast in pairs]
    fast = statistics.median(fast for _, fast in pairs) / per_call
    print(f"{name:<58} {fast * 1e3:9.2f} ms  {statistics.median(ratios):7.1f} x  ({min(ratios):.1f} .. {max(ratios):.1f})",
          flush=True)


def noise_package(size=256, cells=16):
    "One field, point by point, by the C loop of the `noise` package"
    return np.array([[pnoise2(x * cells / size, y * cells / size) for x in range(size)] for y in range(size)])


def numpy_perlin(size=256, cells=16, rng=np.random.default_rng(0)):
    "One field in NumPy, the usual way: gradients repeated to every pixel, four ramps, two interpolations"
    angle = 2 * np.pi * rng.random((cells + 1, cells + 1))
    gradients = np.dstack((np.cos(angle), np.sin(angle)))
    step = size // cells
    y, x = np.mgrid[0:size, 0:size] / step % 1

    def ramp(dy, dx):
        corner = gradients[dy:cells + dy, dx:cells + dx].repeat(step, 0).repeat(step, 1)
        return (np.dstack((x - dx, y - dy)) * corner).sum(2)

    u, v = (t * t * t * (t * (t * 6 - 15) + 10) for t in (x, y))
    top, bottom = ((1 - u) * ramp(row, 0) + u * ramp(row, 1) for row in (0, 1))
    return (1 - v) * top + v * bottom


def random_features(count, generator):
    "Features of 256 x 256 images, of the right shapes"
    shapes = ((64, 128, 128), (64, 64, 64), (128, 32, 32), (256, 16, 16))
    return Features(*(torch.rand(count, *shape, generator=generator) for shape in shapes))


def loop_match(features, memory):
    "Nearest memory by loops over batch and level, with a map for each sample"
    found = []
    for k in range(len(features.layer1)):
        total = 0
        for level in ("layer1", "layer2", "layer3"):
            pooled = torch.nn.functional.avg_pool2d(getattr(features, level)[k:k + 1], 3, 1, 1)
            total = total + (getattr(memory, level) - pooled).abs().sum((1, 2, 3))
        found.append(int(total.argmin()))
    return found


def slow_aupro(maps, masks, limit=.3):
    "AUPRO with all pixels at once: a ROC curve whose positives weigh 1 / (area of their region)"
    weight, regions = np.zeros(maps.shape), 0
    for image, mask in enumerate(masks):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        areas = np.bincount(labels.ravel())
        weight[image][mask] = 1 / areas[labels[mask]]
        regions += count
    weight[~masks] = 1
    fpr, pro, _ = roc_curve(masks.ravel(), maps.ravel(), sample_weight=weight.ravel(), drop_intermediate=False)
    inside = fpr <= limit
    return auc(np.append(fpr[inside], limit), np.append(pro[inside], np.interp(limit, fpr, pro))) / limit


def fast_aupro(maps, masks):
    "The library's"
    metrics = PixelMetrics()
    metrics.update(torch.from_numpy(maps), torch.from_numpy(masks))
    return metrics.aupro()


def main():
    "All rows"
    print(f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}\n")
    print(f"{'work, against':<58} {'ours':>9}     {'ratio':>7}    (spread)")
    generator = torch.Generator().manual_seed(0)
    fields = lambda: perlin_noise(32, (256, 256), generator)  # noqa: E731
    compare("Perlin field 256 x 256, against NumPy one by one", numpy_perlin, fields, 32)
    compare("Perlin field 256 x 256, against the noise package", noise_package, fields, 32)
    memory = Memory()
    memory.fill([random_features(30, generator)])
    features = random_features(8, generator)
    compare("match of 8 images with 30 samples, against loops", lambda: loop_match(features, memory), lambda: memory(features))
    rng = np.random.default_rng(0)
    masks = np.zeros((20, 256, 256), bool)
    masks[:, 40:60, 50:90] = masks[:, 150:170, 10:20] = True
    maps = (rng.random(masks.shape) * .8 + masks * .2 * rng.random(masks.shape)).astype(np.float32)
    assert abs(slow_aupro(maps, masks) - fast_aupro(maps, masks)) < 1e-5
    compare("AUPRO of 20 maps of 256 x 256, against scikit-learn", lambda: slow_aupro(maps, masks),
            lambda: fast_aupro(maps, masks), turns=3)


if __name__ == "__main__":
    main()
