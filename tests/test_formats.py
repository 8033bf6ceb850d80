"What cameras, scanners and labelling tools write: nothing is lost without a word"
import json, shutil, zlib

import numpy as np
import pytest
import torch
from PIL import Image
from test_images import make_product, message

from memseg_nb import plots
from memseg_nb.data import formats
from memseg_nb.data.formats import collected, find_bits, notice
from memseg_nb.data.images import (ImageSet, find_images, list_categories, open_category, read_image,
                                   read_mask)
from memseg_nb.deployment.detector import Detector, as_image
from memseg_nb.evaluation.evaluate import evaluate, read_test
from memseg_nb.recipe import load_recipe
from memseg_nb.training.train import train

ROWS, COLUMNS = np.mgrid[:24, :40]
TRUTH = (ROWS > 5) & (ROWS < 12) & (COLUMNS > 20)


def noted(function, *args, **kwargs):
    "The result of a call, and its notes as one text"
    notes = []
    with collected(notes): result = function(*args, **kwargs)
    return result, "\n".join(notes)


def deep(path, bits, kind=np.uint16):
    "A file whose values use so many bits"
    values = ((ROWS*40 + COLUMNS)/959*(2**bits - 1)).astype(kind)
    Image.fromarray(values).save(path)
    return path


# ---- more than 8 bits

@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_bits_are_recognised_and_kept(tmp_path, bits, suffix):
    path = deep(tmp_path/f"a{suffix}", bits)
    if open_mode(path) != "I;16": pytest.skip("this Pillow writes it otherwise")
    found, says = find_bits([path])
    assert found == str(bits) and f"taken as {bits} bits" in says and "image.bits" in says
    image = read_image(path, found)
    assert image.max() == 1 and len(image[0].unique()) > 900  # of 960 values, not of 4 or 16
    assert find_bits([path], "16") == ("16", "")
    assert len(ImageSet([path], (32, 64), bits=found)[0][0].unique()) > 900


def open_mode(path):
    with Image.open(path) as image: return image.mode


def test_all_good_images_decide_together(tmp_path):
    paths = [deep(tmp_path/"a.png", 10), deep(tmp_path/"b.png", 12)]
    (tmp_path/"c.png").write_text("broken")
    assert find_bits([*paths, tmp_path/"c.png"])[0] == "12"
    Image.new("RGB", (40, 24)).save(tmp_path/"d.png")
    assert find_bits([tmp_path/"d.png"]) == ("auto", "")


def test_values_beyond_the_bits_are_an_error_that_names_the_key(tmp_path):
    text = message(read_image, deep(tmp_path/"a.png", 12), "10")
    assert "a.png" in text and "0..1023 (10 bits)" in text and "image.bits" in text


def test_tiffs_of_32_bits_and_of_floats(tmp_path):
    path = deep(tmp_path/"a.tif", 31, np.int32)
    values = np.asarray(Image.open(path)).view(np.uint32)
    Image.fromarray((values*2).view(np.int32)).save(path)  # above 2^31: with a sign, negative
    signed = path.read_bytes()
    tag = b"\x53\x01\x03\0\x01\0\0\0"  # SampleFormat, one short; 2: signed, 1: unsigned
    assert signed.count(tag + b"\2") == 1 and "needs" in message(read_image, path, "32")
    path.write_bytes(signed.replace(tag + b"\2", tag + b"\1"))
    assert find_bits([path])[0] == "32" and read_image(path, "32").max() == pytest.approx(1)
    Image.fromarray((ROWS*40 + COLUMNS).astype(np.float32)*4).save(tmp_path/"f.tif")
    assert "image.bits" in message(read_image, tmp_path/"f.tif")
    bits, _ = find_bits([tmp_path/"f.tif"])
    assert bits == "12" and read_image(tmp_path/"f.tif", bits).max() == pytest.approx(3836/4095)
    values = ((ROWS*40 + COLUMNS)/960/100).astype(np.float32)  # dark floats: not rounded to bytes
    Image.fromarray(values).save(tmp_path/"g.tif")
    assert find_bits([tmp_path/"g.tif"]) == ("auto", "")
    assert len(ImageSet([tmp_path/"g.tif"], (32, 64))[0][0].unique()) > 900


def colour16(path, values):
    "A PNG of 16 bits a channel, which Pillow does not write; 2 to 4 channels"
    def chunk(name, data): return (len(data).to_bytes(4, "big") + name + data
                                   + zlib.crc32(name + data).to_bytes(4, "big"))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    size = values.shape[1].to_bytes(4, "big") + values.shape[0].to_bytes(4, "big")
    kind = {2: 4, 3: 2, 4: 6}[values.shape[2]]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + bytes([16, kind, 0, 0, 0]))
                     + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


COLOUR = np.stack([ROWS*40 + COLUMNS, ROWS*7 + COLUMNS, 900 - ROWS*20], -1)  # up to 959: 10 bits


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_colour_of_16_bits_keeps_them_in_a_png(tmp_path, bits):
    values = COLOUR << (bits - 10)
    path = colour16(tmp_path/"a.png", values)
    assert find_bits([path])[0] == str(bits)
    (image, text) = noted(read_image, path, str(bits))
    assert text == "" and np.abs(image.permute(1, 2, 0).numpy() - values/(2**bits - 1)).max() < 1e-6
    kept = ImageSet([path], (32, 64), bits=str(bits))
    kept[0]  # now in the cache
    assert len(kept[0][0].unique()) > 900


def test_alpha_of_16_bits_is_laid_on_white(tmp_path):
    alpha = np.where(TRUTH, 65535, 13107)[..., None]  # 1 and 0.2
    for name, colours in (("rgba", COLOUR*60), ("la", COLOUR[..., :1]*60)):
        image = read_image(colour16(tmp_path/f"{name}.png", np.concatenate([colours, alpha], 2)))
        wanted = colours/65535*alpha/65535 + 1 - alpha/65535
        assert np.abs(image.permute(1, 2, 0).numpy() - wanted).max() < 1e-6
    image, text = noted(read_image, colour16(tmp_path/"b.png", np.concatenate([COLOUR*60, 0*alpha], 2)))
    assert "transparent everywhere" in text
    assert np.abs(image[2].numpy() - COLOUR[..., 2]*60/65535).max() < 1e-6


@pytest.mark.parametrize("suffix", ["tif", "ppm", "png"])
def test_colour_of_16_bits_in_other_files_is_noted_or_refused(tmp_path, suffix, monkeypatch):
    "... since 8 are read, and of a PNG that is too large for more"
    monkeypatch.setattr(formats, "LARGE", 24*40 - (suffix == "png"))
    def write(name, values):
        path, values = tmp_path/f"{name}.{suffix}", values.astype(np.uint16)
        if suffix == "png": colour16(path, values)
        elif suffix == "tif": pytest.importorskip("tifffile").imwrite(path, values, photometric="rgb")
        else: path.write_bytes(b"P6 40 24 65535 " + values.astype(">u2").tobytes())
        return path
    image, text = noted(read_image, write("a", COLOUR*68))
    assert "16 bits, of which the upper 8 are read: save it as PNG" in text
    if suffix != "png": assert np.abs(image.permute(1, 2, 0).numpy() - COLOUR*68/65535).max() < 1/255
    assert find_bits([tmp_path/f"a.{suffix}"]) == ("auto", "")
    text = message(read_image, write("b", COLOUR*4))
    assert f"b.{suffix}" in text and "16 bits, nearly black" in text and "save it as PNG" in text


def test_arrays_of_16_bits():
    values = (ROWS*40 + COLUMNS).astype(np.uint16)
    assert as_image(values).max() == np.float32(959)/65535
    assert as_image(values, "10").max() == np.float32(959)/1023
    assert as_image(values.astype(np.uint8), "10").max() == 1


def test_a_run_on_12_bits_scores_like_one_on_8(tiny_data, tiny_recipe, tmp_path):
    for name, make in (("eight", lambda v: v), ("twelve", lambda v: v.astype(np.uint16)*16)):
        shutil.copytree(tiny_data/"hex_nut", tmp_path/name/"hex_nut")
        for path in (tmp_path/name).rglob("*.png"):
            if "ground_truth" in path.parts: continue
            Image.fromarray(make(np.asarray(Image.open(path).convert("L")))).save(path)
    runs = {name: train(tmp_path/name, "hex_nut", tmp_path/f"run_{name}", tiny_recipe, progress=False)
            for name in ("eight", "twelve")}
    assert runs["twelve"].recipe.image.bits == "12" and runs["eight"].recipe.image.bits == "auto"
    assert any("taken as 12 bits" in line for line in runs["twelve"].record["notes"])
    eight, twelve = (evaluate(run, progress=False, device="cpu") for run in runs.values())
    assert twelve["image_auroc"] == pytest.approx(eight["image_auroc"], abs=.05)
    assert twelve["pixel_auroc"] == pytest.approx(eight["pixel_auroc"], abs=.05)
    photo = next((tmp_path/"twelve"/"hex_nut"/"test"/"good").iterdir())
    detector = Detector.load(runs["twelve"], "cpu")
    assert detector.predict(photo).image.max() > .5  # not 1/16 of it
    folder = detector.predict_folder(photo.parent, tmp_path/"out", progress=False)
    assert folder.predicted == 4 and not folder.failed
    assert train(out=runs["twelve"].folder, recipe=tiny_recipe, resume=True).finished  # auto: as before


def test_recipes_of_earlier_versions(tmp_path, tiny_recipe):
    tiny_recipe.save(tmp_path/"r.ini")
    text = (tmp_path/"r.ini").read_text().replace("bits = auto\n", "").replace("bottle = <=250\n", "")
    (tmp_path/"r.ini").write_text(text)
    old = load_recipe(tmp_path/"r.ini")
    assert old.image == tiny_recipe.image and "bottle" not in old.foreground_table


# ---- transparent, empty, too large, too long

@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_alpha_0_everywhere_is_no_white_picture(tmp_path, name):
    picture = Image.new("RGBA", (40, 24), (200, 100, 50, 0))
    picture.save(tmp_path/name, **({"lossless": True, "exact": True} if "webp" in name else {}))
    image, text = noted(read_image, tmp_path/name)
    assert (image[:, 0, 0]*255).round().tolist() == [200, 100, 50] and "transparent everywhere" in text


def test_alpha_0_in_a_bmp(tmp_path):
    "V4: 32 bits with a mask of alpha, which many cameras leave empty"
    pixels = np.zeros((24, 40, 4), np.uint8)
    pixels[..., :3] = 50, 100, 200
    head = np.array([108, 40, 24], "<i4").tobytes() + np.array([1, 32], "<u2").tobytes()
    head += np.array([3, pixels.nbytes, 0, 0, 0, 0, 0xff0000, 0xff00, 0xff, 0xff000000], "<u4").tobytes()
    head = head.ljust(108, b"\0")
    (tmp_path/"a.bmp").write_bytes(
        b"BM" + np.array([122 + pixels.nbytes, 0, 122], "<u4").tobytes() + head + pixels.tobytes())
    image, text = noted(read_image, tmp_path/"a.bmp")
    assert (image[:, 0, 0]*255).round().tolist() == [200, 100, 50] and "transparent everywhere" in text


@pytest.mark.parametrize("level", [0, .5, 1])
def test_a_frame_without_a_picture_is_noted(level):
    empty = np.full((3, 48, 48), level, np.float32)
    empty += np.random.default_rng(0).normal(0, .001, empty.shape)
    assert "no picture of the product" in noted(notice, "a.png", empty, (32, 32))[1]
    empty[:, :24] += .1
    assert noted(notice, "a.png", empty, (32, 32))[1] == ""


def test_large_and_long_photos_are_noted_once():
    photo = np.random.default_rng(0).random((3, 3000, 4000), np.float32)
    notes = []
    with collected(notes):
        for k in range(3): notice(f"{k}.jpg", photo, (128, 128))
    assert len(notes) == 1 and "0.jpg and 2 more" in notes[0] and "24 x 32 pixels is lost" in notes[0]
    assert "image.height" in noted(notice, "a", photo[:, :300, :1000], (128, 128))[1]
    assert noted(notice, "a", photo[:, :1024, :1024], (128, 128))[1] == ""  # MVTec AD with quick


@pytest.mark.parametrize("mode, suffix", [("L", ".png"), ("RGB", ".jpg"), ("P", ".png"), ("1", ".png"),
                                          ("I;16", ".png"), ("RGBA", ".tif")])
def test_very_large_images_are_read_at_a_part_of_their_size(tmp_path, monkeypatch, mode, suffix):
    rows, columns = np.mgrid[:300, :400]
    values = (rows*.3 + columns*.3).astype(np.uint8)
    picture = (Image.fromarray(values.astype(np.uint16)*257) if mode == "I;16"
               else Image.fromarray(values).convert("RGB").convert(mode))
    picture.save(tmp_path/f"a{suffix}")
    whole = read_image(tmp_path/f"a{suffix}")
    monkeypatch.setattr(formats, "LARGE", 30_000)
    image, text = noted(read_image, tmp_path/f"a{suffix}")
    assert image.shape == (3, 150, 200) and "400x300" in text and "200x150" in text
    means = torch.nn.functional.avg_pool2d(whole, 2)
    assert (image - means).abs().mean() < .02


def test_a_bomb_costs_its_own_row(tiny_run, tmp_path, monkeypatch):
    Image.fromarray((ROWS*COLUMNS % 256).astype(np.uint8)).save(tmp_path/"ok.png")
    Image.new("L", (200, 200)).save(tmp_path/"bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    done = Detector.load(tiny_run, "cpu").predict_folder(tmp_path, tmp_path/"out", progress=False)
    assert done.predicted == 1 and "30,000 pixels" in done.failed[tmp_path/"bomb.png"]
    assert "cut it into parts" in done.failed[tmp_path/"bomb.png"]


def test_overlay_is_the_colour_map_in_float32():
    from matplotlib import colormaps
    map = np.random.default_rng(0).random((40, 30), np.float32)
    map[0, :2] = 0, 1
    image = np.zeros((3, 40, 30), np.float32)
    expected = .7*map[..., None]*colormaps["magma"](.25 + .75*map)[..., :3].astype(np.float32)
    assert np.array_equal(plots.overlay(image, map), expected) and plots.overlay(image,
                                                                                 map).dtype == np.float32


# ---- masks

def soft():
    values = TRUTH*255
    return Image.fromarray(np.where(np.roll(TRUTH, 1, 0) & ~TRUTH, 60, values).astype(np.uint8))


def numbers():
    "All colours of the palette are black: only the numbers tell"
    picture = Image.fromarray(TRUTH.astype(np.uint8)).convert("P")
    picture.putpalette([0, 0, 0]*256)
    return picture


def cut_out(colour):
    picture = Image.new("RGB", (40, 24), colour)
    picture.putalpha(Image.fromarray(TRUTH).convert("L"))
    return picture


@pytest.mark.parametrize("make", [
    soft, numbers, lambda: cut_out("white"), lambda: cut_out("black"),
    lambda: Image.fromarray(TRUTH.astype(np.uint16)*65535), lambda: Image.fromarray(TRUTH*np.float32(1)),
    lambda: Image.fromarray(TRUTH.astype(np.uint8)*100), lambda: soft().convert("RGBA"),
    lambda: Image.fromarray(np.where(TRUTH, 240, 0).astype(np.uint8)).convert("LA")])
def test_masks_as_tools_write_them(tmp_path, make):
    make().save(tmp_path/"m.tif")
    assert np.array_equal(read_mask(tmp_path/"m.tif").numpy(), TRUTH)


@pytest.mark.parametrize("high", [90, 255])
def test_smear_of_jpeg_falls_away(tmp_path, high):
    truth = np.zeros((64, 64), np.uint8)
    truth[13:42, 11:50] = high
    Image.fromarray(truth).save(tmp_path/"m.jpg", quality=60)
    assert np.array_equal(read_mask(tmp_path/"m.jpg").numpy(), truth > 0)


def test_several_masks_of_one_image_are_united(tmp_path):
    folder = make_product(tmp_path)
    truth = folder/"ground_truth"/"scratch"
    (truth/"000").mkdir()
    (truth/"000_mask.png").rename(truth/"000"/"000.png")
    second = Image.new("L", (40, 24))
    second.paste(255, (20, 10, 30, 20))
    second.save(truth/"000"/"001.png")
    item = next(t for t in open_category(tmp_path).test if t.path.stem == "000" and not t.is_good)
    assert item.mask == truth/"000" and read_mask(item.mask).sum() == 6*4 + 100


def test_a_mask_of_nearly_everything_is_noted(tmp_path):
    Image.new("L", (40, 24), 255).save(tmp_path/"m.png")
    assert "nine tenths" in noted(read_mask, tmp_path/"m.png")[1]


def test_masks_among_the_photos_are_no_photos(tmp_path):
    folder = make_product(tmp_path)
    for mask in (folder/"ground_truth"/"scratch").iterdir(): mask.rename(folder/"test"/"scratch"/mask.name)
    shutil.rmtree(folder/"ground_truth")
    category, text = noted(open_category, tmp_path)
    assert len(category.test) == 4 and category.has_masks and "2 masks among the photos" in text


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_on_the_stored_pixels_of_a_turned_photo(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray((ROWS*10).astype(np.uint8))
    stored.save(tmp_path/"a.png", exif=exif)
    Image.fromarray(TRUTH).save(tmp_path/"m.png")
    Image.fromarray(TRUTH).save(tmp_path/"turned.png", exif=exif)  # Pillow's own idea of it
    size = formats.upright_size(tmp_path/"a.png")
    mask, text = noted(read_mask, tmp_path/"m.png", None, size, tmp_path/"a.png")
    assert size == (40, 24) and torch.equal(mask, read_mask(tmp_path/"turned.png"))
    assert "EXIF" in text and "a.png" in text


# ---- regions at the mask's own size

def test_small_defects_and_hairlines_are_measured(tmp_path):
    folder = make_product(tmp_path, size=(512, 512))
    for path in (folder/"ground_truth"/"scratch").iterdir():
        mask = np.zeros((512, 512), np.uint8)
        for k in range(24): mask[20*k + 5, 300:302] = 255
        mask[np.arange(500), np.arange(500)//3] = 255  # a hairline
        Image.fromarray(mask).save(path)
    from memseg_nb.evaluation.evaluate import measure
    items = [t for t in open_category(tmp_path).test if not t.is_good]
    assert read_test(items[0], (64, 64))[1].shape == (512, 512)
    found = measure(items, lambda images: images.mean(1), (64, 64), load_recipe().evaluation, progress=False)
    assert found.pixels["scratch"].regions == 2*25
    shrunk = read_mask(items[0].mask, (64, 64))
    assert shrunk.sum() < 64  # what the nearest pixel leaves of them


# ---- names of files and folders

def test_skipped_files_are_counted_and_named(tmp_path):
    folder = make_product(tmp_path)
    for name in "IMG_1.heic", "IMG_2.HEIC", "notes.txt", "x.CR2": (folder/"train"/"good"/name).touch()
    (folder/"train"/"good"/"Thumbs.db").touch()
    text = noted(open_category, tmp_path)[1]
    assert "4 skipped" in text and "IMG_1.heic" in text and "Thumbs" not in text
    assert "4 skipped" in noted(find_images, folder/"train"/"good")[1]


@pytest.mark.parametrize("name", ["Good", "ok", "OK", "normal", "Normal"])
def test_other_names_of_good(tmp_path, name):
    folder = make_product(tmp_path)
    for part in "train", "test": (folder/part/"good").rename(folder/part/name)
    category = open_category(tmp_path)
    assert list_categories(tmp_path) == ["part"] and len(category.train) == 3
    assert category.defects == ("scratch",) and sum(t.is_good for t in category.test) == 2


def test_photos_directly_in_test(tmp_path):
    folder = make_product(tmp_path)
    for path in (folder/"test"/"good").iterdir(): path.rename(folder/"test"/path.name)
    category, text = noted(open_category, tmp_path)
    assert len(category.test) == 2 and "2 photos directly in it are not used" in text and "test/good" in text


def test_notes_reach_run_metrics_and_folder(tiny_data, tiny_recipe, tmp_path):
    shutil.copytree(tiny_data, tmp_path/"data")
    product = tmp_path/"data"/"hex_nut"
    for part in "train/good/000.png", "test/good/000.png": Image.new("L", (64, 64)).save(product/part)
    (product/"train"/"good"/"a.heic").touch()
    run = train(tmp_path/"data", None, tmp_path/"run", tiny_recipe, progress=False)
    notes = "\n".join(run.record["notes"])
    assert "1 skipped" in notes and "no picture of the product" in notes
    evaluate(run, progress=False, device="cpu")
    assert sum("no picture" in line for line in json.loads(run.metrics_file.read_text())["notes"]) == 1
    done = Detector.load(run, "cpu").predict_folder(product/"test"/"good", tmp_path/"out", progress=False)
    assert len(done.notes) == 1 and "000.png: black" in done.notes[0]
