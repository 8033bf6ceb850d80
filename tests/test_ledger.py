"The ledger of paper and code: complete, and every function that it names is there and tested"

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import chapters
import course
import ledger
import library

from memseg_nb.recipe import flatten, load_recipe

# What the paper has a symbol or a step for, by the lesson that accounts for it
METHOD = {
    "data/01_images": ["$I$", "ground truth"],
    "simulation/01_perlin": ["$P$", "angle", "$M_P$"],
    "simulation/02_foreground": ["$M_I$", "texture products"],
    "simulation/03_textures": ["DTD"],
    "simulation/04_anomalies": [r"$M = M_P \cdot M_I$", "textural", "structural", "$I_A$"],
    "model/01_encoder": ["ResNet18", "blocks 1 to 3 frozen", "block 4", "$II$"],
    "model/02_memory": ["$N=30$", "$MI$", "$DI_i=", "$i^*=", "$DI^*$", "pooling"],
    "model/03_attention": ["$M_3$", "upsampling", "coordinate attention"],
    "model/04_msff": ["$CI_l", "times attention", "halve", "$F_2", r"\odot M_l"],
    "model/05_memseg": ["U-Net", "skip", r"$\hat S$"],
    "model/06_losses": ["$L_{l1} =", "$L_f =", r"$\gamma = 4$", r"$\alpha_t$", "$L ="],
    "training/01_steps": ["4 + 4", r"$\eta$", r"\theta"],
    "training/03_thresholds": ["image threshold"],
    "training/04_train": ["not trained on", "2700", "last weights"],
    "04_metrics": ["image score", "image AUROC", "pixel AUROC", "PRO (eq. 1)", "AUPRO"],
    "evaluation/05_results": ["results by category"],
}


def test_every_symbol_of_the_paper_has_a_row():
    symbols = {(row.lesson, row.symbol) for row in ledger.rows()}
    missing = [
        f"{lesson}: {words}"
        for lesson, some in METHOD.items()
        for words in some
        if not any(where == lesson and words in symbol for where, symbol in symbols)
    ]
    assert not missing


WITH_ROWS = {name for name in course.lessons() if name != "00_overview"}


def test_every_lesson_but_the_overview_has_rows():
    assert {row.lesson for row in ledger.rows()} == WITH_ROWS


def called(tree: ast.AST) -> set[str]:
    "Names that some code calls or imports from the library, or reads from one of its modules"
    nodes = list(ast.walk(tree))
    from_library = [
        alias
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("memseg_nb")
        for alias in node.names
    ]
    names = {alias.name for alias in from_library}
    here = {alias.asname or alias.name for alias in from_library}
    for node in nodes:
        if isinstance(node, ast.Call):
            ways = (ast.Attribute, "attr"), (ast.Name, "id")
            names |= {getattr(node.func, way) for kind, way in ways if isinstance(node.func, kind)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names |= {node.attr} if node.value.id in here else set()
    return names


def defined(word: str) -> bool:
    "Whether a private name, `module._name`, stands in that module"
    module, _, name = word.rpartition(".")
    source = library.modules().get(library.module_named(module) or "")
    return bool(source and re.search(rf"^(def|class) {name}\b|^{name}\b", source.source, re.MULTILINE))


def test_every_function_that_is_named_exists_and_is_tested():
    """A test counts that calls or imports it, not one that mentions it. What isn't of the paper, and how
    products are rendered, may be tested through what uses it."""
    tested = set().union(*(called(ast.parse(path.read_text())) for path in ROOT.glob("tests/test_*.py")))
    modules = {lesson.notebook: lesson.module for lesson in chapters.lessons()}
    rendering = {one for part in course.parts() for one in part.lessons if part.kind == "workshop"}
    known, wrong = {*flatten(load_recipe()), *library.modules()}, []
    for row in ledger.rows():
        place = f"{row.lesson}, {row.symbol}"
        for word in ledger.words(row):
            entry = ledger.find(word, modules[row.lesson])
            if not entry and "." in word and word not in known and not defined(word):
                wrong.append(f"{place}: there is no {word}")
            if entry and row.lesson not in rendering and row.verdict != "not in the paper":
                names = {entry.name.partition(".")[0], entry.name.rpartition(".")[2]}
                wrong += [] if names & tested else [f"{place}: no test calls {entry.name}"]
    assert not wrong, "\n".join(wrong)


# The parts


def test_a_mention_is_no_call():
    code = "from memseg_nb.model import losses\nimport os\n"
    code += "def test():\n    'l1_loss'\n    os.path\n    losses.focal_loss\n    memory.fill(3)\n"
    assert called(ast.parse(code)) == {"losses", "focal_loss", "fill"}


def test_cells_keep_bars_of_norms():
    assert ledger.split_cells(r"| $\|S\|_1$ | a | `b` | |") == [r"$\|S\|_1$", "a", "`b`", ""]


@pytest.mark.parametrize(
    "remark, where, expected",
    [
        ("as the paper; ties: unspecified", "3.3", "as the paper"),
        ("deviates, because it must", "3.3", "deviates"),
        ("deviates, because it must", "not in the paper", "deviates"),
        ("unspecified; as in the paper's figure", "3.3", "unspecified, we chose"),
        ("as the release", "overview", "unspecified, we chose"),
        ("ours", "-", "not in the paper"),
        ("", "", "not in the paper"),
        ("their idea", "Turing 1952", "not in the paper"),
        ("extension: thinner", "section 3.2", "not in the paper"),
        ("0.5", "section 3.2", "as the paper"),
        ("lowest", "unspecified", "unspecified, we chose"),
    ],
)
def test_verdict(remark, where, expected):
    assert ledger.verdict(remark, where) == expected


def test_rows_of_a_notebook(tmp_path):
    text = (
        "## Paper and code\\n\\n| what | function | |\\n|---|---|---|\\n| $x$ | `a.b` and `c()` | ours |"
        "\\n\\n## Summary\\n| no | no | no |\\n"
    )
    path = tmp_path / "01_x.ipynb"
    path.write_text(f'{{"cells": [{{"cell_type": "markdown", "source": ["{text}"]}}]}}')
    (row,) = ledger.rows_of(path, "01_x")
    assert row == ledger.Row("$x$", "", "`a.b` and `c()`", "ours", "01_x")
    assert row.verdict == "not in the paper" and ledger.words(row) == ["a.b", "c"]


def test_what_a_word_in_a_table_means():
    assert ledger.find("memory.Match", "").module == "model.memory"
    assert ledger.find("Match", "model.memory").name == "Match"
    assert ledger.find("light.take", "products.fabric").module == "products.light"
    for wrong in ("memory.Nothing", "Nothing", "losses.Match"):
        assert ledger.find(wrong, "model.memory") is None


def test_the_page_has_every_row_and_five_columns():
    lines = [line for line in ledger.page().splitlines() if line.startswith("| ")]
    assert {len(ledger.split_cells(line)) for line in lines} == {5}
    assert len(lines) == len(ledger.rows()) + 2 * len(WITH_ROWS)
    assert library.modules()  # names in it are links
    assert 'href="../reference/model.memory.html#Memory"' in ledger.page()
