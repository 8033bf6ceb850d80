"A miniature of MVTec AD: fifteen categories in its names, through `memseg benchmark`"
import csv
import json
import math

import pytest
from conftest import TINY

from memseg_nb.benchmark import MVTEC, PUBLISHED, benchmark, markdown, mean
from memseg_nb.cli import main
from memseg_nb.products import PRODUCTS, write_products
from memseg_nb.recipe import MemSegError

SETTINGS = [word for setting in TINY + ["training.steps=1"] for word in ("--set", setting)]


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    "Embedded products under MVTec AD's names; `screw` is broken: its good images are cut off"
    folder = tmp_path_factory.mktemp("mvtec")
    names = list(PRODUCTS)
    for k, category in enumerate(MVTEC):
        product = names[k % len(names)]
        path, = write_products(folder, product, size=(64, 64), seed=k, train=5, good=2, defective=1, progress=False)
        path.rename(folder / category)
    for path in (folder / "screw" / "train" / "good").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    return folder


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code


def test_fifteen_categories_one_broken(miniature, tmp_path, capfd):
    out = tmp_path / "runs"
    assert run("benchmark", "--data", miniature, "--out", out, "--mvtec", *SETTINGS) == 1
    assert "screw" in capfd.readouterr().err
    rows = {row["category"]: row for row in csv.DictReader((out / "results.csv").open())}
    assert tuple(rows) == MVTEC
    assert rows["screw"]["error"] and not rows["screw"]["image_auroc"]
    for name in set(MVTEC) - {"screw"}:
        figures = json.loads((out / name / "metrics.json").read_text())
        assert float(rows[name]["image_auroc"]) == figures["image_auroc"] and not rows[name]["error"]
    table = (out / "results.md").read_text()
    assert "mean of 14" in table and "0.9956" in table and "0.9884" in table
    scores = [float(rows[name]["image_auroc"]) for name in MVTEC if name != "screw"]
    assert f"{math.fsum(scores) / 14:.4f}" in table

    before = {p: p.stat().st_mtime_ns for p in out.rglob("model.safetensors")}
    write_products(tmp_path, "wood", size=(64, 64), train=5, good=2, defective=1, progress=False)
    for path in (miniature / "screw" / "train" / "good").iterdir():
        path.write_bytes((tmp_path / "wood" / "train" / "good" / path.name).read_bytes())
    assert run("benchmark", "--data", miniature, "--out", out, "--mvtec", *SETTINGS) == 0
    assert "mean of 15" in (out / "results.md").read_text()
    assert before == {p: p.stat().st_mtime_ns for p in before}, "finished products were trained again"


def test_chosen_categories(miniature, tmp_path, tiny_recipe):
    rows = benchmark(miniature, tmp_path / "runs", ["wood", "nothing"], tiny_recipe, progress=False)
    assert [row["category"] for row in rows] == ["wood", "nothing"]
    assert not rows[0]["error"] and "bottle" in rows[1]["error"]


def test_nothing_to_do_is_said(tmp_path, tiny_recipe):
    with pytest.raises(MemSegError, match="no products"):
        benchmark(tmp_path, tmp_path / "runs", recipe=tiny_recipe)


def test_mean_leaves_out_what_is_not_known():
    rows = [dict(image_auroc=1.), dict(image_auroc=.5), dict(image_auroc=None)]
    assert mean(rows, "image_auroc") == (.75, 2)


def test_published_figures_are_the_papers():
    assert PUBLISHED["MemSeg, as published (arXiv 2205.00908)"] == dict(image_auroc=.9956, pixel_auroc=.9884)
    assert "- |" in markdown([dict(category="a", image_auroc=.5, pixel_auroc=None, aupro=None, error="")])
