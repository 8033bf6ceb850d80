"A miniature of MVTec AD: fifteen categories in its names, through `memseg benchmark`"
import csv
import json
import math
import os
import shutil
import signal
import threading
import time

import pytest
from conftest import TINY

from memseg_nb.files import WRITTEN
from memseg_nb.evaluation.benchmark import (MVTEC, PUBLISHED, benchmark, markdown, mean, train_and_score,
                                            worker_device,
                                            worker_number)
from memseg_nb.training.checkpoints import Run
from memseg_nb.cli import main
from memseg_nb.products.catalogue import PRODUCTS, write_products
from memseg_nb.files import MemSegError, locked
from memseg_nb.recipe import load_recipe

SETTINGS = [word for setting in TINY + ["training.steps=1"] for word in ("--set", setting)]


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    "Embedded products under MVTec AD's names; `screw` is broken: its good images are cut off"
    folder = tmp_path_factory.mktemp("mvtec")
    names = list(PRODUCTS)
    for k, category in enumerate(MVTEC):
        product = names[k % len(names)]
        path, = write_products(folder, product, size=(64, 64), seed=k, train=5, good=2, defective=1,
                               progress=False)
        path.rename(folder / category)
    for path in (folder / "screw" / "train" / "good").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    return folder


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code


def test_fifteen_categories_one_broken(miniature, tmp_path, capfd, monkeypatch):
    # half of the time, and tested elsewhere
    monkeypatch.setattr("memseg_nb.evaluation.evaluate.write_figures", lambda *_, **__: None)
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


# several at a time

@pytest.fixture(scope="module")
def three(miniature, tmp_path_factory):
    "Three products, one of them broken, one after the other: the rows and the table"
    out = tmp_path_factory.mktemp("three")
    recipe = load_recipe(overrides=[*TINY, "training.steps=1"])
    for path in (miniature / "pill" / "train" / "good").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    rows = benchmark(miniature, out / "one", ["wood", "pill", "tile"], recipe, progress=False)
    return miniature, recipe, out, rows


def test_two_workers_make_the_same_table(three, capfd):
    data, recipe, out, rows = three
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert benchmark(data, out / "two", ["wood", "pill", "tile"], recipe, jobs=2) == rows
    for name in ("results.csv", "results.md"):
        assert (out / "one" / name).read_text() == (out / "two" / name).read_text()
    shown = capfd.readouterr()
    assert sorted(line.split(":")[0] for line in shown.out.strip().split("\n")) == ["pill", "tile", "wood"]
    assert "training" not in shown.err and [p.name for p in (out / "two").glob(".*")] == [WRITTEN]


def test_ctrl_c_stops_the_workers_and_the_same_call_goes_on(three):
    data, recipe, out, _ = three
    long = recipe.replace(**{"training.steps": 2000})

    def press():
        while not list((out / "long").glob("*/losses.csv")):
            time.sleep(.1)
        os.kill(os.getpid(), signal.SIGINT)

    finger = threading.Thread(target=press)
    finger.start()
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        benchmark(data, out / "long", ["wood", "tile"], long, progress=False, jobs=2)
    finger.join()
    runs = [Run(out / "long" / name)
            for name in ("wood", "tile") if (out / "long" / name / "run.json").exists()]
    assert runs and all(run.record["status"] == "interrupted" and run.checkpoint_file.exists()
                        for run in runs)


def test_a_run_that_was_cut_off_before_its_first_step_begins_again(three, tmp_path):
    data, recipe, _, rows = three
    Run.create(tmp_path / "runs" / "wood", recipe, data=str(data), category="wood")
    (tmp_path / "runs" / "wood" / ".checkpoint.safetensors.1.part").write_bytes(b"half")
    assert benchmark(data, tmp_path / "runs", ["wood"], recipe, progress=False) == rows[:1]


def test_a_folder_of_runs_has_one_writer_and_what_killed_ones_left_goes(three, tmp_path):
    data, recipe, _, rows = three
    (tmp_path / ".workers.999999999.ab_1.part").mkdir()
    (tmp_path / ".results.csv.999999999.1.part").write_text("half")
    with locked(tmp_path), pytest.raises(MemSegError, match="in use by process .* since"):
        benchmark(data, tmp_path, ["wood"], recipe, progress=False)
    assert benchmark(data, tmp_path, ["wood"], recipe, progress=False) == rows[:1]
    assert [path.name for path in tmp_path.rglob(".*")] == [WRITTEN]


@pytest.mark.parametrize("text", ['{"image_auroc": NaN, "pixel_auroc": 1, "aupro": 1}', '{"image_auroc": 2}',
                                  "{", "{}"])
def test_damaged_figures_become_an_error_that_names_the_file(three, tmp_path, text):
    data, recipe, out, _ = three
    shutil.copytree(out / "one" / "wood", tmp_path / "wood")
    Run(tmp_path / "wood").metrics_file.write_text(text)
    row = train_and_score(data, "wood", tmp_path / "wood", recipe, progress=False)
    assert "metrics.json" in row["error"] and row["image_auroc"] is None


def test_each_worker_has_a_gpu_and_a_number(tmp_path):
    assert [worker_device("auto", k, 3) for k in range(4)] == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert worker_device("auto", 1, 1) == "auto" and worker_device("cuda:1", 2, 8) == "cuda:1"
    with worker_number(tmp_path) as first, worker_number(tmp_path) as second:
        assert (first, second) == (0, 1)
    with worker_number(tmp_path) as again:
        assert again == 0


def test_a_benchmark_is_not_for_torchrun(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "here")
    with pytest.raises(MemSegError, match="--jobs"):
        benchmark(tmp_path, tmp_path / "runs", jobs=2)
