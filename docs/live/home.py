"""The pictures of the home page: a product, a scratch that grows, the heatmap.

They are what the page shows before anything is loaded, and all it shows where JavaScript is missing. The page's own
network computes them, from the same strokes: what is there before and after loading is the same."""

import io

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from memseg_nb.data.images import resize
from memseg_nb.metrics import image_score
from memseg_nb.widgets.base import png
from memseg_nb.widgets.painter import cover

FRAMES = 11  # the first without a scratch
CRISP = 3  # times as many pixels as the network sees
BRUSH = "#101010"  # the painter's dark one
RADIUS = 1.  # of the brush, pixels of the network
# The stroke: a quadratic curve in shares of the picture's side.
START, BEND, END = (0.34, 0.30), (0.50, 0.44), (0.58, 0.70)


def stroke(points: int = 21) -> list[tuple[float, float]]:
    "Points of the scratch, in shares of the side"
    t = np.linspace(0, 1, points)[:, None]
    a, b, c = map(np.array, (START, BEND, END))
    return [tuple(one) for one in (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c]


def painted(image: Tensor, share: float, radius: float) -> Tensor:
    "The photo with this share of the scratch on it"
    if not share:
        return image
    side, colour = image.shape[-1], torch.tensor([int(BRUSH[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    path = stroke()[: 1 + round(share * 20)]
    points = [(x * side, y * side) for x, y in path]
    return torch.lerp(image, colour[:, None, None], cover(points, radius, (side, side)))


def glowing(image: Tensor, map: Tensor, top: float) -> Tensor:
    "The photo in grey, and the map over it; as drawing.js has it"
    grey = (image.mean(0) * .55 + .08).expand(3, -1, -1)
    level = (map / top).clamp(0, 1)
    colour = torch.from_numpy(colormaps["magma"](.25 + .75 * level.numpy())[..., :3]).float().permute(2, 0, 1)
    return torch.lerp(grey, colour, (1.6 * level).clamp(max=1) * .92)


def _webp(images: list[Tensor], quality: int) -> bytes:
    "Pictures side by side in one file"
    pixels = (torch.cat(images, 2).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=quality, method=6)
    return file.getvalue()


def pictures(
    write,               # takes a name and bytes
    detector,            # the page's own
    photo: Tensor,       # as the network sees it, (3, H, W)
    crisp: Tensor,       # the same with `CRISP` times as many pixels on each side
) -> dict:               # what the page says about them
    "Write the frames, and the last one by itself"
    shares = [k / (FRAMES - 1) for k in range(FRAMES)]
    with torch.no_grad():
        maps = [detector.model.anomaly_map(painted(photo, share, RADIUS)[None])[0] for share in shares]
    scores = [image_score(map[None], detector.recipe.evaluation.top_share).item() for map in maps]
    top, size = min(1., 2 * detector.pixel_threshold), crisp.shape[1:]
    frames = {"product": [painted(crisp, share, CRISP * (RADIUS + .5) - .5) for share in shares],
              "heat": [glowing(crisp, resize(map[None], size)[0], top) for map in maps]}
    for name, some in frames.items():
        write(f"home/{name}.webp", _webp(some, 82))
        write(f"home/{name}-last.webp", _webp(some[-1:], 88))
    both = torch.cat([some[-1] for some in frames.values()], 2)  # what others show of a link to the site
    card = Image.open(io.BytesIO(png(both)))
    file = io.BytesIO()
    card.save(file, "JPEG", quality=88)  # no WebP: not every program that shows a link knows it
    write("home/card.jpg", file.getvalue())
    return dict(stroke=[START, BEND, END], frames=FRAMES, side=size[0],
                scores=[round(score, 3) for score in scores], threshold=round(detector.threshold, 3))
