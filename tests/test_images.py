"Images and folders: every mode, every slip in a folder, paths as people have them"
import pickle, shutil, warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from memseg_nb.recipe import check_size
from memseg_nb.data.images import (IMAGE_SUFFIXES, Category, ImageSet, TestImage, find_images, good_photos,
                                   list_categories, local_path, open_category, open_photos, read_image,
                                   read_mask, resize, save_image)
from memseg_nb.files import WRITTEN, MemSegError


@pytest.fixture
def pixels():
    "An oblong, smooth, coloured picture, uint8, (24, 40, 3)"
    rows, columns = np.mgrid[0:1:24j, 0:1:40j]
    return (255*np.stack([rows, columns, .5 + .5*np.sin(5*rows + 3*columns)], -1)).astype(np.uint8)


def as_tensor(pixels): return torch.tensor(pixels).permute(2, 0, 1).float()/255


def make_product(root, name="part", train=3, defects=("scratch",), masks=True, size=(40, 24), suffix=".png"):
    "A product's folder of plain pictures; the `size` is (width, height)"
    for kind in ("train/good", "test/good", *(f"test/{d}" for d in defects)):
        (root/name/kind).mkdir(parents=True)
        for k in range(train if kind == "train/good" else 2):
            Image.new("RGB", size, (40*k, 90, 120)).save(root/name/kind/f"{k:03}{suffix}")
    for defect in defects if masks else ():
        (root/name/"ground_truth"/defect).mkdir(parents=True)
        for k in range(2):
            mask = Image.new("L", size)
            mask.paste(255, (3, 3, 9, 7))
            mask.save(root/name/"ground_truth"/defect/f"{k:03}_mask.png")
    return root/name


def message(function, *args, **kwargs):
    with pytest.raises(MemSegError) as caught: function(*args, **kwargs)
    return str(caught.value)


# ---- modes

def test_rgb_is_exact_and_oblong(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path/"a.png")
    image = read_image(tmp_path/"a.png")
    assert image.shape == (3, 24, 40) and image.dtype == torch.float32 and image.is_contiguous()
    assert torch.equal(image, as_tensor(pixels))


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_that_is_found_can_be_read(tmp_path, suffix):
    picture = Image.new("RGB", (40, 32), (128, 128, 128))
    (picture.convert("L") if suffix == ".pgm" else picture).save(tmp_path/f"a{suffix}")
    (path,) = find_images(tmp_path)
    assert (read_image(path) - 128/255).abs().max() < .02


def test_grey(tmp_path, pixels):
    Image.fromarray(pixels[..., 0]).save(tmp_path/"a.png")
    image = read_image(tmp_path/"a.png")
    assert image.shape == (3, 24, 40) and torch.equal(image[0], image[2])
    assert torch.equal(image[0], as_tensor(pixels)[0])


def test_one_bit(tmp_path, pixels):
    Image.fromarray(pixels[..., 0] > 99).save(tmp_path/"a.png")
    assert torch.equal(read_image(tmp_path/"a.png")[1], torch.from_numpy(pixels[..., 0] > 99).float())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_divided_by_their_range(tmp_path, suffix):
    values = np.linspace(0, 65535, 24*40).reshape(24, 40).astype(np.uint16)
    Image.fromarray(values).save(tmp_path/f"a{suffix}")
    assert torch.allclose(read_image(tmp_path/f"a{suffix}")[0], torch.from_numpy(values/np.float32(65535)))
    Image.fromarray(values//16).save(tmp_path/f"b{suffix}")  # a dark one stays dark
    assert read_image(tmp_path/f"b{suffix}").max() == pytest.approx(1/16, abs=1e-4)


def test_big_endian_sixteen_bits(tmp_path):
    values = np.linspace(0, 65535, 24*40).reshape(24, 40).astype(">u2")
    (tmp_path/"a.pgm").write_bytes(b"P5 40 24 65535\n" + values.tobytes())
    expected = torch.from_numpy((values/65535).astype(np.float32))
    assert torch.allclose(read_image(tmp_path/"a.pgm")[0], expected, atol=1e-6)


def test_float_pictures(tmp_path):
    values = np.linspace(0, 1, 24*40, dtype=np.float32).reshape(24, 40)
    Image.fromarray(values).save(tmp_path/"a.tif")
    assert torch.equal(read_image(tmp_path/"a.tif")[0], torch.from_numpy(values))
    for bad in values*255, values - 1, np.full_like(values, np.nan):
        Image.fromarray(bad).save(tmp_path/"b.tif")
        text = message(read_image, tmp_path/"b.tif")
        assert "b.tif" in text and "0..1" in text


def test_palette(tmp_path, pixels):
    picture = Image.fromarray(pixels).quantize(64)
    picture.save(tmp_path/"a.png")
    assert torch.equal(read_image(tmp_path/"a.png"), as_tensor(np.asarray(picture.convert("RGB"))))


def test_transparent_is_laid_on_white(tmp_path, pixels):
    alpha = np.zeros((24, 40, 1), np.uint8)
    alpha[:, 20:] = 255
    Image.fromarray(np.concatenate([pixels, alpha], -1)).save(tmp_path/"a.png")
    image = read_image(tmp_path/"a.png")
    assert torch.equal(image[:, :, :20], torch.ones(3, 24, 20))
    assert torch.equal(image[:, :, 20:], as_tensor(pixels)[:, :, 20:])


@pytest.mark.parametrize("mode, black", [("LA", (0, 0)), ("P", 0), ("L", 0), ("RGB", (0, 0, 0))])
def test_other_kinds_of_transparency(tmp_path, mode, black):
    transparent = {} if mode == "LA" else {"transparency": black}
    picture = Image.new(mode, (40, 24), black)
    picture.paste({"LA": (9, 255), "RGB": (9, 9, 9)}.get(mode, 9), (0, 0, 1, 1))  # one pixel is not
    picture.save(tmp_path/"a.png", **transparent)
    image = read_image(tmp_path/"a.png")
    assert image[:, 0, 0].max() < .1 and torch.equal(image[:, 1:], torch.ones(3, 23, 40))


def test_cmyk(tmp_path, pixels):
    Image.fromarray(pixels).convert("CMYK").save(tmp_path/"a.tif")
    Image.fromarray(pixels).convert("CMYK").save(tmp_path/"a.jpg", quality=95)
    assert (read_image(tmp_path/"a.tif") - as_tensor(pixels)).abs().max() < .01
    assert (read_image(tmp_path/"a.jpg") - as_tensor(pixels)).abs().mean() < .02


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_exif_orientation_is_applied(tmp_path, pixels, orientation, suffix):
    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}
    stored, exif = Image.fromarray(pixels), Image.Exif()
    if orientation > 1: stored = stored.transpose(Image.Transpose[back[orientation]])
    exif[274] = orientation
    stored.save(tmp_path/f"a{suffix}", exif=exif, **{"quality": 95} if suffix == ".jpg" else {})
    image = read_image(tmp_path/f"a{suffix}")
    assert image.shape == (3, 24, 40) and (image - as_tensor(pixels)).abs().mean() < .03


def test_a_mode_that_pillow_cannot_convert(tmp_path, monkeypatch):
    def refuse(self, mode): raise ValueError("conversion not supported")
    Image.new("HSV", (40, 24)).convert("RGB").save(tmp_path/"a.tif")
    monkeypatch.setattr(Image.Image, "convert", refuse)
    assert "a.tif: mode RGB: conversion not supported" in message(read_image, tmp_path/"a.tif")


# ---- files that are no good

@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
def test_truncated(tmp_path, suffix):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path/f"whole{suffix}")
    data = (tmp_path/f"whole{suffix}").read_bytes()
    path = tmp_path/f"cut{suffix}"
    for share in 0, .01, .1, .5, .9:
        path.write_bytes(data[:int(len(data)*share)])
        text = message(read_image, path)
        assert path.name in text and "needs a complete image file" in text
    assert "needs a complete image file" in message(read_mask, path)


def test_not_an_image(tmp_path):
    (tmp_path/"a.png").write_text("some text")
    assert "a.png: is not an image: needs" in message(read_image, tmp_path/"a.png")
    assert "no such file" in message(read_image, tmp_path/"b.png")
    assert "needs a complete image file" in message(read_image, tmp_path)


def test_too_many_pixels(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path/"a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1600)
    assert "more than 9,600 pixels" in message(read_image, tmp_path/"a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)  # Pillow refuses: we have a way out
    assert read_image(tmp_path/"a.png").shape == (3, 100, 100) and Image.MAX_IMAGE_PIXELS == 4000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)  # Pillow only warns: neither do we
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path/"a.png").shape == (3, 100, 100)


# ---- sizes

@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (20, 2000), (2000, 20)])
def test_very_wide_or_tall(tmp_path, shape):
    Image.new("RGB", shape[::-1], (10, 200, 30)).save(tmp_path/"a.png")
    image = ImageSet([tmp_path/"a.png"], (32, 64))[0]
    assert image.shape == (3, 32, 64) and torch.allclose(image[1], torch.tensor(200/255))


@pytest.mark.parametrize("size", [(250, 250), (256, 250), (0, 32), (16, 16), (-32, 32), (33, 32)])
def test_sizes_the_network_cannot_take(size):
    text = message(check_size, size)
    assert text.startswith(f"image size {size[0]}x{size[1]}: needs multiples of 32, e.g. ")
    check_size(tuple(map(int, text.rpartition(" ")[2].split("x"))))  # what it proposes is right
    with pytest.raises(MemSegError): ImageSet([], size)


def test_check_size_hands_the_size_on(): assert check_size([64, 96]) == (64, 96)


@pytest.mark.parametrize("size", [(12, 20), (24, 40), (48, 80), (7, 77), (33, 8)])
def test_resize_agrees_with_pillow(pixels, size):
    image = as_tensor(pixels)
    got = resize(image, size)
    for channel, expected in zip(got, image):
        picture = Image.fromarray(expected.numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
        assert np.allclose(channel.numpy(), np.asarray(picture), atol=1e-5)
    assert torch.equal(resize(image[None], size)[0], got)


def test_resize_stays_within_bounds(pixels):
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)).round()
    for size in (32, 32), (96, 160):
        resized = resize(noise, size)
        assert 0 <= resized.min() and resized.max() <= 1 + 1e-6


# ---- masks

@pytest.mark.parametrize("make", [
    lambda m: Image.fromarray(m), lambda m: Image.fromarray(m.astype(np.uint8)),  # 0 and 1 only
    lambda m: Image.fromarray(m.astype(np.uint8)*255), lambda m: Image.fromarray(m.astype(np.uint16)*7),
    lambda m: Image.fromarray(np.stack([m*0, m*0, m*255], -1).astype(np.uint8)),
    lambda m: Image.fromarray(m.astype(np.uint8)*255).convert("RGBA"),
    lambda m: Image.fromarray(m.astype(np.uint8)*255).convert("RGB").quantize(2)])
def test_masks_of_every_mode(tmp_path, make):
    truth = np.zeros((24, 40), bool)
    truth[3:9, 5:30] = True
    make(truth).save(tmp_path/"m.png")
    mask = read_mask(tmp_path/"m.png", image_size=(24, 40))
    assert mask.dtype == torch.bool and torch.equal(mask, torch.from_numpy(truth))


def test_jpeg_masks_are_split_at_half(tmp_path):
    truth = np.zeros((64, 64), np.uint8)
    truth[13:42, 11:50] = 255
    Image.fromarray(truth).save(tmp_path/"m.jpg", quality=60)
    assert (np.asarray(Image.open(tmp_path/"m.jpg")) > 0).sum() > (truth > 0).sum()  # the smear
    assert torch.equal(read_mask(tmp_path/"m.jpg"), torch.from_numpy(truth > 0))


def test_mask_resized_by_nearest_neighbour_like_pillow(tmp_path):
    truth = np.random.default_rng(0).random((24, 40)) > .5
    Image.fromarray(truth).save(tmp_path/"m.png")
    for size in (12, 20), (48, 80), (17, 31), (256, 256):
        expected = np.asarray(Image.fromarray(truth).resize(size[::-1], Image.Resampling.NEAREST))
        assert np.array_equal(read_mask(tmp_path/"m.png", size).numpy(), expected)


def test_mask_of_another_size(tmp_path):
    Image.new("L", (40, 24), 255).save(tmp_path/"m.png")
    text = message(read_mask, tmp_path/"m.png", (32, 32), (40, 24))
    assert "m.png: mask of 24x40 for an image of 40x24: needs the same height and width" in text


def test_mask_all_black_is_a_warning(tmp_path):
    Image.new("L", (40, 24)).save(tmp_path/"m.png")
    with pytest.warns(UserWarning, match="m.png: the mask is all black"):
        mask = read_mask(tmp_path/"m.png", (32, 32))
    assert mask.shape == (32, 32) and not mask.any()


def test_a_speck_lost_in_resizing_is_no_black_mask(tmp_path):
    truth = np.zeros((64, 64), bool)
    truth[0, 0] = True
    Image.fromarray(truth).save(tmp_path/"m.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not read_mask(tmp_path/"m.png", (32, 32)).any()


# ---- writing

def test_save_image(tmp_path, pixels):
    save_image(tmp_path/"a.png", as_tensor(pixels))
    assert torch.equal(read_image(tmp_path/"a.png"), as_tensor(pixels))
    mask = as_tensor(pixels)[0] > .5
    assert torch.equal(read_mask(save_image(tmp_path/"m.png", mask)), mask)
    save_image(tmp_path/"b.png", as_tensor(pixels)*3 - 1)  # out of range is cut off
    assert read_image(tmp_path/"b.png").max() == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png", "m.png"]


def test_save_image_that_cannot_be_written(tmp_path):
    for path in tmp_path/"missing"/"a.png", tmp_path:
        assert "can't be written" in message(save_image, path, torch.zeros(3, 4, 4))
    assert list(tmp_path.iterdir()) == []


def test_save_image_leaves_the_old_one_where_it_fails(tmp_path, monkeypatch):
    save_image(tmp_path/"a.png", torch.zeros(3, 4, 4))

    def full(self, target, *args):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(Image.Image, "save", full)
    assert "No space left" in message(save_image, tmp_path/"a.png", torch.ones(3, 4, 4))
    assert read_image(tmp_path/"a.png").max() == 0 and [p.name for p in tmp_path.iterdir()] == ["a.png"]


# ---- folders

def test_find_images_sorts_and_skips(tmp_path):
    for name in "10.png", "2.png", "B.JPG", "a.Tiff": Image.new("L", (4, 4)).save(tmp_path/name)
    (tmp_path/"notes.txt").touch()
    (tmp_path/".hidden.png").touch()
    (tmp_path/"folder.png").mkdir()
    assert [p.name for p in find_images(tmp_path)] == ["10.png", "2.png", "B.JPG", "a.Tiff"]


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    folder, listed = make_product(tmp_path, defects=("b", "a"), train=5), Path.iterdir
    first = open_category(folder)
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(sorted(listed(self))))
    again = open_category(folder)
    assert first == again and [p.name for p in first.train] == [f"{k:03}.png" for k in range(5)]
    assert list(dict.fromkeys(t.defect for t in first.test)) == ["a", "b", "good"]


def test_find_images_in_bad_folders(tmp_path):
    (tmp_path/"empty").mkdir()
    (tmp_path/"file.png").touch()
    assert "no such folder: needs" in message(find_images, tmp_path/"missing")
    assert "no images in it: needs files ending in .png" in message(find_images, tmp_path/"empty")
    assert "is a file: needs a folder" in message(find_images, tmp_path/"file.png")


def test_open_category(tmp_path):
    make_product(tmp_path, "nut", defects=("scratch", "dent"))
    category = open_category(tmp_path, "nut")
    assert isinstance(category, Category) and category.name == "nut" and category.root == tmp_path/"nut"
    assert [p.name for p in category.train] == ["000.png", "001.png", "002.png"] and len(category.test) == 6
    assert category.defects == ("dent", "scratch") and category.has_masks
    assert [t.is_good for t in category.test] == [False, False, True, True, False, False]
    for t in category.test:
        assert t.path.parent.name == t.defect
        truth = tmp_path/"nut"/"ground_truth"/t.defect/f"{t.path.stem}_mask.png"
        assert t.mask == (None if t.is_good else truth)
    assert category == open_category(tmp_path) == open_category(tmp_path/"nut", "nut")
    assert pickle.loads(pickle.dumps(category)) == category
    assert hash(category) == hash(open_category(tmp_path))


def test_category_by_a_relative_path(tmp_path, monkeypatch):
    make_product(tmp_path, "nut")
    monkeypatch.chdir(tmp_path/"nut")
    assert open_category(".").name == "nut" and open_category("..", "nut").name == "nut"


def test_unknown_category_says_which_there_are(tmp_path):
    make_product(tmp_path, "nut")
    make_product(tmp_path, "bolt")
    (tmp_path/"notes").mkdir()
    assert list_categories(tmp_path) == ["bolt", "nut"]
    assert "no category 'nat' in it: did you mean nut?" in message(open_category, tmp_path, "nat")
    assert "no category 'cap' in it: there are bolt, nut" in message(open_category, tmp_path, "cap")
    assert "holds several categories: choose one of bolt, nut" in message(open_category, tmp_path)
    assert "no category '../nut'" in message(open_category, tmp_path, "../nut")


def test_folders_that_are_not_in_the_layout(tmp_path):
    (tmp_path/"empty").mkdir()
    Image.new("L", (4, 4)).save(tmp_path/"empty"/"a.png")
    for name in (None, "nut"):
        text = message(open_category, tmp_path/"empty", name)
        assert "no product in MVTec AD's layout in it: needs PRODUCT/train/good" in text
        assert "no such folder" in message(open_category, tmp_path/"missing", name)
        assert "is a file" in message(open_category, tmp_path/"empty"/"a.png", name)
    assert list_categories(tmp_path/"empty") == []
    assert "no such folder" in message(list_categories, tmp_path/"missing")


def test_no_good_images(tmp_path):
    folder = make_product(tmp_path, train=0)
    (folder/"train"/"good"/"notes.txt").touch()
    assert "good: no good images: needs some" in message(open_category, tmp_path)


def test_only_training_images(tmp_path):
    make_product(tmp_path)
    shutil.rmtree(tmp_path/"part"/"test")
    category = open_category(tmp_path)
    assert category.test == () and category.defects == () and not category.has_masks


def test_no_masks_at_all_is_fine(tmp_path):
    make_product(tmp_path, masks=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        category = open_category(tmp_path)
    assert not category.has_masks and category.defects == ("scratch",)
    assert all(t.mask is None for t in category.test)


def test_a_mask_missing_is_a_warning_that_names_it(tmp_path):
    folder = make_product(tmp_path)
    (folder/"ground_truth"/"scratch"/"001_mask.png").unlink()
    with pytest.warns(UserWarning, match=r"1 defective images lack a mask.*001_mask\.png"):
        category = open_category(tmp_path)
    assert not category.has_masks
    assert [t.mask is not None for t in category.test if not t.is_good] == [True, False]


def test_masks_named_like_their_image_and_of_other_suffixes(tmp_path):
    folder = make_product(tmp_path)
    truth = folder/"ground_truth"/"scratch"
    (truth/"000_mask.png").rename(truth/"000.PNG")
    (truth/"001_mask.png").rename(truth/"001_mask.bmp")
    assert [t.mask.name for t in open_category(tmp_path).test if t.mask] == ["000.PNG", "001_mask.bmp"]


def test_good_photos_alone_are_a_product_without_a_test(tmp_path):
    (tmp_path/"flat").mkdir()
    for k in range(3): save_image(tmp_path/"flat"/f"{k}.png", torch.rand(3, 20, 20))
    make_product(tmp_path/"products")
    flat = open_photos(tmp_path/"flat")
    assert (flat.name, len(flat.train), flat.test) == ("flat", 3, ())
    assert flat == open_category(tmp_path/"flat", "flat")
    assert "needs PRODUCT/train/good" in message(open_category, tmp_path/"flat"), "its name has to be given"
    product, = (tmp_path/"products").iterdir()
    assert open_photos(product) == open_category(product) and open_photos(product).test
    assert good_photos(product) == product/"train"/"good" and good_photos(tmp_path/"flat") == tmp_path/"flat"
    (tmp_path/"empty").mkdir()
    assert "no images in it" in message(open_photos, tmp_path/"empty")
    assert "no such folder" in message(open_photos, tmp_path/"none")


def test_images_below_a_folder_but_no_masks_and_no_results(tmp_path):
    for name in ("z.png", "b/1.png", "b/a/0.png", "b/ground_truth/1.png", "results/9.png", ".cache/9.png"):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        save_image(tmp_path/name, torch.rand(3, 20, 20))
    (tmp_path/"results"/WRITTEN).write_text("[]")
    (tmp_path/"b"/"back").symlink_to(tmp_path)
    found = [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path, below=True)]
    assert found == ["z.png", "b/1.png", "b/a/0.png"]
    assert find_images(tmp_path) == [tmp_path/"z.png"]
    assert find_images(tmp_path/"results", below=True) == [tmp_path/"results"/"9.png"], "what is asked for"


def test_good_elsewhere_in_the_path(tmp_path):
    make_product(tmp_path/"good"/"test", "good", defects=("not good", "goods"))
    category = open_category(tmp_path/"good"/"test", "good")
    assert category.defects == ("goods", "not good")
    assert sum(t.is_good for t in category.test) == 2 and category.has_masks


def test_good_with_a_capital(tmp_path):
    folder = make_product(tmp_path)
    (folder/"test"/"good").rename(folder/"test"/"Good")
    assert open_category(tmp_path).defects == ("scratch",)


def test_masks_of_good_images_are_not_looked_at(tmp_path):
    folder = make_product(tmp_path)
    (folder/"ground_truth"/"good").mkdir()
    Image.new("L", (40, 24)).save(folder/"ground_truth"/"good"/"000_mask.png")
    assert all(t.mask is None for t in open_category(tmp_path).test if t.is_good)


# ---- names as people have them

@pytest.mark.parametrize("name", ["my part", "  part", "Größe ß", "a%20b", "teil#1", "[x]", "it's"])
def test_spaces_and_signs_in_names(tmp_path, name):
    make_product(tmp_path/"my data (copy)", name, defects=("broken edge",))
    category = open_category(tmp_path/"my data (copy)", name)
    assert category.name == name and category.defects == ("broken edge",) and category.has_masks
    assert ImageSet(category.train, (32, 32)).batch(range(3)).shape == (3, 3, 32, 32)


def test_windows_paths_on_other_systems(tmp_path, monkeypatch):
    make_product(tmp_path/"my data", "hex nut")
    monkeypatch.chdir(tmp_path)
    category = open_category("my data\\hex nut")
    assert category.name == "hex nut" and category.has_masks
    assert open_category(f"{tmp_path}\\my data").train[0].samefile(category.train[0])
    assert list_categories("my data\\") == ["hex nut"]
    assert len(find_images("my data\\hex nut\\train\\good")) == 3
    assert read_image("my data\\hex nut\\train\\good\\000.png").shape == (3, 24, 40)
    assert read_mask("my data\\hex nut\\ground_truth\\scratch\\000_mask.png").any()
    assert "C:\\no\\such" in message(open_category, "C:\\no\\such")


@pytest.mark.skipif("\\" == Path("a/b").__str__()[1], reason="a backslash can't be in a name on Windows")
def test_backslashes_in_names(tmp_path):
    make_product(tmp_path, "a\\b")
    Image.new("L", (40, 24)).save(tmp_path/"c\\d.png")
    assert open_category(tmp_path, "a\\b").name == "a\\b"
    assert read_image(tmp_path/"c\\d.png").shape == (3, 24, 40)


def test_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert local_path("~/x") == tmp_path/"x" and local_path("~") == tmp_path
    assert local_path("~$x.png") == Path("~$x.png") and local_path("") == Path("")


# ---- ImageSet

@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(4):
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path/f"{k}.png")
    return find_images(tmp_path)


def test_image_set(paths):
    images = ImageSet(paths, (32, 64))
    assert len(images) == 4 and images[0].shape == (3, 32, 64) and images[0].dtype == torch.float32
    assert (images[1] - resize(read_image(paths[1]), (32, 64))).abs().max() <= .5/255 + 1e-6
    batch = images.batch(torch.tensor([3, 0, 3]))
    assert batch.shape == (3, 3, 32, 64)
    assert torch.equal(batch[0], images[-1]) and torch.equal(batch[0], batch[2])
    for index in 4, -5:
        with pytest.raises(IndexError): images[index]


def test_cached_and_read_again_are_the_same(paths):
    one = 3*32*64
    for budget, kept in (0, 0), (one - 1, 0), (one, 1), (3*one, 3), (2**30, 4):
        images = ImageSet(paths, (32, 64), budget)
        first, again = images.batch(range(4)), images.batch(range(4))
        assert torch.equal(first, again) and len(images._cache) == kept
        assert torch.equal(first, ImageSet(paths, (32, 64)).batch(range(4)))


def test_cache_is_used(paths):
    images = ImageSet(paths, (32, 64))
    kept = images[2]
    for path in paths: path.unlink()
    assert torch.equal(images[2], kept)
    assert paths[1].name in message(lambda: images[1])


def test_changing_an_image_does_not_change_the_cache(paths):
    images = ImageSet(paths, (32, 64))
    before = images[0].clone()
    images[0].zero_()
    assert torch.equal(images[0], before)


def test_pickle_leaves_the_cache_behind(paths):
    images = ImageSet(paths, (32, 64))
    images.batch(range(4))
    copy = pickle.loads(pickle.dumps(images))
    assert copy._cache == {} and torch.equal(copy[0], images[0]) and len(images._cache) == 4
    assert len(pickle.dumps(images)) < 3*32*64


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_in_worker_processes(paths, context):
    import multiprocessing
    if context not in multiprocessing.get_all_start_methods(): pytest.skip(f"no {context} here")
    images = ImageSet(paths, (32, 64))
    loader = torch.utils.data.DataLoader(images, batch_size=2, num_workers=1, multiprocessing_context=context)
    assert torch.equal(torch.cat(list(loader)), images.batch(range(4)))


def test_test_image_is_no_test():
    assert TestImage.__test__ is False and TestImage(Path("a"), "good", None).is_good


def test_a_product_that_is_a_link_keeps_the_name_it_was_given(tmp_path, monkeypatch):
    make_product(tmp_path/"store", "0815-rev7")
    (tmp_path/"data").mkdir()
    (tmp_path/"data"/"nut").symlink_to(tmp_path/"store"/"0815-rev7")
    for root, name in ((tmp_path/"data", "nut"), (tmp_path/"data", None), (tmp_path/"data"/"nut", None),
                       (tmp_path/"data"/"nut", "nut")):
        assert open_category(root, name).name == "nut"
    assert open_category(tmp_path/"data"/"nut", "0815-rev7").train
    monkeypatch.chdir(tmp_path/"store"/"0815-rev7"/"train")
    assert open_category("..").name == open_category("../../0815-rev7").name == "0815-rev7"
    monkeypatch.chdir("..")
    assert open_category(".").name == "0815-rev7"
