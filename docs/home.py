"""The pictures of the home page, computed by the library: a product, a scratch that grows, the heatmap.

They are what the page shows before anything is loaded, and all it shows where JavaScript is missing."""

import hashlib
import io
import json
import tempfile
from pathlib import Path

import library

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "build" / "docs" / "home"
PRODUCT, SEED, SIDE, GOOD = "tablet", 5, 384, 30
FRAMES = 13  # the first without a scratch
# The stroke: a quadratic curve in shares of the picture's side.
START, BEND, END = (0.27, 0.63), (0.52, 0.22), (0.72, 0.66)


def pictures() -> dict:  # what home.json holds
    "Make the pictures, unless they are there already for this code and these weights; they lie in `CACHE`"
    code = library.digest("bench", "cli", "evaluation", "exercises", "pretraining", "widgets")
    wanted = hashlib.sha256(code.encode() + Path(__file__).read_bytes()).hexdigest()
    record = CACHE / "home.json"
    if record.exists() and (known := json.loads(record.read_text()))["made_from"] == wanted:
        return known
    CACHE.mkdir(parents=True, exist_ok=True)
    known = dict(_make(), made_from=wanted)
    record.write_text(json.dumps(known, indent=1))
    return known


def _stroke(image, share):
    "The picture with this share of the scratch on it: a dark groove with a bright edge"
    import numpy as np
    from PIL import Image, ImageDraw, ImageFilter

    if not share:
        return image
    t = np.linspace(0, share, 60)[:, None]
    a, b, c = (np.array(p) * SIDE * 2 for p in (START, BEND, END))
    points = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c

    def line(width, shift):
        mask = Image.new("L", (SIDE * 2, SIDE * 2))
        draw = ImageDraw.Draw(mask)
        draw.line([tuple(p + shift) for p in points], fill=255, width=width, joint="curve")
        return (
            np.asarray(mask.resize((SIDE, SIDE), Image.LANCZOS).filter(ImageFilter.GaussianBlur(0.7)), float)[
                ..., None
            ]
            / 255
        )

    dark, bright = line(11, 0), line(4, np.array([3, 5]))
    made = image * (1 - 0.75 * dark) + 0.75 * dark * np.array([0.13, 0.10, 0.09])
    return made * (1 - 0.6 * bright) + 0.6 * bright * np.array([0.93, 0.93, 0.90])


def _make() -> dict:
    "Pictures and the figures under them"
    import numpy as np

    from memseg_nb.deployment.detector import Detector
    from memseg_nb.products.catalogue import render_product, write_products
    from memseg_nb.recipe import load_recipe

    with tempfile.TemporaryDirectory() as folder:
        write_products(
            folder, PRODUCT, size=(128, 128), seed=0, train=GOOD, good=1, defective=1, progress=False
        )
        recipe = load_recipe("formulas")  # the weights that the library brings
        detector = Detector.remember(Path(folder) / PRODUCT / "train" / "good", recipe)
    clean = render_product(PRODUCT, (SIDE, SIDE), seed=SEED)[0].permute(1, 2, 0).numpy().astype(float)
    painted = [_stroke(clean, k / (FRAMES - 1)) for k in range(FRAMES)]
    answers = [detector.predict(np.round(image * 255).astype(np.uint8)) for image in painted]
    maps = [np.asarray(answer.map, float) for answer in answers]
    _save_strip(painted, "product")
    _save_strip([_heat(image, each) for image, each in zip(painted, maps)], "heat")
    return {
        "product": PRODUCT,
        "stroke": [START, BEND, END],
        "frames": FRAMES,
        "side": SIDE,
        "good": GOOD,
        "scores": [round(float(answer.score), 3) for answer in answers],
        "threshold": round(float(detector.threshold), 3),
    }


def _heat(image, probability):
    "The heatmap over the picture in grey"
    import numpy as np
    from matplotlib import colormaps

    grey = image.mean(2, keepdims=True) * 0.55 + 0.08
    colour = colormaps["magma"](0.25 + 0.75 * probability)[..., :3]
    alpha = np.clip(probability * 1.6, 0, 0.92)[..., None]
    return grey * (1 - alpha) + colour * alpha


def _save_strip(images, name: str) -> None:
    "All frames side by side in one file, and the last one by itself"
    import numpy as np
    from PIL import Image

    as_bytes = [np.round(np.clip(image, 0, 1) * 255).astype(np.uint8) for image in images]
    Image.fromarray(np.concatenate(as_bytes, 1)).save(CACHE / f"{name}.webp", quality=82, method=6)
    buffer = io.BytesIO()
    Image.fromarray(as_bytes[-1]).save(buffer, "WEBP", quality=85, method=6)
    (CACHE / f"{name}-last.webp").write_bytes(buffer.getvalue())
