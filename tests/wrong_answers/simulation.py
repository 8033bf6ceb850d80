"Wrong answers to the exercises of the room simulation that are typical, and right ones that are unusual"
import math

import torch


from . import RIGHT, WRONG, Wrong


WRONG["perlin.1"] = (
    Wrong(lambda t: t, "derivative", "a straight line mixes too"),
    Wrong(lambda t: 3 * t**2 - 2 * t**3, "second derivative", "the fade of 1985"),
    Wrong(lambda t: (1 - torch.cos(math.pi * torch.as_tensor(t))) / 2, "second derivative",
          "a cosine is smooth"),
    Wrong(lambda t: 6 * t**5 - 15 * t**4 - 10 * t**3, "at 1", "a sign lost"),
    Wrong(lambda t: 1 - (6 * t**5 - 15 * t**4 + 10 * t**3), "at 0",
          "the weight of the other corner"),
)


WRONG["perlin.2"] = (
    Wrong(32, "cells", "counts the cells"),
    Wrong(6, "2^a", "multiplies the exponents"),
    Wrong(33, "each side", "one corner more, but not on each side"),
    Wrong(128, "share", "four corners for each cell"),
)


WRONG["perlin.3"] = (
    Wrong(lambda noise, share: torch.quantile(noise.flatten(), share), "below",
          "takes the share from the wrong end"),
    Wrong(lambda noise, share: noise.median(), "share", "the middle, whatever is asked for"),
    Wrong(lambda noise, share: torch.tensor(1 - share), "values",
          "takes the values for evenly spread from 0 to 1"),
    Wrong(lambda noise, share: torch.quantile(noise, 1 - share, dim=1), "one number",
          "a threshold for each row"),
)


WRONG["perlin.4"] = (
    Wrong(lambda g, x: torch.lerp(g[x.long()], g[x.long() + 1], x - x.floor()), "lattice points",
          "mixes the gradients themselves"),
    Wrong(lambda g, x: torch.lerp(g[x.long()] * (x % 1), g[x.long() + 1] * (1 - x % 1),
                                  (x % 1)**3 * (x % 1 * (6 * (x % 1) - 15) + 10)),
          "signed", "distance without its sign"),
    Wrong(lambda g, x: torch.lerp(g[x.long()] * (x % 1), g[x.long() + 1] * (x % 1 - 1), x % 1),
          "fade", "mixes in a straight line"),
    Wrong(lambda g, x: torch.stack([g[int(p)] * (p - int(p)) for p in x]), "loop",
          "a loop, and one neighbour only"),
)


def _otsu(counts, score):
    "The level at which a score of (w0, w1, m0, m1) is largest"
    levels, best = torch.arange(len(counts)).double(), (-math.inf, 0)
    for k in range(len(counts) - 1):
        low, high = counts[:k + 1].double(), counts[k + 1:].double()
        if low.sum() and high.sum():
            m0, m1 = low @ levels[:k + 1] / low.sum(), high @ levels[k + 1:] / high.sum()
            value = score(low.sum().item(), high.sum().item(), m0.item(), m1.item())
            if value > best[0] * (1 + 1e-9): best = value, k
    return best[1]

WRONG["foreground.1"] = (
    Wrong(lambda c: int((c * torch.arange(len(c))).sum() / c.sum()), "mean level",
          "halfway, as one does by eye"),
    Wrong(lambda c: int((c.cumsum(0) >= c.sum() / 2).nonzero()[0]), "half of the pixels",
          "the median"),
    Wrong(lambda c: _otsu(c, lambda w0, w1, m0, m1: (m0 - m1)**2), "shares", "forgets the shares"),
    Wrong(lambda c: _otsu(c, lambda w0, w1, m0, m1: w0 * w1 * (m0 - m1)**2) + 1, "up to",
          "counts the level to the upper class"),
)


_ROW = [int(pixel) for pixel in "00100010111011011110011100"]

def _slide(row, choose):
    "The smallest or largest of each pixel and its neighbours"
    return [choose(row[max(k - 1, 0):k + 2]) for k in range(len(row))]

def _opened(row): return _slide(_slide(row, min), max)

def _closed(row): return _slide(_slide(row, max), min)

WRONG["foreground.2"] = (
    Wrong(_opened(_ROW), "opened only", "forgets the closing"),
    Wrong(_closed(_ROW), "closed only", "forgets the opening"),
    Wrong(_opened(_closed(_ROW)), "the other way round", "closes first"),
    Wrong(_slide(_opened(_ROW), max), "dilates only", "fills the gap, but the ends have grown"),
    Wrong(_slide(_ROW, min), "eroded", "half of an opening"),
)
RIGHT["foreground.2"] = (tuple(bool(pixel) for pixel in _closed(_opened(_ROW))),
                         torch.tensor(_closed(_opened(_ROW))))


def _sides(bright): return torch.cat([bright[0], bright[-1], bright[:, 0], bright[:, -1]])

def _swap(bright, background): return ~bright if background.float().mean() > .5 else bright

WRONG["foreground.3"] = (
    Wrong(lambda b: b, "dark product", "the product is bright, always"),
    Wrong(lambda b: _swap(b, b), "whole image", "the rarer class of the whole image"),
    Wrong(lambda b: _swap(b, b[0]), "upper border", "looks at the first row only"),
    Wrong(lambda b: _swap(b, b[:, [0, -1]]), "left and right",
          "looks at the sides, not above and below"),
    Wrong(lambda b: _swap(b, b[[0, 0, -1, -1], [0, -1, 0, -1]]), "corners",
          "looks at the corners only"),
    Wrong(lambda b: _swap(b, _sides(b)), "twice", "counts corners twice"),
    Wrong(lambda b: _swap(~b, _sides(b)), "background", "the wrong way round"),
)
RIGHT["foreground.3"] = (lambda b: b ^ (b.sum() - b[1:-1, 1:-1].sum() > b.shape[0]
                                        + b.shape[1] - 2),)


def _looks(mask):
    "Whether each pixel, its own place included, sees mask to the left, right, above, below"
    along = [(mask.flip(axis).int() if flip else mask.int()).cumsum(axis) > 0 for axis in (1, 0)
             for flip in (False, True)]
    return along[0], along[1].flip(1), along[2], along[3].flip(0)

def _by_loops(mask):
    wide = mask.clone()
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            row, column = mask[y], mask[:, x]
            wide[y, x] |= row[:x].any() & row[x:].any() & column[:y].any() & column[y:].any()
    return wide

WRONG["foreground.4"] = (
    Wrong(_by_loops, "loop", "the naive version"),
    Wrong(lambda m: _looks(m)[0] & _looks(m)[1], "above and below", "left and right only"),
    Wrong(lambda m: m.any(0) & m.any(1)[:, None], "on one side",
          "its row and its column have mask, on whatever side"),
    Wrong(lambda m: torch.stack(_looks(m)).any(0), "all four", "one direction is enough"),
    Wrong(lambda m: torch.stack(_looks(m)).all(0) & ~m, "is missing",
          "the filling without the mask itself"),
)
RIGHT["foreground.4"] = (lambda m: m | torch.stack(_looks(m)).all(0),)


def _part(texture, size, draw):
    top, left = (int(draw(whole - side)) for whole, side in zip(texture.shape[1:], size))
    return texture[:, top:top + size[0], left:left + size[1]]

def _same_for_both(texture, size, generator):
    k = torch.randint(min(texture.shape[1] - size[0], texture.shape[2] - size[1]) + 1, (),
                      generator=generator)
    return texture[:, k:k + size[0], k:k + size[1]]

WRONG["textures.1"] = (
    Wrong(lambda t, s, g: _part(t, s, lambda rest: torch.randint(max(rest, 1), (), generator=g)),
          "last", "off by one"),
    Wrong(lambda t, s, g: _part(t, s, lambda rest: torch.randint(rest + 1, ())), "generator",
          "draws without it"),
    Wrong(lambda t, s, g: t[:, :s[0], :s[1]], "always", "the corner"),
    Wrong(_same_for_both, "together", "one draw for both directions"),
    Wrong(lambda t, s, g: _part(t, s[::-1], lambda rest: torch.randint(rest + 1, (), generator=g)),
          "shape", "height and width swapped"),
)


WRONG["textures.2"] = (
    Wrong(163, "both directions", "in one direction"),
    Wrong(162**2, "one more", "384 - 222 places, as one counts fence panels and not posts"),
    Wrong(129**2, "zoom", "a window of 256 x 256, whatever the zoom"),
    Wrong(257**2, "half", "takes d itself for the zoom, 0.5"),
    Wrong(8 * 163**2, "mirror", "counts mirrored and turned ones too"),
    Wrong(1, "1.5", "the largest zoom"),
)


def _hue(angle, scale=1 / 3):
    "Rodrigues' formula about (1, 1, 1)"
    axis = torch.ones(3, dtype=torch.float64) / math.sqrt(3)
    cross = torch.tensor([[0., -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64) / math.sqrt(3)
    turn = (math.cos(angle) * torch.eye(3) + math.sin(angle) * cross
            + (1 - math.cos(angle)) * torch.outer(axis, axis))
    return 3 * scale * turn

def _mixed(angle):
    share = angle / (2 * math.pi / 3)
    return (1 - share) * torch.eye(3, dtype=torch.float64) + share * _hue(2 * math.pi / 3)

WRONG["textures.3"] = (
    Wrong(lambda a: _hue(math.radians(a)), "radians", "takes the angle for degrees"),
    Wrong(lambda a: _hue(-a), "other direction", "red becomes blue"),
    Wrong(lambda a: _hue(a, 1.), "brighter", "forgets the third"),
    Wrong(_mixed, "paler", "mixes red and green instead of turning"),
    Wrong(lambda a: torch.eye(3).roll(1, 0), "without an angle",
          "a third of a turn, whatever is asked for"),
)
RIGHT["textures.3"] = (lambda a: _hue(float(a)).float(),)


_SHARED = torch.Generator().manual_seed(0)


_CELLS = torch.cartesian_prod(torch.arange(-2., 3), torch.arange(-2., 3)).view(5, 5, 2)  # corners

def _with_point(points, i, j, point):
    points = points.clone()
    points[i, j] = torch.tensor(point)
    return points

_BESIDE = torch.tensor([.99, .5])  # close to the cell on the right

_AWAY = torch.where(_CELLS + .5 > _BESIDE, _CELLS + .99,
                    _CELLS + .01)  # as far from it as their cells allow

WRONG["textures.5"] = (
    Wrong((_BESIDE, _with_point(_AWAY, 4, 2, [1.2, .5])), "not in its cell",
          "moves the far point out of its cell"),
    Wrong((_BESIDE, _with_point(_CELLS + .5, 4, 2, [2., .5])), "the nearest is that of cell (0, 0)",
          "all others in the middle"),
    Wrong((torch.tensor([1.4, .5]), _with_point(_AWAY, 4, 2, [2., .5])), "pixel",
          "a pixel in another cell"),
    Wrong((_BESIDE, _AWAY), "the nearest is that of cell", "all as far as they can be"),
    Wrong((_BESIDE, _with_point(_AWAY, 4, 2, [2., .5])[1:4, 1:4]), "(5, 5, 2)", "nine points"),
)
RIGHT["textures.5"] = (([.5, .01],
                        _with_point(torch.where(_CELLS + .5 > torch.tensor([.5, .01]), _CELLS + .99,
                                                           _CELLS + .01), 2, 0, [.5, -1.])),)


WRONG["anomalies.1"] = (
    Wrong(.3, "the other way round", "takes delta for the image's share"),
    Wrong(.6, "in the mask", "as if M were 0"),
    Wrong(.1, "0.4", "as if the source covered the pixel"),
    Wrong(.64, "(1 - delta)", "adds the source and keeps the whole image"),
)


WRONG["anomalies.2"] = (
    Wrong(lambda i, s, m, o: torch.lerp(i, s, o[:, None, None, None].expand_as(i)), "outside",
          "forgets the mask"),
    Wrong(lambda i, s, m, o: torch.where(m[:, None], s, i), "opacity", "pastes the source"),
    Wrong(lambda i, s, m, o: torch.lerp(i, s, m[:, None] * (1 - o)[:, None, None, None]), "swapped",
          "delta and 1 - delta swapped"),
    Wrong(lambda i, s, m, o: torch.lerp(i, s, m[:, None] * o[0]), "each image",
          "one opacity for all"),
    Wrong(lambda i, s, m, o: torch.lerp(i, s, m * o), "must match", "shapes that don't fit"),
)


def _redraw(draw, foreground, tries, last=None):
    mask = torch.zeros_like(foreground)
    for _ in range(tries):
        mask = draw() & foreground
        if mask.any(): break
    else: mask = foreground if last is None else last
    return mask

def _endless(draw, foreground, tries):
    while True:
        if (mask := draw() & foreground).any(): return mask

WRONG["anomalies.4"] = (
    Wrong(_endless, "draws", "there will be one at some time"),
    Wrong(lambda d, f, n: _redraw(d, f, n, torch.zeros_like(f)), "empty",
          "hands the empty mask on"),
    Wrong(lambda d, f, n: _redraw(d, f, n - 1), "draws", "one try too few"),
    Wrong(lambda d, f, n: _redraw(d, f, n, d()), "draws", "falls back to the noise"),
    Wrong(lambda d, f, n: next((m for m in (d() for _ in range(n)) if (m & f).any()), f), "outside",
          "hands the noise on, not its product"),
)


def _cut(image, order, rows, columns):
    c, h, w = image.shape
    tall, wide = h // rows, w // columns
    cells = image.view(c, rows, tall, columns, wide).permute(1, 3, 0, 2, 4)
    cells = cells.reshape(-1, c, tall, wide)[order]
    return cells.view(rows, columns, c, tall, wide).permute(2, 0, 3, 1, 4).reshape(c, h, w)

def _loops(image, order, rows, columns):
    result, (_, h, w) = torch.empty_like(image), image.shape
    tall, wide = h // rows, w // columns
    for k, cell in enumerate(order.tolist()):
        (y, x), (v, u) = divmod(k, columns), divmod(cell, columns)
        piece = image[:, v * tall:(v + 1) * tall, u * wide:(u + 1) * wide]
        result[:, y * tall:(y + 1) * tall, x * wide:(x + 1) * wide] = piece
    return result

WRONG["anomalies.5"] = (
    Wrong(_loops, "loop", "the naive version"),
    Wrong(lambda i, o, r, c: _cut(i, o.argsort(), r, c), "order[k]",
          "where each cell goes, not where it comes from"),
    Wrong(lambda i, o, r, c: i.reshape(i.shape[0], r * c, -1)[:, o].reshape(i.shape), "rectangles",
          "a plain reshape cuts stripes of pixels"),
    Wrong(lambda i, o, r, c: i.flatten(1)[:, torch.randperm(i[0].numel())].view_as(i), "pixels",
          "shuffles pixels"),
    Wrong(lambda i, o, r, c: _cut(i, o, c, r), "invalid for input", "rows and columns swapped"),
)


def _by_distance(down, right):
    place = torch.tensor([[[0., 0], [0, 1]], [[1, 0], [1, 1]]]) - torch.tensor([down, right])
    near = 1 / place.norm(dim=2).clamp_min(1e-6)
    return near / near.sum()

def _nearest(down, right):
    ink = torch.zeros(2, 2)
    ink[round(down), round(right)] = 1
    return ink

def _outer(down, right):
    return torch.outer(torch.tensor([1 - down, down]), torch.tensor([1 - right, right]))

WRONG["flaws.1"] = (
    Wrong(_nearest, "steps", "all to the nearest pixel"),
    Wrong(_by_distance, "centre of mass", "by one over the distance"),
    Wrong(lambda d, r: _outer(d, r).T, "swapped", "rows and columns swapped"),
    Wrong(lambda d, r: _outer(1 - d, 1 - r), "nearer", "the far ones get more"),
    Wrong(lambda d, r: torch.tensor([[2 - d - r, 1 - d + r], [1 + d - r, d + r]]) / 2, "sum to",
          "adds where it should multiply"),
    Wrong(lambda d, r: torch.full((2, 2), .25), "same for all", "a quarter each"),
)
RIGHT["flaws.1"] = (lambda d, r: _outer(d, r).double(),)


WRONG["flaws.2"] = (
    Wrong(lambda low, high, d: low + (high - low) * d, "evenly in the size itself",
          "evenly, without the logarithm"),
    Wrong(lambda low, high, d: low * high**d, "largest", "forgets to divide by the smallest"),
    Wrong(lambda low, high, d: low + (high - low) * d**2, "doubling",
          "squares, so that small ones are more frequent"),
    Wrong(lambda low, high, d: torch.log(low + (high - low) * d), "smallest",
          "the logarithm in place of the size"),
    Wrong(lambda low, high, d: low * (high / low)**(1 - d), "larger draw", "the wrong way round"),
)
RIGHT["flaws.2"] = (lambda low, high, d: torch.exp(math.log(low) + d * math.log(high / low)),)


WRONG["flaws.3"] = (
    Wrong((1.2, .8, .4), "no brightness above 1", "multiplies and leaves it at that"),
    Wrong((1., .8, .4), "mean", "multiplies and cuts off"),
    Wrong((1., .8, .5), "mean", "adds 0.2 and cuts off"),
    Wrong((.8, .8, .8), "grey", "all colour gone"),
    Wrong((1., 2 / 3, 1 / 3), "mean", "as bright as it gets without becoming paler"),
)
RIGHT["flaws.3"] = ([1., .8, .6], torch.tensor([1., .8, .6]))
