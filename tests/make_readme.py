"Makes README.md from nbs/index.ipynb: python tests/make_readme.py (nbdev's own command needs Quarto)"
import re
from pathlib import Path

from nbconvert import MarkdownExporter
from nbconvert.preprocessors import TagRemovePreprocessor

ROOT = Path(__file__).parents[1]


def readme():
    "The text of README.md: prose and code of the index, its printed results, its pictures as links into nbs/"
    exporter = MarkdownExporter()
    exporter.register_preprocessor(TagRemovePreprocessor(remove_cell_tags={"hide"}), enabled=True)
    text, _ = exporter.from_filename(str(ROOT / "nbs" / "index.ipynb"))
    text = re.sub(r"!\[([^\]]*)\]\((?!https?:)", r"![\1](nbs/", text)
    text = re.sub(r"\]\(((?:\w+/)?\w+\.(?:ipynb|md))", r"](nbs/\1", text).replace("](../", "](")
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme())
