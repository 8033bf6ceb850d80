"""Makes README.md from nbs/index.ipynb: python tests/make_readme.py (nbdev's own command needs Quarto)

The list of lessons in nbs/index.ipynb is made, too: from nbs/course.toml, and from the heads of the lessons.
"""
import json
import re
import tomllib
from pathlib import Path

from nbconvert import MarkdownExporter
from nbconvert.preprocessors import TagRemovePreprocessor

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "nbs" / "index.ipynb"
BLOCK = re.compile(r"(<!-- lessons:.*?-->\n).*?(<!-- end of lessons -->)", re.DOTALL)


def head(name):
    "Title of a lesson, and the line below it that says what it is about"
    cells = json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "".join(next(c["source"] for c in cells if c["cell_type"] == "markdown"))
    title = re.search(r"^# (.+)$", text, re.MULTILINE)[1].strip()
    about = re.search(r"^> ((?!\*\*).+(?:\n> (?!\*\*).+)*)", text, re.MULTILINE)
    return title, about[1].replace("\n> ", " ").strip().rstrip(".") if about else ""


def lessons():
    "The course as Markdown: a table of the main path, a list of the parts around it"
    parts = tomllib.loads((ROOT / "nbs" / "course.toml").read_text(encoding="utf-8"))["part"]
    rows = ["| lesson | what it is about |", "| --- | --- |"]
    for part in parts:
        if part["kind"] != "main": continue
        rows.append(f"| **{part['title']}** | *{part['about']}* |")
        rows += [f"| [{title}]({name}.ipynb) | {about} |"
                 for name in part["lessons"] for title, about in [head(name)]]
    for kind, words in (("further", "One step further"), ("workshop", "The workshop")):
        rows += ["", f"{words}:", ""]
        for part in parts:
            if part["kind"] == kind:
                links = ", ".join(f"[{head(name)[0]}]({name}.ipynb)" for name in part["lessons"])
                about = part["about"][0].lower() + part["about"][1:]
                rows.append(f"- **{part['title']}** ({about}): {links}")
    return "\n".join(rows)


def index():
    "The text of nbs/index.ipynb, with the list of lessons as it is now"
    notebook = json.loads(INDEX.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        text = BLOCK.sub(lambda found: f"{found[1]}{lessons()}\n{found[2]}", "".join(cell["source"]))
        cell["source"] = text.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def readme():
    "The text of README.md: prose and code of the index, its printed results, its links as seen from the root"
    exporter = MarkdownExporter()
    exporter.register_preprocessor(TagRemovePreprocessor(remove_cell_tags={"hide"}), enabled=True)
    text, _ = exporter.from_filename(str(INDEX))
    text = re.sub(r"<!--.*?-->\n?", "", text)
    text = re.sub(r"!\[([^\]]*)\]\((?!https?:)", r"![\1](nbs/", text)
    text = re.sub(r"\]\(((?:\w+/)?\w+\.(?:ipynb|md))", r"](nbs/\1", text).replace("](../", "](")
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    INDEX.write_text(index(), encoding="utf-8")
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
