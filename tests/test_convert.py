"Data sets of others, each as a miniature in its own layout, converted and read back as MVTec AD's"
import csv
import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from memseg_nb.data import convert as module
from memseg_nb.data.convert import convert
from memseg_nb.data.images import list_categories, open_category, read_mask
from memseg_nb.files import MemSegError


def picture(path, shade, size=(48, 32)):
    "A photo of its own grey"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 100, 200)).save(path)


def truth(path, box=(4, 6, 10, 12), value=255, size=(48, 32)):
    "A mask with a rectangle of some value, or all black"
    mask = Image.new("L", size)
    if box: mask.paste(value, box)
    path.parent.mkdir(parents=True, exist_ok=True)
    mask.save(path)


def area(path): return int(np.count_nonzero(np.asarray(Image.open(path))))


def visa(root):
    rows = [["object", "split", "label", "image", "mask"]]
    for product in "candle", "pcb1":
        for k in range(6):
            image = f"{product}/Data/Images/Normal/{k:04}.JPG"
            picture(root/image, 10*k)
            rows.append([product, "train" if k < 4 else "test", "normal", image, ""])
        for k in range(3):
            image, mask = (f"{product}/Data/{kind}/Anomaly/{k:03}.{suffix}"
                           for kind, suffix in (("Images", "JPG"), ("Masks", "png")))
            picture(root/image, 200 + k)
            truth(root/mask, value=k + 1)  # classes, not white
            rows.append([product, "test", "anomaly", image, mask])
    (root/"split_csv").mkdir()
    with (root/"split_csv"/"1cls.csv").open("w", newline="") as file: csv.writer(file).writerows(rows)
    return {"candle": (4, 2, {"anomaly": 3}), "pcb1": (4, 2, {"anomaly": 3})}


def btad(root):
    for product, suffix in ("01", "bmp"), ("02", "png"), ("03", "bmp"):
        for k in range(4): picture(root/product/"train"/"ok"/f"{k:04}.{suffix}", 10*k)
        for k in range(2): picture(root/product/"test"/"ok"/f"{k:04}.{suffix}", 100 + k)
        for k in range(3):
            picture(root/product/"test"/"ko"/f"{k:04}.{suffix}", 200 + k)
            truth(root/product/"ground_truth"/"ko"/f"{k:04}.png")
    return {name: (4, 2, {"ko": 3}) for name in ("01", "02", "03")}


def kolektor(root):
    for k in range(1, 8):
        for part in range(3):
            stem = root/f"kos{k:02}"/f"Part{part}"
            picture(stem.with_suffix(".jpg"), 10*k + part)
            truth(stem.with_name(f"Part{part}_label.bmp"), (4, 6, 10, 12) if part == 1 else None, 1)
    return {"kolektor": (5*2, 2*2, {"defect": 7})}


def ksdd2(root):
    for part, numbers in ("train", range(10000, 10006)), ("test", range(20000, 20005)):
        for k in numbers:
            picture(root/part/f"{k}.png", k % 200)
            truth(root/part/f"{k}_GT.png", (4, 6, 10, 12) if k % 5 == 0 else None)
    return {"ksdd2": (4, 4, {"defect": 1})}


def loco(root):
    for product in "pushpins", "screw_bag":
        for part, count in ("train", 4), ("validation", 2), ("test", 2):
            for k in range(count): picture(root/product/part/"good"/f"{k:03}.png", 50 + k)
        for kind in "logical_anomalies", "structural_anomalies":
            for k in range(2):
                picture(root/product/"test"/kind/f"{k:03}.png", 200 + k)
                truth(root/product/"ground_truth"/kind/f"{k:03}"/"000.png", (0, 0, 2, 18), 250)
                truth(root/product/"ground_truth"/kind/f"{k:03}"/"001.png", (2, 0, 4, 0), 249)
        (root/product/"defects_config.json").write_text("[]")
    return dict.fromkeys(("pushpins", "screw_bag"),
                         (6, 2, {"logical_anomalies": 2, "structural_anomalies": 2}))


def ad2(root):
    for k in range(4): picture(root/"can"/"train"/"good"/f"{k:03}_regular.png", k)
    for k in range(2): picture(root/"can"/"validation"/"good"/f"{k:03}_regular.png", 10 + k)
    for k in range(2): picture(root/"can"/"test_public"/"good"/f"{k:03}_regular.png", 20 + k)
    for k in range(2):
        picture(root/"can"/"test_public"/"bad"/f"{k:03}_overexposed.png", 30 + k)
        truth(root/"can"/"test_public"/"ground_truth"/"bad"/f"{k:03}_overexposed_mask.png")
        picture(root/"can"/"test_private"/f"{k:03}.png", 40 + k)
    return {"can": (6, 2, {"bad": 2})}


def a_list(root):
    rows = ["\ufeffFile;Label;Mask"]
    for k in range(10):
        picture(root/f"{k}.png", 10*k)
        rows.append(f"{k}.png;{['OK', 'good', 'Normal'][k % 3]};")
    picture(root/"more"/"0.png", 180)
    picture(root/"0.jpg", 190)
    truth(root/"masks"/"zero.png")
    rows += ["more/0.png;scratch;masks/zero.png", "", "0.jpg;dent;"]
    (root/"labels.csv").write_text("\r\n".join(rows), encoding="utf-8")
    return {root.name: (8, 2, {"scratch": 1, "dent": 1})}


MAKERS = {"visa": visa, "btad": btad, "kolektor": kolektor, "ksdd2": ksdd2, "loco": loco, "ad2": ad2,
          "list": a_list}


def state(folder):
    "Names, contents and times of all files below"
    return {path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
            for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_miniature_of_each_data_set(kind, tmp_path, recwarn):
    source = tmp_path/"set"
    source.mkdir()
    expected, before = MAKERS[kind](source), state(source)
    done = convert(source, tmp_path/"out", kind, progress=False)
    assert state(source) == before, "the source is only read"
    assert sorted(list_categories(tmp_path/"out")) == sorted(expected) == sorted(p.name for p in done.folders)
    photos = {hashlib.sha256(data[0]).digest() for path, data in before.items() if data}
    for name, (train, good, defects) in expected.items():
        found = open_category(tmp_path/"out", name)
        kinds = [item.defect for item in found.test]
        assert (len(found.train), kinds.count("good")) == (train, good)
        assert {one: kinds.count(one) for one in found.defects} == defects
        for path in (*found.train, *(item.path for item in found.test)):
            assert hashlib.sha256(path.read_bytes()).digest() in photos, "copied byte by byte"
        for item in found.test:
            if item.is_good or item.defect == "dent":
                assert item.mask is None
                continue
            values = np.unique(np.asarray(Image.open(item.mask))).tolist()
            assert values == [0, 255] and area(item.mask) == 36 == read_mask(item.mask).sum()
    counts = [sum(one[k] for one in expected.values()) for k in (0, 1)]
    assert [done.counts[name] for name in ("train", "good")] == counts
    assert done.counts["defective"] == sum(sum(one[2].values()) for one in expected.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]


def test_photos_of_one_name_stay_apart_and_none_is_used_twice(tmp_path):
    source = tmp_path/"set"
    rows = ["file,label"]
    names = ["a/0.png", "b/0.png", "0.png", "0.jpg", "0.bmp", "a_0.png", *map("x{}.png".format, range(4))]
    for k, name in enumerate(names):
        picture(source/name, 20*k)
        rows.append(f"{name},good")
    (source/"list.csv").write_text("\n".join(rows))
    done = convert(source, tmp_path/"out", "list", progress=False)
    found = [path for path in done.folders[0].rglob("*.*") if path.is_file()]
    assert len(found) == 10 == len({path.read_bytes() for path in found})
    product = open_category(tmp_path/"out")
    assert (len(product.train), len(product.test)) == (8, 2)


def test_the_items_of_kolektor_are_never_divided(tmp_path):
    kolektor(tmp_path/"set")
    convert(tmp_path/"set", tmp_path/"out", "kolektor", progress=False)
    found = open_category(tmp_path/"out")
    def items(paths): return {path.name.partition("_")[0] for path in paths}
    assert not items(found.train) & items(item.path for item in found.test if item.is_good)


def test_a_list_may_say_the_division_itself(tmp_path):
    for k in range(6): picture(tmp_path/"set"/f"{k}.png", 10*k)
    rows = ["file\tlabel\tsplit"] + [f"{k}.png\t{'bad' if k == 5 else 'ok'}\t{'test' if k > 3 else 'train'}"
                                      for k in range(6)]
    (tmp_path/"set"/"any.csv").write_text("\n".join(rows))
    for source in tmp_path/"set", tmp_path/"set"/"any.csv":
        done = convert(source, tmp_path/f"out of {source.name}", "list", progress=False)
        assert done.counts == {"train": 4, "good": 1, "defective": 1} and done.folders[0].name == "set"


def test_defective_photos_of_the_training_part_are_left_out_and_counted(tmp_path):
    (tmp_path/"set").mkdir()
    ksdd2(tmp_path/"set")
    assert convert(tmp_path/"set", tmp_path/"out", "ksdd2", progress=False).left_out == 2


@pytest.mark.parametrize("rows, says", [
    (["file,label", "none.png,good"], "none.png: is missing, as 0 other files are"),
    (["file,label", "0.png,good", "1.png,good"], "no good photos of set to train on|1.png: is missing"),
    (["file,colour", "0.png,good"], "no column label: needs a first line file,label"),
    (["file,label", "0.png,good", "0.png,../../evil"], "'../../evil', said of .*: needs a name"),
    (["file,label", "0.png,"], "'', said of .*: needs a name"),
    (["file,label,split", "0.png,good,later"], "split 'later' of .*0.png: needs train or test"),
    (["file,label,mask", "0.png,dent,gone.png"], "gone.png: is missing"),
    (["file,label"], "no good photos of set to train on"),
    ([], "no column file"),
])
def test_lists_that_do_not_work_leave_nothing(rows, says, tmp_path):
    picture(tmp_path/"set"/"0.png", 10)
    (tmp_path/"set"/"list.csv").write_text("\n".join(rows))
    with pytest.raises(MemSegError, match=says):
        convert(tmp_path/"set", tmp_path/"out", "list", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_product_of_a_table_never_leads_out_of_the_folder(tmp_path):
    (tmp_path/"set").mkdir()
    visa(tmp_path/"set")
    table = tmp_path/"set"/"split_csv"/"1cls.csv"
    table.write_text(table.read_text().replace("\npcb1,train", "\n../pcb1,train"))
    with pytest.raises(MemSegError, match="needs a name that a folder may have"):
        convert(tmp_path/"set", tmp_path/"out", "visa", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_folder_in_another_layout_is_refused_with_what_was_expected(kind, tmp_path):
    (tmp_path/"set"/"photos").mkdir(parents=True)
    with pytest.raises(MemSegError, match="needs"):
        convert(tmp_path/"set", tmp_path/"out", kind, progress=False)
    with pytest.raises(MemSegError, match="no such folder"):
        convert(tmp_path/"none", tmp_path/"out", kind, progress=False)
    assert not (tmp_path/"out").exists()


def test_what_is_there_is_never_written_to(tmp_path):
    (tmp_path/"set").mkdir()
    btad(tmp_path/"set")
    (tmp_path/"out").mkdir()
    with pytest.raises(MemSegError, match="is there already"):
        convert(tmp_path/"set", tmp_path/"out", "btad", progress=False)
    with pytest.raises(MemSegError, match="lies in the data set itself"):
        convert(tmp_path/"set", tmp_path/"set"/"01"/"mvtec", "btad", progress=False)
    with pytest.raises(MemSegError, match="kind 'btech': there are visa, btad"):
        convert(tmp_path/"set", tmp_path/"new", "btech", progress=False)
    assert not list((tmp_path/"out").iterdir())


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path/"set").mkdir()
    btad(tmp_path/"set")
    copied, copy = [], module._copy
    def stop(*arguments):
        copied.append(copy(*arguments))
        if len(copied) == 5: raise KeyboardInterrupt
    monkeypatch.setattr(module, "_copy", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path/"set", tmp_path/"out", "btad", progress=False)
    assert os.listdir(tmp_path) == ["set"]


def test_the_command(memseg, tmp_path):
    (tmp_path/"set").mkdir()
    ksdd2(tmp_path/"set")
    code, out, err = memseg("data", "convert", tmp_path/"set", "--out", tmp_path/"out", "--from", "ksdd2")
    assert code == 0 and "4 photos to train on, 4 good and 1 defective ones to test on" in out
    assert f"next: memseg train --data {tmp_path/'out'} --category ksdd2" in out and "2 defective" in err
    assert memseg("data", "convert", tmp_path/"set", "--out", tmp_path/"out", "--from", "ksdd2")[0] == 1
    assert memseg("data", "convert", tmp_path/"set", "--out", tmp_path/"o", "--from", "ksdd3")[0] == 2
    from memseg_nb.cli import cli
    kinds = next(param for param in cli.commands["data"].commands["convert"].params if param.name == "kind")
    assert list(kinds.type.choices) == list(module.KINDS), "the command knows every kind"
