"The embedded products: repeatable, exact masks, any size, MVTec's layout"
import numpy as np
import pytest
import torch

from memseg_nb.data.images import open_category
from memseg_nb.products.catalogue import PRODUCTS, render_product, write_products
from memseg_nb.files import MemSegError
from memseg_nb.products.light import VISIBLE

KINDS = [(name, defect) for name, product in PRODUCTS.items() for defect in product.defects]


def test_at_least_six_products_with_four_kinds_of_defects_each():
    assert {"hex_nut", "tablet", "circuit_board", "bottle_cap", "woven_fabric", "brushed_metal",
            "wood"} <= set(PRODUCTS)
    for name, product in PRODUCTS.items():
        assert product.name == name and product.kind in ("object", "texture")
        assert len(set(product.defects)) == len(product.defects) >= 4


@pytest.mark.parametrize("name", PRODUCTS)
def test_an_image_depends_only_on_seed_product_split_kind_and_number(name):
    image, mask = render_product(name, (64, 64), seed=3, index=5)
    again, _ = render_product(name, (64, 64), seed=3, index=5)
    assert (image.shape == (3, 64, 64) and image.dtype == torch.float32 and 0 <= image.min()
            and image.max() <= 1)
    assert mask.shape == (64, 64) and mask.dtype == torch.bool and not mask.any()
    assert torch.equal(image, again)
    for other in (dict(seed=4, index=5), dict(seed=3, index=6), dict(seed=3, index=5, split="train"),
                  dict(seed=3, index=5, defect=PRODUCTS[name].defects[0])):
        assert not torch.equal(image, render_product(name, (64, 64), **other)[0])


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("size", [(32, 32), (64, 160), (160, 96), (32, 160)])
def test_any_multiple_of_32(name, size):
    image, mask = render_product(name, size, defect=PRODUCTS[name].defects[-1])
    assert image.shape == (3, *size) and mask.shape == size and mask.any() and torch.isfinite(image).all()


@pytest.mark.parametrize("name", PRODUCTS)
def test_sizes_look_alike(name):
    small, large = (render_product(name, (side, side), seed=1)[0] for side in (128, 256))
    small, large = (torch.nn.functional.adaptive_avg_pool2d(image, 16) for image in (small, large))
    assert (small - large).abs().mean() < .04


@pytest.mark.parametrize("name, defect", KINDS)
def test_masks_are_exact_and_never_empty(name, defect):
    for k in range(3):
        sound, none = PRODUCTS[name].render((128, 128), np.random.default_rng([k, 7]), None, sensor=False)
        broken, mask = PRODUCTS[name].render((128, 128), np.random.default_rng([k, 7]), defect, sensor=False)
        off = np.abs(broken - sound).max(-1)
        assert not none.any() and mask.any() and mask.mean() < .35
        assert off[~mask].max() <= VISIBLE + 1e-6  # nothing to be seen outside the mask
        assert (off[mask] > VISIBLE).mean() > .4   # and most of what it covers did change
        noisy, same = PRODUCTS[name].render((128, 128), np.random.default_rng([k, 7]), defect)
        assert (mask == same).all() and not np.array_equal(noisy, broken)


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_defect_is_stronger_than_the_noise(name):
    for defect in PRODUCTS[name].defects:
        sound, _ = PRODUCTS[name].render((128, 128), np.random.default_rng(11), None, sensor=False)
        broken, mask = PRODUCTS[name].render((128, 128), np.random.default_rng(11), defect, sensor=False)
        assert np.abs(broken - sound).max(-1)[mask].max() > 10 / 255, defect


def test_layout_is_that_of_mvtec(tmp_path):
    names = ["hex_nut", "wood"]
    folders = write_products(tmp_path / "a b", names, (64, 96), train=3, good=2, defective=1, progress=False)
    assert folders == [tmp_path / "a b" / name for name in names]
    for folder in folders:
        category = open_category(tmp_path / "a b", folder.name)
        defects = PRODUCTS[folder.name].defects
        assert len(category.train) == 3 and len(category.test) == 2 + len(defects)
        assert set(category.defects) == set(defects) and category.has_masks
        assert all(image.is_good or image.mask.name == f"{image.path.stem}_mask.png"
                   for image in category.test)
    assert sorted(p.name for p in (tmp_path / "a b").iterdir()) == names  # no hidden leftovers


def test_files_hold_the_rendered_images(tmp_path):
    from PIL import Image
    write_products(tmp_path, "tablet", (64, 64), seed=2, train=2, good=1, defective=2, progress=False)
    image, mask = render_product("tablet", (64, 64), seed=2, defect="chip", index=1)
    with Image.open(tmp_path / "tablet/test/chip/001.png") as file:
        assert np.abs(np.asarray(file) / 255 - image.permute(1, 2, 0).numpy()).max() <= .5 / 255 + 1e-6
    with Image.open(tmp_path / "tablet/ground_truth/chip/001_mask.png") as file:
        assert (np.asarray(file) > 0).tolist() == mask.tolist() and set(np.unique(file)) <= {0, 255}


def test_all_is_every_product(tmp_path):
    folders = write_products(tmp_path, size=(32, 32), train=1, good=0, defective=0, progress=False)
    assert [folder.name for folder in folders] == list(PRODUCTS)


def test_what_a_killed_writer_left_goes_at_the_next_start(tmp_path):
    (tmp_path / ".wood.999999999.ab_12.part" / "train").mkdir(parents=True)
    write_products(tmp_path, "wood", (32, 32), train=1, good=0, defective=0, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["wood"]


def test_a_folder_in_use_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "wood").mkdir()
    (tmp_path / "wood" / "mine.txt").write_text("keep me")
    with pytest.raises(MemSegError, match="wood: exists and is not empty"):
        write_products(tmp_path, ["hex_nut", "wood"], (32, 32), train=1, good=1, defective=1, progress=False)
    assert ([p.name for p in tmp_path.iterdir()] == ["wood"]
            and (tmp_path / "wood" / "mine.txt").read_text() == "keep me")


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "wood").mkdir()
    write_products(tmp_path, "wood", (32, 32), train=1, good=1, defective=0, progress=False)
    assert (tmp_path / "wood/train/good/000.png").is_file()


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MemSegError, match="can't be written"):
        write_products(tmp_path / "file", "wood", (32, 32), train=1, good=0, defective=0, progress=False)


def test_an_interrupted_writer_leaves_no_half_product(tmp_path, monkeypatch):
    from memseg_nb.products import catalogue as products
    calls = []

    def full(path, array):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return save(path, array)

    save = products._save
    monkeypatch.setattr(products, "_save", full)
    with pytest.raises(MemSegError, match="No space left"):
        write_products(tmp_path, "wood", (32, 32), train=5, good=0, defective=0, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments, message", [
    (dict(name="nut"), r"product 'nut': unknown, did you mean hex_nut\?"),
    (dict(name="spoon"), "product 'spoon': unknown, there are hex_nut, tablet"),
    (dict(name="wood", defect="rust"), "defect 'rust': wood has"),
    (dict(name="wood", size=(250, 256)), "250x256: needs multiples of 32"),
    (dict(name="wood", size=(0, 32)), "0x32: needs multiples of 32"),
    (dict(name="wood", seed=-1), "seed -1"),
])
def test_errors_say_what_to_do(arguments, message):
    with pytest.raises(MemSegError, match=message):
        render_product(**arguments)


def test_progress_goes_to_the_terminal(tmp_path, capsys):
    write_products(tmp_path, "wood", (32, 32), train=2, good=1, defective=0, progress=True)
    assert "3/3" in capsys.readouterr().err


def test_products_travel_to_worker_processes():
    import pickle
    for product in PRODUCTS.values():
        copy = pickle.loads(pickle.dumps(product))
        assert np.array_equal(copy.render((32, 32), np.random.default_rng(0))[0],
                              product.render((32, 32), np.random.default_rng(0))[0])
