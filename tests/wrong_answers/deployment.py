"Wrong answers to the exercises of the room deployment that are typical, and right ones that are unusual"
import torch


from . import RIGHT, WRONG, Wrong


WRONG["detector.1"] = (
    Wrong(lambda s, p: s.max(), "lowest", "none at all"),
    Wrong(lambda s, p: s.sort().values[int(p * len(s))], "false alarms", "from the wrong end"),
    Wrong(lambda s, p: 1 - p, "scores themselves", "one minus the limit"),
    Wrong(lambda s, p: s.mean() + 2 * s.std(), "scores themselves", "two standard deviations"),
    Wrong(lambda s, p: s.sort().values[max(0, int((1 - p) * len(s)) - 2)], "false alarms",
          "one too many"),
)


WRONG["detector.2"] = (
    Wrong((5, 4), "order", "swapped"),
    Wrong((8, 8), "pixels", "counts pixels"),
    Wrong((4, 4), "corners", "the same twice"),
    Wrong((5, 5), "corners", "without corners, twice"),
)


WRONG["detector.3"] = (
    Wrong((1024, 256), "order", "swapped"),
    Wrong((256, 512), "each direction", "the same factor for both"),
    Wrong((512, 1024), "each direction", "the larger factor for both"),
    Wrong((16, 16), "larger", "divides"),
    Wrong((64, 128), "map", "as it is"),
)


def _fold(w, b, mean, variance, scale, shift, eps, power=.5, axis=0):
    factor = scale / (variance + eps)**power
    shape = [-1 if k == axis else 1 for k in range(4)]
    return w * factor.reshape(shape), (b - mean) * factor + shift

def _fold_exactly(w, b, *statistics):
    return [made.float() for made in _fold(w.double(), b.double(), *statistics)]

WRONG["onnx.1"] = (
    Wrong(lambda *a: _fold(*a, power=1.), "root", "divides by the variance"),
    Wrong(lambda *a: _fold(*a[:-1], 0.), "eps", "forgets eps"),
    Wrong(lambda *a: _fold(*a, axis=1), "channels out", "the wrong axis of the weights"),
    Wrong(lambda *a: (_fold(*a)[0], a[1]), "bias", "leaves the bias as it is"),
    Wrong(lambda w, b, m, v, s, t, e: (_fold(w, b, m, v, s, t, e)[0], b - m + t),
          "bias", "moves the bias, unscaled"),
    Wrong(lambda *a: _fold(*a)[0], "two tensors", "the weight alone"),
)
RIGHT["onnx.1"] = (_fold_exactly,)


def _neighbours(good, defective):
    scores = sorted([*good, *defective])
    return min(b - a for a, b in zip(scores, scores[1:])) / 2

WRONG["runtimes.1"] = (
    Wrong(lambda g, d: min(abs(a - b) for a in g for b in d), "both", "the whole distance"),
    Wrong(_neighbours, "a good and a defective", "neighbours of any kind"),
    Wrong(lambda g, d: (min(d) - max(g)) / 2, "overlap", "the gap between the classes"),
    Wrong(lambda g, d: abs(min(d) - max(g)) / 2, "nearest pair", "the outermost two"),
    Wrong(lambda g, d: abs(sum(d) / len(d) - sum(g) / len(g)) / 2,
          "nearest", "half the distance of the means"),
)
def _margin_of_all(good, bad):
    return float((torch.tensor(good)[:, None] - torch.tensor(bad)).abs().amin()) / 2

RIGHT["runtimes.1"] = (_margin_of_all,)
