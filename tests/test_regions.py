"Regions in COCO's format, read by others: polygons filled by Pillow and by matplotlib give the mask again"
import json

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Line
from PIL import Image, ImageDraw
from scipy import ndimage

from memseg_nb.data.images import save_image
from memseg_nb.data.convert import outlines
from test_detector import dark, photo  # noqa: F401  a fixture


def filled(polygons, size, scale=8):
    "Mask (H, W) that Pillow makes of polygons: drawn large, read at the middle of each pixel"
    canvas = Image.new("1", (size[1] * scale, size[0] * scale))
    for polygon in polygons:
        ImageDraw.Draw(canvas).polygon([scale * v for v in polygon], fill=1)
    return np.asarray(canvas)[scale // 2::scale, scale // 2::scale]


def counted(polygons, size):
    "How many polygons hold the middle of each pixel, by matplotlib"
    y, x = np.indices(size).reshape(2, -1) + .5
    return sum(Line(np.reshape([*p, *p[:2]], (-1, 2))).contains_points(np.c_[x, y]).astype(int)
               for p in polygons).reshape(size)


def shoelace(polygon):
    x, y = np.reshape(polygon, (-1, 2)).T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


@pytest.mark.parametrize("share", [.1, .5, .7, .95, 1.])
def test_polygons_cover_any_mask_exactly_and_never_twice(share):
    for seed in range(5):
        mask = np.random.default_rng(seed).random((13, 17)) < share
        polygons = outlines(mask)
        assert np.array_equal(filled(polygons, mask.shape), mask)
        assert np.array_equal(counted(polygons, mask.shape), mask.astype(int))
        assert sum(map(shoelace, polygons)) == mask.sum(), "all go the same way round"
        for polygon in polygons:
            corners = list(zip(polygon[::2], polygon[1::2]))
            assert len(polygon) >= 8 and len(set(corners)) == len(corners), "none touches itself"
            assert 0 <= min(polygon) and max(polygon[::2]) <= 17 and max(polygon[1::2]) <= 13


def test_outlines_by_hand():
    assert outlines(np.zeros((3, 3), bool)) == []
    assert outlines(np.eye(2, dtype=bool)) == [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]]
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    assert outlines(ring) == [[0, 0, 3, 0, 3, 1, 0, 1], [0, 1, 1, 1, 1, 2, 2, 2, 2, 1, 3, 1, 3, 3, 0, 3]]
    assert outlines(ring[:1], (5, 7)) == [[5, 7, 8, 7, 8, 8, 5, 8]]


def test_regions_json_says_what_the_masks_show(dark, tmp_path):  # noqa: F811
    "Keys by https://cocodataset.org/#format-data and #format-results"
    pictures = {"a/two.png": photo(), "one.png": photo((64, 64), (slice(9, 20), slice(5, 40))),
                "none.png": torch.full((3, 50, 70), .9)}
    pictures["a/two.png"][:, 60:90, 20:60] = .1
    pictures["a/two.png"][:, 70:80, 30:50] = .9  # a hole
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for name, picture in pictures.items(): save_image(tmp_path / "photos" / name, picture)
    (tmp_path / "photos" / "broken.png").write_text("no image")
    dark.predict_folder(tmp_path / "photos", tmp_path / "out", progress=False, maps="full")
    found = json.loads((tmp_path / "out" / "regions.json").read_text())
    assert set(found) == {"info", "images", "annotations", "categories"}
    assert found["info"]["photos"] == str(tmp_path / "photos")
    assert found["info"]["threshold"] == dark.threshold
    assert found["categories"] == [{"id": 1, "name": "anomaly", "supercategory": "defect"}]
    assert [image["file_name"] for image in found["images"]] == ["none.png", "one.png", "a/two.png"]
    assert len({one["id"] for one in found["annotations"]}) == len(found["annotations"]) == 3
    for image in found["images"]:
        stem = tmp_path / "out" / image["file_name"].removesuffix(".png")
        mask = np.asarray(Image.open(f"{stem}_mask.png")) > 0
        heat, whole = np.load(f"{stem}_map.npy"), np.zeros_like(mask)
        assert mask.shape == (image["height"], image["width"])
        ours = [one for one in found["annotations"] if one["image_id"] == image["id"]]
        assert len(ours) == ndimage.label(mask, np.ones((3, 3)))[1]
        assert [one["area"] for one in ours] == sorted((one["area"] for one in ours), reverse=True)
        for one in ours:
            assert set(one) == {"id", "image_id", "category_id", "iscrowd", "bbox", "area", "segmentation",
                                "score"} and one["category_id"] == 1 and one["iscrowd"] == 0
            region = filled(one["segmentation"], mask.shape)
            y, x = region.nonzero()
            assert one["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            assert one["area"] == region.sum() and one["score"] == pytest.approx(heat[region].max(), abs=1e-6)
            assert not (whole & region).any()
            whole |= region
        assert np.array_equal(whole, mask)
