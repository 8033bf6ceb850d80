"""The live widgets: what they load, where they stand on the pages, and the page that has them all.

docs/live holds the Python that writes graphs and pictures, and the JavaScript that shows them."""

import functools
import html
import json
import shutil
from pathlib import Path

import course
import library
import links
import npm

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PACKAGE = ROOT / "memseg_nb"
CACHE = ROOT / "build" / "docs" / "live"
LIVE = "_static/live"
PAGE = "live/index"
# Name of a widget: title, the lesson of its idea, and what can be tried
WIDGETS = {
    "painter": (
        "Defect painter",
        "deployment/01_detector",
        "Paint on a product, and the network says whether it would notice.",
    ),
    "studio": (
        "Anomaly studio",
        "simulation/04_anomalies",
        "From a good photo, yours too, to a simulated defect, step by step.",
    ),
    "perlin": (
        "Perlin playground",
        "simulation/01_perlin",
        "The noise that decides where a simulated defect lies.",
    ),
    "memory": (
        "Memory explorer",
        "model/02_memory",
        "What the network compares an image with, and what differs.",
    ),
    "threshold": (
        "Threshold explorer",
        "training/03_thresholds",
        "From scores to decisions, and what each decision costs.",
    ),
    "monitor": (
        "Training monitor",
        "training/04_train",
        "A recorded training, to be gone through step by step.",
    ),
}
OWN = "live/photos"  # the page where visitors' own photos are judged
TITLES = {name: title for name, (title, *_) in WIDGETS.items()} | {"photos": "Your own photos"}
PRODUCTS = ("tablet", "hex_nut")  # that the network remembers; the first is shown
KEPT = ("assets.json", "fixtures.json", "fixtures.bin")  # not for the pages: for what writes and tests them
# What each loads beside the runtime, which controls of the notebook have no meaning here,
# and which buttons there are.
LOADS = {
    "painter": ["paint", "flaw", "flaws", "network", "memory-{product}"],
    "studio": ["studio", "texture", "draws"],
    "perlin": ["perlin", "draws"],
    "memory": ["network", "memory-{product}"],
    "threshold": ["scores"],
    "monitor": [],
    "photos": ["network", "keep", "others"],
}
LEFT_OUT = {"monitor": ("data", "category", "out")}
BUTTONS = {
    "painter": [
        {
            "name": "paste",
            "kind": "button",
            "label": "paste a flaw",
            "tooltip": "a flaw of the kind above, another one each time",
        },
        {"name": "undo", "kind": "button", "label": "take back", "tooltip": "the last stroke or flaw"},
        {"name": "clear", "kind": "button", "label": "clear", "tooltip": "all paint"},
    ],
    "studio": [
        {
            "name": "more",
            "kind": "button",
            "label": "twelve more like this",
            "tooltip": "the next twelve seeds with these settings",
        },
        {
            "name": "code",
            "kind": "button",
            "label": "show as code",
            "tooltip": "the settings as Python and as lines for settings.ini",
        },
    ],
}
HINTS = {
    "painter": "Paint with the mouse or a finger, or with arrow keys and Space; or paste a flaw. Then try a "
    "paler colour or a thinner brush.",
    "monitor": "This is a recording of a training: move through its steps, and watch the heatmap gather on "
    "the defect.",
}
OTHERS = ("painter", "memory", "threshold", "monitor")  # their network or photos are not those of a notebook
WHY_STILL = (
    "JavaScript is switched off here, so nothing moves: these pictures were computed by the library when the "
    "page was made."
)


def digest() -> str:
    "Of the code and the weights that the assets come from"
    return library.digest(*sorted((DOCS / "live").glob("*.py")))


def make() -> Path:  # folder with assets.json
    "The assets, unless they are there already for this code and these weights"
    from live.assets import write_site_assets

    folder, record, wanted = CACHE / "assets", CACHE / "made_from", digest()
    if not record.exists() or record.read_text() != wanted:
        print("the page's network and pictures: made anew, some two minutes", flush=True)
        shutil.rmtree(CACHE, ignore_errors=True)
        folder.mkdir(parents=True)
        write_site_assets(folder, PRODUCTS)
        record.write_text(wanted)
    facts.cache_clear()
    return folder


def home() -> dict:
    "What the home page says about its pictures"
    return json.loads((CACHE / "assets" / "assets.json").read_text())["home"]


@functools.cache
def facts() -> dict:
    "What pages and their JavaScript are told: of assets.json what they need, widgets by the names they have here"
    known = json.loads((CACHE / "assets" / "assets.json").read_text())
    product = next(iter(known["products"]))
    packed = {name: known[name] for name in ("draws", "flaws")} | {
        f"memory-{p}": one["memory"] for p, one in known["products"].items()
    }
    files = {name: one["file"] for name, one in (known["graphs"] | packed).items()}
    sizes = {name: {"file": f"assets/{file}", "bytes": known["files"][file]["stored"]}
             for name, file in files.items()}
    sizes["runtime"] = {"file": f"../ort/{npm.RUNTIME}.gz", "bytes": npm.packed_runtime().stat().st_size}
    names = {name: name for name in WIDGETS} | {
        "memory": f"explorer-{product}",
        "painter": f"painter-{product}",
    }
    parts = {
        name: known[name]
        for name in ("size", "side", "stamps", "kinds", "graphs", "colours", "studio", "products", "photos")
    }
    return parts | {
        "files": sizes,
        "networks": ["network", "keep", "others"],  # they share a runtime
        "arrays": {name: one["arrays"] for name, one in packed.items()},
        "threshold": _counted(known),
        "monitor": known["monitor"] | {"means": smooth(known["monitor"]["losses"])},
        "widgets": {name: _widget(name, known["widgets"][key], known, product)
                    for name, key in names.items()}
        | {"photos": _own_photos()},
    }


def smooth(losses: list[float]) -> list[float]:
    "As the monitor's chart shows them"
    from memseg_nb.widgets.monitor import smooth

    return [round(one, 5) for one in smooth(losses)]


def _counted(known: dict) -> dict:
    "Scores, and how many images have which"
    import numpy as np

    found, slider = known["threshold"], known["widgets"]["threshold"]["controls"]["threshold"]
    scores, bad = np.array(found["scores"]), np.array(found["labels"]) > 0
    edges = np.linspace(slider["min"], slider["max"], 31)
    counts = {name: np.histogram(scores[which], edges)[0].tolist()
              for name, which in (("good", ~bad), ("defective", bad))}
    return found | {"edges": edges.tolist()} | counts


def _widget(name: str, widget: dict, known: dict, product: str) -> dict:
    "Its words, its pictures and controls for the page, and what it has to load"
    controls = [_control(key, one) for key, one in widget["controls"].items()
                if key not in LEFT_OUT.get(name, ())]
    items = [dict(item, src=f"assets/{item['src']}") for item in widget["items"]]
    if name == "painter":
        items = [dict(item, width=200) for item in items]
        photo = known["products"][product]["painter"]["photos"][0]
        paper = {"name": "paper", "src": f"assets/{photo['image']}",
                 "alt": f"photo to paint on: {photo['alt']}"}
        items.insert(0, paper | {"caption": "photo to paint on", "width": 300})
    if name in ("painter", "memory") and len(known["products"]) > 1:
        menu = {
            "name": "product",
            "kind": "select",
            "label": "product",
            "options": list(known["products"]),
            "value": product,
        }
        controls.insert(0, menu)
    if name == "studio":
        # two in a row beside the controls of a notebook's page
        items = [dict(item, width=160) for item in items]
        controls[0]["options"] = [*controls[0]["options"], "own image"]
    if name == "monitor":
        last = known["monitor"]["steps"][-1]
        slider = {"name": "step", "kind": "range", "label": "step", "min": 1, "max": last, "step": 1,
                  "value": last}
        controls = [slider]
    status = f"Recorded. {widget['status']}" if name == "monitor" else widget["status"]
    words = {"question": widget["question"], "hint": HINTS.get(name, widget["hint"]), "status": status,
             "items": items}
    loads = [part.format(product=product) for part in LOADS[name]]
    return words | {"controls": controls + BUTTONS.get(name, []), "loads": loads,
                    "network": "network" in loads}


def _own_photos() -> dict:
    "The one widget that no notebook has: its photos are the visitor's"
    return {"question": "Does it find what is wrong on your product?",
            "hint": "Drop photos of good pieces, and one of a piece to be judged. Nothing is uploaded: "
                    "the network comes to your photos, and they stay on your machine.",
            "status": "No photos yet.", "items": [], "controls": [], "loads": LOADS["photos"],
            "network": True}


def _control(name: str, control: dict) -> dict:
    "A control of a notebook's widget as an input of a page"
    kinds = {"slider": "range", "choice": "choice", "menu": "select", "colour": "colour", "file": "file"}
    kept = {key: control[key] for key in ("value", "min", "max", "step", "options", "disabled")
            if key in control}
    return {"name": name, "kind": kinds[control["kind"]], "label": control["description"]} | kept


def copy_assets(
    static: Path,  # folder that becomes `_static` of the site
) -> None:
    "JavaScript, the notebooks' own front ends, graphs and pictures"
    target = static / "live"
    folder = make()
    writing = target / "facts.json"
    sources = [*(DOCS / "live").glob("*.js"), *(PACKAGE / "front").glob("*.*")]
    pairs = [(path, target / path.name) for path in sources]
    pairs += [(p, target / "assets" / p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()
              and p.name not in KEPT]
    for path, copy in pairs:
        if not copy.exists() or copy.read_bytes() != path.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    text = json.dumps(facts(), separators=(",", ":"))
    if not writing.exists() or writing.read_text() != text:
        writing.write_text(text)
    wanted = {writing, *(copy for _, copy in pairs)}
    for path in target.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()


def asked(
    question: str,  # that a notebook's widget shows
) -> str | None:  # name of the live widget that asks it
    "Which live widget a widget of a notebook is"
    return next((name for name, widget in facts()["widgets"].items() if widget["question"] == question), None)


def size_of(name: str) -> float:  # MB
    "What a widget loads before it moves, the runtime included"
    loads, files = facts()["widgets"][name]["loads"], facts()["files"]
    return sum(files[part]["bytes"] for part in ["runtime", *loads]) / 1e6 if loads else 0.0


def _figure(item: dict, page: str) -> str:
    source = links.relative(page, f"{LIVE}/{item['src']}")
    space = '<span class="break"></span>' if item.get("newline") else ""
    return (
        (f'{space}<figure style="width:{item["width"]}px"><img src="{source}" '
         f'alt="{html.escape(item["alt"])}" '
         f'width="{item["width"]}"><figcaption>{html.escape(item.get("caption", ""))}</figcaption></figure>')
    )


def slot(
    name: str,  # of a widget
    page: str,  # where it stands
    beside: bool = False,  # whether the notebook's own picture stands above it
) -> str:  # HTML without empty lines
    "A live widget before anything is loaded: its question, pictures and words"
    others = " The notebook's picture, above, is of another network and other photos, so its numbers differ."
    widget = facts()["widgets"][name]
    pictures = "".join(_figure(item, page) for item in widget["items"])
    return (
        f'<section class="live memseg-panel" id="{name}" data-live="{name}" aria-label="{TITLES[name]}">\n'
        f'<p class="live-question">{html.escape(widget["question"])}</p>\n'
        f'<p class="live-hint">{html.escape(widget["hint"])}</p>\n'
        '<div class="live-body"><div class="memseg-board">'
        f'<p class="status">{html.escape(widget["status"])}</p>'
        f'<div class="pictures">{pictures}</div></div></div>\n'
        f'<p class="live-note">{_note(name)}{others if beside and name in OTHERS else ""}</p>\n'
        f'<noscript><p class="live-note">{WHY_STILL}</p></noscript>\n</section>\n'
        f'<script type="module" src="{links.relative(page, "_static/live/live.js")}"></script>'
    )


def played(
    widget: dict,  # as plays.known has it
    name: str,  # of its lesson's page
    page: str,  # where it stands
) -> str:  # HTML without empty lines
    "A lesson's widget with its states: what it shows first, before a control is moved"
    axes = [control["options"].index(control["value"]) for control in widget["controls"]]
    place = 0
    for at, control in zip(axes, widget["controls"]):
        place = place * len(control["options"]) + at
    first, folder = widget["states"][place], f"../plays/{name}"
    pictures = "".join(_figure(dict(item, src=f"{folder}/{item['src']}"), page) for item in first["items"])
    states = links.relative(page, f"_static/plays/{name}/{widget['number']}.json.gz")
    return (
        f'<section class="live memseg-panel" id="play-{widget["number"]}" data-play="{states}" '
        f'aria-label="{html.escape(widget["question"])}">\n'
        f'<p class="live-question">{html.escape(widget["question"])}</p>\n'
        f'<p class="live-hint">{html.escape(widget["hint"])}</p>\n'
        '<div class="live-body"><div class="memseg-board">'
        f'<p class="status">{html.escape(first["status"])}</p>'
        f'<div class="pictures">{pictures}</div></div></div>\n'
        '<p class="live-note">Computed by the library when the page was made, for the settings that the controls '
        "offer here; the notebook has all of them.</p>\n"
        f'<noscript><p class="live-note">{WHY_STILL}</p></noscript>\n</section>\n'
        f'<script type="module" src="{links.relative(page, "_static/live/live.js")}"></script>'
    )


def _note(name: str) -> str:
    "What it costs to make it move"
    size = size_of(name)
    if name == "photos":
        return (f"The network and what runs it, {size:.1f} MB, are loaded when you press the button, "
                "not before.")
    if not size:
        return ("A recording: the library trained this network when the page was made. Move the slider to go "
                "through it.")
    if facts()["widgets"][name]["network"]:
        return ("These pictures were computed by the library. To try it yourself, load the network and what "
                f"runs it ({size:.1f} MB together). Everything is then computed in your browser.")
    return (
        "These pictures were computed by the library. When you move a control, your browser computes new "
        f"ones: that loads {size:.1f} MB once, most of it the runtime that all widgets share."
    )


def table() -> str:
    "What is loaded, as a Markdown table"
    known = facts()
    users = {
        part: [title for name, title in TITLES.items() if part in known["widgets"][name]["loads"]]
        for part in known["files"]
    }
    users["runtime"] = ["all but the training monitor"]
    rows = [
        f"| {name} | {one['bytes'] / 1e3:,.0f} kB | {', '.join(users[name])} |"
        for name, one in known["files"].items()
    ]
    sheets = [(CACHE / "assets" / name).stat().st_size for name in known["studio"]["sheets"]]
    each = f"up to {max(sheets) / 1e3:,.0f} kB"
    rows.append(
        f"| one of {len(sheets)} sheets of texture, when a seed needs it | {each} | {WIDGETS['studio'][0]} |"
    )
    return "\n".join(["| file | size on the way | used by |", "| --- | --: | --- |", *rows])


def text() -> str:
    "The laboratory: every live widget on one page"
    parts = [
        "---\nhtml_theme.sidebar_secondary.remove: true\n---",
        "# Laboratory",
        '<span class="live-page"></span>',
        ":::{container} subtitle\nThe method under your hands: nothing is installed, nothing leaves your "
        "machine\n:::",
        "These are the widgets of the course, as in its notebooks. Where a notebook asks Python, a page asks "
        "[graphs that were exported from the library](../howto/live.md): the same noise, the same mask, the "
        "same network.",
        "The same network judges [your own photos](photos.md): ten good ones and one to judge.",
    ]
    for name, (title, lesson, about) in WIDGETS.items():
        parts += [
            f"## {title}",
            f"{about} What is behind it: [{course.name(lesson)}](../{course.page(lesson)}.ipynb).",
            slot(name, PAGE),
        ]
    parts.append("```{toctree}\n:hidden:\n\nYour own photos <photos>\n```")
    return "\n\n".join(parts) + "\n"


def photos() -> str:
    "The page where visitors' own photos are judged"
    size, product = facts()["size"], next(iter(facts()["products"])).replace("_", " ")
    return "\n\n".join([
        "---\nhtml_theme.sidebar_secondary.remove: true\n---",
        "# Your own photos",
        ":::{container} subtitle\nTen good ones and one to judge. Your photos stay on your machine\n:::",
        slot("photos", OWN),
        "## How to take them",
        "Take all photos alike: the same camera, distance, light and background, one piece a photo. Ten "
        "good photos are enough to see something; with twenty or more the threshold becomes reliable. A "
        "phone's camera will do.",
        f"*Take an example* fills the page with ten good photos of a {product}, rendered by the library, "
        "and two to be judged.",
        "## What happens",
        f"Your browser brings each photo to {size} x {size} pixels; it keeps its shape, and bars in its "
        "mean colour fill the square. The network's encoder turns the good photos into a "
        "[memory](../course/memory.ipynb). Each good photo is then judged by the others, and their "
        "scores give the [threshold](../course/thresholds.ipynb). The network itself learns nothing "
        "here: it has been trained on formulas only, and has seen neither your product nor any "
        "photograph.",
        "On your computer `memseg predict --memory GOOD PHOTOS --out DIR` does the same with the whole "
        "network; with ImageNet features, and with training, it finds more: [own photos](../howto/"
        "own-data.md). The page's network has its weights in about four bits each, to load fast, and "
        "its threshold knows only your good photos, where the library looks at simulated defects too.",
    ]) + "\n"
