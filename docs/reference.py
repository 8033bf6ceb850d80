"Pages of the reference: every exported name with signature, documentation, source and lesson; and the sources"

import html

import chapters
import library
import links
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer


def index() -> str:
    "The reference's first page: every module, in the order of the course"
    order = [c for c in chapters.chapters() if c.module]
    lessons = {module: c for c in reversed(order) for module in [c.module]}
    names = sorted(library.modules(), key=lambda name: (lessons[name].stem if name in lessons else "~", name))
    rows = "\n".join(
        f"| [`{name}`]({name}.md) | {library.modules()[name].doc} | {_lesson_links(library.modules()[name])} "
        "|" for name in names
    )
    tree = "\n".join(f"{name} <{name}>" for name in names)
    return (
        f"# Reference\n\n:::{{container}} subtitle\nEvery name that the library exports, with its source and "
        "its lesson\n:::\n\n"
        "The library is exported from the chapters. Each entry shows the signature as it is written, with "
        "shape, unit and range of every parameter; *source* leads to the line in the module, *lesson* to the "
        "cell in the chapter where it is derived. Settings are described in the [recipe](settings.md).\n\n"
        "| module | what it is | lesson |\n| --- | --- | --- |\n"
        f"{rows}\n\n```{{toctree}}\n:hidden:\n\nSettings <settings>\n{tree}\n```\n"
    )


def _lesson_links(module: library.Module) -> str:
    titles = {c.stem: f"{c.number} {c.title}" for c in chapters.chapters()}
    return ", ".join(f"[{titles[stem]}](../course/{stem}.ipynb)" for stem in module.lessons if stem in titles)


def page(module: library.Module) -> str:
    "Everything a module exports"
    markdown = links.Markdown(f"memseg_nb/{module.name}.py", f"reference/{module.name}", module.name)
    parts = [
        f"# {module.name}",
        f":::{{container}} subtitle\n{markdown(module.doc)}\n:::",
        f"`from memseg_nb.{module.name} import ...` · lesson: {_lesson_links(module) or 'none'} · "
        f"[whole source](../source/{module.name}.md)",
    ]
    for entry in module.exported:
        parts += _entry(entry, markdown, "##")
        for method in entry.methods:
            if method.doc or method.name.endswith("__init__"):
                parts += _entry(method, markdown, "###")
    return "\n\n".join(parts) + "\n"


def _entry(entry: library.Name, markdown: links.Markdown, marks: str) -> list[str]:
    ways = [f'<a href="../source/{entry.module}.html#L-{entry.line}">source</a>']
    if entry.lesson:
        anchor = entry.name.partition(".")[0]
        ways.append(f'<a href="../course/{entry.lesson}.html#code-{anchor}">lesson</a>')
    doc = markdown(entry.doc) if entry.doc else ""
    return [
        f'<span class="anchor" id="{entry.name}"></span>',
        f"{marks} {_words(entry.name)}",
        f'<p class="entry-links"><span>{entry.kind}</span> {" ".join(ways)}</p>',
        f"```python\n{entry.header}\n```",
        *([doc] if doc else []),
    ]


def _words(name: str) -> str:
    "A name as a heading: underscores are not emphasis"
    return name.replace("_", "\\_")


def source(module: library.Module) -> str:
    "A module's text with an anchor a line"
    formatter = HtmlFormatter(lineanchors="L", linenos="inline", cssclass="highlight", wrapcode=True)
    code = highlight(module.source, PythonLexer(), formatter)
    lesson = _lesson_links(module)
    return (
        f"---\norphan: true\n---\n\n# Source of {module.name}\n\n:::{{container}} subtitle\n"
        f"{html.escape(module.doc)}\n:::\n\n"
        f"[Reference](../reference/{module.name}.md)"
        + (f" · lesson: {lesson}" if lesson else "")
        + f'\n\n```{{raw}} html\n<div class="source">{code}</div>\n```\n'
    )


def settings(text: str) -> str:
    "settings.ini as a page"
    return (
        "# Settings\n\n:::{container} subtitle\nThe recipe: every hyper-parameter and path of the method\n"
        ":::\n\n"
        "This is `settings.ini` as it is shipped. Keep a file of your own with only what differs (`memseg "
        "train ... --recipe my.ini`), or override single values (`--set training.learning_rate=0.01`); the "
        "chapter [The recipe](../course/00_recipe.ipynb) explains how values are checked.\n\n"
        f"```ini\n{text.rstrip()}\n```\n"
    )
