"Sphinx's settings; the pages are written to build/docs/source by docs/build.py, which also starts Sphinx"

import html
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import chapters  # noqa: E402

project = "memseg_nb"
author = "The memseg_nb authors"
project_copyright = author
release = re.search(r'__version__ = "(.+)"', (ROOT / "memseg_nb" / "__init__.py").read_text())[1]
version = release
extensions = ["myst_nb", "sphinx.ext.mathjax"]
templates_path = ["_templates"]
exclude_patterns = []
language = "en"

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}  # widgets bring their own loader
myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}, "chtml": {"displayAlign": "center"}}

html_theme = "pydata_sphinx_theme"
html_title = "memseg_nb"
html_short_title = "memseg_nb"
REPOSITORY = "https://github.com/memseg-nb/memseg_nb"
html_baseurl = chapters.links.SITE
html_favicon = "_static/icon.svg"
html_static_path = ["_static", "../build/docs/static"]
html_css_files = ["live/board.css", "live/canvas.css", "memseg.css"]
html_js_files = [("memseg.js", {"defer": "defer"})]
html_search_scorer = str(ROOT / "docs" / "scorer.js")
html_copy_source = False
html_use_index = False
html_show_sourcelink = False
html_show_sphinx = False
html_sidebars = {"index": [], "overview": [], "licences": [], "live/**": [],
                 "course/**": ["course-nav"], "exercises/**": ["course-nav"],
                 "[ghrs]*/**": ["sidebar-nav-bs"]}
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {
        "text": "memseg_nb",
        "image_light": "_static/icon.svg",
        "image_dark": "_static/icon.svg",
        "alt_text": "",
    },
    "navbar_start": ["navbar-logo"],
    "navbar_end": ["theme-switcher", "navbar-icon-links"],
    "icon_links": [{"name": "Repository", "url": REPOSITORY, "icon": "fa-solid fa-code-branch"}],
    "navbar_persistent": ["search-button.html"],
    "secondary_sidebar_items": ["page-toc", "improve"],
    "footer_start": ["licence.html"],
    "footer_end": [],
    "show_prev_next": True,
    "header_links_before_dropdown": 7,
    "navigation_depth": 3,
    "show_toc_level": 2,
    "pygments_light_style": "github-light",
    "pygments_dark_style": "github-dark",
    "back_to_top_button": False,
}


def _about(app, pagename, templatename, context, doctree):
    "What other programs are told of a page, and where its text can be mended"
    record = ROOT / "build" / "docs" / "origins.json"
    origin = json.loads(record.read_text()).get(pagename) if record.exists() else None
    said = re.search(
        r'class="[^"]*subtitle[^"]*">\s*<p>(.+?)</p>', context.get("body") or "", flags=re.DOTALL
    )
    about = re.sub(r"<[^>]+>|\s+", " ", said[1]).strip() if said else (
        "MemSeg: learn, try and use a network that finds defects on products after seeing only good ones")
    context |= {"about": html.unescape(about), "origin": origin, "repository": REPOSITORY,
                "card": f"{html_baseurl}_static/live/assets/home/card.jpg"}


def _finish_body(app, pagename, templatename, context, doctree):
    "Pictures are loaded when they come into view, tables scroll by themselves"
    body = context.get("body")
    if not body:
        return
    body = re.sub(r"<img (?![^>]*loading=)", '<img loading="lazy" decoding="async" ', body)
    body = (
        re.sub(
            r"(<table class=\"[^\"]*table[^\"]*\">.*?</table>)",
            r'<div class="table-scroll" tabindex="0">\1</div>',
            body,
            flags=re.DOTALL,
        )
        if "pst-scrollable-table" not in body
        else body
    )
    context["body"] = body.replace(
        '<summary aria-label="Toggle hidden content">', "<summary>"
    )  # it is called what stands on it


def _course(app, pagename, templatename, context, doctree):
    "The sidebar of the course, and Previous and Next, as nbs/course.toml has them"
    if not pagename.startswith(("course/", "exercises/")):
        return
    context["course_nav"] = chapters.navigation()
    if pagename in chapters.neighbours():
        for name, (page, title) in zip(("prev", "next"), chapters.neighbours()[pagename]):
            context[name] = {"link": context["pathto"](page), "title": title}


def setup(app):
    app.connect("html-page-context", _course)
    app.connect("html-page-context", _about)
    app.connect("html-page-context", _finish_body, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
