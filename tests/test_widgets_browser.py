"""The widgets in a real JupyterLab in Chromium: moved by keyboard, painted on, given an image

Screenshots go to pytest's temporary folder, or to the folder that MEMSEG_SCREENSHOTS names.
"""
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("jupyterlab", reason="needs JupyterLab: pip install 'memseg-nb[lab]'")
pytest.importorskip("anywidget", reason="needs anywidget: pip install 'memseg-nb[lab]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None,
                                reason="needs a Chromium on the PATH, such as Debian's package chromium")
ROOT = Path(__file__).parents[1]
CELLS = {
    "perlin": "from memseg_nb.widgets import *\nimport torch; torch.set_num_threads(1)\n"
    "perlin = PerlinPlayground()\nperlin",
    "studio": "studio = AnomalyStudio('bottle_cap')\nstudio",
    "memory": "memory = MemoryExplorer('hex_nut')\nmemory",
    "threshold": "import numpy as np\nfrom memseg_nb.products.catalogue import render_product\n"
    "r = np.random.default_rng(0)\n"
    "labels = np.arange(60) >= 40\nscores = np.clip(r.normal(.3 + .35 * labels, .14), 0, 1)\n"
    'ThresholdExplorer(scores, labels, .5, [f\'{"bad" if l else "good"} {k}\' for k, l in enumerate(labels)],\n'
    "    lambda k: render_product('tablet', (96, 96), defect='crack' if labels[k] else None, index=k)[0])",
    "painter": "from memseg_nb.widgets.painter import example_detector\n"
    "from memseg_nb.products.catalogue import render_product\n"
    "DefectPainter(detector=example_detector('hex_nut', (128, 128), 4),\n"
    "              photos=[render_product('hex_nut', (128, 128), index=k)[0] for k in range(3)])",
    "monitor": "from memseg_nb.products.catalogue import write_products\n"
    "from memseg_nb.recipe import load_recipe\n"
    "write_products('data', 'hex_nut', size=(64, 64), train=8, good=1, defective=1, progress=False)\n"
    "small = load_recipe('formulas').replace(**{'image.height': 64, 'image.width': 64, 'training.minutes': 0.,\n"
    "    'training.steps': 500, 'memory.samples': 3, 'training.good': 1, 'training.simulated': 1})\n"
    "TrainingMonitor('data', 'hex_nut', 'run', small, every=2)",
}


def write_notebook(path, cells):
    kernel = dict(name="python3", display_name="python3", language="python")
    cells = [dict(cell_type="code", id=name, metadata={}, outputs=[], execution_count=None, source=code)
             for name, code in cells.items()]
    path.write_text(
        json.dumps(dict(nbformat=4, nbformat_minor=5, metadata=dict(kernelspec=kernel), cells=cells)))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "Address of a JupyterLab with settings of its own, and the folder it serves"
    folder = tmp_path_factory.mktemp("lab")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    private = {f"JUPYTER_{name}_DIR": str(folder / f".{name}") for name in ("CONFIG", "RUNTIME")}
    private |= {f"JUPYTERLAB_{name}_DIR": str(folder / f".{name}") for name in ("SETTINGS", "WORKSPACES")}
    options = ["--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1",
               "--IdentityProvider.token=",
               "--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True",
               f"--ServerApp.root_dir={folder}",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    news = folder / ".SETTINGS" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false"}')
    environment = {**os.environ, **private, "PYTHONPATH": str(ROOT)}
    with open(folder / "lab.log", "w") as log:
        process = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=environment,
                                   stdout=log, stderr=log)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=1)
            break
        except OSError: time.sleep(.2)
    yield f"http://127.0.0.1:{port}", folder
    process.terminate()
    try: process.wait(timeout=30)
    except subprocess.TimeoutExpired: process.kill()


RUN = """async () => {
    const app = window.jupyterapp;
    await app.restored;
    let panel;
    for (let k = 0; k < 300 && !panel?.sessionContext; k++) {
        panel = app.shell.currentWidget;
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
    await panel.context.ready;
    await panel.sessionContext.ready;
    app.shell.collapseLeft();
    app.commands.execute('notebook:run-all-cells');
}"""


@pytest.fixture(scope="module")
def page(server, playwright):
    "The notebook with all widgets, run"
    address, folder = server
    write_notebook(folder / "all.ipynb", CELLS)
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    page = browser.new_page(viewport=dict(width=1400, height=1250))
    page.set_default_timeout(90_000)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(f"{address}/lab/tree/all.ipynb?reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
    page.evaluate(RUN)
    yield page
    browser.close()


@pytest.fixture
def panel(page, request, tmp_path_factory):
    "A function that gives a widget by the id of its cell; a screenshot of each is taken at the end"
    seen = []

    def find(name):
        number = list(CELLS).index(name)
        cell = page.locator(".jp-CodeCell").nth(number)
        cell.scroll_into_view_if_needed()
        panel = cell.locator(".memseg-panel")
        panel.locator(".status").first.wait_for()
        page.wait_for_function("element => element.textContent.length > 0",
                               arg=panel.locator(".memseg-board .status").element_handle())
        seen.append((name, panel))
        return panel
    yield find
    folder = os.environ.get("MEMSEG_SCREENSHOTS") or tmp_path_factory.getbasetemp() / "screenshots"
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, panel in seen:
        panel.screenshot(path=Path(folder) / f"{request.node.name}-{name}.png")


def status(panel): return panel.locator(".memseg-board .status").inner_text()
def source(panel, alt): return panel.locator(f"img[alt^='{alt}']").get_attribute("src")


def changed(page, panel, before, seconds=60):
    "Waits until the sentence is another one; the new one"
    element = panel.locator(".memseg-board .status").element_handle()
    page.wait_for_function("([element, before]) => element.textContent !== before", arg=[element, before],
                           timeout=1000 * seconds)
    return status(panel)


def said(page, panel, words):
    "Waits until the sentence holds these words"
    page.wait_for_function("([element, words]) => element.textContent.includes(words)",
                           arg=[panel.locator(".memseg-board .status").element_handle(), words])


def test_a_slider_moved_by_keyboard_changes_the_picture(page, panel):
    perlin = panel("perlin")
    before, mask = status(perlin), source(perlin, "mask")
    handle = perlin.get_by_role("slider", name="threshold T")
    handle.focus()
    for _ in range(10): page.keyboard.press("ArrowLeft")
    assert "0.50" in before
    said(page, perlin, "0.40")
    assert source(perlin, "mask") != mask and handle.get_attribute("aria-valuenow") == "0.4"


def test_the_keyboard_alone_reaches_all_controls(page, panel):
    perlin = panel("perlin")
    perlin.get_by_role("slider").first.focus()
    names = []
    for _ in range(12):
        names.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
        page.keyboard.press("Tab")
    for name in ("rows: 2 to the", "columns: 2 to the", "angle, degrees", "threshold T", "seed"):
        assert name in names


def test_an_image_is_uploaded(page, panel, server):
    from memseg_nb.data.images import save_image
    from memseg_nb.products.catalogue import render_product
    studio = panel("studio")
    before, image = status(studio), source(studio, "the good image")
    path = save_image(server[1] / "mine.png", render_product("wood", (128, 128))[0])
    with page.expect_file_chooser() as chooser:
        studio.get_by_text("own image: choose a file").click()
    chooser.value.set_files(path)
    changed(page, studio, before)
    assert (source(studio, "the good image") != image
            and studio.locator("select").first.input_value() == "own image")
    studio.get_by_text("twelve more like this").click()
    studio.locator("img[alt^='anomaly 12 of 12']").wait_for()
    studio.get_by_text("show as code").click()
    studio.get_by_text("read_image('mine.png')").wait_for()


def test_a_click_forces_a_sample(page, panel):
    memory = panel("memory")
    before = status(memory)
    box = memory.locator("img[alt^='distances']").bounding_box()
    page.mouse.click(box["x"] + .3 * box["width"], box["y"] + .6 * box["height"])
    assert "instead" in changed(page, memory, before)


def test_the_threshold_flips_images(page, panel):
    thresholds = panel("threshold")
    before = status(thresholds)
    thresholds.get_by_role("slider", name="threshold", exact=True).focus()
    for _ in range(20): page.keyboard.press("ArrowLeft")
    changed(page, thresholds, before)
    thresholds.locator("img[alt*='now called defective']").first.wait_for()


def score(panel): return float(status(panel).split()[1].rstrip(","))


def rises(page, panel, clean):
    "Waits until the score in the sentence is higher than that of the clean photo"
    page.wait_for_function("([element, clean]) => parseFloat(element.textContent.split(' ')[1]) > clean",
                           arg=[panel.locator(".memseg-board .status").element_handle(), clean])


def said_no_more(page, panel, words):
    "Waits until the sentence doesn't hold these words"
    page.wait_for_function("([element, words]) => !element.textContent.includes(words)",
                           arg=[panel.locator(".memseg-board .status").element_handle(), words])


def test_a_painted_stroke_raises_the_score(page, panel):
    painter = panel("painter")
    paper = painter.locator(".memseg-canvas .paper")
    paper.scroll_into_view_if_needed()
    clean, before, box = score(painter), status(painter), paper.bounding_box()
    at = [(box["x"] + x / 128 * box["width"], box["y"] + y / 128 * box["height"])
          for x, y in ((34, 50), (52, 40), (62, 46))]
    page.mouse.move(*at[0])
    page.mouse.down()
    for place in at[1:]: page.mouse.move(*place, steps=6)
    page.mouse.up()
    changed(page, painter, before)
    rises(page, painter, clean)  # the last part of the stroke may still be on its way


def test_painting_by_keyboard(page, panel):
    painter = panel("painter")
    painter.get_by_text("clear", exact=True).click()
    said_no_more(page, painter, "changed")
    paper = painter.locator(".memseg-canvas .paper")
    paper.focus()
    for _ in range(3): page.keyboard.press("Shift+ArrowUp")
    page.keyboard.down(" ")
    for _ in range(3): page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.up(" ")
    said(page, painter, "changed pixels are found")
    assert paper.evaluate("element => element === document.activeElement")
    page.keyboard.press("u")
    said_no_more(page, painter, "changed")


def test_a_mistake_is_said(page, panel):
    monitor = panel("monitor")
    before = status(monitor)
    monitor.get_by_role("textbox", name="category").fill("bolt")
    monitor.get_by_role("textbox", name="category").press("Tab")
    monitor.get_by_text("start", exact=True).click()
    said(page, monitor, "bolt")
    assert status(monitor) != before


def test_a_training_is_watched_and_stopped(page, panel):
    monitor = panel("monitor")
    monitor.get_by_role("textbox", name="category").fill("hex_nut")
    monitor.get_by_role("textbox", name="category").press("Tab")
    monitor.get_by_text("start", exact=True).click()
    monitor.locator("img[alt^='heatmap after step 2,']").wait_for()
    assert monitor.get_by_text("resume", exact=True).is_disabled()
    monitor.get_by_text("stop", exact=True).click()
    said(page, monitor, "stopped; it can be resumed")
    assert monitor.get_by_text("stop", exact=True).is_disabled()


UNNAMED = """() => {
    const name = (node) => node.getAttribute('aria-label') || node.title || node.textContent.trim()
        || [...(node.labels ?? [])].map((label) => label.textContent).join('');
    const nodes = document.querySelectorAll(`.memseg-panel :is(input, select, button, [role=slider], [tabindex='0'])`);
    const shown = [...nodes].filter((node) => node.offsetParent !== null && node.type !== 'file');
    return shown.filter((node) => !name(node)).map((node) => node.outerHTML.slice(0, 200));
}"""


def test_everything_has_a_name(page, panel):
    for name in CELLS: panel(name)
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate(
        "[...document.querySelectorAll('.memseg-panel img')].filter((image) => !image.alt).length") == 0
    assert not page.errors


AXE = """async () => (await axe.run({include: [['.memseg-panel']]}, {resultTypes: ['violations']}))
    .violations.filter((fault) => ['serious', 'critical'].includes(fault.impact))
    .flatMap((fault) => fault.nodes.map((node) => `${fault.id}: ${node.target.join(' ')} ${node.html.slice(0, 150)} `
        + (node.any[0]?.message ?? node.all[0]?.message ?? '').slice(0, 150)))"""


# colours change in transitions; an animation that is replaced is rejected, one that is paused never ends
SETTLED = """async () => {
    const enough = new Promise((resolve) => setTimeout(resolve, 5000));
    await Promise.race([new Promise(requestAnimationFrame), enough]);
    const ends = document.getAnimations().filter((one) => one.effect.getComputedTiming().iterations !== Infinity);
    await Promise.race([Promise.allSettled(ends.map((one) => one.finished)), enough]);
}"""


@pytest.fixture(scope="module")
def axe():
    "axe-core at the version that the pages are looked at with"
    if not shutil.which("npm"): pytest.skip("axe-core needs npm: install Node.js")
    sys.path.insert(0, str(ROOT / "docs"))
    import npm
    (ROOT / "build" / "docs").mkdir(parents=True, exist_ok=True)
    with (ROOT / "build" / "docs" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return npm.fetch() / "axe-core" / "axe.min.js"


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_axe_finds_no_serious_fault_in_any_widget(page, panel, axe, theme):
    for name in CELLS: panel(name)
    page.add_script_tag(path=str(axe))
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    page.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)
    page.evaluate(SETTLED)
    assert page.locator(".memseg-panel").count() == len(CELLS)
    assert page.evaluate(AXE) == []


def test_axe_would_find_a_fault(page, panel, axe):
    perlin = panel("perlin")
    page.add_script_tag(path=str(axe))
    image = perlin.locator("img").first
    alt = image.get_attribute("alt")
    image.evaluate("element => element.removeAttribute('alt')")
    assert any(fault.startswith("image-alt") for fault in page.evaluate(AXE))
    image.evaluate("(element, alt) => element.setAttribute('alt', alt)", alt)
