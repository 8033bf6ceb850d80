"Large photos: cut into tiles, judged tile by tile, and joined to one answer"
import csv
import json

import pytest
import torch
from PIL import Image

from memseg_nb.data.images import open_category, read_image, resize
from memseg_nb.deployment.detector import Detector
from memseg_nb.files import MemSegError
from memseg_nb.model import tiles as module
from memseg_nb.model.memseg import build_model
from memseg_nb.model.tiles import Tiling, same_place, starts, tile_choice, weights, windows
from memseg_nb.model.weights import make_encoder
from memseg_nb.recipe import load_recipe
from memseg_nb.training.checkpoints import fingerprint, load_model
from memseg_nb.training.train import train

SIZES = [(64, 64, 2), (64, 96, 2), (64, 64, 3), (128, 64, 4), (32, 160, 5)]  # height, width, tiles a side


def image_recipe(height, width, tiles):
    return load_recipe(overrides=[f"image.height={height}", f"image.width={width}",
                                  f"image.tiles={tiles}"]).image


def naive_merge(tiling, maps):
    "Pixel by pixel: a tile counts as much as the pixel is away from the tile's nearer edge"
    (height, width), (h, w), side = tiling.whole, tiling.size, tiling.side
    tops, lefts = [[round(k * (a - b) // (side - 1)) for k in range(side)] for a, b in
                   zip(tiling.whole, tiling.size)]
    whole = torch.zeros(height, width)
    for y in range(height):
        for x in range(width):
            total = value = 0.
            for row, top in enumerate(tops):
                for column, left in enumerate(lefts):
                    i, j = y - top, x - left
                    if not (0 <= i < h and 0 <= j < w): continue
                    share = min(i + 1, h - i) * min(j + 1, w - j)
                    total += share
                    value += share * maps[row * side + column, i, j].item()
            whole[y, x] = value / total
    return whole


@pytest.mark.parametrize("height, width, tiles", SIZES)
def test_a_map_is_cut_and_joined_again(height, width, tiles):
    image = image_recipe(height, width, tiles)
    tiling, draw = Tiling.of(image), torch.Generator().manual_seed(0)
    assert image.whole[0] % 32 == image.whole[1] % 32 == 0
    photos = torch.rand(2, 3, *image.whole, generator=draw)
    cut = tiling.cut(photos)
    assert cut.shape == (2 * tiles**2, 3, height, width)
    assert torch.equal(cut[tiles**2], photos[1, :, :height, :width])     # photo by photo, from the upper left
    assert torch.equal(cut[-1], photos[1, :, -height:, -width:])         # to the lower right
    assert torch.equal(cut[1], tiling.tile(photos[0], 1))                # row by row
    assert torch.equal(cut[1], photos[0, :, :height, starts(image.whole[1], width, tiles)[1]:][..., :width])
    torch.testing.assert_close(tiling.merge(cut[:, 0]), photos[:, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(tiling.merge(torch.full((tiles**2, height, width), .3)),
                               torch.full((1, *image.whole), .3))


@pytest.mark.parametrize("height, width, tiles", [(32, 32, 3), (32, 64, 4)])
def test_merging_is_the_mean_that_loops_compute(height, width, tiles):
    tiling, draw = Tiling.of(image_recipe(height, width, tiles)), torch.Generator().manual_seed(1)
    maps = torch.rand(tiles**2, height, width, generator=draw)
    torch.testing.assert_close(tiling.merge(maps)[0], naive_merge(tiling, maps))


def test_there_is_no_seam():
    "Tiles that disagree are joined by a ramp: no step from pixel to pixel is larger than that of the ramp"
    tiling = Tiling.of(image_recipe(64, 64, 2))
    maps = torch.zeros(4, 64, 64)
    maps[1::2] = 1  # right ones
    joined = tiling.merge(maps)[0]
    assert joined[:, 0].max() == 0 and joined[:, -1].min() == 1
    assert joined.diff(dim=1).max() <= 1 / 32  # they share 32 pixels
    assert joined.diff(dim=0).abs().max() < 1e-6
    assert (weights(96, 64, 2)[0, -32:] + weights(96, 64, 2)[1, :32] - 1).abs().max() < 1e-6


def test_sizes_in_the_recipe():
    assert image_recipe(256, 256, 1).whole == (256, 256)
    assert image_recipe(256, 256, 1).says == "256x256 pixels"
    assert image_recipe(256, 256, 2).whole == (448, 448)
    assert image_recipe(128, 256, 4).whole == (416, 832)
    assert image_recipe(128, 256, 4).says == "416x832 pixels, in 4 x 4 tiles of 128x256"
    with pytest.raises(MemSegError, match="tiles = 8: makes 6400x6400 .* at most 4096 a side"):
        image_recipe(1024, 1024, 8)
    with pytest.raises(MemSegError, match=r"photos of 64x64 pixels: 2 x 2 tiles need 96x96"):
        Tiling.of(image_recipe(64, 64, 2)).cut(torch.zeros(1, 3, 64, 64))


def test_without_tiles_all_is_as_it_was(tiny_run, tmp_path):
    "A run of an earlier version has no such line: same recipe, same name of its settings, same network"
    before = tmp_path / "before.ini"
    lines = tiny_run.recipe_file.read_text().splitlines()
    before.write_text("\n".join(line for line in lines if not line.startswith("tiles =")))
    recipe = load_recipe(before)
    assert recipe == tiny_run.recipe and fingerprint(recipe) == fingerprint(tiny_run.recipe)
    assert recipe.image.whole == recipe.image.size and Tiling.of(recipe.image) is None
    assert fingerprint(recipe.replace(**{"image.tiles": 2})) != fingerprint(recipe)
    model, images = load_model(tiny_run), torch.rand(2, 3, 64, 64)
    (part, own), = windows(model, images, "anything")
    assert model.tiling is None and part is images and own == "anything"


def test_a_tile_is_compared_with_its_place_of_other_photos():
    four = torch.tensor([3, 0])  # places of two tiles
    assert same_place(8, 4, four).nonzero()[:, 1].tolist() == [3, 7, 0, 4]
    assert same_place(8, 4, four, torch.tensor([0, 1])).nonzero()[:, 1].tolist() == [7, 0]
    assert same_place(4, 4, four, torch.tensor([0, 0])).nonzero()[:, 1].tolist() == [3, 0]  # the only photo


def filled(recipe, photos):
    model = build_model(recipe, make_encoder(recipe.encoder.backbone)).eval()
    model.remember([photos[:2], photos[2:]])
    return model


@pytest.fixture(scope="module")
def tiled_recipe(tiny_recipe): return tiny_recipe.replace(**{"image.tiles": 2})


@pytest.mark.parametrize("match", ["joint", "level", "patch"])
@torch.no_grad()
def test_a_map_is_that_of_its_tiles(tiled_recipe, match, monkeypatch):
    "Each tile alone, compared with what it may be compared with, then joined"
    # few patches, so that no place of a photo lies between two: rounding would decide for one
    recipe = tiled_recipe.replace(**{"memory.match": match, "memory.patches": 50})
    photos = torch.rand(4, 3, *recipe.image.whole, generator=torch.Generator().manual_seed(2))
    model = filled(recipe, photos[:3])
    assert model.memory.samples == (3 if match == "patch" else 12)
    found = model.anomaly_map(photos[2:])
    assert found.shape == (2, *recipe.image.whole)
    tiles, maps = model.tiling.cut(photos[3:]), []
    for place, tile in enumerate(tiles):
        index = None
        if match != "patch":  # the nearest of samples place, 4 + place, 8 + place
            distances = model.memory(model.encoder(tile[None])).distances
            index = 4 * distances[..., place::4].argmin(-1) + place
        maps.append(model.explain(tile[None], index).probability[0])
    torch.testing.assert_close(found[1:], model.tiling.merge(torch.stack(maps)), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(module, "AT_ONCE", 3)
    torch.testing.assert_close(model.anomaly_map(photos[2:]), found, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_no_photo_is_compared_with_its_own_tiles(tiled_recipe):
    "A remembered photo differs from the others in all its tiles; without the choice it would differ nowhere"
    photos = torch.rand(3, 3, *tiled_recipe.image.whole, generator=torch.Generator().manual_seed(3))
    numbers = torch.arange(12)
    model = filled(tiled_recipe, photos)
    match = model.explain(model.tiling.cut(photos), tile_choice(model, numbers, True)).match
    assert (match.index % 4 == numbers % 4).all() and (match.index // 4 != numbers // 4).all()
    match = model.explain(model.tiling.cut(photos), tile_choice(model, numbers, False)).match
    assert (match.index == numbers).all()
    patches = filled(tiled_recipe.replace(**{"memory.match": "patch"}), photos)
    assert patches.memory.owner1.unique().tolist() == [0, 1, 2] and len(patches.memory.gists) == 3
    cut = patches.tiling.cut(photos[:1])
    kept, left_out = (patches.explain(cut, own).match.distances[0].mean()
                      for own in (None, tile_choice(patches, torch.arange(4), True)))
    assert kept < .5 * left_out


@pytest.fixture(scope="module")
def tiled_run(tiny_data, tiled_recipe, tmp_path_factory):
    "Trained for three steps; the paper's memory; not to be written to"
    return train(tiny_data, "hex_nut", tmp_path_factory.mktemp("tiles") / "run", tiled_recipe, progress=False)


def test_a_run_answers_for_whole_photos(tiled_run, tiny_data, tmp_path, memseg):
    run, whole = tiled_run, (96, 96)
    split = run.record["split"]  # by photo
    names = [name for part in ("memory", "train", "held_back") for name in split[part]]
    assert set(names) == {path.name for path in (tiny_data / "hex_nut" / "train" / "good").iterdir()}
    assert load_model(run).memory.samples == 4 * len(split["memory"])
    code, out, err = memseg("evaluate", run.folder)
    metrics = json.loads(run.metrics_file.read_text())
    assert code == 0 and (run.folder / "report.html").is_file(), err
    assert metrics["size"] == [*whole] and metrics["counts"]["images"] == 9
    photos = tiny_data / "hex_nut" / "test" / "crack"
    code, out, err = memseg("predict", run.folder, photos, "--out", tmp_path / "answers", "--maps", "full")
    assert code == 0 and "seen at 96x96 pixels, in 2 x 2 tiles of 64x64" in out, err
    detector = Detector.load(run, "cpu")
    with (tmp_path / "answers" / "scores.csv").open() as file: row, = csv.DictReader(file)
    large = tmp_path / "large.png"  # of another size: map and regions are the photo's
    Image.open(next(photos.iterdir())).resize((300, 200)).save(large)
    answer = detector.predict(large)
    assert answer.map.shape == (200, 300) and answer.small.shape == whole
    photo = resize(read_image(large), whole)
    assert torch.equal(answer.small, detector.model.anomaly_map(photo[None])[0])
    assert abs(float(row["score"]) - detector.predict(next(photos.iterdir())).score) < 1e-5
    assert "in 2 x 2 tiles of 64x64" in repr(detector)


def test_another_count_of_tiles_is_another_recipe(tiled_run, tiny_data, tiled_recipe):
    with pytest.raises(MemSegError, match="image.tiles: 3 here, 2 there"):
        train(tiny_data, "hex_nut", tiled_run.folder, tiled_recipe.replace(**{"image.tiles": 3}), resume=True)


def test_the_memory_explorer_says_that_it_knows_no_tiles(tiled_run):
    from memseg_nb.widgets.memory_explorer import MemoryExplorer
    with pytest.raises(MemSegError, match="sees tiles of photos: .* train with image.tiles=1"):
        MemoryExplorer.of_run(tiled_run)


@pytest.mark.parametrize("changes", [{"memory.samples": 20},
                                     {"memory.match": "patch", "evaluation.calibrate": "on"}])
def test_photos_that_are_remembered_and_trained_on(tiny_data, tiled_recipe, changes, tmp_path):
    run = train(tiny_data, "hex_nut", tmp_path / "run", tiled_recipe.replace(**changes), progress=False)
    assert run.finished and run.record["split"]["shared"] and run.record["steps_done"] == 3
    assert 0 < run.record["threshold"] < 1 and len(run.good_scores) == run.record["thresholds"]["good"]


def test_good_photos_alone_and_tiles(tiny_data, tiled_recipe):
    "Memory of patches, calibrated on tiles; the photo itself and its like are left out of the thresholds"
    recipe = tiled_recipe.replace(**{"memory.match": "patch", "evaluation.calibrate": "on"})
    detector = Detector.remember(tiny_data / "hex_nut" / "train" / "good", recipe, "cpu")
    assert detector.model.memory.samples == 3 and 0 < detector.threshold < 1
    test = open_category(tiny_data, "hex_nut").test
    assert {detector.predict(item.path).map.shape for item in test} == {(64, 64)}


@pytest.mark.parametrize("match", ["joint", "patch"])
def test_an_exported_file_takes_whole_photos(tiled_recipe, match, tmp_path):
    pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    from memseg_nb.deployment.onnx import export_onnx
    recipe = tiled_recipe.replace(**{"memory.match": match})
    photos = torch.rand(4, 3, *recipe.image.whole, generator=torch.Generator().manual_seed(4))
    detector = Detector(filled(recipe, photos[:3]), recipe, .5, .5)
    exported = Detector.load(export_onnx(detector, tmp_path / "tiles.onnx"))
    assert exported.recipe.image.size == recipe.image.whole
    torch.testing.assert_close(exported.model.anomaly_map(photos), detector.model.anomaly_map(photos),
                               rtol=0, atol=1e-4)
    one = torch.rand(3, 200, 300, generator=torch.Generator().manual_seed(5))
    assert abs(exported.predict(one).score - detector.predict(one).score) < 1e-4
