"The report: one HTML file that says what scores.csv says, needs nothing else, and works in a browser"
import base64
import csv
import html
import io
import json
import re
import shutil
from html.parser import HTMLParser
from importlib.util import find_spec

import pytest
import torch
from PIL import Image

from memseg_nb.data.images import save_image
from memseg_nb.deployment import report as module
from memseg_nb.deployment.report import Photo, histogram, report, worst_first
from memseg_nb.evaluation.evaluate import evaluate
from memseg_nb.files import MemSegError
from memseg_nb.training.checkpoints import Run
from test_detector import dark  # noqa: F401  a fixture

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    "What is in a page: tags with their attributes, and the text of each article and table row"
    def __init__(self, file):
        super().__init__()
        self.tags, self.open, self.texts = [], [], {"article": [], "tr": [], "title": [], "h2": []}
        self.feed(file.read_text(encoding="utf-8"))
        assert not self.open, "each tag is closed"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input", "rect", "line"): self.open.append(tag)
        if tag in self.texts: self.texts[tag].append("")

    def handle_startendtag(self, tag, attributes): self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag): assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.texts.keys() & set(self.open): self.texts[tag][-1] += data + "\t"

    def all(self, tag): return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def answers(dark, tmp_path):  # noqa: F811
    "Answers of `predict` for four photos, one of them broken, with names that are no HTML"
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for name, spot in {"<b>&'\".png": None, "a/x.png": 30, "a/x.jpg": 60}.items():
        picture = torch.full((3, 600, 900), .9)
        if spot: picture[:, 100:100 + 5*spot, 100:400] = .05
        save_image(tmp_path / "photos" / name, picture)
    (tmp_path / "photos" / "=1.png").write_text("no image")
    dark.predict_folder(tmp_path / "photos", tmp_path / "answers", progress=False)
    return tmp_path / "answers"


def test_a_report_on_answers_says_what_the_table_says(answers, dark):  # noqa: F811
    done = report(answers, progress=False)
    assert done.file == answers / "report.html" and done.photos == 4
    page, table = Page(done.file), csv.DictReader((answers / "scores.csv").open())
    rows = {row["file"]: row for row in table}
    texts = page.texts["article"]
    names = [text.split()[0] for text in texts]
    assert names == ["=1.png", "a/x.jpg", "a/x.png", "<b>&'\".png"], "worst first"
    assert rows["'=1.png"]["error"] in texts[0]
    for text in texts[1:]:
        row = rows[text.split()[0]]
        assert f"score {float(row['score']):.3f}" in text and f"{row['regions']} regions" in text
        assert ("called defective" in text) == (row["is_defective"] == "True")
    found = sum(row["is_defective"] == "True" for row in rows.values())
    assert done.summary == f"4 photos, {found} called defective at threshold 0.500; 1 without an answer"
    assert page.texts["h2"][-1].strip() == "Where from" and "Notes\t" in page.texts["h2"]


def test_pictures_are_small_and_are_those_of_the_photo(answers):
    report(answers, progress=False)
    images = Page(answers / "report.html").all("img")
    assert len(images) == 2 * 3 and all(image["alt"] for image in images)
    for image in images:
        kind, _, data = image["src"].partition(",")
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert kind == "data:image/jpeg;base64" and picture.format == "JPEG"
        assert picture.size == (480, 320) == (int(image["width"]), int(image["height"]))
    shown, overlay = (Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))).convert("RGB")
                      for image in images[:2])
    assert shown.getpixel((400, 250))[0] > 220 and max(shown.getpixel((100, 100))) < 40
    assert max(overlay.getpixel((100, 100))) > 100


def test_nothing_comes_from_elsewhere_and_names_are_no_html(answers):
    report(answers, progress=False)
    page, text = Page(answers / "report.html"), (answers / "report.html").read_text(encoding="utf-8")
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert not {tag for tag, _ in page.tags} & {"b", "link", "iframe", "object", "base"}
    assert not re.search(r"url\(|@import|https?:", text)
    assert any("default-src 'none'" in meta.get("content", "") for meta in page.all("meta"))
    assert "&lt;b&gt;&amp;&#x27;&quot;.png" in text


def test_photos_that_have_moved_are_left_out_and_answers_stay(answers):
    (answers.parent / "photos").rename(answers.parent / "elsewhere")
    report(answers, progress=False)
    images = Page(answers / "report.html").all("img")
    assert len(images) == 3 and all("anomaly map" in image["alt"] for image in images)


def test_a_report_replaces_a_report_and_no_other_file(answers, tmp_path):
    first = report(answers, progress=False).file.read_bytes()
    assert report(answers, progress=False).file.read_bytes() == first
    for name in ("report.html", "new/other.html"):
        own = tmp_path / name
        own.parent.mkdir(exist_ok=True)
        own.write_text("<p>the user's own</p>")
        with pytest.raises(MemSegError, match="is in the way and is no report"):
            report(answers, own, progress=False)
        assert own.read_text() == "<p>the user's own</p>"
    assert report(answers, tmp_path / "deep" / "r.html", progress=False).file.exists()


def test_only_the_worst_are_shown_where_there_are_many(answers, monkeypatch):
    monkeypatch.setattr(module, "SHOWN", 2)
    assert report(answers, progress=False).photos == 2
    page = Page(answers / "report.html")
    assert len(page.texts["article"]) == 2 and "worst 2 of 4" in "".join(page.texts["h2"])
    assert "3 scores" in page.all("svg")[0]["aria-label"], "all are in the histogram"


def test_what_is_no_result_is_refused(answers, tiny_run, tmp_path):
    with pytest.raises(MemSegError, match="is no run and no folder of answers"):
        report(tmp_path, progress=False)
    shutil.copytree(tiny_run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("metrics.json"))
    with pytest.raises(MemSegError, match="has no metrics.json and scores.csv yet: memseg evaluate"):
        report(tmp_path / "run", progress=False)
    table = (answers / "scores.csv").read_text()
    for broken, says in ((table.replace("True", "perhaps"), "needs a number and True or False"),
                         (table.replace("is_defective", "colour"), "has no column is_defective")):
        (answers / "scores.csv").write_text(broken)
        with pytest.raises(MemSegError, match=says):
            report(answers, progress=False)
    (answers / "scores.csv").write_text(table)
    (answers / "regions.json").unlink()
    with pytest.raises(MemSegError, match="regions.json"):
        report(answers, progress=False)
    assert not (answers / "report.html").exists()


@pytest.fixture(scope="module")
def evaluated(tiny_run, tmp_path_factory):
    "The tiny run, evaluated, with a threshold that makes mistakes of both sorts"
    folder = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(tiny_run.folder, folder)
    evaluate(folder, progress=False, device="cpu")
    rows = list(csv.DictReader((folder / "scores.csv").open()))
    scores = sorted(float(row["score"]) for row in rows)
    run = Run(folder)
    run.update(threshold=scores[len(scores) // 2])
    evaluate(folder, progress=False, device="cpu")
    return run


def test_a_report_on_a_run_has_its_figures_settings_and_notes(evaluated):
    done = report(evaluated, device="cpu", progress=False)
    page, metrics = Page(done.file), json.loads(evaluated.metrics_file.read_text())
    rows = {row.split("\t")[0]: row.split("\t") for row in page.texts["tr"]}
    for kind, found in metrics["per_defect"].items():
        cells = rows[kind]
        assert cells[1:3] == [str(found["images"]), str(found["found"])]
        assert float(cells[3]) == pytest.approx(found["image_auroc"], abs=.001)
    assert rows["all defects"][1:3] == [str(metrics["counts"]["defective"]),
                                        str(metrics["confusion"]["true_positives"])]
    assert rows["good"][1:3] == [str(metrics["counts"]["good"]), str(metrics["confusion"]["false_positives"])]
    assert rows["image.height"][1:3] == ["64", "256"] and "image.bits" not in rows
    assert rows["torch"][1] == torch.__version__ and rows["memseg_nb"]
    for note in evaluated.record["notes"]:
        assert html.escape(note) in done.file.read_text()
    articles, table = page.all("article"), list(csv.DictReader((evaluated.folder / "scores.csv").open()))
    wrong = [row for row in table if (row["is_defective"] == "True") == (row["kind"] == "good")]
    assert len(articles) == len(table) and wrong
    marked = ["wrong" in one["class"] for one in articles]
    assert marked == [True] * len(wrong) + [False] * (len(table) - len(wrong))
    assert len(page.all("img")) == 2 * len(table)
    with_alarm = [text for text in page.texts["article"] if "false alarm" in text or "missed" in text]
    assert len(with_alarm) == len(wrong)


def test_the_marked_defect_is_outlined_in_orange(evaluated, tiny_data):
    "Where the mask's border is, the overlay of the report differs from that without a mask"
    from memseg_nb.data.images import open_category
    from memseg_nb.deployment.detector import Detector
    import dataclasses
    detector = Detector.load(evaluated, "cpu")
    item = next(one for one in open_category(tiny_data, "hex_nut").test if one.mask)
    with_line = module._look(detector, item, .5)[1]
    without = module._look(detector, dataclasses.replace(item, mask=None), .5)[1]
    changed = (with_line - without).abs().amax(0) > .05
    assert changed.any() and torch.allclose(with_line[:, changed].T, torch.tensor([.90, .62, 0.]), atol=1e-3)


def test_worst_first():
    names = [photo.name for photo in worst_first([
        Photo("low", .1, False), Photo("high", .9, True),
        Photo("none", float("nan"), False, error="broken")], .5)]
    assert names == ["none", "high", "low"]
    known = [Photo("found", .8, True, "hole"), Photo("fine", .3, False, "good"),
             Photo("alarm", .6, True, "good"), Photo("missed", .1, False, "hole"),
             Photo("nearly", .49, False, "good")]
    assert [photo.name for photo in worst_first(known, .5)] == ["missed", "alarm", "nearly", "fine", "found"]


def test_bars_of_the_histogram_count_every_photo_on_its_side_of_the_threshold():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(200, generator=generator).tolist()
    for kinds in ([None] * 200, ["good", "hole"] * 100):
        photos = [Photo(str(k), score, score > .37, kind)
                  for k, (score, kind) in enumerate(zip(scores, kinds))]
        svg = histogram(photos, .37)
        most = int(re.search("highest bar has ([0-9]+)", svg)[1])
        line = float(re.search('class="threshold" x1="([0-9.]+)"', svg)[1])
        bars = [tuple(map(float, found)) for found in re.findall(
            '<rect class="[a-z]+" x="([0-9.]+)" y="[0-9.]+" width="([0-9.]+)" height="([0-9.]+)"', svg)]
        assert sum(round(tall * most / 100) for *_, tall in bars) == 200
        above = sum(round(tall * most / 100) for x, _, tall in bars if x > line)
        assert above == sum(score > .37 for score in scores)
        assert all(0 <= x and x + wide <= 640 for x, wide, _ in bars)
    for few in ([], photos[:1], [Photo("a", .37, False)]):
        assert "NaN" not in histogram(few, .37) and "inf" not in histogram(few, .37)


def test_a_report_shows_itself(answers):
    done = report(answers, progress=False)
    assert repr(done) == f"Report({str(done.file)!r}: {done.summary})"
    assert html.escape(str(done.file)) in done._repr_html_() and 'href="file://' in done._repr_html_()


def test_the_commands_write_reports(memseg, answers, evaluated, tmp_path):
    code, out, err = memseg("report", answers, "--out", tmp_path / "r.html")
    assert code == 0 and str(tmp_path / "r.html") in out and (tmp_path / "r.html").exists(), err
    assert memseg("report", answers, "--out", tmp_path / "r.pdf")[0] == 2
    assert memseg("report", tmp_path / "none")[0] == 1
    shutil.copytree(evaluated.folder, tmp_path / "run", ignore=shutil.ignore_patterns("report.html"))
    code, out, err = memseg("evaluate", tmp_path / "run", "--device", "cpu")
    assert code == 0 and f"report: {tmp_path / 'run' / 'report.html'}" in out, err
    assert len(Page(tmp_path / "run" / "report.html").all("article")) > 4


@pytest.mark.skipif(not (CHROMIUM and find_spec("playwright")),
                    reason="pages are visited with Chromium and Playwright: apt install chromium")
def test_in_a_browser(playwright, answers):
    "Filters by keyboard, fades by arrow key, loads nothing, and shows both pictures without JavaScript"
    address = report(answers, progress=False).file.as_uri()
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[
        "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"])
    page, said, asked = browser.new_page(viewport=dict(width=390, height=800)), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    def shown(): return page.locator(".photo:visible h3").all_inner_texts()
    assert len(shown()) == 4 and "4 of 4 shown" in page.inner_text("[role=status]")
    page.get_by_role("button", name="called defective").focus()
    page.keyboard.press("Enter")
    assert shown() == ["a/x.jpg", "a/x.png"]
    overlay, slider = page.locator(".photo:visible img").nth(1), page.locator(".photo:visible input").first
    assert overlay.evaluate("one => getComputedStyle(one).opacity") == "1"
    slider.focus()
    page.keyboard.press("Home")
    assert overlay.evaluate("one => getComputedStyle(one).opacity") == "0"
    page.emulate_media(media="print")
    assert overlay.evaluate("one => getComputedStyle(one).opacity") == "1" and not slider.is_visible()
    assert not said and all(one.startswith(("file:", "data:")) for one in asked)
    plain = browser.new_context(java_script_enabled=False).new_page()
    plain.goto(address)
    boxes = [image.bounding_box() for image in plain.locator("img").all()[:2]]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    assert not plain.locator("button").first.is_visible()
    browser.close()
