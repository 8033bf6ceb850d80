"Wrong answers to the exercises of the room data that are typical, and right ones that are unusual"
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F


from . import RIGHT, WRONG, Wrong


WRONG["recipe.1"] = (
    Wrong((320, 300, 12), "this run", "takes the file for the strongest layer"),
    Wrong((256, 300, 60), "your file", "forgets the file"),
    Wrong((320, 2700, 60), "steps", "takes steps from settings.ini"),
    Wrong((256, 2700, 30), "your file", "takes settings.ini for the strongest layer"),
)
RIGHT["recipe.1"] = ([320, 300, 60],)


WRONG["recipe.2"] = (
    Wrong(100, "at 256 x 256", "a fixed count"),
    Wrong(100 / 65536, "share", "the share itself"),
    Wrong(150, "both sides", "scales with one side"),
    Wrong(225, "384 x 512", "takes the image for a square of 384"),
)
RIGHT["recipe.2"] = (300,)


def _side(value, low=32, high=4096, read=int):
    number = read(value)
    if number % 32 or not low <= number <= high: raise ValueError(value)
    return number

WRONG["recipe.3"] = (
    Wrong(lambda v: int(v), "250", "converts only"),
    Wrong(lambda v: round(float(v) / 32) * 32, "nothing is rounded",
          "mends the value instead of refusing it"),
    Wrong(lambda v: _side(v, read=lambda x: int(float(x))), "128.5", "cuts the decimals off"),
    Wrong(lambda v: _side(v, low=0), "side(0)", "forgets the lower bound"),
    Wrong(lambda v: _side(v, high=1e9), "4128", "forgets the upper bound"),
    Wrong(lambda v: _side(v, read=lambda x: x), "'128'", "doesn't read texts"),
)
RIGHT["recipe.3"] = (lambda v: _side(v, read=lambda x: int(str(x))),)


WRONG["recipe.4"] = (
    Wrong(lambda a, b: [n for n in a if a[n] != b.get(n)], "second",
          "goes through the first recipe only"),
    Wrong(lambda a, b: [n for n in a.keys() & b.keys() if a[n] != b[n]], "one recipe only",
          "compares common names only"),
    Wrong(lambda a, b: [n for n in a | b if a[n] != b[n]], "KeyError", "expects all names in both"),
    Wrong(lambda a, b: set(a.items()) ^ set(b.items()), "names", "gives pairs of name and value"),
    Wrong(lambda a, b: [n for n in a | b if (a.get(n) or 0) != (b.get(n) or 0)], "light.gamma",
          "takes 0 for not set"),
    Wrong(lambda a, b: list(a | b), "same in both", "lists them all"),
)
RIGHT["recipe.4"] = (lambda a, b: {n for n in {*a, *b} if a.get(n, ...) != b.get(n, ...)},)


WRONG["recipe.5"] = (
    Wrong("[training]\nmomentum = 0.5", "accepts", "no slip in it"),
    Wrong("momentm = 0.9", "section", "no section"),
    Wrong("[training]\nmomentum = 1.5", "a number from", "a wrong value instead of a wrong name"),
    Wrong("[trainning]\nmomentum = 0.9", "did you mean training",
          "the slip is in the section's name"),
    Wrong("[training]\nspeed = 0.9", "no such key", "a name unlike any other"),
)
RIGHT["recipe.5"] = ("# mine\n[training]\nsteps = 300\nmomemtum=0.5",)


WRONG["images.1"] = (
    Wrong(.5, "without smoothing", "the mean of the two nearest"),
    Wrong(.25, "the mean of", "the mean of the four pixels under it"),
    Wrong(.875, "divided", "forgets the sum of the weights"),
    Wrong(.1875, "centre", "measures from the pixel's left edge"),
    Wrong(0, "not black", "sampled beside it"),
)
RIGHT["images.1"] = (.219,)


def _to_rgb(array, top=None, ground=1., seen=True):
    values = torch.from_numpy(array.astype("float32")) / (top or np.iinfo(array.dtype).max)
    values = values[:, :, None].repeat(1, 1, 3) if values.ndim == 2 else values
    if values.shape[2] == 4:
        values = (values[..., :3] * values[..., 3:] + ground * (1 - values[..., 3:]) if seen
                  else values[..., :3])
    return values.permute(2, 0, 1)

WRONG["images.2"] = (
    Wrong(lambda a: _to_rgb(a, top=255), "65535", "divides by 255, whatever the type"),
    Wrong(lambda a: _to_rgb(a, top=float(a.max())), "brightest", "divides by the brightest pixel"),
    Wrong(lambda a: _to_rgb(a, ground=0.), "black", "lays transparent pixels on black"),
    Wrong(lambda a: _to_rgb(a, seen=False), "fourth channel", "drops the transparency"),
    Wrong(lambda a: _to_rgb(a).permute(1, 2, 0), "shape", "channels last"),
    Wrong(lambda a: torch.from_numpy(a.astype("float32")).permute(2, 0, 1) / 255, "dims",
          "takes colour for granted"),
)
RIGHT["images.2"] = (_to_rgb,)


WRONG["images.3"] = (
    Wrong(lambda m, f: m[f // 2::f, f // 2::f], "lost", "nearest neighbour"),
    Wrong(lambda m, f: F.avg_pool2d(m[None, None].float(), f)[0, 0] > .5, "lost", "the majority"),
    Wrong(lambda m, f: F.interpolate(m[None, None].float(), (m.shape[0] // f, m.shape[1] // f),
                                     mode="bilinear", antialias=True)[0, 0] > 0,
          "spreads", "with smoothing, then above 0"),
    Wrong(lambda m, f: F.avg_pool2d(m[None, None].float(), f)[0, 0], "bool", "the share of defect"),
    Wrong(lambda m, f: F.max_pool2d(m[None, None].float(), f, stride=1)[0, 0] > 0, "shape",
          "a step of 1"),
)
RIGHT["images.3"] = (lambda m, f: m.unflatten(1, (-1, f)).unflatten(0, (-1, f)).any(3).any(1),)


def _parent(path): return path.split("/")[-2]

WRONG["images.4"] = (
    Wrong(lambda p: "good" if "good" in p.lower() else _parent(p), "goodyear",
          "looks for the word anywhere"),
    Wrong(lambda p: "good" if "good" in _parent(p).lower() else _parent(p), "no good",
          "looks for the word within the folder's name"),
    Wrong(_parent, "my photos", "leaves Good as it's written"),
    Wrong(lambda p: p.split("/")[2], "goodyear", "counts folders from the left"),
    Wrong(lambda p: _parent(p).lower(), "Bent_Pin", "all in small letters"),
    Wrong(lambda p: p.split("/")[-1].split(".")[0], "own folder", "the name of the file"),
)
RIGHT["images.4"] = (lambda p: {"good": "good"}.get(Path(p).parent.name.casefold(),
                                                    Path(p).parent.name),)
