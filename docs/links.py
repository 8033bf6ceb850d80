"Where things of the repository stand on the site, and Markdown whose links and back-ticked names lead there"

import html
import os
import re
from pathlib import Path, PurePosixPath

import course
import library

ROOT = Path(__file__).parents[1]
SITE = "https://memseg-nb.github.io/memseg_nb/"  # where notebooks and guides find a widget's setting
# Files of the repository that have a page of another name; every notebook, guide and module has one as well.
PAGES = {
    "README.md": "overview",
    "nbs/index.ipynb": "overview",
    "data/README.md": "results/data",
    "memseg_nb/weights/README.md": "results/model-card",
    "settings.ini": "reference/settings",
    "nbs": "course/index",
    "nbs/exercises": "course/index",
    "nbs/course.toml": "course/index",
    "nbs/guides": "guides/index",
    "memseg_nb": "reference/index",
}
WITHOUT_PAGE = ("LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md")
PIECES = re.compile(
    r"(?P<fence>^(?P<marks>`{3,}|~{3,}).*?^(?P=marks)[ \t]*$)"
    r"|(?P<heading>^#{1,6} [^\n]*$)"
    r"|(?P<math>\$\$.+?\$\$|(?<![\\$])\$[^$\n]+\$)"
    r"|(?P<link>!?\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]+)(?P<title>\s+\"[^\"]*\")?\))"
    r"|(?P<code>(?<!`)`(?P<name>[\w.]+(?:\(\))?)`(?!`))",
    flags=re.MULTILINE | re.DOTALL,
)


def page_of(
    path: str,  # of a file, from the root of the repository
) -> str | None:  # its page without suffix, or None if it has none
    "The page that shows a file"
    if path in PAGES:
        return PAGES[path]
    parts = PurePosixPath(path)
    if parts.suffix == ".ipynb" and parts.parts[0] == "nbs":
        return course.page(parts.relative_to("nbs").with_suffix("").as_posix())
    if parts.suffix == ".md" and parts.parent.as_posix() == "nbs/guides":
        return f"guides/{parts.stem}"
    if parts.suffix == ".md" and parts.parts[0] == "docs":
        return parts.relative_to("docs").with_suffix("").as_posix()
    if parts.suffix == ".py" and parts.parts[0] == "memseg_nb":
        module = library.dotted(parts.relative_to("memseg_nb"))
        return f"source/{module}" if module in library.modules() else None
    return None


def relative(page: str, other: str) -> str:
    "The way from one page to another file of the site"
    return os.path.relpath(other, PurePosixPath(page).parent.as_posix() or ".").replace(os.sep, "/")


def address(entry: library.Name | library.Module, page: str) -> str:
    "Link from a page to where the reference describes a name or a module"
    anchor = f"#{entry.name}" if isinstance(entry, library.Name) else ""
    module = entry.module if isinstance(entry, library.Name) else entry.name
    return relative(page, f"reference/{module}.html") + anchor


def reference_link(entry: library.Name | library.Module, page: str, text: str) -> str:
    "The same as HTML"
    return f'<a class="name" href="{address(entry, page)}"><code>{html.escape(text)}</code></a>'


class Markdown:
    "Rewrites the Markdown of one page"

    def __init__(
        self,
        origin: str,  # file of the repository it comes from: "nbs/simulation/04_anomalies.ipynb"
        page: str,  # where it stands on the site: "course/anomalies"
        module: str = "",  # module it is about
        imported: dict | None = None,  # names it imports from the library, and from which module
    ):
        self.origin, self.page, self.module, self.imported = origin, page, module, imported or {}
        self.images: dict[str, str] = {}  # file of the repository -> file of the site: to be copied

    def __call__(self, text: str) -> str:
        "Links between files become links between pages, names of the library become links to the reference"
        return PIECES.sub(self._piece, text)

    def _piece(self, found: re.Match) -> str:
        if found["code"]:
            entry = library.find(found["name"], self.module, self.imported)
            return reference_link(entry, self.page, found["name"]) if entry else found[0]
        if found["link"]:
            return self._link(found)
        return found[0]

    def _link(self, found: re.Match) -> str:
        target, title = found["target"], found["title"] or ""
        if target.startswith(SITE):
            here = html.escape(relative(self.page, target.removeprefix(SITE)))
            return f'<a href="{here}">{found["text"]}</a>'
        if re.match(r"[a-z]+:|#|attachment:", target) or (found["link"][0] != "!" and target.startswith("/")):
            return found[0]
        path, _, anchor = target.partition("#")
        path = os.path.normpath(os.path.join(os.path.dirname(self.origin), path)).replace(os.sep, "/")
        bang = "!" if found["link"].startswith("!") else ""
        anchor = f"#{anchor}" if anchor else ""
        if bang:
            return f"![{found['text']}]({self._image(path)}{title})"
        page = page_of(path)
        if page is None:
            if path in WITHOUT_PAGE or path.startswith("data/"):
                return found["text"]
            raise SystemExit(
                f"{self.origin}: links to {target}, which has no page: leave the link out, or give it a "
                "page in docs/links.py"
            )
        suffix = ".ipynb" if path.endswith(".ipynb") or page == "overview" else ".md"
        return f"[{found['text']}]({relative(self.page, page)}{suffix}{anchor}{title})"

    def _image(self, path: str) -> str:
        if not (ROOT / path).is_file():
            raise SystemExit(f"{self.origin}: shows {path}: there is no such file")
        self.images[path] = "pictures/" + path.replace("/", "-")
        return relative(self.page, self.images[path])
