"Pages of the reference: every exported name with signature, documentation, source and lesson; and the sources"

import html
import re

import chapters
import course
import library
import links
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer


ROOMS = {  # in the order in which data goes through them
    "": "The package itself: recipe, files, plots, metrics, the command line",
    "data": "Images, folders, masks",
    "products": "Embedded products, rendered",
    "simulation": "Simulated defects",
    "model": "The network and its losses",
    "training": "From good images to weights and thresholds",
    "pretraining": "Weights without photographs",
    "evaluation": "Scores, and experiments over many products",
    "deployment": "One photo, one answer; files for other programs",
    "widgets": "Questions that are answered by moving something",
    "bench": "Timing",
    "exercises": "Exercises that check themselves",
}


KINDS = ("class", "function", "method", "constant")  # in this order on a page
EXAMPLES = {  # of the classes that others begin with
    "deployment.detector.Detector": """
detector = Detector.remember("photos/bottle/train/good")  # or Detector.load("runs/bottle")
answer = detector.predict("photo.png")
print(answer.score, answer.is_defective, answer.largest_region)""",
    "deployment.answers.Prediction": """
answer = detector.predict("photo.png")
answer.show()                  # photo, map and overlay
answer.save("out", "photo")    # out/photo_overlay.png, out/photo_mask.png, out/photo_map.npy""",
    "model.memseg.MemSeg": """
model = build_model(load_recipe(), load_encoder("formulas")[0])
model.remember([good_images])           # a batch, (B, 3, H, W), 0..1
map = model.anomaly_map(images)         # (B, H, W), 0..1""",
    "model.memory.Memory": """
memory = Memory()
memory.fill(encoder(good_images))
match = memory(encoder(images))         # index, distances and difference to the nearest sample""",
    "model.encoder.Encoder": """
encoder = load_encoder("formulas")[0]
features = encoder(images)              # stem, layer1, layer2, layer3 of (B, 3, H, W), 0..1""",
    "simulation.anomalies.Simulator": """
recipe = load_recipe()
simulator = Simulator(recipe.perlin, recipe.simulation, ProceduralTextures())
made = simulator(good_images, torch.Generator().manual_seed(0))   # made.images, made.masks""",
    "recipe.Recipe": """
recipe = load_recipe("my.ini", ["training.steps=300"])
other = recipe.replace(**{"image.height": 256, "image.width": 256})""",
    "data.images.ImageSet": """
images = ImageSet(find_images("photos/bottle/train/good"), (256, 256))
batch = images.batch(range(8))          # (8, 3, 256, 256), 0..1""",
}


def in_rooms() -> dict[str, list[library.Module]]:
    "The modules of every room, in the order of their notebooks"
    order = {c.module: c.notebook for c in chapters.chapters() if c.module}
    found: dict[str, list[library.Module]] = {room: [] for room in ROOMS}
    for module in library.modules().values():
        room = module.name if module.name in ROOMS else module.name.rpartition(".")[0]
        found.setdefault(room, []).append(module)
    return {
        room: sorted(some, key=lambda m: (order.get(m.name, "~"), m.name))
        for room, some in found.items() if some
    }


def index() -> str:
    "The reference's first page: every module, room by room"
    parts = [
        "# Reference",
        ":::{container} subtitle\nEvery name that the library exports, with its source and its "
        "notebook\n:::",
        "The library is exported from the notebooks. Each entry shows the signature as it is "
        "written, with shape, unit and range of every parameter; *source* leads to the line in the "
        "module, *notebook* to the cell where it is derived. Settings are described in the "
        "[recipe](settings.md).",
    ]
    for room, modules in in_rooms().items():
        rows = "\n".join(f"| [`{m.name}`]({m.name}.md) | {m.doc.partition(chr(10))[0]} | "
                         f"{_lesson_links(m)} |" for m in modules)
        tree = "\n".join(f"{m.name} <{m.name}>" for m in modules)
        tree = tree if room else f"Settings <settings>\n{tree}"
        parts += [
            f"## {room or 'memseg_nb'}".replace("_", "\\_"),
            f"{ROOMS.get(room, room)}.",
            f"| module | what it is | notebook |\n| --- | --- | --- |\n{rows}",
            f"```{{toctree}}\n:hidden:\n:caption: {room or 'memseg_nb'}\n\n{tree}\n```",
        ]
    return "\n\n".join(parts) + "\n"


def _lesson_links(module: library.Module) -> str:
    known = {c.notebook: c for c in chapters.chapters()}
    return ", ".join(f"[{known[one].title}](../{known[one].page}.ipynb)"
                     for one in module.lessons if one in known)


def page(module: library.Module) -> str:
    "Everything a module exports"
    origin = f"memseg_nb/{module.name.replace('.', '/')}.py"
    markdown = links.Markdown(origin, f"reference/{module.name}", module.name)
    parts = [
        f"# {module.name}",
        f":::{{container}} subtitle\n{markdown(module.doc)}\n:::",
        f"`from memseg_nb.{module.name} import ...` · notebook: {_lesson_links(module) or 'none'} · "
        f"[whole source](../source/{module.name}.md)",
    ]
    for entry in sorted(module.exported, key=lambda one: KINDS.index(one.kind)):
        parts += _entry(entry, markdown, "##")
        if example := EXAMPLES.get(f"{module.name}.{entry.name}"):
            parts.append(f"```python\n{example.strip()}\n```")
        for method in entry.methods:
            parts += _entry(method, markdown, "###")
    return "\n\n".join(parts) + "\n"


def _entry(entry: library.Name, markdown: links.Markdown, marks: str) -> list[str]:
    ways = [f'<a href="../source/{entry.module}.html#L-{entry.line}">source</a>']
    if entry.lesson:
        anchor = entry.name.partition(".")[0]
        page = course.page(entry.lesson)
        ways.append(f'<a href="../{page}.html#code-{anchor}">notebook</a>')
    doc = markdown(entry.doc) if entry.doc else ""
    return [
        f"{marks} {_words(entry.name)}",
        f'<p class="entry-links" id="{entry.name}"><span>{entry.kind}</span> {" ".join(ways)}</p>',
        f"```python\n{entry.header}\n```",
        *([doc] if doc else []),
    ]


def _words(name: str) -> str:
    "A name as a heading: underscores are not emphasis"
    return name.replace("_", "\\_")


def source(module: library.Module) -> str:
    "A module's text with an anchor a line"
    formatter = HtmlFormatter(lineanchors="L", cssclass="highlight", wrapcode=True)
    code = highlight(module.source, PythonLexer(), formatter)
    code = re.sub(r'<a id="(L-\d+)"[^>]*>', r'<a id="\1">', code)  # no links: memseg.css counts the lines
    lesson = _lesson_links(module)
    return (
        f"---\norphan: true\n---\n\n# Source of {module.name}\n\n:::{{container}} subtitle\n"
        f"{html.escape(module.doc)}\n:::\n\n"
        f"[Reference](../reference/{module.name}.md)"
        + (f" · notebook: {lesson}" if lesson else "")
        + f'\n\n```{{raw}} html\n<div class="source">{code}</div>\n```\n'
    )


def settings(text: str) -> str:
    "settings.ini as a page"
    return (
        "# Settings\n\n:::{container} subtitle\nThe recipe: every hyper-parameter and path of the method\n"
        ":::\n\n"
        "This is `settings.ini` as it is shipped. Keep a file of your own with only what differs (`memseg "
        "train ... --recipe my.ini`), or override single values (`--set training.learning_rate=0.01`); the "
        "lesson [The recipe](../course/recipe.ipynb) explains how values are checked.\n\n"
        f"```ini\n{text.rstrip()}\n```\n"
    )
