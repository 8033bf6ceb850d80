"""The live widgets in Chromium: they react, the page's engine says what the library says, and paint is found

Load times and sizes are printed (pytest -rP) and recorded; only sizes have a limit."""
import base64
import json
import re
import threading
import time

import numpy as np
import pytest
import torch
from test_site import (  # fixtures are found by their names here  # noqa: F401
    ALL_RULES, SITE, WORK, address, browser, faults, needs_browser, needs_site, serve, set_theme, site, visit)

from memseg_nb.products.catalogue import render_product

pytestmark = [needs_site, needs_browser]
ASSETS = WORK / "live" / "assets"
LARGEST = 16  # MB that the painter may load, the runtime included
SMALL = 5     # MB, the same for a widget without a network
WIDGETS = ("painter", "studio", "perlin", "memory", "threshold", "monitor")
LABORATORY = "live/index.html"


def root(name): return f"[data-live={name}]"


def ready(tab, name):
    "The widget, scrolled to and waiting"
    found = tab.locator(root(name))
    found.scroll_into_view_if_needed()
    tab.wait_for_selector(f"{root(name)}.ready")
    return found


def status(tab, name): return tab.inner_text(f"{root(name)} .status")


def sources(tab, name):
    return tab.eval_on_selector_all(f"{root(name)} .pictures img", "all => all.map((one) => one.src)")


def changed(tab, name, before):
    "Waits for another sentence"
    tab.wait_for_function("([place, before]) => document.querySelector(place).textContent !== before",
                          arg=[f"{root(name)} .status", before])
    return status(tab, name)


def settled(tab, name):
    "Waits until nothing is computed any more"
    tab.wait_for_function("place => !document.querySelector(place).panel.busy", arg=root(name))


def loaded(tab, name):
    "Presses the button of a widget with a network; seconds until it is there"
    ready(tab, name)
    start = time.perf_counter()
    tab.locator(f"{root(name)} .live-loader .first, [data-start={name}] .first").first.click()
    tab.wait_for_selector(f"{root(name)}.running")
    seconds = time.perf_counter() - start
    settled(tab, name)
    return seconds


@pytest.fixture(scope="module")
def lab(address, browser):
    "The laboratory with its network loaded, what it complained of, and the seconds it took"
    with visit(browser, address) as (tab, problems):
        tab.goto(address + LABORATORY)
        yield tab, problems, loaded(tab, "painter")


# What is loaded


def test_nothing_big_is_loaded_before_it_is_asked_for(address, browser, record_property):
    with visit(browser, address) as (tab, problems):
        seen = []
        tab.on("request", lambda request: seen.append(request.url))
        tab.goto(address + LABORATORY)
        for name in WIDGETS: ready(tab, name)
        assert not [url for url in seen if re.search(r"/ort/|\.onnx|\.bin", url)] and not problems
        facts = tab.evaluate("fetch('../_static/live/facts.json').then((answer) => answer.json())")
    files = facts["files"]
    for name, widget in facts["widgets"].items():
        size = sum(files[part]["bytes"] for part in ["runtime", *widget["loads"]] if widget["loads"]) / 1e6
        record_property(f"{name}_mb", round(size, 2))
        print(f"{name}: {size:.2f} MB")
        assert size <= (LARGEST if widget["network"] else SMALL), f"{name} loads {size:.1f} MB"
    for one in files.values():
        assert (SITE / "_static" / "live" / one["file"]).resolve().stat().st_size == one["bytes"]


def test_pictures_before_loading_are_those_of_the_page_engine(lab):
    "What stands there first and what the graphs give for the same controls look the same"
    tab, _, _ = lab
    pixels = """async ([before, now]) => { const read = async (src) => {
      const picture = new Image(); picture.src = src; await picture.decode();
      const canvas = new OffscreenCanvas(picture.width, picture.height), pen = canvas.getContext('2d');
      pen.drawImage(picture, 0, 0); return pen.getImageData(0, 0, picture.width, picture.height).data; };
      const [a, b] = [await read(before), await read(now)];
      return a.length === b.length ? a.reduce((sum, one, k) => sum + Math.abs(one - b[k]), 0) / a.length : Infinity; }"""
    for name, pictures in (("perlin", ("noise", "mask")), ("studio", ("noise", "mask", "anomaly")),
                           ("painter", ("heatmap",))):
        panel = ready(tab, name)
        panel.evaluate("root => root.panel.refresh()")
        settled(tab, name)
        pairs = panel.evaluate("""(root, names) => names.map((name) =>
          [root.panel.facts, { items: root.panel.model.get('items') }]
          .map(({ items }) => items.find((item) => item.name === name).src))""", list(pictures))
        for picture, pair in zip(pictures, pairs):
            assert (pair[1].startswith("data:")
                    and tab.evaluate(pixels, pair) < 1.5), f"{name}: {picture} jumps when it is touched"


# Each widget reacts


@pytest.mark.parametrize("name, control, key",
                         [("perlin", "threshold T", "ArrowLeft"), ("perlin", "columns: 2 to the", "End"),
                         ("studio", "opacity", "Home"), ("studio", "seed", "ArrowRight"),
                         ("threshold", "threshold", "End"),
                         ("monitor", "step", "Home"), ("memory", "compare with", "End"),
                         ("memory", "samples N", "Home")])
def test_a_control_moved_by_keyboard_changes_pictures_and_words(lab, name, control, key):
    tab, problems, _ = lab
    panel = ready(tab, name)
    if name == "memory" and not panel.evaluate("root => root.panel.loaded"): loaded(tab, name)
    settled(tab, name)
    words, pictures = status(tab, name), sources(tab, name)
    start = time.perf_counter()
    panel.get_by_label(control, exact=True).press(key)
    assert changed(tab, name, words) != words
    print(f"{name}, {control}: {1000 * (time.perf_counter() - start):.0f} ms")
    settled(tab, name)
    assert sources(tab, name) != pictures and not problems


def test_menus_change_the_studio(lab):
    tab, problems, _ = lab
    panel = ready(tab, "studio")
    panel.get_by_label("opacity").press("End")
    settled(tab, "studio")
    for control, choice in (("product", "tablet"), ("source", "structure"), ("foreground", "brighter than")):
        before = sources(tab, "studio")
        panel.get_by_label(control, exact=True).select_option(choice)
        tab.wait_for_function("([place, before]) => [...document.querySelectorAll(place)].some((one, k) => "
                              "one.src !== before[k])", arg=[f"{root('studio')} .pictures img", before])
        settled(tab, "studio")
    assert (panel.get_by_label("grey level").is_enabled()
            and panel.get_by_label("row of the table").is_disabled())
    assert not problems


def begin_again(tab, **values):
    "The studio with these settings, and nothing else changed"
    studio = ready(tab, "studio")
    start = dict(
        product="hex_nut",
        number=0,
        foreground="auto",
        level=128,
        smallest=0,
        largest=5,
        threshold=0.5,
        source="texture",
        opacity=0.8,
        seed=0,
    )
    studio.evaluate(
        "(root, values) => { root.panel.widget.more = false; root.panel.set(values); }", start | values
    )
    settled(tab, "studio")
    return studio


def test_twelve_more_are_the_next_seeds(lab):
    tab, problems, _ = lab
    studio = begin_again(tab, seed=95, source="structure")
    studio.get_by_role("button", name="twelve more like this").press("Enter")
    tab.wait_for_selector(f"{root('studio')} img[alt*='seed 7']")
    captions = studio.locator("figcaption").all_inner_texts()[-12:]
    assert [int(re.match(r"seed (\d+): (\d+\.\d%|misses)$", one)[1]) for one in captions] == [
        96,
        97,
        98,
        99,
        *range(8),
    ]
    assert status(tab, "studio").startswith("Twelve more anomalies, of the seeds 96 to 7; they cover ")
    settled(tab, "studio")
    shown = studio.locator("img[alt*='of seed 98']")
    wanted, share = shown.get_attribute("src"), re.search(r"covering (.+?) of", shown.get_attribute("alt"))[1]
    words = status(tab, "studio")
    shown.click()  # takes its seed
    assert f"covers {share} of the image" in changed(tab, "studio", words)
    settled(tab, "studio")
    assert studio.get_by_label("seed", exact=True).input_value() == "98" and len(sources(tab, "studio")) == 7
    assert studio.locator("img[alt*='simulated anomaly']").get_attribute("src") == wanted and not problems


@pytest.mark.parametrize("values", [
    dict(seed=3), dict(seed=58, largest=3, smallest=4, opacity=1., threshold=.25),
    dict(product="tablet", number=2, source="structure", seed=21),
    dict(product="wood", foreground="brighter than", level=100, threshold=.1, seed=12),
    dict(product="wood", foreground="table", row="tile", seed=9)])
def test_the_code_shown_is_the_notebooks_and_makes_the_picture_shown(lab, values):
    from memseg_nb.widgets import AnomalyStudio
    tab, problems, _ = lab
    studio, notebook = begin_again(tab, **values), AnomalyStudio("hex_nut", (256, 256)).set(**values)
    button = studio.get_by_role("button", name="show as code")
    assert button.get_attribute("aria-expanded") == "false" and not studio.locator(".live-code").is_visible()
    button.press("Enter")
    shown = {
        name: studio.get_by_role("region", name=name, exact=True).inner_text()
        for name in ("Python", "settings.ini")
    }
    assert (
        shown["Python"].strip() == notebook.code().strip()
        and shown["settings.ini"].strip() == notebook.ini().strip()
    )
    assert "Run in Python, this makes the anomaly above" in studio.locator(".live-code").inner_text()
    made = {}
    exec(shown["Python"], made)
    page = np.array(studio.evaluate("root => [...root.panel.widget.out.anomaly.data]")).reshape(3, 256, 256)
    gap = np.abs(made["made"].images[0].numpy() - page).max(0)
    assert (gap > 1 / 255).mean() < 1e-3 and (
        page != studio.evaluate("root => [...root.panel.widget.out.source.data]")[0]
    ).any()
    studio.get_by_role("button", name="hide the code").press("Enter")
    assert not studio.locator(".live-code").is_visible() and not problems


def test_code_says_where_python_makes_another_picture_and_can_be_copied(lab):
    tab, problems, _ = lab
    studio = begin_again(tab, threshold=.9, seed=1)
    assert "misses the product" in status(tab, "studio")
    studio.get_by_role("button", name="show as code").press("Enter")
    assert "In Python this is another picture" in studio.locator(".live-code").inner_text()
    studio.get_by_label("threshold T").press("Home")
    settled(tab, "studio")
    code = studio.locator(".live-code")
    assert "Run in Python" in code.inner_text() and "threshold = -0.5" in code.inner_text()  # it follows
    studio.get_by_role("button", name="copy settings.ini").press("Enter")
    tab.wait_for_function(
        "place => document.querySelector(place).textContent.startsWith('settings.ini: ')",
        arg=f"{root('studio')} .live-code [role=status]",
    )
    studio.get_by_role("button", name="hide the code").press("Enter")
    assert not problems


def test_an_own_photo_is_spoilt_in_the_browser(lab, tmp_path):
    from memseg_nb.data.images import save_image
    tab, problems, _ = lab
    panel = ready(tab, "studio")
    image = panel.locator("img[alt='the good image']")
    before = image.get_attribute("src")
    (tmp_path / "note.png").write_text("no picture")
    panel.locator("input[type=file]").set_input_files(tmp_path / "note.png")
    tab.wait_for_function("place => document.querySelector(place).textContent.includes('note.png')",
                          arg=f"{root('studio')} .status")
    panel.locator("input[type=file]").set_input_files(
        save_image(tmp_path / "mine.png", render_product("bottle_cap", (96, 160))[0]))
    tab.wait_for_function("([place, before]) => document.querySelector(place).src !== before",
                          arg=[f"{root('studio')} img[alt='the good image']", before])
    assert panel.get_by_label("product", exact=True).input_value() == "own image" and not problems


def test_a_click_compares_with_another_sample_and_moves_the_threshold(lab):
    tab, problems, _ = lab
    memory = ready(tab, "memory")
    if not memory.evaluate("root => root.panel.loaded"): loaded(tab, "memory")
    before = status(tab, "memory")
    memory.locator("img[alt^=distances]").click(position={"x": 120, "y": 120})
    assert "instead" in changed(tab, "memory", before)
    thresholds = ready(tab, "threshold")
    before = status(tab, "threshold")
    thresholds.locator("img[alt^=histogram]").click(position={"x": 330, "y": 100})
    changed(tab, "threshold", before)
    thresholds.locator("img[alt*='now called']").first.wait_for()
    assert not problems


def test_the_first_touch_may_be_a_click_into_the_histogram(address, browser):
    "Nothing has been computed yet: the picture is that of the notebook"
    with visit(browser, address) as (tab, problems):
        tab.goto(address + LABORATORY)
        thresholds = ready(tab, "threshold")
        before = status(tab, "threshold")
        thresholds.locator("img[alt^=histogram]").click(position={"x": 330, "y": 100})
        assert changed(tab, "threshold", before).startswith("From ") and not problems


def test_the_memory_of_another_product(lab):
    tab, problems, _ = lab
    memory = ready(tab, "memory")
    if not memory.evaluate("root => root.panel.loaded"): loaded(tab, "memory")
    def names(): return memory.get_by_label("test image", exact=True).locator("option").all_inner_texts()
    memory.get_by_label("samples N").press("End")
    settled(tab, "memory")
    before, words, tablets = sources(tab, "memory"), status(tab, "memory"), names()
    memory.get_by_label("product", exact=True).select_option("hex_nut")
    settled(tab, "memory")
    assert status(tab, "memory") != words and status(tab, "memory").startswith(
        "Nearest of the first 10 samples"
    )
    assert names() != tablets and names()[-1] == "good 1" and not set(sources(tab, "memory")) & set(before)
    words = status(tab, "memory")
    memory.get_by_label("compare with").press("End")
    assert "Compared with number 9 instead" in changed(tab, "memory", words)
    settled(tab, "memory")
    known = tab.evaluate("fetch('../_static/live/facts.json').then((answer) => answer.json())")["products"][
        "hex_nut"
    ]["explorer"]
    assert memory.locator("img[alt^='good sample']").get_attribute("src").endswith(known["samples"][9])
    memory.get_by_label("product", exact=True).select_option("tablet")
    settled(tab, "memory")
    assert names() == tablets and not problems


# The painter


def drag(tab, name, places):
    "A stroke with the mouse; places in pixels of the photo"
    paper = tab.locator(f"{root(name)} .paper")
    paper.scroll_into_view_if_needed()
    box = paper.bounding_box()
    at = [(box["x"] + (x + .5) / 128 * box["width"], box["y"] + (y + .5) / 128 * box["height"])
          for x, y in places]
    tab.mouse.move(*at[0])
    tab.mouse.down()
    for place in at[1:]: tab.mouse.move(*place, steps=10)
    tab.mouse.up()


HEAT = """(root) => { const { history, map } = root.panel.widget;
  const [first, last] = [history[0].data, history.at(-1).data];
  return [[...map.data], [...map.data.keys()].filter((k) => first[k] !== last[k])]; }"""


def test_the_heatmap_rises_where_the_stroke_is(lab, record_property):
    tab, problems, seconds = lab
    painter = ready(tab, "painter")
    before, words = np.array(painter.evaluate(HEAT)[0]), status(tab, "painter")
    drag(tab, "painter", [(40, 42), (60, 72), (88, 80)])
    changed(tab, "painter", words)
    settled(tab, "painter")
    after, stroke = painter.evaluate(HEAT)
    elsewhere = np.delete(np.arange(128 * 128), stroke)
    rise, around = (np.array(after)[stroke].mean() - before[stroke].mean(),
                    (np.array(after) - before)[elsewhere].mean())
    each = painter.evaluate("root => root.panel.widget.milliseconds")
    record_property("stroke_ms", round(each))
    record_property("network_load_s", round(seconds, 2))
    print(f"network loaded in {seconds:.1f} s; an answer takes {each:.0f} ms; mean heat under the stroke "
          f"+{rise:.2f}, elsewhere {around:+.2f}")
    assert len(stroke) > 100 and rise > .3 and rise > 2 * around and "defective" in status(tab, "painter")
    painter.get_by_role("button", name="take back").click()
    changed(tab, "painter", status(tab, "painter"))
    settled(tab, "painter")
    again, stroke = painter.evaluate(HEAT)
    assert not stroke and np.abs(np.array(again) - before).max() < 1e-6 and not problems


def test_painting_by_keyboard_and_another_product(lab):
    tab, problems, _ = lab
    painter = ready(tab, "painter")
    painter.locator(".paper").focus()
    words = status(tab, "painter")
    for key in ("Shift+ArrowUp", "Shift+ArrowLeft"): tab.keyboard.press(key)
    tab.keyboard.down(" ")
    for _ in range(4): tab.keyboard.press("Shift+ArrowRight")
    tab.keyboard.up(" ")
    changed(tab, "painter", words)
    settled(tab, "painter")
    assert (len(painter.evaluate(HEAT)[1]) > 100
            and "1 stroke" in painter.locator(".paper img").get_attribute("alt"))
    tab.keyboard.press("u")
    tab.wait_for_function("place => document.querySelector(place).alt.endsWith('0 strokes')",
                          arg=f"{root('painter')} .paper img")
    settled(tab, "painter")
    words = status(tab, "painter")
    painter.get_by_label("product", exact=True).select_option("hex_nut")
    changed(tab, "painter", words)
    settled(tab, "painter")
    assert "hex nut" in painter.locator(".paper img").get_attribute("alt")
    painter.get_by_label("product", exact=True).select_option("tablet")
    tab.wait_for_function("place => document.querySelector(place).alt.includes('tablet')",
                          arg=f"{root('painter')} .paper img")
    settled(tab, "painter")
    assert not problems


@pytest.mark.parametrize("kind", ["crack", "chip"])
def test_a_pasted_flaw_is_that_of_the_notebook_and_is_found(lab, kind):
    from memseg_nb.simulation.flaws import KINDS, add_flaws, draw_shape
    tab, problems, _ = lab
    painter = ready(tab, "painter")
    painter.evaluate("root => { root.panel.widget.asked = {}; }")
    painter.get_by_role("button", name="clear").press("Enter")
    settled(tab, "painter")
    words = status(tab, "painter")
    painter.get_by_label("flaw to paste").select_option(kind)
    painter.get_by_role("button", name="paste a flaw").press("Enter")
    assert changed(tab, "painter", words).startswith(f"Pasted: {kind}. Score ")
    settled(tab, "painter")
    assert (
        painter.locator(".paper img").get_attribute("alt").endswith(f"0 strokes and 1 pasted flaw ({kind})")
    )
    before, after = [torch.tensor(one).view(1, 3, 128, 128) for one in painter.evaluate(
        "root => root.panel.widget.history.map(({ data }) => [...data])")]
    shape = torch.from_numpy(draw_shape(np.random.default_rng(1), (128, 128), kind)[0])[None]
    foreign = torch.stack([render_product(name, (128, 128))[0] for name in ("wood", "woven_fabric")])
    wanted, _ = add_flaws(
        before, shape, torch.tensor([KINDS.index(kind)]), foreign, torch.Generator().manual_seed(1), ease=0.5
    )
    assert (wanted - after).abs().max() < 1e-4 and (after != before).any()
    heat, where = painter.evaluate(HEAT)
    assert np.array(heat)[where].mean() > 2 * np.delete(
        np.array(heat), where
    ).mean() and "defective" in status(tab, "painter")
    painter.get_by_role("button", name="paste a flaw").press("Enter")
    tab.wait_for_function(
        "place => document.querySelector(place).alt.includes('2 pasted flaws')",
        arg=f"{root('painter')} .paper img",
    )
    settled(tab, "painter")
    assert len(painter.evaluate(HEAT)[1]) > len(where)  # another one
    for left in ("1 pasted flaw", "0 strokes"):
        painter.get_by_role("button", name="take back").press("Enter")
        tab.wait_for_function(
            "([place, left]) => document.querySelector(place).alt.includes(left)",
            arg=[f"{root('painter')} .paper img", left],
        )
        settled(tab, "painter")
    assert not painter.evaluate(HEAT)[1] and not problems


def test_a_brush_does_not_wait_for_the_network(lab):
    "Strokes are shown while the network is still busy with an older picture"
    tab, _, _ = lab
    painter = ready(tab, "painter")
    settled(tab, "painter")
    shown = painter.evaluate("""async (root) => {
      const { widget } = root.panel, start = performance.now();
      root.panel.refresh();
      await widget.told({ kind: "paint", points: [[30, 90], [50, 90]], fresh: true });
      const painted = performance.now() - start, busy = root.panel.busy;
      return [widget.history.length, busy, painted]; }""")
    print(f"a stroke is shown after {shown[2]:.0f} ms")
    assert shown[:2] == [2, True]
    settled(tab, "painter")
    painter.get_by_role("button", name="clear").click()
    settled(tab, "painter")


# The page's engine and the library


RUN = """async ([name, inputs, memory]) => {
  const { engine } = await import(new URL("../_static/live/live.js", location.href).href), shared = await engine();
  const kinds = { float32: Float32Array, uint8: Uint8Array, int64: BigInt64Array }, values = {};
  for (const [key, { type, dims, data }] of Object.entries(inputs))
    values[key] = { dims, data: new kinds[type](Uint8Array.from(atob(data), (one) => one.charCodeAt(0)).buffer) };
  if (memory) Object.assign(values, await shared.arrays(`memory-${memory}`));
  const start = performance.now(), outputs = await shared.run(name, values), told = { milliseconds: performance.now() - start };
  for (const [key, { type, dims, data }] of Object.entries(outputs)) {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    let text = "";
    for (let k = 0; k < bytes.length; k += 8192) text += String.fromCharCode(...bytes.subarray(k, k + 8192));
    told[key] = { type, dims, data: btoa(text) };
  }
  return told;
}"""


def differences(tab, graph, case, fixtures, raw):
    "Largest difference of each output, or share of the pixels that differ in a mask; and milliseconds"
    def array(key):
        known = fixtures["arrays"][key]
        return np.frombuffer(raw, known["dtype"], int(np.prod(known["shape"])),
                             known["offset"]).reshape(known["shape"])
    inputs = {name: array(key) for name, key in case["inputs"].items()}
    sent = {name: {"type": str(one.dtype), "dims": list(one.shape),
                   "data": base64.b64encode(one.tobytes()).decode()}
            for name, one in inputs.items()}
    told, found = tab.evaluate(RUN, [graph, sent, case.get("memory")]), {}
    for name, key in case["outputs"].items():
        wanted, got = (array(key), np.frombuffer(base64.b64decode(told[name]["data"]), told[name]["type"])
                       .reshape(told[name]["dims"]))
        assert wanted.shape == got.shape, f"{graph}: {name} is {got.shape}, not {wanted.shape}"
        gap = np.abs(wanted.astype(float) - got.astype(float))
        found[name] = float((gap > 0).mean() if wanted.dtype == np.uint8 else gap.max(initial=0))
    return found, told["milliseconds"]


@pytest.mark.parametrize("graph", ["perlin", "studio", "texture", "paint", "flaw", "scores", "network"])
def test_the_page_computes_what_the_library_computes(lab, graph, record_property):
    tab, problems, _ = lab
    fixtures, raw = json.loads((ASSETS / "fixtures.json").read_text()), (ASSETS / "fixtures.bin").read_bytes()
    worst, times = {}, []
    for case in fixtures["cases"][graph]:
        found, milliseconds = differences(tab, graph, case, fixtures, raw)
        times.append(milliseconds)
        for name, gap in found.items():
            worst[name] = max(worst.get(name, 0), gap)
            record_property(f"{graph}.{name}", worst[name])
    print(f"{graph}, {len(times)} fixtures, median {np.median(times):.0f} ms: "
          + ", ".join(f"{k} {v:.2g}" for k, v in worst.items()))
    limits = fixtures["tolerances"]
    assert len(times) >= 2 and not {k: v for k, v in worst.items() if v > limits.get(k, 0)}, limits
    assert not problems


def test_a_difference_would_be_noticed(lab):
    "The comparison itself: another input gives another answer"
    tab, _, _ = lab
    fixtures, raw = json.loads((ASSETS / "fixtures.json").read_text()), (ASSETS / "fixtures.bin").read_bytes()
    first, second = fixtures["cases"]["perlin"][:2]
    found, _ = differences(tab, "perlin", {**first, "outputs": second["outputs"]}, fixtures, raw)
    assert found["noise"] > fixtures["tolerances"]["noise"] and found["mask"] > fixtures["tolerances"]["mask"]


# When something is missing


def test_loading_can_be_cancelled_and_tried_again(address, browser):
    with visit(browser, address) as (tab, problems):
        held = []
        tab.route("**/network.onnx*", lambda route: held.append(route))
        tab.goto(address + LABORATORY)
        painter = ready(tab, "painter")
        button = painter.locator(".live-loader .first")
        assert re.search(r"Load the network \(\d+\.\d MB\)", button.inner_text())
        button.press("Enter")
        bar = painter.get_by_role("progressbar")
        tab.wait_for_function("bar => Number(bar.getAttribute('aria-valuenow')) > 0",
                              arg=bar.element_handle())
        assert float(bar.get_attribute("aria-valuenow")) < 100
        painter.get_by_role("button", name="Cancel").press("Enter")
        tab.wait_for_function("place => document.querySelector(place).textContent.startsWith('Stopped')",
                              arg=f"{root('painter')} .live-trouble")
        assert button.is_visible() and button.evaluate("one => one === document.activeElement")
        tab.unroute("**/network.onnx*")
        tab.route("**/network.onnx*", lambda route: route.abort())
        button.press("Enter")
        tab.wait_for_function("place => document.querySelector(place).textContent.includes('try again')",
                              arg=f"{root('painter')} .live-trouble")
        tab.wait_for_function("one => one.innerText.includes('Try again')", arg=button.element_handle())
        assert painter.locator(".pictures img").first.is_visible()
        tab.unroute("**/network.onnx*")
        problems.clear()
        button.press("Enter")
        tab.wait_for_selector(f"{root('painter')}.running")
        settled(tab, "painter")
        assert painter.locator(".paper").is_visible() and not problems


def test_without_javascript_or_webassembly_pictures_and_a_sentence_stand(address, browser):
    with visit(browser, address, java_script_enabled=False) as (tab, problems):
        tab.goto(address + LABORATORY)
        for name in WIDGETS:
            panel = tab.locator(root(name))
            assert panel.locator("img").count() >= 2 and len(panel.locator(".status").inner_text()) > 20
            assert ("JavaScript is switched off" in panel.inner_text()
                    and not panel.locator("button, input").count())
        tab.goto(address)
        assert "JavaScript is switched off" in tab.locator("#painter").inner_text() and not problems
    with visit(browser, address) as (tab, problems):
        tab.add_init_script("delete window.WebAssembly")
        tab.goto(address + LABORATORY)
        tab.locator(root("painter")).scroll_into_view_if_needed()
        tab.wait_for_function("place => document.querySelector(place).textContent.includes('lacks "
                              "WebAssembly')", arg=f"{root('painter')} .live-note")
        assert tab.locator(f"{root('painter')} img").first.is_visible() and not problems


# For everybody, everywhere


def test_no_serious_fault_with_all_widgets_loaded(lab):
    tab, _, _ = lab
    if not tab.evaluate(f"document.querySelector('{root('memory')}').panel?.loaded"): loaded(tab, "memory")
    for name in WIDGETS: ready(tab, name)
    set_theme(tab, "light")
    found = faults(tab, ALL_RULES)
    set_theme(tab, "dark")
    found += [f"dark {fault}" for fault in faults(tab, ["color-contrast"])]
    set_theme(tab, "light")
    tab.set_viewport_size({"width": 390, "height": 800})
    wide = tab.evaluate("document.documentElement.scrollWidth")
    tab.set_viewport_size({"width": 1280, "height": 800})
    assert not found and wide <= 390
    unnamed = tab.eval_on_selector_all(".live :is(input, select, button)", "all => all.filter((one) => "
                                       "!one.labels?.length && !one.textContent).length")
    assert not unnamed and tab.locator(".live [role=status]").count() >= len(WIDGETS)


def test_the_home_page_paints_below_any_path(site, browser, tmp_path, record_property):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "path").symlink_to(site)
    with serve.server(tmp_path) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{http.server_port}/some/path/"
        with visit(browser, here) as (tab, problems):
            tab.goto(here)
            assert (tab.locator("#painter .pictures").count() == 0
                    and tab.locator("#painter-stroke").count() == 1)
            record_property("home_load_s", round(loaded(tab, "painter"), 2))
            assert "defective" in status(tab, "painter")  # the scratch of the picture before is painted anew
            words = status(tab, "painter")
            tab.get_by_role("button", name="clear").click()
            assert "good" in changed(tab, "painter", words)
            words = status(tab, "painter")
            drag(tab, "painter", [(45, 40), (60, 60), (80, 75)])
            assert "defective" in changed(tab, "painter", words) and not problems
        http.shutdown()


def test_pages_hold_the_widgets_of_their_notebooks(site):
    "Where a notebook shows one of these widgets, its page has it alive, once"
    import chapters
    import laboratory
    questions = {laboratory.facts()["widgets"][name]["question"]: name for name in WIDGETS}
    seen = set()
    for chapter in chapters.chapters():
        outputs = [o for cell in chapters.read(chapter.path)["cells"] for o in cell.get("outputs", [])]
        shown = ["".join(o.get("data", {}).get("text/plain", "")).partition("\n") for o in outputs]
        wanted = {questions[question] for question, _, words in shown if words and question in questions}
        text = (site / f"{chapter.page}.html").read_text()
        alive = re.findall(r'data-live="(\w+)"', text)
        assert sorted(alive) == sorted(wanted), chapter.notebook
        seen |= wanted
    assert seen == set(WIDGETS)
