"Ways to begin: the same for all but what a way sets, one table for one setting, means that say over what"
import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from memseg_nb.data.images import read_image, resize
from memseg_nb.evaluation import comparison
from memseg_nb.training.checkpoints import Run, load_model
from memseg_nb.evaluation.comparison import (CARD, COLUMNS, DEFAULT, SAYS, TABLE, WAYS, card, compare_starts,
                                             figure, markdown, report, shares, summarise)
from memseg_nb.files import MemSegError
from memseg_nb.recipe import load_recipe
from memseg_nb.training.train import train

QUICK = load_recipe("formulas")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def small():
    "Two steps at 64 x 64 pixels, by count"
    return load_recipe("formulas", [*TINY, "training.steps=2", "training.precision=float32"])


@pytest.fixture(scope="module")
def done(tiny_data, small, tmp_path_factory):
    "A comparison of two ways with two seeds; not to be written to"
    out = tmp_path_factory.mktemp("comparison")
    rows = compare_starts(tiny_data, out, ways=("random", "instant"), seeds=2, minutes=0, recipe=small,
                          progress=False)
    return out, rows


@pytest.fixture
def untouched(monkeypatch):
    "Trainings that are not done have no decisions"
    nothing = dict.fromkeys(("true_positives", "false_positives", "true_negatives", "false_negatives"), 0)
    monkeypatch.setattr(comparison, "load_json", lambda file: {"confusion": nothing})


def row(way, category, seed=0, value=.5, error="", **more):
    return dict.fromkeys(COLUMNS) | dict(way=way, category=category, seed=seed, image_auroc=value,
                                         error=error) | more


# the ways

def test_every_way_is_a_recipe_and_has_a_description():
    assert set(SAYS) == set(WAYS) and set(DEFAULT) < set(WAYS)
    recipes = {way: QUICK.replace(**settings) for way, settings in WAYS.items() if way != "plain"}
    assert len(set(recipes.values())) == len(recipes) == len(WAYS) - 1  # `plain` has no network
    assert recipes["instant"].training.steps == 0 and recipes["instant"].training.minutes == 0


def test_each_of_the_first_ways_changes_one_thing_more():
    recipes = [QUICK.replace(**WAYS[way]) for way in ("random", "even", "encoder", "warm")]
    changed = [{line.split(":")[0] for line in a.differences(b)} for a, b in zip(recipes, recipes[1:])]
    # formulas bring their own exposure: `auto` is `mean` for them
    assert changed == [{"encoder.exposure"}, {"encoder.weights", "encoder.exposure"}, {"training.warm_start"}]


def test_imagenet_is_only_asked_for_by_name():
    assert "imagenet" not in DEFAULT and WAYS["imagenet"]["encoder.weights"] == "imagenet"
    assert not any("imagenet" in str(WAYS[way]) for way in DEFAULT)


def test_lite0_is_the_recipe_imagenet_whatever_it_stands_on():
    kept = {"training.minutes": 0., "training.precision": "float32"}
    wanted = load_recipe("imagenet").replace(**kept)
    for base in (load_recipe(), load_recipe("formulas"), load_recipe("imagenet")):
        assert base.replace(**kept | WAYS["lite0"]) == wanted
    assert WAYS["lite0_instant"] == WAYS["lite0"] | {"training.steps": 0, "training.minutes": 0}


def test_the_ways_of_a_card_follow_the_recipe():
    "`patches`, `untrained` and `trained` have the recipe's own features, and lose no setting of it"
    for base in QUICK, load_recipe("imagenet", ["training.learning_rate=0.01"]):
        own = {way: base.replace(**WAYS[way]) for way in CARD}
        assert own["trained"] == base and len({one.encoder for one in own.values()}) == 1
        assert [line.split(":")[0] for line in base.differences(own["untrained"])] == [
            "training.steps", "training.minutes"]


def test_nearest_patches_are_a_baseline_without_any_training(tiny_data, small, tmp_path):
    "The map doesn't change with the network's weights; it orders pixels as the distances of two layers"
    run = train(tiny_data, "hex_nut", tmp_path / "run", small.replace(**WAYS["patches"]), progress=False)
    model, draw = load_model(run), torch.Generator().manual_seed(0)
    assert run.record["steps_done"] == 0
    images = torch.stack([read_image(path) for path in
                          sorted((tiny_data / "hex_nut" / "test").rglob("*.png"))[:3]])
    before = model.anomaly_map(images)
    for part in (model.fusion, model.decoder):
        for weights in part.parameters(): weights.data.normal_(generator=draw)
    assert torch.equal(model.anomaly_map(images), before)
    assert model.calibration.weight.tolist() == [0, .25, .5]
    memory, scale, features, total = model.memory, model.calibration, model.encoder(images), 0
    for level in (2, 3):
        patches, spread, reach = (getattr(memory, name.format(level))
                                  for name in ("layer{}", "layer{}_spread", "reach{}"))
        soft = torch.nn.functional.avg_pool2d(features[level], 3, 1, 1, count_include_pad=False)
        unit = spread.view(-1) * soft.shape[1]**.5
        search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit((patches / unit).numpy())
        places = (soft.permute(0, 2, 3, 1).flatten(0, 2) / unit).numpy()
        far, index = (torch.from_numpy(found[:, 0]) for found in search.kneighbors(places))
        away = (far / reach[index]).float().view(len(soft), 1, *soft.shape[2:])
        away = (away - scale.mean[level - 1]) / scale.spread[level - 1]
        large = torch.nn.functional.interpolate(away, images.shape[2:], mode="bilinear")[:, 0]
        total = total + scale.weight[level - 1] * large
    order = before.flatten().argsort()
    assert (total.flatten()[order].diff() > -1e-5 * total.max()).all()  # the same order of pixels


# the trainings

def test_a_row_for_each_training_seeds_outermost(done):
    out, rows = done
    assert [(r["seed"], r["way"]) for r in rows] == [(0, "random"), (0, "instant"), (1, "random"),
                                                     (1, "instant")]
    assert all(not r["error"] and 0 <= r["image_auroc"] <= 1 and 0 <= r["pixel_auroc"] <= 1 for r in rows)
    with open(out / "comparison.csv", newline="") as file:
        assert next(csv.reader(file)) == list(COLUMNS)
    assert TABLE.read(out / "comparison.csv") == rows
    assert ("Image AUROC" in (out / "comparison.md").read_text()
            and (out / "comparison.png").stat().st_size > 1000)


def test_shares_are_those_of_the_decisions_on_disk(done):
    "Counted again from scores.csv: above the threshold means defective"
    out, rows = done
    for one in rows:
        folder = out / one["way"] / "hex_nut" / f"seed{one['seed']}"
        called = {True: [], False: []}
        for line in csv.DictReader((folder / "scores.csv").open()):
            above = float(line["score"]) > Run.open(folder).record["threshold"]
            called[line["kind"] == "good"].append(above)
        assert one["found"] == sum(called[False]) / len(called[False])
        assert one["false_alarms"] == sum(called[True]) / len(called[True])


def test_shares_of_nothing_are_unknown():
    counts = dict(true_positives=3, false_negatives=1, false_positives=0, true_negatives=0)
    assert shares({"confusion": counts}) == {"found": .75, "false_alarms": None}


def test_the_plain_baseline_is_measured_once(tiny_data, small, tmp_path, monkeypatch):
    "Its figures are those of numpy's distance to the mean; a second call reads them"
    rows = compare_starts(tiny_data, tmp_path, ways=("plain",), seeds=2, recipe=small, progress=False)
    root, size = tiny_data / "hex_nut", small.image.size
    read = lambda paths: np.stack([resize(read_image(path), size).numpy() for path in paths])  # noqa: E731
    mean = read(sorted((root / "train" / "good").glob("*.png"))).mean(0)
    tests = sorted((root / "test").rglob("*.png"))
    maps = np.sqrt(((read(tests) - mean)**2).mean(1)).reshape(len(tests), -1)
    top = np.sort(maps, 1)[:, -max(1, round(small.evaluation.top_share * maps.shape[1])):].mean(1)
    labels = [path.parent.name != "good" for path in tests]
    assert [(one["way"], one["seed"]) for one in rows] == [("plain", 0)] and not rows[0]["error"]
    assert math.isclose(rows[0]["image_auroc"], roc_auc_score(labels, top), abs_tol=1e-6)
    assert rows[0]["found"] is None
    monkeypatch.setattr(comparison, "baseline", lambda *args: pytest.fail("measured again"))
    assert compare_starts(tiny_data, tmp_path, ways=("plain",), seeds=2, recipe=small,
                          progress=False) == rows


def test_the_runs_differ_in_way_and_seed_only(done, small):
    out, _ = done
    for way in "random", "instant":
        for seed in 0, 1:
            run = Run.open(out / way / "hex_nut" / f"seed{seed}")
            expected = small.replace(**{"training.seed": seed, "training.minutes": 0} | WAYS[way])
            assert run.recipe == expected and run.finished
            assert run.record["steps_done"] == (0 if way == "instant" else 2)
            assert (run.record["warm_start"] is not None) == (way == "instant")


def test_networks_are_not_kept_and_nothing_is_done_twice(done, tiny_data, small, monkeypatch):
    out, rows = done
    assert not list(out.rglob("model.safetensors")) and not list(out.rglob("checkpoint.safetensors"))
    monkeypatch.setattr("memseg_nb.training.train.train_step", lambda *args: pytest.fail("trained again"))
    again = compare_starts(tiny_data, out, ways=("random", "instant"), seeds=2, minutes=0, recipe=small,
                           progress=False)
    assert again == rows


@pytest.mark.parametrize("minutes, change", [(1., {}), (0., {"training.learning_rate": .01})])
def test_other_settings_are_refused(done, tiny_data, small, minutes, change):
    out, rows = done
    before = (out / "comparison.csv").read_bytes()
    with pytest.raises(MemSegError, match="other settings: training"):
        compare_starts(tiny_data, out, ways=("random",), minutes=minutes, recipe=small.replace(**change),
                       progress=False)
    assert (out / "comparison.csv").read_bytes() == before


def test_every_training_gets_the_same_minutes(tiny_data, tmp_path, untouched, monkeypatch):
    seen = {}
    def note(data, name, folder, recipe, progress):
        seen[folder] = recipe
        return dict(category=name, image_auroc=.5, pixel_auroc=None, aupro=None, error="")
    monkeypatch.setattr(comparison, "train_and_score", note)
    compare_starts(tiny_data, tmp_path / "out", seeds=3, minutes=7, progress=False)
    assert len(seen) == 3 * len(DEFAULT)
    for folder, recipe in seen.items():
        instant = folder.parts[-3] == "instant"
        assert recipe.training.minutes == (0 if instant else 7) and (recipe.training.steps == 0) == instant
        assert folder.name == f"seed{recipe.training.seed}" and recipe.simulation == QUICK.simulation


def test_another_encoder_asks_for_other_ways(tiny_data, tmp_path, monkeypatch):
    "With EfficientNet-Lite0 the ways that are a ResNet18's would all fail"
    seen = []
    monkeypatch.setattr(comparison, "run_all", lambda table, trials, *rest, **more: seen.extend(trials))
    compare_starts(tiny_data, tmp_path / "out", seeds=2, recipe=load_recipe("imagenet"), progress=False)
    assert [way for way, _, seed in seen if seed == 0] == list(CARD)
    assert [way for way, _, seed in seen if seed == 1] == list(CARD[1:])


def test_the_recipes_seed_is_the_first(tiny_data, tmp_path, untouched, monkeypatch):
    figures = dict(category="hex_nut", image_auroc=.5, pixel_auroc=None, aupro=None, error="")
    monkeypatch.setattr(comparison, "train_and_score", lambda *args: figures)
    recipe = QUICK.replace(**{"training.seed": 5})
    rows = compare_starts(tiny_data, tmp_path, ways=["warm"], seeds=2, recipe=recipe, progress=False)
    assert [one["seed"] for one in rows] == [5, 6]


def test_a_failure_is_a_row_and_the_others_go_on(tiny_data, small, tmp_path, capsys):
    rows = compare_starts(tiny_data, tmp_path, ["teapot", "hex_nut"], ["instant"], 1, 0, small)
    assert "teapot" in rows[0]["error"] and rows[0]["image_auroc"] is None and not rows[1]["error"]
    assert ("Failed" in (tmp_path / "comparison.md").read_text()
            and "instant, hex_nut, seed 0: 0." in capsys.readouterr().out)
    assert TABLE.read(tmp_path / "comparison.csv") == rows


def test_what_cannot_be_begun(tiny_data, tmp_path):
    with pytest.raises(MemSegError, match="way 'cold': unknown, there are random, even"):
        compare_starts(tiny_data, tmp_path / "out", ways=["warm", "cold"])
    with pytest.raises(MemSegError, match="no such folder"):
        compare_starts(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MemSegError, match="no products"):
        compare_starts(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MemSegError, match="can't be made"):
        compare_starts(tiny_data, tmp_path / "file" / "out")


# the table

def test_mean_and_standard_deviation():
    rows = [row("warm", "nut", seed, value) for seed, value in enumerate((.90, .94, .95))]
    found = summarise(rows + [row("warm", "nut", 3, None, "power cut"), row("even", "nut", 0, .5)])
    assert (math.isclose(found["warm", "nut"].mean, .93)
            and math.isclose(found["warm", "nut"].deviation, .0007**.5))
    assert found["warm", "nut"].seeds == 3 and found["even", "nut"] == (.5, None, 1)
    assert summarise(rows, "aupro") == {}


def test_the_mean_is_over_products_that_all_ways_have():
    rows = [row("random", "a", value=.6), row("warm", "a", value=.8), row("random", "b", value=.9),
            row("warm", "b", value=None, error="power cut")]
    table = markdown(rows).splitlines()
    assert table[0] == f"| product | {SAYS['random']} | {SAYS['warm']} |"
    assert table[2:] == ["| a | 0.600 | 0.800 |", "| b | 0.900 | - |", "| **mean of 1** | 0.600 | 0.800 |"]
    assert markdown(rows[2:]).splitlines()[-1] == "| **mean of 0** | - | - |"


def test_a_card_has_all_figures_and_means_of_what_can_be_compared():
    "A way that never decides doesn't take the others' mean of decisions away"
    rows = [row("plain", "a", value=.5), row("plain", "b", value=.7),
            row("trained", "a", 0, .8, found=.5, false_alarms=0.), row("trained", "a", 1, .9, found=1.),
            row("trained", "b", 0, .9, found=.25, false_alarms=.5)]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card(rows).splitlines()]
    assert table[0] == ["product", "way", "Image AUROC", "Found", "False alarms", "seeds"]
    assert table[2:] == [
        ["a", SAYS["plain"], "0.500", "-", "-", "1"],
        ["a", SAYS["trained"], "0.850 ± 0.071", "0.750 ± 0.354", "0.000", "2"],
        ["b", SAYS["plain"], "0.700", "-", "-", "1"],
        ["b", SAYS["trained"], "0.900", "0.250", "0.500", "1"],
        ["**mean** (products)", SAYS["plain"], "0.600 (2)", "-", "-", ""],
        ["**mean** (products)", SAYS["trained"], "0.875 (2)", "0.500 (2)", "0.250 (2)", ""]]
    failed = rows[:-1] + [row("trained", "b", 0, None, "power cut")]
    assert card(failed).splitlines()[-1].endswith("| 0.850 (1) | 0.750 (1) | 0.000 (1) |  |")
    assert card(failed).splitlines()[-3].endswith("| - | - | - | 0 |")


def test_report_leaves_out_what_nobody_has_and_tells_what_failed():
    rows = [row("warm", "a", 0, .8), row("warm", "a", 1, .9), row("warm", "b", 0, None, "power cut")]
    text = report(rows)
    assert "0.850 ± 0.071" in text and "Pixel AUROC" not in text and "- warm, b, seed 0: power cut" in text
    assert "Failed" not in report(rows[:2])


def test_ways_of_another_version_are_shown_by_name():
    rows = [row("teacher", "a", 0, .8)]
    assert "| product | teacher |" in markdown(rows)
    assert figure(rows).axes[0].get_yticklabels()[0].get_text() == "a"


def test_figure_with_gaps():
    rows = [row("warm", "a", 0, .8), row("warm", "a", 1, .9), row("random", "b", 0, .7),
            row("even", "c", 0, None, "x")]
    drawn = figure(rows)
    assert [t.get_text() for t in drawn.axes[0].get_yticklabels()] == ["a", "b", "c"]
    assert [t.get_text() for t in drawn.legends[0].get_texts()] == [
        SAYS["warm"], SAYS["random"], SAYS["even"]]


@pytest.mark.parametrize("text, says", [("way,category\nwarm,nut\n", "needs the columns"),
                                        (",".join(COLUMNS) + "\nwarm,nut,0,high,,,\n", "high")])
def test_files_that_are_no_comparison(tmp_path, text, says):
    path = tmp_path / "comparison.csv"
    with pytest.raises(MemSegError, match="can't be read"):
        TABLE.read(path)
    path.write_text(text)
    with pytest.raises(MemSegError, match=says):
        TABLE.read(path)


def test_the_readme_shows_the_measured_table():
    rows = TABLE.read(ROOT / "nbs" / "results" / "comparison.csv")
    assert markdown(rows) in (ROOT / "README.md").read_text(encoding="utf-8")
