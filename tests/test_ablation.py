"Switches that do what they say and nothing else, the same images for every variant, one table that goes on"
import csv
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import TINY

from memseg_nb.evaluation import ablation
from memseg_nb.evaluation.ablation import (BASE, COLUMNS, FAIR, TABLE, VARIANTS, ablate, bought, figure,
                                           markdown, pairs, report, says, without)
from memseg_nb.evaluation.benchmark import POOL, share_pool, trial
from memseg_nb.cli import cli
from memseg_nb.data.images import open_category
from memseg_nb.model.memseg import build_model
from memseg_nb.model.weights import load_encoder
from memseg_nb.files import MemSegError
from memseg_nb.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PIECES = ("memory", "attention", "coordinate", "fusion")
SMALL = [*BASE, *TINY, "training.warm_start=off"]


@pytest.fixture(scope="module")
def small():
    "64 x 64 pixels"
    return load_recipe("formulas", SMALL)


@pytest.fixture
def images():
    return torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model(small):
    "A network that remembers three images"
    model = build_model(small, load_encoder("random")[0]).eval()
    model.remember([torch.rand((3, 3, 64, 64), generator=torch.Generator().manual_seed(2))])
    return model


def row(way, category="nut", seed=0, value=.5, error="", **more):
    base = dict.fromkeys(COLUMNS) | dict(samples=VARIANTS[way].settings.get("memory.samples", 30), seconds=1.,
                                         error=error)
    return base | dict(way=way, category=category, seed=seed, image_auroc=value) | more


# the switches

@pytest.mark.parametrize("piece", PIECES)
def test_a_switch_changes_the_answer_and_can_be_undone(model, images, piece):
    before, weights = model(images), {name: value.clone() for name, value in model.state_dict().items()}
    handles = without(model, piece)
    assert not torch.equal(model(images), before)
    assert list(model.state_dict()) == list(weights)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    for handle in handles: handle.remove()
    assert torch.equal(model(images), before)


def test_without_memory_no_sample_counts(model, images):
    assert not torch.equal(model.explain(images, 0).logits, model.explain(images, 2).logits)
    without(model, "memory")
    found = model.explain(images, 0)
    assert torch.equal(found.logits, model.explain(images, 2).logits)
    assert all(not maps.any() for maps in found.match.difference)
    for channels, maps in zip((64, 128, 256), found.fused.concatenated):  # features, then nothing
        assert maps[:, :channels].any() and not maps[:, channels:].any()
    for level in ("layer1", "layer2", "layer3"):
        getattr(model.memory, f"{level}_pooled").normal_(generator=torch.Generator().manual_seed(3))
    assert torch.equal(model(images), found.logits)


def test_without_memory_the_search_still_works(model, images):
    before = model.explain(images).match
    without(model, "memory")
    after = model.explain(images).match
    assert torch.equal(before.index, after.index) and torch.equal(before.distances, after.distances)


@pytest.mark.parametrize("piece", ("attention", "memory"))
def test_maps_of_ones_change_nothing_and_let_gradients_through(model, images, piece):
    def by_maps(fused): return [torch.equal(a, b) for a, b in zip(fused.fused, fused.merged)]
    assert by_maps(model.explain(images).fused) == [False] * 3
    without(model, piece)
    found = model.train().explain(images)
    assert by_maps(found.fused) == [True] * 3
    found.logits.square().mean().backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    assert all(value is not None and value.isfinite().all() for value in gradients.values())
    assert any(value.any() for name, value in gradients.items() if name.startswith("fusion"))


def test_coordinate_attention_of_ones(model, images):
    fusion = model.fusion
    assert all(weights.max() < 1 for weights in model.explain(images).fused.weights)
    without(model, "coordinate")
    found = model.explain(images).fused
    assert all((weights == 1).all() for weights in found.weights)
    for level, given, attended in zip(fusion.levels, found.concatenated, found.attended):
        assert torch.equal(attended, level.mix(given))
    model.train().explain(images).logits.square().mean().backward()
    learned = {name for name, value in model.named_parameters() if value.requires_grad
               and value.grad is not None}
    still = {name for name, value in model.named_parameters() if value.requires_grad} - learned
    assert still and all(".attention." in name for name in still)


def test_without_fusion_finer_levels_know_nothing_of_coarser_ones(model, images):
    found = model.explain(images)
    spread, unit = model.memory.spread(), (model.unit1, model.unit2, model.unit3)
    def merged(factor):
        "F1..F3 where layer 3 is `factor` times what it is"
        scale = (1, 1, factor)
        features = [maps * k for maps, k in zip(found.features[1:], scale)]
        difference = [maps * k for maps, k in zip(found.match.difference, scale)]
        return model.fusion(features, difference, found.maps, spread, unit).merged
    def same(): return [torch.equal(a, b) for a, b in zip(merged(1), merged(2))]
    assert same() == [False, False, False]
    without(model, "fusion")
    assert same() == [True, True, False]


def test_several_pieces_at_once(model, images):
    without(model, "memory")
    without(model, "coordinate")
    found = model.explain(images)
    assert not found.match.difference[0].any() and (found.fused.weights[0] == 1).all()


def test_what_cannot_be_switched_off(model):
    with pytest.raises(MemSegError,
                       match="piece 'decoder': can't be switched off, there are memory, attention, coord"):
        without(model, "decoder")
    assert without(model, "") == []


# the variants

def test_every_variant_changes_one_thing():
    recipe = load_recipe("formulas", BASE)
    for name, variant in VARIANTS.items():
        changed = recipe.replace(**variant.settings).differences(recipe)
        assert len(changed) + bool(variant.off) == (name != "whole"), name
    assert {variant.off for variant in VARIANTS.values()} == {"", *PIECES}
    assert (recipe.simulation.texture_share == .5 and recipe.memory.samples == 30
            and recipe.simulation.flaws == 0)


def test_the_memory_grows_and_the_training_images_stay(tmp_path, small):
    from memseg_nb.products.catalogue import write_products
    write_products(tmp_path, "wood", size=(32, 32), train=130, good=1, defective=0, progress=False)
    category = open_category(tmp_path, "wood")
    found = [share_pool(category, small.replace(**{"memory.samples": n})) for n in (1, 5, POOL)]
    assert [len(memory) for memory, _ in found] == [1, 5, POOL]
    assert len({parts for _, parts in found}) == 1
    assert found[0][0] == found[2][0][:1] and found[1][0] == found[2][0][:5]
    parts = found[0][1]
    assert not parts.shared and not set(found[2][0]) & set(parts.train) and len(parts.train) == 130 - POOL


def test_too_few_images_for_the_memory(tiny_data, small):
    category = open_category(tiny_data, "hex_nut")
    memory, parts = share_pool(category, small)
    # the memory's numbers are those of the training
    assert len(memory) == 3 and parts.shared and len(parts.train) == 12
    assert memory == parts.train[:3]
    with pytest.raises(MemSegError, match="12 good images: 60 are to be remembered"):
        share_pool(category, small.replace(**{"memory.samples": 60}))


def test_a_trial_can_be_repeated_and_draws_nothing_from_elsewhere(tiny_data, small):
    recipe, category = small.replace(**FAIR | {"training.steps": 1}), open_category(tiny_data, "hex_nut")
    state = torch.get_rng_state()
    first, second = (trial(category, recipe, partial(without, piece="fusion"), False) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert {**first, "seconds": 0} == {**second, "seconds": 0} and first["seconds"] > 0
    assert 0 <= first["image_auroc"] <= 1 and 0 <= first["aupro"] <= 1


# the table

@pytest.fixture(scope="module")
def done(tiny_data, small, tmp_path_factory):
    "Two variants, one seed, two steps; not to be written to"
    out = tmp_path_factory.mktemp("ablations")
    return out, ablate(tiny_data, out, variants=("whole", "no_memory"), seeds=1, steps=2, recipe=small,
                       progress=False)


def test_a_row_for_each_training(done):
    out, rows = done
    assert [(one["way"], one["category"], one["seed"], one["samples"]) for one in rows] == [
        ("whole", "hex_nut", 0, 3), ("no_memory", "hex_nut", 0, 3)]
    assert all(not one["error"] and one["seconds"] > 0 for one in rows)
    assert rows[0]["pixel_auroc"] != rows[1]["pixel_auroc"]
    with open(out / "ablations.csv", newline="") as file:
        assert next(csv.reader(file)) == list(COLUMNS)
    assert TABLE.read(out / "ablations.csv") == rows
    assert "no memory" in (out / "ablations.md").read_text() and (out / "ablations.png").stat().st_size > 1000
    assert load_recipe(out / "recipe.ini").training.steps == 2


def test_it_goes_on_and_keeps_what_it_has(done, tiny_data, small, tmp_path, monkeypatch):
    out, rows = done
    for file in out.iterdir(): (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(ablation, "trial", lambda *args: pytest.fail("trained again"))
    again = dict(recipe=small, steps=2, progress=False)
    assert ablate(tiny_data, tmp_path, variants=("whole", "no_memory"), seeds=1, **again) == rows
    def cut(*args): raise RuntimeError("power\ncut")
    monkeypatch.setattr(ablation, "trial", cut)
    more = ablate(tiny_data, tmp_path, variants=("whole", "n1"), seeds=1, **again)
    assert more[:2] == rows and more[2]["error"] == "power cut" and more[2]["samples"] == 1
    assert "N = 1, hex_nut, seed 0: power cut" in (tmp_path / "ablations.md").read_text()
    figures = dict(image_auroc=.75, pixel_auroc=None, aupro=None, seconds=2.)
    monkeypatch.setattr(ablation, "trial", lambda *args: figures)
    mended = ablate(tiny_data, tmp_path, variants=("n1",), seeds=1, **again)
    assert (mended[:2] == rows and mended[2]["image_auroc"] == .75 and mended[2]["error"] == ""
            and len(mended) == 3)


def test_other_settings_are_refused(done, tiny_data, small):
    out, _ = done
    before = (out / "ablations.csv").read_bytes()
    with pytest.raises(MemSegError, match="other settings: training.steps: 3 here, 2 there"):
        ablate(tiny_data, out, steps=3, recipe=small, progress=False)
    assert (out / "ablations.csv").read_bytes() == before


def test_every_variant_is_trained_as_it_says(tiny_data, tmp_path, monkeypatch, capsys):
    seen = {}
    def note(category, recipe, change, progress):
        seen[len(seen)] = recipe, change.keywords["piece"]
        return dict(image_auroc=.5, pixel_auroc=None, aupro=None, seconds=0.)
    monkeypatch.setattr(ablation, "trial", note)
    ablate(tiny_data, tmp_path, seeds=2, steps=7, recipe=load_recipe("formulas", [*BASE, "training.seed=4"]))
    assert len(seen) == 2 * len(VARIANTS) and "n60, hex_nut, seed 5: 0.5" in capsys.readouterr().out
    base = load_recipe("formulas", BASE).replace(**FAIR | {"training.steps": 7})
    plan = [(seed, variant) for seed in (4, 5) for variant in VARIANTS.values()]
    for (seed, variant), (recipe, off) in zip(plan, seen.values()):
        assert recipe == base.replace(**{"training.seed": seed} | variant.settings) and off == variant.off
        assert recipe.training.warm_start == "off"


def test_what_cannot_be_begun(tiny_data, tmp_path):
    with pytest.raises(MemSegError, match="variant 'no_nothing': unknown, there are whole, no_memory"):
        ablate(tiny_data, tmp_path / "out", variants=["no_nothing"])
    with pytest.raises(MemSegError, match="no such folder"):
        ablate(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MemSegError, match="no products"):
        ablate(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(tiny_data, tmp_path, monkeypatch):
    figures = dict(image_auroc=.5, pixel_auroc=None, aupro=None, seconds=0.)
    monkeypatch.setattr(ablation, "trial", lambda *args: figures)
    given = ["ablate", "--data", str(tiny_data), "--out", str(tmp_path / "out"), "--variants",
             "whole,no_fusion", "--seeds", "1", "--steps", "9", "--size", "64"]
    said = CliRunner().invoke(cli, given, catch_exceptions=False)
    assert said.exit_code == 0 and "| no top-down fusion | 0.500 | +0.000 |" in said.output
    recipe = load_recipe(tmp_path / "out" / "recipe.ini")
    assert recipe.training.steps == 9 and recipe.image.size == (64, 64) and recipe.simulation.flaws == 0


# what comes out of it

def test_pairs_by_hand():
    rows = [row("whole", seed=k, value=v) for k, v in enumerate((.90, .94, .95))]
    rows += [row("no_memory", seed=k, value=v) for k, v in enumerate((.88, .91, .94))]
    # without a partner
    rows += [row("no_memory", seed=3, value=.1), row("n1", seed=0, value=None, error="power cut")]
    found = bought(rows)
    assert set(found) == {"no_memory"} and found["no_memory"].seeds == 3
    assert math.isclose(found["no_memory"].mean, .02) and math.isclose(found["no_memory"].deviation, .01)
    assert pairs(rows)["no_memory"] == [(.90, .88), (.94, .91), (.95, .94)]
    assert bought(rows[3:]) == pairs(rows, "aupro") == bought(rows, "aupro") == {}


def test_pairs_are_of_one_product():
    rows = [row("whole", "a", value=.9), row("whole", "b", value=.6), row("n5", "a", value=.8),
            row("n5", "b", value=.7)]
    assert math.isclose(bought(rows)["n5"].mean, 0, abs_tol=1e-12) and bought(rows)["n5"].seeds == 2
    assert markdown(rows).splitlines()[2:] == ["| the whole network | 0.900 | 0.600 |  |",
                                               "| N = 5 | 0.800 | 0.700 | +0.000 ± 0.141 |"]


def test_no_negative_zero():
    rows = [row("whole", value=.9 - 1e-9), row("n5", value=.9)]
    assert markdown(rows).splitlines()[-1] == "| N = 5 | 0.900 | +0.000 |"


def test_report_leaves_out_what_nobody_has():
    rows = [row("whole"), row("texture", value=.7), row("texture", seed=1, value=None, error="power cut")]
    text = report(rows)
    assert "| foreign textures only | 0.700 | -0.200 |" in text and "AUPRO" not in text
    assert "- foreign textures only, nut, seed 1: power cut" in text and "Failed" not in report(rows[:2])


def test_variants_of_another_version_are_shown_by_name():
    rows = [row("whole"), row("whole") | dict(way="no_luck", image_auroc=.4)]
    assert says("no_luck") == "no_luck" and "| no_luck | 0.400 | +0.100 |" in markdown(rows)
    assert [t.get_text() for t in figure(rows).axes[0].get_yticklabels()] == ["no_luck"]


def test_figure_has_pieces_on_the_left_and_sizes_on_the_right():
    rows = [row(way, seed=seed, value=.5 + .01 * seed) for way in VARIANTS for seed in (0, 1)]
    left, right = figure(rows).axes
    assert [t.get_text() for t in left.get_yticklabels()] == [
        says(way) for way in VARIANTS if way[0] != "n" or way[1] == "o"][1:]
    assert [t.get_text() for t in right.get_xticklabels()] == ["1", "5", "15", "30", "60"]
    assert figure([]).axes and figure([row("n1", value=None, error="x")]).axes


@pytest.mark.parametrize("text, says_so", [
    ("way,category\nwhole,nut\n", "needs the columns"),
    ("way,category,seed,image_auroc,pixel_auroc,aupro,error\nwhole,nut,0,.5,,,\n", "is no ablations.csv"),
    (",".join(COLUMNS) + "\nwhole,nut,0,many,.5,,,1.,\n", "many")])
def test_files_that_are_no_table(tmp_path, text, says_so):
    path = tmp_path / "ablations.csv"
    with pytest.raises(MemSegError, match="can't be read"):
        TABLE.read(path)
    path.write_text(text)
    with pytest.raises(MemSegError, match=says_so):
        TABLE.read(path)


def test_tables_can_be_joined(tmp_path):
    rows = [row("whole", "a"), row("whole", "b", value=None, error="power cut, again")]
    TABLE.write(rows, tmp_path)
    assert TABLE.read(tmp_path / "ablations.csv") == [one | {"seconds": 1.} for one in rows]


def test_readme_says_what_the_committed_table_says():
    rows, readme = TABLE.read(ROOT / "nbs" / "results" / "ablations.csv"), (ROOT / "README.md").read_text()
    assert len(rows) == len(VARIANTS) * 2 * 3 and not any(row["error"] for row in rows)
    said = " ".join(readme.split("**Ablation**")[1].split("\n\n")[0].split())
    more = bought(rows, "aupro")
    for way, sign in (("no_memory", 1), ("n1", 1), ("no_foreground", 1), ("no_attention", -1)):
        assert f"{sign * more[way].mean:.3f} ± {more[way].deviation:.3f}" in said, way
