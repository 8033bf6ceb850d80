"The ledger of paper and code: complete, true, and noticing when it isn't"
from dataclasses import replace
from pathlib import Path

import pytest

import memseg_nb
from memseg_nb.ledger import (METHOD, Row, choose, gaps, ledger, markdown, of_method, read_settings,
                              read_tables, setting_verdict, split_cells, verdict)
from memseg_nb.files import MemSegError
from memseg_nb.recipe import flatten, load_recipe
from memseg_nb.references import (find_function, find_repository, index_callers, index_tests, reach,
                                  read_code, read_library, read_tests)
from memseg_nb.references import tests_of as find_tests

VERDICTS = {"as the paper", "deviates", "unspecified, we chose", "not in the paper"}


@pytest.fixture(scope="module")
def rows():
    return ledger()


@pytest.fixture(scope="module")
def library():
    return read_library()


# The real one

def test_every_symbol_has_a_row_a_function_and_a_test(rows):
    assert gaps(rows) == []
    for row in of_method(rows):
        assert row.functions and row.tests, f"{row.symbol}: {row.functions}, {row.tests}"


def test_rows_are_chosen_by_verdict_and_chapter(rows):
    chosen = choose(rows, "unspecified, we chose", "08_memory")
    assert chosen == [
        row for row in rows if row.chapter == "08_memory" and row.status == "unspecified, we chose"] != []
    assert (sum(len(choose(rows, kind)) for kind in VERDICTS) == len(rows)
            and choose(rows, "deviates", "no such") == [])


def test_the_list_of_symbols_is_the_methods():
    named = " ".join(METHOD)
    for symbol in ("$I$", "$P$", "$T$", "M_P", "M_I", "M = M_P", "I_n", "delta", "I_A", "$N$", "$MI$", "$II$",
                   "$DI$", "$i^*$",
                   "$DI^*$", "$CI$", "$M_1$", "$M_2$", "$M_3$", "coordinate attention", "F_l", "odot M_l",
                   "skips",
                   "hat S", "L_{l1}", "L_f", "gamma", "alpha_t", "lambda_l", "4 + 4", "cosine", "SGD", "2700",
                   "image score", "image AUROC", "pixel AUROC", "AUPRO to 0.3", "PRO", "threshold", "DTD",
                   "frozen"):
        assert symbol in named, symbol


def test_every_setting_has_a_row_a_reader_and_a_test(rows):
    settings = [row for row in rows if row.chapter == "settings.ini"]
    named = " ".join(row.symbol for row in settings)
    for key in flatten(load_recipe()):
        section = key.split(".")[0]
        assert f"`{key} = " in named or f"`[{section}]`" in named, key
    for row in settings:
        assert row.functions and row.tests and row.where, row


def test_every_verdict_is_one_of_four(rows):
    assert {row.status for row in rows} <= VERDICTS


def test_every_chapter_has_rows(rows):
    chapters = {path.stem for path in (find_repository() / "nbs").glob("*.ipynb")
                if "## Paper and code" in path.read_text()}
    assert chapters == {row.chapter for row in rows} - {"settings.ini"}


def test_shipped_values_that_are_not_the_papers_are_called_so(rows):
    verdicts = {row.symbol: row.status for row in rows}
    assert verdicts["`encoder.weights = auto`"] == verdicts["`data.textures = `"] == "deviates"
    assert verdicts["`memory.samples = 30`"] == verdicts["`loss.l1 = 0.6`"] == "as the paper"
    assert verdicts["`memory.pooling = 3`"] == "unspecified, we chose"


def test_markdown_keeps_its_columns(rows):
    lines = markdown(rows).splitlines()
    assert len(lines) == len(rows) + 2 and {len(split_cells(line)) for line in lines} == {6}


# What it would notice

def test_a_symbol_without_a_row(rows):
    for symbol, (chapter, words) in METHOD.items():
        without = [row for row in rows if row.chapter != chapter or words not in row.symbol]
        assert any(gap.startswith(symbol + ":") for gap in gaps(without)), symbol


def test_a_function_that_does_not_exist_and_one_without_a_test(rows):
    rows = [row for row in rows if row.chapter == "03_perlin"]
    row = rows[0]
    assert any(gap.endswith("there is no perlin.nothing")
               for gap in gaps([replace(row, functions=("perlin.nothing?",))]))
    lonely = replace(row, tests=(), status="as the paper", functions=("perlin.perlin",))
    assert any(gap.endswith("no test of perlin.perlin") for gap in gaps([lonely]))
    assert not any("no test" in gap for gap in gaps([replace(lonely, status="not in the paper")]))


def test_without_notebooks_it_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setattr(memseg_nb, "__file__", str(tmp_path / "memseg_nb" / "__init__.py"))
    with pytest.raises(MemSegError, match="clone of the repository"):
        ledger()


# The parts

def test_cells_keep_bars_of_norms():
    assert split_cells(r"| $\|S\|_1$ | a | `b` | |") == [r"$\|S\|_1$", "a", "`b`", ""]


@pytest.mark.parametrize("remark, where, expected", [
    ("as the paper; ties: unspecified", "3.3", "as the paper"),
    ("deviates, because it must", "3.3", "deviates"),
    ("deviates, because it must", "not in the paper", "deviates"),
    ("unspecified; as in the paper's figure", "3.3", "unspecified, we chose"),
    ("as the release", "overview", "unspecified, we chose"),
    ("ours", "-", "not in the paper"), ("", "", "not in the paper"),
    ("their idea", "Turing 1952", "not in the paper"),
    ("extension: thinner", "section 3.2", "not in the paper"),
    ("0.5", "section 3.2", "as the paper"), ("lowest", "unspecified", "unspecified, we chose"),
])
def test_verdict(remark, where, expected):
    assert verdict(remark, where) == expected


@pytest.mark.parametrize("tag, value, expected", [
    ("paper: 0.5", "0.5", "as the paper"), ("paper: 0.5", "0.6", "deviates"),
    ("paper: 0.04, 0.9, 3e-5", "3e-5", "as the paper"), ("paper: joint; release: level", "level", "deviates"),
    ("ours; 0 as in the paper", "0.0", "as the paper"), ("ours; 0 as in the paper", "0.3", "deviates"),
    ("paper: half and half", "0.5", "as the paper"), ("paper, release", "off", "as the paper"),
    ("paper of Hou et al. 2021: 32, 8", "16", "deviates"), ("release: 3", "5", "unspecified, we chose"),
    ("ours", "1", "unspecified, we chose"), ("", "1", "unspecified, we chose"),
])
def test_setting_verdict(tag, value, expected):
    assert setting_verdict(tag, value) == expected


def test_settings_of_a_file(tmp_path, library):
    (tmp_path / "s.ini").write_text("[loss]\n# One\n# and two.   [paper: 0.6]\nl1 = 0.6\nfocal = 0.3\n\n"
                                    "# Alone\ngamma = 4\n")
    l1, focal, gamma = read_settings(tmp_path / "s.ini", library)
    assert (l1.symbol, l1.where, l1.remark, l1.status) == (
        "`loss.l1 = 0.6`", "paper: 0.6", "One and two.", "as the paper")
    assert focal.status == "deviates" and gamma.where == "" and "losses.memseg_loss" in gamma.functions


def test_tables_of_a_folder(tmp_path):
    text = ("## Paper and code\n\n| what | function | |\n|---|---|---|\n| $x$ | `a.b` and `c` | ours |\n\n"
            "## Summary\n| no | no | no |\n")
    (tmp_path / "01_x.ipynb").write_text(
        '{"cells": [{"cell_type": "markdown", "source": ['
        + ", ".join(f'"{line}\\n"' for line in text.split("\n")) + "]}]}")
    assert read_tables(tmp_path) == [Row("$x$", "", ("a.b", "c"), "not in the paper", "ours", "01_x")]


def test_find_function(library):
    assert find_function("memory.Match", "losses", library) == "memory.Match"
    assert find_function("Match", "losses", library) == "memory.Match"
    assert find_function("formulas.FormulaProduct.draw", "", library) == "formulas.FormulaProduct"
    for wrong in ("memory.Nothing", "Nothing", "--memory", "a b"):
        assert find_function(wrong, "memory", library) is None


def test_tests_are_found_through_helpers_and_through_callers(tmp_path):
    (tmp_path / "test_a.py").write_text("from memseg_nb.model.losses import l1_loss\nimport memseg_nb\n"
                                        "from memseg_nb import losses as L\n"
                                        "def helper(): return l1_loss\ndef test_it(): helper()\n"
                                        "def test_that(): L.focal_loss\ndef test_other(): pass\n")
    code = read_code(tmp_path, "test_*.py")
    assert reach(code["test_a"], "test_it") == {"losses.l1_loss"} and not reach(code["test_a"], "test_other")
    index = index_tests(code)
    assert index == {"losses.l1_loss": ["test_a.py::test_it"], "losses.focal_loss": ["test_a.py::test_that"]}
    callers = {"losses._small": ["losses._middle"], "losses._middle": ["losses._small", "losses.l1_loss"]}
    assert find_tests("losses._small", index, callers) == ("test_a.py::test_it (through losses.l1_loss)",)
    assert find_tests("losses.nobody", index, callers) == ()


def test_a_changed_file_is_read_again(tmp_path):
    import os
    path = tmp_path / "a.py"
    path.write_text("x = 1\n")
    assert set(read_code(tmp_path)["a"].words) == {"x"}
    path.write_text("y = 1\n")
    os.utime(path, (1, 1))
    assert set(read_code(tmp_path)["a"].words) == {"y"}


def test_commands_are_used_by_the_group_they_are_handed_to(library):
    assert "cli.cli" in index_callers(library)["cli.train"]
    assert find_repository() / "tests" == Path(__file__).parent and "test_ledger" in read_tests()
