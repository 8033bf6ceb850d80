"Wrong answers to the exercises of the room model that are typical, and right ones that are unusual"
import math

import torch
import torch.nn.functional as F
from torch import nn


from . import WRONG, Wrong


WRONG["encoder.1"] = (
    Wrong((128, 32, 32), "192", "as for a square image"),
    Wrong((64, 64, 48), "layer 1", "counts from 0"),
    Wrong((256, 16, 12), "layer 3", "counts the stem as layer 1"),
    Wrong((128, 24, 32), "height first", "width first"),
    Wrong((128, 64, 48), "halves", "forgets that layer 2 halves the size"),
)


class _NoGradient(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner.requires_grad_(False)

    def forward(self, x): return self.inner(x)

class _EvalOnce(_NoGradient):
    def __init__(self, inner):
        super().__init__(inner)
        self.eval()

class _EvalOnly(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def train(self, mode=True): return super().train(False)
    def forward(self, x): return self.eval().inner(x)

class _Detached(_NoGradient):
    def train(self, mode=True): return super().train(False)
    def forward(self, x): return self.eval().inner(x).detach()

WRONG["encoder.2"] = (
    Wrong(_NoGradient, "batch norm", "no gradients, and no more"),
    Wrong(_EvalOnce, ".train()", "evaluation mode once, at the beginning"),
    Wrong(_EvalOnly, "require gradients", "forgets the gradients"),
    Wrong(_Detached, "through", "cuts the gradient to the input as well"),
)


WRONG["memory.2"] = (
    Wrong(0, "square", "squares the differences: 5.25, 12.25, 14.25"),
    Wrong(2, "largest", "the largest difference, or counted from 1"),
    Wrong(3.5, "which sample", "the distance instead of the index"),
)


def _looped(memory, features):
    return torch.tensor([min(range(len(memory)), key=lambda n: (memory[n] - f).abs().sum().item())
                         for f in features])

def _all(memory, features):
    return (memory[None] - features[:, None]).abs()

WRONG["memory.3"] = (
    Wrong(_looped, "loop", "the naive version"),
    Wrong(lambda m, f: torch.cdist(f.flatten(1), m.flatten(1)).argmin(1), "square",
          "Euclidean distance"),
    Wrong(lambda m, f: torch.cdist(f.flatten(1), m.flatten(1), p=1).argmax(1), "farthest",
          "argmax"),
    Wrong(lambda m, f: torch.cdist(f.flatten(1), m.flatten(1), p=1).argmin(0), "shape",
          "the minimum over the images"),
    Wrong(lambda m, f: _all(m, f).amax((2, 3, 4)).argmin(1), "sum",
          "the largest single difference"),
    Wrong(lambda m, f: (m.mean((1, 2, 3))[None] - f.mean((1, 2, 3))[:, None]).abs().argmin(1),
          "before", "compares means"),
)


WRONG["memory.4"] = (
    Wrong(lambda d: d.argmin(2), "each level", "one for each level, as the release"),
    Wrong(lambda d: d.argmin(2).mode(0).values, "vote", "lets the levels vote"),
    Wrong(lambda d: d[2].argmin(1), "coarsest", "the coarsest level alone"),
    Wrong(lambda d: d.amin(0).argmin(1), "smallest of", "the nearest in any level"),
    Wrong(lambda d: d.sum(0).argmin(0), "shape", "the minimum over the images"),
)


def _replaced(memory, sample):
    memory = memory.clone()
    memory[0] = sample
    return memory

WRONG["memory.5"] = (
    Wrong(lambda m, d: _replaced(m, 0.), "0 everywhere", "an empty sample"),
    Wrong(lambda m, d: d.expand_as(m).clone(), "one sample", "replaces them all"),
    Wrong(lambda m, d: torch.cat([m, d[None]]), "shape", "adds one"),
    Wrong(lambda m, d: _replaced(m, (m[0] + d) / 2), "0 everywhere", "halfway"),
    Wrong(lambda m, d: m.clone(), "0 everywhere", "changes nothing"),
)


WRONG["patches.1"] = (
    Wrong(lambda m: m[0], "one of the good", "a good image"),
    Wrong(lambda m: m.mean(0), "away from every patch", "the mean image"),
    Wrong(lambda m: torch.zeros_like(m[0]), "away from every patch", "nothing at all"),
    Wrong(lambda m: m[0].flip(0), "whole ones", "swaps the channels of a patch"),
    Wrong(lambda m: m[:1, :, :1, :1].expand(1, *m.shape[1:]), "shape", "a batch of one"),
)


def _farthest_of(far):
    "Numbers of patches that are `far` from those kept before"
    def coreset(patches, count):
        kept, gaps = [0], torch.cdist(patches, patches)
        while len(kept) < count: kept.append(far(gaps[:, kept]).argmax().item())
        return kept
    return coreset

WRONG["patches.2"] = (
    Wrong(lambda p, n: list(range(n)), "where it is largest", "the first ones"),
    Wrong(_farthest_of(lambda gaps: gaps[:, -1]), "last one only", "farthest from the last"),
    Wrong(_farthest_of(lambda gaps: gaps.mean(1)), "on average", "farthest on average"),
    Wrong(_farthest_of(lambda gaps: gaps.amax(1)), "any of them", "farthest from any"),
    Wrong(lambda p, n: torch.cdist(p[:1], p)[0].argsort(descending=True)[:n].tolist(), "begin with",
          "farthest from the first"),
    Wrong(lambda p, n: _farthest_of(lambda gaps: gaps.amin(1))(p, n + 1)[1:], "begin with",
          "leaves out the first"),
    Wrong(lambda p, n: [0, 0, *range(2, n)], "twice", "one of them twice"),
    Wrong(lambda p, n: p[_farthest_of(lambda gaps: gaps.amin(1))(p, n)], "number", "the patches themselves"),
)


WRONG["attention.1"] = (
    Wrong(2., "M_3", "forgets the coarser map"),
    Wrong(2.5, "times", "adds the coarser map"),
    Wrong(2 * 1., "M_3", "the mean alone"),
    Wrong(1.5, "mean", "the largest channel"),
    Wrong(4., "mean", "the sum"),
)


def _maps(d1, d2, d3, reduce=lambda d: d.mean(1, keepdim=True), mode="bilinear", corners=False):
    settings = dict(mode=mode) if mode == "nearest" else dict(mode=mode, align_corners=corners)
    m3 = reduce(d3)
    m2 = reduce(d2) * F.interpolate(m3, scale_factor=2, **settings)
    return reduce(d1) * F.interpolate(m2, scale_factor=2, **settings), m2, m3

def _from_three(d1, d2, d3):
    m1, m2, m3 = _maps(d1, d2, d3)
    return d1.mean(1, keepdim=True) * F.interpolate(m3, scale_factor=4, mode="bilinear"), m2, m3

WRONG["attention.2"] = (
    Wrong(lambda *d: _maps(*d)[::-1], "order", "M_3 first"),
    Wrong(lambda *d: _maps(*d, reduce=lambda x: x.sum(1, keepdim=True)), "mean", "sums"),
    Wrong(lambda *d: _maps(*d, mode="nearest"), "bilinear", "nearest"),
    Wrong(lambda *d: _maps(*d, corners=True), "align_corners", "align_corners"),
    Wrong(lambda *d: tuple(x.mean(1, keepdim=True) for x in d), "coarser",
          "without the coarser maps"),
    Wrong(_from_three, "M_2", "M_1 from M_3"),
    Wrong(lambda *d: tuple(m[:, 0] for m in _maps(*d)), "shape", "no channel axis"),
)


def _spot(d1=1., d2=1., d3=1., hole=(1, 1), side=3):
    a, b, c = (torch.full((1, 2, n, n), value) for n, value in ((16, d1), (8, d2), (4, d3)))
    rows, columns = (slice(max(0, at - side // 2), at + side // 2 + 1) for at in hole)
    c[..., rows, columns] = 0
    return a, b, c

WRONG["attention.3"] = (
    Wrong(lambda: _spot(d3=0.), "elsewhere", "no attention at all"),
    Wrong(lambda: _spot(side=0, hole=(-9, -9)), "is", "nothing changed"),
    Wrong(lambda: _spot(d1=0.), "level 1", "no difference at all"),
    Wrong(lambda: tuple(-d for d in _spot()), "below 0", "differences below 0"),
    Wrong(lambda: _spot(side=1), "neighbours", "one coarse pixel: the neighbours shine in"),
)


WRONG["msff.2"] = (
    Wrong(3 * 3 * 256 * 128, "batch norm", "forgets the batch norm"),
    Wrong(3 * 3 * 256 * 128 + 3 * 128, "bias", "counts a bias"),
    Wrong(3 * 3 * 256 * 128 + 4 * 128, "statistics", "counts the running statistics"),
    Wrong(256 * 128 + 2 * 128, "3 x 3", "forgets the 3 x 3"),
    Wrong(3 * 3 * 128 + 2 * 128, "each of the 256", "as if each channel were on its own"),
)


def _effect(factor, mode=True, norm=True, different=False):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, 10, 10, generator=draw)
    conv, bn = nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8).train(mode)
    other = nn.Conv2d(8, 8, 3, bias=False) if different else conv
    run = (lambda c, x: bn(c(x))) if norm else (lambda c, x: c(x))
    return (run(other, factor * x) - run(conv, x)).abs().max().item()

WRONG["msff.3"] = (
    Wrong(lambda f: _effect(f, mode=False), "training mode",
          "in evaluation mode the statistics are fixed"),
    Wrong(lambda f: _effect(f, norm=False), "batch norm", "without the batch norm"),
    Wrong(lambda f: 0., "compare", "knows the answer"),
    Wrong(lambda f: _effect(f, different=True), "same", "two convolutions"),
)


def _up(x, mode="bilinear"):
    return F.interpolate(x, scale_factor=2, mode=mode)

def _down(f1, f2, f3, conv2, conv1, mode="bilinear"):
    f2 = f2 + conv2(_up(f3, mode))
    return f1 + conv1(_up(f2, mode)), f2, f3

WRONG["msff.4"] = (
    Wrong(lambda a, b, c, p, q: (a + q(_up(b)), b + p(_up(c)), c), "new F_2", "the old F_2"),
    Wrong(lambda a, b, c, p, q: (q(_up(b + p(_up(c)))), p(_up(c)), c), "plus",
          "replaces instead of adding"),
    Wrong(lambda a, b, c, p, q: _down(a, b, c, p, q, "nearest"), "bilinear", "nearest"),
    Wrong(lambda a, b, c, p, q: _down(a, b, c, p, q)[::-1], "order", "coarsest first"),
    Wrong(lambda a, b, c, p, q: _down(a, b, c, q, p), "size", "the convolutions swapped"),
)


WRONG["memseg.1"] = (
    Wrong(lambda h, w: (h // 32 * 32, w // 32 * 32), "smaller", "rounds down"),
    Wrong(lambda h, w: (h // 32 * 32 + 32, w // 32 * 32 + 32), "fits already", "always one more"),
    Wrong(lambda h, w: (round(h / 32) * 32, round(w / 32) * 32), "smaller",
          "rounds to the nearest"),
    Wrong(lambda h, w: (-(-max(h, w) // 32) * 32,) * 2, "each direction", "makes it square"),
    Wrong(lambda h, w: (-(-w // 32) * 32, -(-h // 32) * 32), "height first", "swaps"),
    Wrong(lambda h, w: (2 ** math.ceil(math.log2(h)), 2 ** math.ceil(math.log2(w))), "smallest",
          "powers of two"),
)


WRONG["tiles.1"] = (
    Wrong(lambda n, w, c: [k * n // c for k in range(c)], "spread what", "spreads the whole line"),
    Wrong(lambda n, w, c: [k * w for k in range(c)], "side by side", "no overlap"),
    Wrong(lambda n, w, c: [k * (n - w) // c for k in range(c)], "steps between", "one step too many"),
    Wrong(lambda n, w, c: [k * (n - w) / max(c - 1, 1) for k in range(c)], "whole pixels", "not rounded"),
    Wrong(lambda n, w, c: [k * (n - w) // (c - 1) for k in range(c)], "divide by 0",
          "forgets the single one"),
)



WRONG["memseg.3"] = (
    Wrong(lambda x: torch.sigmoid(x[:, 1]), "difference", "one logit"),
    Wrong(lambda x: torch.sigmoid(x[:, 0] - x[:, 1]), "normal", "the other class"),
    Wrong(lambda x: torch.sigmoid(x[:, 1] / x[:, 0]), "difference", "their ratio"),
    Wrong(lambda x: torch.sigmoid(x[:, 1:] - x[:, :1]), "shape", "keeps the channel"),
    Wrong(lambda x: 1 / (1 + (x[:, 0].exp() / x[:, 1].exp())), "finite",
          "divides the exponentials"),
)


WRONG["losses.1"] = (
    Wrong(1.2 * .5**4 * math.log(.5), "positive", "forgets the minus"),
    Wrong(-.5**4 * math.log(.5), "alpha", "forgets alpha"),
    Wrong(-1.2 * math.log(.5), "cross entropy", "forgets the factor with gamma"),
    Wrong(-1.2 * .5**4 * math.log10(.5), "natural", "the logarithm to base 10"),
    Wrong(-1.2 * .5**4 * math.log2(.5), "natural", "the logarithm to base 2"),
    Wrong(1.2 * 4 * .5 * math.log(2), "power", "multiplies by gamma"),
)


WRONG["losses.2"] = (
    Wrong(.98, "right", "counts the pixels that it gets right"),
    Wrong(1., "mean", "the largest error"),
    Wrong(2., "per cent", "in per cent"),
    Wrong(.04, "one of the two", "both classes"),
    Wrong(.5, "certain", "as if it said one half"),
)


def _focal(logits, masks, gamma, normal, anomalous, log=None, power=True, swap=False, mean=True):
    chances = logits.float().softmax(1)
    logs = logits.float().log_softmax(1) if log is None else log(chances)
    index = (~masks if swap else masks).long()[:, None]
    logp, alpha = logs.gather(1, index)[:, 0], torch.where(masks, anomalous, normal)
    p = logp.exp() if log is None else chances.gather(1, index)[:, 0]
    loss = -alpha * ((1 - p) if power else p)**gamma * logp
    return loss.mean() if mean else loss.sum()

def _one_side(logits, masks, gamma, normal, anomalous):
    p = logits.softmax(1)[:, 1].clamp(1e-7, 1 - 1e-7)
    return (-anomalous * (1 - p)**gamma * p.log() * masks).mean()

WRONG["losses.3"] = (
    Wrong(lambda x, m, g, a, b: _focal(x, m, g, a, b, log=torch.log), "log_softmax",
          "the logarithm of a softmax"),
    Wrong(lambda x, m, g, a, b: _focal(x, m, g, b, a), "alpha", "the two alphas swapped"),
    Wrong(lambda x, m, g, a, b: _focal(x, m, g, a, b, power=False), "(1 - p", "p instead of 1 - p"),
    Wrong(lambda x, m, g, a, b: _focal(x, m, g, a, b, swap=True), "true class",
          "the wrong class's probability"),
    Wrong(lambda x, m, g, a, b: _focal(x, m, g, a, b, mean=False), "mean", "the sum"),
    Wrong(_one_side, "normal pixels", "anomalous pixels only"),
    Wrong(lambda x, m, g, a, b: F.cross_entropy(x, m.long()), "cross entropy", "cross entropy"),
)


def _slope(p, g):
    return g * (1 - p)**(g - 1) * p.log() - (1 - p)**g / p

def _automatic(p, gamma):
    p = p.clone().requires_grad_()
    return torch.autograd.grad((-(1 - p)**gamma * p.log()).sum(), p)[0]

WRONG["losses.4"] = (
    Wrong(lambda p, g: -(1 - p)**g / p, "product rule", "derives the logarithm only"),
    Wrong(lambda p, g: -_slope(p, g), "sign", "the sign"),
    Wrong(lambda p, g: -g * (1 - p)**(g - 1) * p.log() - (1 - p)**g / p, "chain rule",
          "forgets the inner derivative, -1"),
    Wrong(lambda p, g: g * (1 - p)**g * p.log() - (1 - p)**g / p, "gamma - 1", "keeps the power"),
    Wrong(_automatic, "autograd", "lets autograd do it"),
    Wrong(lambda p, g: g * (1 - p)**(g - 1) / p, "product", "the product of the derivatives"),
)


def _by_area(masks, over):
    parts = masks.double(), (~masks).double()
    return sum(part / part.sum(over, keepdim=True).clamp_min(1) for part in parts)

WRONG["losses.5"] = (
    Wrong(lambda m: m.float() / m.float().sum((1, 2), keepdim=True)
          + (~m).float() / (~m).float().sum((1, 2), keepdim=True),
          "no defect", "divides by 0 where there is no defect"),
    Wrong(lambda m: _by_area(m, (0, 1, 2)), "each image", "over the whole batch"),
    Wrong(lambda m: m / m.sum((1, 2), keepdim=True).clamp_min(1), "normal pixels",
          "forgets the normal pixels"),
    Wrong(lambda m: m.float() * m[0].numel() / m.sum((1, 2), keepdim=True).clamp_min(1)
          + (~m).float() / (~m).sum((1, 2), keepdim=True).clamp_min(1), "sum up to 1",
          "another scale"),
    Wrong(lambda m: torch.ones(m.shape) / m[0].numel(), "sum up to 1", "all the same"),
)
