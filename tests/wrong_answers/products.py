"Wrong answers to the exercises of the room products that are typical, and right ones that are unusual"
import math
from zlib import crc32

import numpy as np
import torch


from . import RIGHT, WRONG, Wrong


WRONG["shapes.1"] = (
    Wrong(2**.5, "pointed", "forgets the rounding"),
    Wrong(4.5**.5, "subtract", "the distance to the smaller box"),
    Wrong(2**.5 - .5, "smaller box", "subtracts the radius from the distance to the pointed box"),
    Wrong(.5 - 4.5**.5, "outside", "the sign"),
)
RIGHT["shapes.1"] = (1.621,)


WRONG["shapes.2"] = (
    Wrong(lambda d, w: d - w / 2, "filled", "makes the shape larger"),
    Wrong(lambda d, w: abs(d) - w, "twice", "forgets the half"),
    Wrong(lambda d, w: w / 2 - abs(d), "negative inside", "the sign"),
    Wrong(lambda d, w: abs(d) < w / 2, "distances", "a mask instead of distances"),
    Wrong(lambda d, w: abs(d - w / 2), "negative", "nothing is inside"),
)
RIGHT["shapes.2"] = (lambda d, w: np.maximum(d - w / 2, -d - w / 2),)


WRONG["shapes.3"] = (
    Wrong(lambda d, p: (d < 0).astype(float), "stairs", "inside or outside"),
    Wrong(lambda d, p: np.clip(-d / p, 0, 1), "half", "0 on the outline"),
    Wrong(lambda d, p: np.clip(.5 + d / p, 0, 1), "inside", "the sign"),
    Wrong(lambda d, p: .5 - d / p, "0 to 1", "forgets the limits"),
    Wrong(lambda d, p: np.clip(.5 - d, 0, 1), "width of a pixel", "forgets the pixel"),
)
RIGHT["shapes.3"] = (lambda d, p: (.5 - torch.from_numpy(d) / p).clamp(0, 1),)


WRONG["shapes.4"] = (
    Wrong(1, "squares", "the sum of the weights"),
    Wrong(.5, "both directions", "one direction"),
    Wrong(.2296, "on average", "the mean over all places"),
    Wrong(.5**.5, "variance", "a standard deviation"),
    Wrong(.25 * 2.087**2, "before", "after the factor"),
)
RIGHT["shapes.4"] = (.25,)


def _seen(x, y, degrees, centre, way=1, unit=math.pi / 180, moved=True):
    c, s, (u, v) = math.cos(degrees * unit), way * math.sin(degrees * unit), centre
    return ((c * (x - u) + s * (y - v), c * (y - v) - s * (x - u)) if moved
            else (c * x + s * y - u, c * y - s * x - v))

def _complex(x, y, degrees, centre):
    z = (x - centre[0] + 1j * (y - centre[1])) * np.exp(-1j * np.radians(degrees))
    return z.real, z.imag

WRONG["shapes.5"] = (
    Wrong(lambda x, y, d, c: _seen(x, y, d, c, way=-1), "other way", "turns the other way"),
    Wrong(lambda x, y, d, c: _seen(x, y, d, c, moved=False), "middle", "undoes the turn first"),
    Wrong(lambda x, y, d, c: _seen(x, y, d, c, unit=1), "degrees", "takes degrees for radians"),
    Wrong(lambda x, y, d, c: _seen(x, y, d, (-c[0], -c[1])), "middle", "moves the other way"),
    Wrong(lambda x, y, d, c: _seen(x, y, d, c)[0], "two arrays", "x only"),
)
RIGHT["shapes.5"] = (_complex,)


def _facing(height, sign=-1, half=1., unit=True, swap=False):
    down, right = (half * slope for slope in np.gradient(height))
    if swap: down, right = right, down
    n = np.stack([sign * right, sign * down, np.ones_like(height)])
    return n / np.linalg.norm(n, axis=0) if unit else n

def _facing_by_loop(height):
    n = np.zeros((3, *height.shape))
    for y in range(1, height.shape[0] - 1):
        for x in range(1, height.shape[1] - 1):
            n[:, y, x] = ((height[y, x - 1] - height[y, x + 1]) / 2,
                          (height[y - 1, x] - height[y + 1, x]) / 2, 1)
    return n / np.maximum(np.linalg.norm(n, axis=0), 1e-9)

def _by_shift(height):
    right, down = (np.roll(height, -1, 1) / 2 - np.roll(height, 1, 1) / 2,
                   np.roll(height, -1, 0) / 2 - np.roll(height, 1, 0) / 2)
    facing = torch.from_numpy(np.stack([-right, -down, 0 * right + 1]))
    return torch.nn.functional.normalize(facing, dim=0)

WRONG["light.1"] = (
    Wrong(_facing_by_loop, "loop", "the naive version"),
    Wrong(lambda h: _facing(h, sign=1), "climb", "forgets the minus sign"),
    Wrong(lambda h: _facing(h, swap=True), "downwards", "takes rows for columns"),
    Wrong(lambda h: _facing(h, unit=False), "length", "forgets to divide by the length"),
    Wrong(lambda h: _facing(h, half=2.), "half", "takes the whole difference of the neighbours"),
    Wrong(lambda h: _facing(h).transpose(1, 2, 0), "shape", "the three numbers last"),
)
RIGHT["light.1"] = (_by_shift,)


WRONG["light.2"] = (
    Wrong(.25, "squares", "forgets the squares"),
    Wrong(16, "upside down", "divides the wrong way round"),
    Wrong(4, "squares", "both"),
    Wrong(.002, "0.008", "the read noise itself"),
)


WRONG["damage.1"] = (
    Wrong(6, "cancel", "all turns go the same way"),
    Wrong(6**.5, "square", "the root instead of the square"),
    Wrong(3600, "10 degrees", "forgets to divide by the bend"),
    Wrong(360, "60 = 10", "60 squared by 10"),
)


def _walk(turns, start, degrees, step, summed=np.cumsum, unit=np.pi / 180, late=0):
    angles = (degrees + np.concatenate([np.zeros(late), summed(turns)])[:len(turns)]) * unit
    way = step * np.cumsum([np.cos(angles), np.sin(angles)], 1).T
    return np.concatenate([[start], start + way])

def _walk_by_loop(turns, start, degrees, step):
    points = [start]
    for turn in turns:
        degrees = degrees + turn
        (x, y), angle = points[-1], math.radians(degrees)
        points.append((x + step * math.cos(angle), y + step * math.sin(angle)))
    return np.array(points)

def _walk_complex(turns, start, degrees, step):
    z = complex(*start) + np.cumsum(
        np.append(0, step * np.exp(1j * np.deg2rad(degrees + np.add.accumulate(turns)))))
    return torch.from_numpy(np.stack([z.real, z.imag], 1))

WRONG["damage.2"] = (
    Wrong(_walk_by_loop, "loop", "the naive version"),
    Wrong(lambda t, s, d, e: _walk(t, s, d, e, summed=np.asarray), "running sum",
          "takes a change for a direction"),
    Wrong(lambda t, s, d, e: _walk(t, s, d, e)[1:], "shape", "forgets the start"),
    Wrong(lambda t, s, d, e: _walk(t, s, d, e, unit=1), "degrees", "takes degrees for radians"),
    Wrong(lambda t, s, d, e: _walk(t, s, 0, e), "before the first", "forgets the first direction"),
    Wrong(lambda t, s, d, e: _walk(t, s, d, e, late=1), "first, then", "goes first, then turns"),
)
RIGHT["damage.2"] = (_walk_complex,)


WRONG["fabric.1"] = (
    Wrong(lambda i, j: (i - j) % 3 != 0, "half", "denim"),
    Wrong(lambda i, j: (i - j) % 2 == 0, "two in a row", "over one, under one"),
    Wrong(lambda i, j: (i + j) % 4 < 2, "later", "slants the other way"),
    Wrong(lambda i, j: j % 4 < 2, "neighbour", "all warp yarns do the same"),
    Wrong(lambda i, j: i % 4 < 2, "never", "depends on the warp yarn only"),
    Wrong(lambda i, j: np.where((j - i) % 4 < 2, 1, -1), "true or false", "+1 and -1"),
)
RIGHT["fabric.1"] = (lambda i, j: (i - j + 1) % 4 // 2 == 1,
                     lambda i, j: (np.floor_divide(j - i, 2) % 2).astype(int))


def _step(low, high, t):
    t = np.clip((t - low) / (high - low), 0, 1)
    return 3 * t**2 - 2 * t**3

WRONG["surfaces.1"] = (
    Wrong(lambda r: _step(.2, .9, r) * _step(1, .93, r), "each ring",
          "forgets that it begins again"),
    Wrong(lambda r: _step(.2, .9, r % 1), "abruptly", "forgets the winter"),
    Wrong(lambda r: _step(.2, .9, r % 1) + _step(1, .93, r % 1), "product", "adds the two"),
    Wrong(lambda r: _step(.2, .9, r % 1) * _step(.93, 1, r % 1), "from 1 to 0",
          "a step that rises"),
    Wrong(lambda r: np.clip((r % 1 - .2) / .7, 0, 1) * np.clip((1 - r % 1) / .07, 0, 1), "smooth",
          "straight ramps"),
)
RIGHT["surfaces.1"] = (lambda ring: _step(.2, .9, ring - np.floor(ring))
                       * (1 - _step(.93, 1, ring - np.floor(ring))),)


WRONG["objects.1"] = (
    Wrong(.0098, "radians", "in radians"),
    Wrong(.281, "half", "half of the angle"),
    Wrong(1.125, "twice", "twice the angle"),
    Wrong(4, "7 pixels", "the tolerance of the line"),
)


def _fold(v, count, pitch, near=np.round, clip=True, shift=0., sign=1):
    number = near(v / pitch + (count - 1) / 2)
    number = np.clip(number, 0, count - 1) if clip else number
    return number - shift, sign * (v - (number - (count - 1) / 2) * pitch)

def _fold_by_loop(v, count, pitch):
    places = [(k - (count - 1) / 2) * pitch for k in range(count)]
    number = np.array([min(range(count), key=lambda k: abs(place - places[k])) for place in v])
    return number, v - np.array(places)[number]

WRONG["electronics.1"] = (
    Wrong(_fold_by_loop, "loop", "asks every pin"),
    Wrong(lambda v, n, p: _fold(v, n, p, clip=False), "beyond", "pins without an end"),
    Wrong(lambda v, n, p: _fold(v, n, p, near=np.floor), "nearest", "rounds down"),
    Wrong(lambda v, n, p: _fold(v, n, p, shift=(n - 1) / 2), "from 0", "counts from the middle"),
    Wrong(lambda v, n, p: _fold(v, n, p, sign=-1), "sign", "from the place to the pin"),
    Wrong(lambda v, n, p: _fold(v, n, p)[1], "two", "the coordinate only"),
)
def _fold_half_up(v, count, pitch):
    number, rest = _fold(v, count, pitch, near=lambda t: np.floor(t + .5))
    return torch.from_numpy(number), torch.from_numpy(rest)

RIGHT["electronics.1"] = (_fold_half_up,)


WRONG["electronics.2"] = (
    Wrong(lambda a, m, g: np.maximum(a, -m), "touches", "keeps no distance"),
    Wrong(lambda a, m, g: np.minimum(a, g - m), "outside of the areas", "the union"),
    Wrong(lambda a, m, g: np.maximum(a, m - g), "around the metal", "the other side"),
    Wrong(lambda a, m, g: np.maximum(a, m + g), "around the metal", "within the metal"),
    Wrong(lambda a, m, g: (a < 0) & (m > g), "distances", "a mask"),
)
RIGHT["electronics.2"] = (lambda a, m, g: -np.minimum(-a, m - g),
                          lambda a, m, g: torch.from_numpy(a).maximum(g - torch.from_numpy(m)))


def _crc(*texts): return [crc32(text.encode()) for text in texts]

WRONG["catalogue.1"] = (
    Wrong(lambda s, p, t, k, n: [s, *_crc(p, k), n], "split", "forgets the split"),
    Wrong(lambda s, p, t, k, n: [s, *(hash(text) % 2**32 for text in (p, t, k)), n], "every start",
          "Python's hash"),
    Wrong(lambda s, p, t, k, n: [s + n, *_crc(p, t, k)], "seed 0, index 1", "adds seed and index"),
    Wrong(lambda s, p, t, k, n: crc32("".join(sorted(f"{s}{p}{t}{k}{n}")).encode()),
          "seed 0, index 1", "the letters, in another order"),
    Wrong(lambda s, p, t, k, n: [*_crc(p, t, k), n], "seed", "forgets the seed"),
    Wrong(lambda s, p, t, k, n: np.random.randint(2**31), "same image", "random"),
    Wrong(lambda s, p, t, k, n: [s, p, t, k, n], "numbers of the texts", "hands the texts on"),
)
RIGHT["catalogue.1"] = (lambda *name: list("/".join(map(str, name)).encode()),
                        lambda s, p, t, k, n: crc32(f"{s},{p},{t},{k},{n}".encode()))


