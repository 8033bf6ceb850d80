"A visitor's own photos on the page: what the page says of them is what the library says, in Chromium"
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import test_site_live
import torch
from PIL import Image, ImageCms
from test_site import (  # fixtures are found by their names here  # noqa: F401
    ALL_RULES, DOCS, address, browser, faults, needs_browser, needs_site, site)

pytestmark = [needs_site, needs_browser]
PAGE = "live/photos.html"
ROOT = "[data-live=photos]"
TOLD = """root => { const { widget } = root.panel, plain = ({ data }) => [...data];
  return { limit: widget.limit, scores: widget.scores, judged: widget.judged.map(({ score, map, region, image }) =>
    ({ score, region, map: plain(map), image: plain(image) })), good: widget.good.map(({ image }) => plain(image)) }; }"""


def photograph(product, size=(192, 256), **kind):
    "A photo as a phone takes it: no square, with numbers of 8 bits"
    from memseg_nb.products.catalogue import render_product
    image = render_product(product, size, **kind)[0]
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def as_file(image, name, kind="PNG", **how):
    file = io.BytesIO()
    image.save(file, kind, **how)
    return {"name": name, "mimeType": f"image/{kind.lower()}", "buffer": file.getvalue()}


def in_a_square(image, side=128):
    "What the network of the page sees, as the library would make it"
    from memseg_nb.data.images import resize
    pixels = torch.from_numpy(np.array(image.convert("RGB"), np.float32) / 255).permute(2, 0, 1)
    share = side / max(pixels.shape[1:])
    small = resize(pixels, tuple(max(1, round(share * one)) for one in pixels.shape[1:]))
    square = small.mean((1, 2))[:, None, None].repeat(1, side, side)
    top, left = ((side - one) // 2 for one in small.shape[1:])
    square[:, top:top + small.shape[1], left:left + small.shape[2]] = small
    return square, (top, left, *small.shape[1:])


def by_the_library(good):
    "Network with the page's weights that remembers these images, the good ones' scores and the threshold"
    sys.path.insert(0, str(DOCS))
    from live.network import _eight_bits, shrink

    from memseg_nb.metrics import image_score
    from memseg_nb.model.attention import unit_difference
    from memseg_nb.model.memory import LEVELS
    from memseg_nb.recipe import load_recipe
    from memseg_nb.training.steps import match_others
    from memseg_nb.training.thresholds import false_alarm_threshold
    from memseg_nb.training.train import fresh_model
    recipe = load_recipe("formulas")
    whole = fresh_model(recipe)[0].eval()
    whole.remember([good])
    model = shrink(whole).model
    model.remember([good])  # by the rounded encoder
    model.memory.keep([_eight_bits(getattr(model.memory, name))[0] for name in LEVELS])
    for k, unit in enumerate(unit_difference(model.memory), 1): getattr(model, f"unit{k}").copy_(unit)
    with torch.no_grad():
        others = match_others(model, good, torch.arange(len(good)))
        scores = image_score(model.map(good, others), recipe.evaluation.top_share)
    return whole, model, scores, false_alarm_threshold(scores.tolist(), recipe.evaluation.false_alarms)


def judged(tab, good, photos):
    "What the page says after it was handed these files"
    tab.set_input_files("#own-good", good)
    tab.set_input_files("#own-judged", photos)
    tab.wait_for_function(
        "([place, good, photos]) => { const { widget } = document.querySelector(place).panel; "
        "return widget.good.length === good && widget.judged.length === photos; }",
        arg=[ROOT, len(good), len(photos)],
    )
    if tab.locator(f"{ROOT} .live-loader .first").is_visible():
        tab.wait_for_function(
            "place => !document.querySelector(place).disabled", arg=f"{ROOT} .live-loader .first"
        )
        tab.click(f"{ROOT} .live-loader .first")
    tab.wait_for_function(
        "([place, count]) => { const { panel } = document.querySelector(place); return "
        "!panel.busy && panel.widget.judged.every(({ memory }) => "
        "memory && memory === panel.widget.memory); }",
        arg=[ROOT, len(photos)],
        timeout=600_000,
    )
    return tab.evaluate("([place, read]) => eval(read)(document.querySelector(place))", [ROOT, TOLD])


@pytest.fixture(scope="module")
def visited(address, browser):
    "The page after six good hex nuts and two to judge, what it complained of, and the photos"
    good = [photograph("hex_nut", split="train", index=k) for k in range(6)]
    photos = [photograph("hex_nut"), photograph("hex_nut", defect="crack")]
    with test_site_live.visit(browser, address) as (tab, problems):
        asked = []
        tab.on("request", lambda request: asked.append((request.method, request.url, request.post_data)))
        tab.goto(address + PAGE)
        tab.wait_for_selector(f"{ROOT}.ready")
        assert not [url for _, url, _ in asked if "/ort/" in url or ".onnx" in url], "loaded unasked"
        told = judged(tab, [as_file(one, f"good {k}.png") for k, one in enumerate(good)],
                      [as_file(one, f"photo {k}.png") for k, one in enumerate(photos)])
        yield tab, problems, good, photos, told, asked


def test_the_page_remembers_and_judges_as_the_library_does(visited, record_property):
    from memseg_nb.deployment.detector import find_regions
    from memseg_nb.metrics import image_score
    _, problems, good, photos, told, _ = visited
    squares = torch.stack([in_a_square(one)[0] for one in good])
    seen = torch.tensor(told["good"]).view_as(squares)
    assert (seen - squares).abs().max() < 1e-4, "the photo as the network sees it"
    whole, model, scores, limit = by_the_library(squares)
    gaps = {"good scores": (torch.tensor(told["scores"]) - scores).abs().max().item(),
            "threshold": abs(told["limit"] - limit)}
    for photo, page in zip(photos, told["judged"]):
        square, (top, left, rows, columns) = in_a_square(photo)
        map = model.anomaly_map(square[None])
        inside = map[0, top:top + rows, left:left + columns]
        region = (find_regions(inside, told["limit"]) or [None])[0]
        gaps["map"] = max(
            gaps.get("map", 0), (torch.tensor(page["map"]).view_as(map) - map).abs().max().item()
        )
        gaps["score"] = max(gaps.get("score", 0), abs(page["score"] - image_score(map).item()))
        assert (region is None) == (page["region"] is None)
        if region:
            gaps["area"] = max(gaps.get("area", 0), abs(region.area - page["region"]["area"]) / region.area)
        far = image_score(whole.anomaly_map(square[None])).item()
        print(
            f"page {page['score']:.4f}, same weights {image_score(map).item():.4f}, whole network {far:.4f}"
        )
    for name, gap in gaps.items(): record_property(name, gap)
    print(", ".join(f"{name} {gap:.2g}" for name, gap in gaps.items()))
    assert max(gaps[name] for name in ("good scores", "threshold", "map", "score")) < 2e-3
    assert gaps.get("area", 0) < .02 and not problems


def test_the_cracked_one_is_called_defective_with_its_place_and_nothing_is_sent(visited):
    tab, _, _, _, told, asked = visited
    good, bad = told["judged"]
    assert good["score"] < told["limit"] < bad["score"]
    captions = tab.locator(f"{ROOT} figcaption").all_inner_texts()
    assert "photo 1.png. Defective: score" in captions[2] and "% of the photo" in captions[2]
    assert {method for method, _, _ in asked} == {"GET"} and not any(body for *_, body in asked)
    sizes = tab.eval_on_selector_all(
        f"{ROOT} .pictures img", "all => all.map((one) => one.naturalWidth / one.naturalHeight)"
    )
    assert all(abs(size - 256 / 192) < .02 for size in sizes), "photos keep their shape"


def test_a_phones_photo_is_turned_upright_and_fits_into_memory(visited):
    "12 megapixels, on its side and with colours of its own, as phones write it; and a file that is no picture"
    tab, problems, _, photos, _, _ = visited
    upright = photos[1].resize((3000, 4000))
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter to the right before it is shown
    colours = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for this, other in (b"rXYZ", b"tXYZ"), (b"gXYZ", b"rXYZ"), (b"tXYZ", b"gXYZ"):
        colours = colours.replace(this, other)  # red is green: a profile that must not be followed
    file = as_file(upright.rotate(90, expand=True), "phone.jpg", "JPEG", quality=92, exif=exif,
                   icc_profile=colours)
    tab.set_input_files(
        "#own-judged", [file, {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}]
    )
    tab.wait_for_function("place => document.querySelector(place).panel.widget.judged.length === 3", arg=ROOT)
    tab.wait_for_function(
        "place => document.querySelector(place).innerText.includes('notes.txt: this browser')", arg=ROOT
    )
    seen = tab.evaluate(
        """place => { const { width, height, image: { data }, place: { rows, columns } } =
      document.querySelector(place).panel.widget.judged[2];
      return [width, height, rows, columns, [...data]]; }""",
        ROOT,
    )
    wanted = in_a_square(upright)[0]
    assert seen[:4] == [3000, 4000, 128, 96]
    assert (torch.tensor(seen[4]).view_as(wanted) - wanted).abs().mean() < .01  # JPEG
    assert not problems


def test_the_page_of_own_photos_has_no_serious_fault(visited):
    tab, _, _, _, _, _ = visited
    found = faults(tab, ALL_RULES)
    tab.set_viewport_size({"width": 390, "height": 800})
    wide = tab.evaluate("document.documentElement.scrollWidth")
    tab.set_viewport_size({"width": 1280, "height": 800})
    assert not found and wide <= 390, json.dumps(found)


def test_the_page_chooses_the_threshold_by_the_same_rule():
    "In Node.js, with the numbers that the page is given, against the library"
    sys.path.insert(0, str(DOCS))
    from live.assets import _photos

    from memseg_nb.recipe import load_recipe
    from memseg_nb.training.thresholds import false_alarm_threshold
    random, cases = np.random.default_rng(0), []
    for count in (2, 6, 19, 20, 25, 30):
        odds = random.normal(-2, .5, count)
        cases += [(1 / (1 + np.exp(-one))).tolist() for one in (odds, np.append(odds[1:], 3.))]
    script = f"""import {{ threshold }} from {json.dumps((DOCS / "live" / "photos.js").as_uri())};
const {{ rate, reach, lines }} = {json.dumps(_photos(load_recipe("formulas")))};
console.log(JSON.stringify({json.dumps(cases)}.map((scores) => threshold(scores, rate, reach, lines))));"""
    done = subprocess.run(["node", "--input-type=module", "--eval", script], check=True,
                          capture_output=True, text=True)
    expected = [false_alarm_threshold(scores) for scores in cases]
    assert json.loads(done.stdout) == pytest.approx(expected, abs=1e-9)
