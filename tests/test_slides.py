"Slides: every deck is whole, none is a wall of text, nothing sticks out of a slide, nothing comes from elsewhere"

import fcntl
import io
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "docs" / "slides")]
import chapters
import cut

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("markdown_it", "mdit_py_plugins", "pygments") if not find_spec(name)]
MISSING += [name for name in ("npm", "node") if not shutil.which(name)]
needs_tools = pytest.mark.skipif(bool(MISSING), reason=f"slides need {', '.join(MISSING)}: pip install "
                                 "'memseg-nb[docs]', Node.js")
needs_browser = pytest.mark.skipif(not (CHROMIUM and find_spec("playwright")),
                                   reason="slides are looked at with Chromium and Playwright: apt install "
                                   "chromium")
LESSONS = chapters.lessons()
each = pytest.mark.parametrize("lesson", LESSONS, ids=lambda c: c.name)
deck = cache(cut.deck)


# What goes on a slide

@each
def test_a_deck_is_whole(lesson):
    slides = deck(lesson)
    assert (slides[0].kind == "title" and slides[0].title == lesson.title and slides[0].line
            and slides[0].points)
    assert slides[-1].kind == "summary" and slides[-1].points
    pictures = [slide.picture for slide in slides if slide.picture]
    assert pictures and all(alt for alt, _ in pictures)
    assert all(slide.title for slide in slides) and 8 <= len(slides) <= 30


@each
def test_no_slide_is_a_wall_of_text(lesson):
    for slide in deck(lesson):
        words = " ".join([slide.line, *slide.points]).split()
        most = cut.BULLET if slide.kind == "question" else max(cut.SENTENCE, len((slide.picture or [""])[0]))
        assert len(words) <= 150 and len(slide.line) <= most, slide.title
        assert len(slide.points) <= 8 and len(slide.rows) <= cut.ROWS and len(slide.equations) <= 3
        assert len(slide.code.splitlines()) <= cut.CODE and len(slide.printed.splitlines()) <= cut.PRINTED
        things = [slide.picture, slide.code or slide.printed, slide.points, slide.rows]
        assert sum(map(bool, things)) <= 1 + bool(
            slide.points and slide.printed), f"{slide.title}: more than one thing"


@each
def test_pictures_questions_and_prose_are_all_there(lesson):
    notebook = chapters.read(lesson.path)
    sections = dict(cut.things(notebook["cells"]))
    slides = deck(lesson)
    shown = {value[0] for name, parts in sections.items()
             if name not in ("Play", "Paper and code", "Summary", "Exercises")
             for kind, value in parts if kind == "picture"}
    assert shown <= {slide.picture[0] for slide in slides if slide.picture}
    notes = re.sub(r"\s+", " ", " ".join(slide.notes for slide in slides))
    for name, parts in sections.items():
        prose = " ".join(value for kind, value in parts if kind == "prose")
        assert (not prose.strip()
                or re.sub(r"\s+", " ", prose).strip()[:80] in notes), f"{name}: its prose is in no notes"
    assert ("Play" in sections) == any(slide.kind == "question" and slide.line.endswith("?")
                                       for slide in slides)


def cell(source, *outputs): return dict(cell_type="code", source=source, outputs=list(outputs))
def prose(source): return dict(cell_type="markdown", source=source)
def stream(text): return dict(output_type="stream", text=[text])
def picture(alt):
    return dict(output_type="display_data", data={"image/png": "aGk="}, metadata={"image/png": {"alt": alt}})


def cut_up(*cells):
    (_, _), (title, parts), *_ = cut.things([prose("# Title\n"), *cells])
    return cut.section(title, parts)


def test_a_picture_takes_the_equations_and_the_first_sentence_before_it():
    one, two = cut_up(prose("## Light\n\nHere light falls. It falls far.\n\n$$a = b \\tag{1}$$"),
                      cell("show()", picture("a lamp")),
                      prose("**Shade.** Where none falls. At all."), cell("show()", picture("a shadow")),
                      prose("The end."))
    assert (one.title, one.line, one.equations, one.picture[0]) == (
        "Light", "Here light falls.", ["a = b "], "a lamp")
    assert (two.title, two.lead, two.line) == ("Shade", "Light", "Where none falls.")
    assert "It falls far." in one.notes and "At all." in two.notes and "The end." in two.notes


def test_long_sentences_are_passed_over_and_a_picture_without_prose_says_what_it_shows():
    one, two = cut_up(prose("## Light\n\n" + "Very " * 60 + "long.\n\nNow a short one.\n"),
                      cell("show()", picture("a lamp")), cell("show()", picture("a lamp that is out")))
    assert one.line == "Now a short one." and two.line == "a lamp that is out"


def test_code_is_shown_where_it_is_short_and_belongs():
    short, long = "x = 2 * 3\nprint(x)", "\n".join(f"x{k} = {k}" for k in range(30)) + "\nprint(1)"
    assert [s.code for s in cut_up(prose("## By hand\n\nTwice three is six."), cell(long, stream("1")),
                                   cell(short, stream("6\n")))] == [short]
    assert [s.code for s in cut_up(prose("## Light\n\nTwice three is six, and no more."),
                                   cell(short, stream("6\n")))] == [""]
    naive = "def naive_sum(a):\n    return 0"
    shown = cut_up(prose("## Naive, then fast\n\nOne by one they are added."), cell("def check(f): ..."),
                   cell(naive), cell("#| export\ndef total(a): ..."))
    assert [s.code for s in shown] == [naive, "def total(a): ..."]
    printed = cut_up(prose("## Break it\n\n**Too few.** What if there are none?"), cell(short, stream("6\n")))
    assert [(s.title, s.code, s.printed) for s in printed] == [("Too few", "", "6")]
    hidden = cut_up(prose("## By hand\n\nTwice three is six."), cell("#| hide\n" + short, stream("6\n")))
    assert not any(s.code for s in hidden)


def test_exercises_stay_in_the_notebook():
    shown = cut_up(prose("## Light\n\nHere light falls."), cell("show()", picture("a lamp")),
                   prose("### Exercise light.1 · How far? (using)\n\nIt falls far."),
                   cell('far = ...\n\ncourse.check("light.1", far)', stream("not answered yet")))
    assert [slide.picture[0] for slide in shown] == ["a lamp"] and "far" not in shown[0].notes


def test_a_panel_of_charts_is_a_picture():
    chart = dict(output_type="execute_result", metadata={"image/png": {"alt": "two bars"}},
                 data={"image/svg+xml": ["<svg ", "viewBox='0 0 3 2'/>"], "text/plain": "Which?\n2 bars"})
    slide, = cut_up(prose("## Light\n\nHere light falls."), cell("panel", chart))
    assert slide.picture == ("two bars", b"<svg viewBox='0 0 3 2'/>")


@needs_tools
def test_the_sharpest_picture_is_shown():
    import make
    figure = picture("a lamp")
    figure["data"] |= {"image/webp": "aGk="}
    slide, = cut_up(prose("## Light\n\nHere light falls."), cell("show()", figure))
    assert slide.picture == ("a lamp", b"hi")
    file = io.BytesIO()
    Image.new("RGB", (6, 4)).save(file, "WEBP")
    assert make._size(file.getvalue()) == (6, 4)
    assert make._size(b'<svg width="9pt" viewBox="0 0 741.6 360"/>') == (742, 360)


def test_play_asks_its_question():
    slide, = cut._play([("prose", "Move it. *At which threshold does it\nvanish?* Then look."),
                        ("picture", ("islands", b""))])
    assert (slide.line == "At which threshold does it vanish?" and slide.picture[0] == "islands"
            and slide.kind == "question")


def test_the_table_says_how_it_stands_to_the_paper():
    slide, = cut._ledger([("prose", "| symbol | where | function | as the paper? |\n|---|---|---|---|\n"
                           "| $a$ | section 3 | `blend` | as the paper |\n"
                           "| tone | not in the paper | `match` | ours |\n")])
    assert slide.rows == [["symbol", "function", "as the paper?"], ["$a$", "`blend`", "as the paper"],
                          ["tone", "`match`", "not in the paper"]]


def test_sentences():
    found = cut.sentences("One (e.g. this). Two? \"Three.\" Four:\n\n- a list\n\n$$a$$\n\n```python\nx. Y\n"
                          "```\n\n| a |")
    assert found == ["One (e.g. this).", "Two?", "\"Three.\"", "Four:"]
    assert cut.bare("see [a [b]](x.ipynb) and ![p](y.png)") == "see a [b] and ![p](y.png)"


# The pages

@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    "All decks"
    out, work = tmp_path_factory.mktemp("slides"), ROOT / "build" / "docs"
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:  # npm serves one at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([sys.executable, str(ROOT / "docs" / "slides" / "make.py"), "--out", str(out)],
                              capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes): self.found.append((tag, dict(attributes)))


@needs_tools
def test_pages_load_only_what_lies_beside_them(slides):
    for path in slides.glob("*.html"):
        tags = Tags(path.read_text()).found
        loaded = [a.get("src") or a.get("href") for tag, a in tags if tag in ("img", "script", "link")
                  and (a.get("src") or a.get("href"))]
        assert all(name == "data:," or (slides / name).is_file() for name in loaded), path.name
        assert all(a.get("alt") for tag, a in tags if tag == "img") and ("html", {"lang": "en"}) in tags
        assert "\0" not in path.read_text() and "\1" not in path.read_text()
    attention = (slides / "attention.html").read_text()
    notes = re.findall(r'<aside class="notes">.*?</aside>', attention, flags=re.DOTALL)
    assert "mjx-assistive-mml>" in attention and "<math" in "".join(notes) and "<svg" not in "".join(notes)
    assert "mjx-assistive-mml>" not in "".join(notes), "the speaker would read each formula twice"
    style = (slides / "assets" / "deck.css").read_text() + (slides / "assets" / "reveal.css").read_text()
    assert "http" not in re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL) and "@import" not in style


@needs_tools
def test_the_list_leads_to_every_deck(slides):
    links = {a["href"] for tag, a in Tags((slides / "index.html").read_text()).found if tag == "a"}
    assert links == {f"{c.name}.html" for c in LESSONS}


STICKS_OUT = """() => {
    const found = [];
    document.querySelectorAll('.slides > section').forEach((slide, k) => {
        Reveal.slide(k);
        const frame = slide.getBoundingClientRect(), say = (what) => found.push(`slide ${k + 1}: ${what}`);
        const inner = {left: frame.left + 60, right: frame.right - 60, top: frame.top + 40, bottom: frame.bottom - 50};
        if (Math.abs(frame.width - 1280) > 1 || Math.abs(frame.height - 720) > 1) say(`is ${frame.width} x ${frame.height}`);
        for (const node of slide.querySelectorAll(':scope > header, .things > *, li, tr, img, svg')) {
            if (node.closest('aside')) continue;
            const box = node.getBoundingClientRect();
            if (box.left < inner.left - 8 || box.right > inner.right + 8 || box.top < inner.top - 8 || box.bottom > inner.bottom + 8)
                say(`${node.tagName} ${node.textContent.slice(0, 60)} ${[box.left, box.top, box.right, box.bottom].map(Math.round)}`);
            if (node.tagName === 'PRE' && node.scrollWidth > node.clientWidth + 1) say(`code is cut: ${node.textContent.slice(0, 60)}`);
        }
        const header = slide.querySelector('header').getBoundingClientRect(), things = slide.querySelector('.things').getBoundingClientRect();
        if (header.bottom > things.top + 1) say('title and thing overlap');
        for (const image of slide.querySelectorAll('img')) {
            const box = image.getBoundingClientRect();
            if (!image.complete || !image.naturalWidth) say('a picture is missing');
            else if (Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight) * image.naturalWidth < 150) say('a picture is tiny');
        }
    });
    return found;
}"""


@needs_tools
@needs_browser
def test_nothing_sticks_out_and_nothing_is_asked_of_other_machines(slides, playwright):
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    page = browser.new_page(viewport=dict(width=1280, height=720))
    page.set_default_timeout(120_000)
    asked, errors, found = [], [], {}
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    for path in sorted(slides / f"{c.name}.html" for c in LESSONS):
        page.goto(path.as_uri(), wait_until="load")
        page.wait_for_function("window.Reveal?.isReady()")
        if out := page.evaluate(STICKS_OUT): found[path.stem] = out
    browser.close()
    assert not found, json.dumps(found, indent=1)
    assert not errors and not [url for url in asked if not url.startswith((slides.as_uri(), "data:"))]


@needs_tools
@needs_browser
def test_the_keyboard_leads_through_and_the_speaker_reads_the_prose(slides, playwright):
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    page = browser.new_page(viewport=dict(width=1280, height=720))
    page.set_default_timeout(120_000)
    page.goto((slides / "anomalies.html").as_uri())
    page.wait_for_function("window.Reveal?.isReady()")
    assert page.locator("section.present h1").inner_text() == "Simulation"
    page.keyboard.press("ArrowRight")
    assert page.locator("section.present h2").inner_text() == "The network"
    assert "lit here: perlin" in page.locator("section.present img").get_attribute("alt")
    page.keyboard.press("ArrowRight")
    assert page.locator("section.present h2").inner_text() == "The picture"
    assert (page.locator("section.present img").is_visible()
            and not page.locator("section.present aside.notes").is_visible())
    with page.expect_popup() as popup: page.keyboard.press("s")
    speaker = popup.value
    speaker.wait_for_function("document.querySelector('.speaker-controls-notes "
                              ".value')?.textContent.includes('thousands of images')")
    browser.close()


PRINTED = """() => [...document.querySelectorAll('.pdf-page')].map((sheet) => {
    const box = sheet.getBoundingClientRect(), parts = [...sheet.querySelectorAll('header, .things > *, .things img')];
    const inside = (part) => { const b = part.getBoundingClientRect();
        return b.left > box.left + 50 && b.right < box.right - 50 && b.top > box.top + 30 && b.bottom < box.bottom - 40; };
    const pictures = [...sheet.querySelectorAll('img')].every((image) => image.getBoundingClientRect().height > 100);
    return parts.every(inside) && pictures && box.height < 721; })"""


@needs_tools
@needs_browser
def test_printed_a_slide_fills_a_page(slides, playwright):
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    page = browser.new_page(viewport=dict(width=1280, height=720))
    page.set_default_timeout(120_000)
    page.goto((slides / "anomalies.html").as_uri() + "?print-pdf")
    page.wait_for_function("document.querySelectorAll('.pdf-page').length > 0 && window.Reveal.isReady()")
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    sheets, count = page.evaluate(PRINTED), len(deck(next(c for c in LESSONS if c.name == "anomalies")))
    browser.close()
    assert len(sheets) == count and all(sheets), [k for k, fine in enumerate(sheets, 1) if not fine]


@needs_tools
def test_an_unknown_lesson_is_named(tmp_path):
    line = [sys.executable, str(ROOT / "docs" / "slides" / "make.py"), "--out", str(tmp_path / "no"), "06"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert (done.returncode and done.stderr.startswith("06: no such lesson")
            and not (tmp_path / "no").exists())
