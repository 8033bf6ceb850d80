"What several tests share: a tiny data set and a tiny recipe"
import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side: one core each
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait give up the core

import pytest
import torch

from memseg_nb.cli import main
from memseg_nb.products.catalogue import write_products
from memseg_nb.recipe import load_recipe

torch.set_num_threads(1)

# What `make test` leaves out and `make test-all` has: files, or single tests of a file, that take long and
# that only developers need. (Notebooks: see `needed` in test_notebooks.py.)
FULL = {
    "test_ablation": "dozens of small trainings",
    "test_bench": "the benchmark of the library",
    "test_benchmark": "fifteen trainings, and again in several processes",
    "test_comparison": "small trainings in every way to begin",
    "test_pretraining": "trainings of the encoder that comes with the package",
    "test_processes": "trainings in several processes",
    "test_site_live": "every widget on the pages in a browser; test_site visits the pages once",
    "test_site_photos": "a visitor's photos judged on the page, and by the library",
    "test_slides": "slides of every lesson, in a browser",
    "test_widgets_browser": "JupyterLab in a browser",
    "test_training::test_ctrl_c_anywhere_in_a_step_saves_nothing": "forty trainings",
    "test_exercises::test_a_typical_wrong_answer_gets_its_hint": "some hundred wrong answers",
    "test_exercises::test_garbage_is_rejected_with_words": "twenty answers to each exercise",
}
SPREAD = {"test_notebooks", "test_exercises"}  # their tests share nothing: any worker takes any of them
TOGETHER = {
    "test_site_live": "test_site",
    "test_site_photos": "test_site",
}  # one worker builds the site, others need not wait for it


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    "Mark what is left out"
    for item in items:
        file, test = item.path.stem, getattr(item, "originalname", item.name)
        if file in FULL or f"{file}::{test}" in FULL: item.add_marker(pytest.mark.full)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "Keep each file in one worker, so that what its tests share is made once"
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = Path(nodeid.partition("::")[0]).stem
            return nodeid if file in SPREAD else TOGETHER.get(file, file)
    return ByFile(config, log)


TINY = ["image.height=64", "image.width=64", "training.steps=3", "training.workers=0", "training.device=cpu",
        "training.good=2", "training.simulated=2", "memory.samples=3", "encoder.weights=random",
        "training.warm_start=auto"]


@pytest.fixture(scope="session")
def tiny_recipe():
    "Three steps at 64 x 64 pixels"
    return load_recipe(overrides=TINY)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    "A folder with one product, `hex_nut`; not to be written to"
    folder = tmp_path_factory.mktemp("data")
    write_products(folder, "hex_nut", size=(64, 64), train=12, good=4, defective=1, progress=False)
    return folder


@pytest.fixture(scope="session")
def tiny_run(tiny_data, tiny_recipe, tmp_path_factory):
    "A finished run on it; not to be written to"
    from memseg_nb.training.train import train
    return train(tiny_data, "hex_nut", tmp_path_factory.mktemp("runs") / "run", tiny_recipe, progress=False)


@pytest.fixture
def run(tiny_run, tmp_path):
    "The same, to be written to"
    from memseg_nb.training.checkpoints import Run
    shutil.copytree(tiny_run.folder, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture(scope="session")
def playwright():
    "One Playwright for all tests in a browser: a second one beside it is refused"
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as running:
        yield running


@pytest.fixture
def memseg(capfd):
    "Run the program in this process: exit code, standard output, standard error"
    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return stop.value.code, out, err
    return run
