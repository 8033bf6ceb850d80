"Textures: every family, the bank, folders of all kinds, DTD, several processes."
import functools
import hashlib
import http.server
import io
import pickle
import tarfile
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import DTD

from memseg_nb.files import MemSegError
from memseg_nb.data.images import read_image
from memseg_nb.simulation.extensions import FAMILIES, colour, spectral_noise, worley
from memseg_nb.data.convert import download_dtd
from memseg_nb.simulation.textures import FolderTextures, ProceduralTextures, open_textures


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def small():
    return ProceduralTextures(bank=len(FAMILIES), size=64)


def picture(size=(40, 50), seed=0):
    "A smooth, colourful picture (H, W, 3), uint8"
    values = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.BILINEAR))


@pytest.fixture
def photos(tmp_path):
    "A folder with a blank in its name, folders in it, images of several modes and shapes, and other files"
    folder = tmp_path / "my textures"
    (folder / "a" / "b").mkdir(parents=True)
    Image.fromarray(picture()).save(folder / "rgb.jpg")
    Image.fromarray(picture((70, 30))).convert("L").save(folder / "grey.PNG")
    Image.fromarray(picture((20, 20))).convert("RGBA").save(folder / "a" / "rgba.png")
    Image.fromarray(picture((300, 31))).convert("P").save(folder / "a" / "palette.gif")
    Image.fromarray(picture((33, 500))).convert("CMYK").save(folder / "a" / "b" / "cmyk.tif")
    deep = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    (folder / "readme.txt").write_text("no image")
    (folder / "._rgb.jpg").write_bytes(b"what macOS leaves behind")
    return folder


# --- patterns

def test_there_are_at_least_ten_families():
    assert len(FAMILIES) >= 10


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 32)])
def test_family(name, size):
    def draw(seed):
        generator = seeded(seed)
        return colour(FAMILIES[name](size, generator), generator)

    state, image = torch.get_rng_state(), draw(0)
    assert image.shape == (3, *size) and image.dtype == torch.float32
    assert 0 <= image.min() and image.max() <= 1
    assert torch.equal(image, draw(0))
    assert (image - draw(1)).abs().mean() > .02
    assert image.mean(0).std() > .04
    assert torch.equal(state, torch.get_rng_state()), "touches the global generator"


@pytest.mark.parametrize("name", ["checks", "hexagons", "dots", "cells", "moire", "ripples", "scales"])
def test_family_looks_alike_at_any_size(name):
    "The same draws at twice the size, shrunk again; these families draw no noise pixel by pixel"
    large, little = (FAMILIES[name]((s, s), seeded(3)) for s in (256, 128))
    shrunk = torch.nn.functional.avg_pool2d(large[None], 2)[0]
    assert torch.corrcoef(torch.stack([shrunk.flatten(), little.flatten()]))[0, 1] > .6


def test_families_can_be_told_apart():
    "The nearest neighbour in a description by scale and direction is mostly of the same family"
    def describe(pattern):
        pattern = (pattern - pattern.mean()) / pattern.std()
        spectrum = torch.fft.fft2(pattern).abs()
        frequency = torch.hypot(*torch.meshgrid(*[torch.fft.fftfreq(96, 1 / 96)] * 2, indexing="ij"))
        rings = torch.stack([spectrum[(frequency >= low) & (frequency < 1.5 * low)].mean()
                             for low in 1.5 ** torch.arange(1, 9)])
        down, right = pattern.diff(dim=0)[:, 1:], pattern.diff(dim=1)[1:]
        moments = [(pattern**3).mean(), (pattern**4).mean().log(), down.abs().mean(), right.abs().mean()]
        return torch.cat([rings.log(), torch.stack(moments)])

    names = [name for name in FAMILIES for _ in range(8)]
    found = torch.stack([describe(FAMILIES[name]((96, 96), seeded(k))) for k, name in enumerate(names)])
    found = (found - found.mean(0)) / found.std(0)
    nearest = (torch.cdist(found, found) + 1e3 * torch.eye(len(names))).argmin(1)
    hits = [names[k] == names[n] for k, n in enumerate(nearest.tolist())]
    assert sum(hits) / len(hits) > .5, "by chance it would be 0.05"


def test_worley_finds_the_nearest_of_all_points():
    points = .5 + .64 * (torch.rand(3, 64, 64, generator=seeded()) - .5)
    v, u = torch.meshgrid(torch.linspace(5, 11, 61), torch.linspace(30, 38, 81), indexing="ij")
    i, j = torch.cartesian_prod(torch.arange(25, 45), torch.arange(0, 18)).T
    places = torch.stack([i + points[0, i, j], j + points[1, i, j]], 1)
    pixels = torch.stack([u.flatten(), v.flatten()], 1)
    distances, which = torch.cdist(pixels.double(), places.double()).float().sort(1)
    first, second, tone = worley(u, v, points)
    assert torch.allclose(first.flatten(), distances[:, 0], atol=1e-4)
    assert (second.flatten() - distances[:, 1] < 1e-4).float().mean() > .999
    tones = (points[2, i, j][which[:, 0]] - .18) / .64
    clear = distances[:, 1] - distances[:, 0] > 1e-3
    assert torch.allclose(tone.flatten()[clear], tones[clear], atol=1e-5)


def test_spectral_noise_keeps_to_its_band():
    field = spectral_noise((128, 192), seeded(), low=10, high=20, slope=0)
    assert abs(field.mean()) < 1e-4 and abs(field.std() - 1) < 1e-3
    power = torch.fft.fft2(field).abs()**2
    down, right = torch.fft.fftfreq(128, 1 / 128), torch.fft.fftfreq(192, 1 / 192) * 128 / 192
    frequency = torch.hypot(down[:, None], right)
    assert power[(frequency > 8) & (frequency < 25)].sum() > .97 * power.sum()


# --- the bank

@pytest.mark.parametrize("size", [(64, 64), (32, 96), (96, 64), (160, 160)])
def test_procedural_samples(small, size):
    images = small.sample(6, size, seeded())
    assert images.shape == (6, 3, *size) and images.dtype == torch.float32 and images.is_contiguous()
    assert 0 <= images.min() and images.max() <= 1
    assert images.flatten(1).std(1).min() > .01
    assert torch.equal(images, small.sample(6, size, seeded())), "what was drawn before has changed it"
    assert not torch.equal(images, small.sample(6, size, seeded(1)))


def test_the_bank_depends_on_its_seed_alone(small):
    same, other = (ProceduralTextures(bank=len(FAMILIES), size=64, seed=seed) for seed in (0, 1))
    same.sample(3, (32, 32), seeded(7))
    assert torch.equal(small.sample(4, (64, 64), seeded()), same.sample(4, (64, 64), seeded()))
    assert not torch.equal(small.sample(4, (64, 64), seeded()), other.sample(4, (64, 64), seeded()))


def test_samples_leave_global_state_alone(small, photos):
    for source in (small, FolderTextures(photos)):
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
        source.sample(3, (32, 32), seeded())
        assert torch.equal(torch_state, torch.get_rng_state())
        assert (numpy_state == np.random.get_state()[1]).all()


def test_nothing_asked_for_is_nothing_given(small, photos):
    for source in (small, FolderTextures(photos)):
        assert source.sample(0, (32, 64), seeded()).shape == (0, 3, 32, 64)


@pytest.mark.parametrize("arguments", [{"bank": 0}, {"size": 0}])
def test_an_empty_bank_is_refused(arguments):
    with pytest.raises(MemSegError, match="at least 1"):
        ProceduralTextures(**arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card")
def test_samples_on_the_graphics_card(small):
    here, there = (small.sample(4, (64, 64), seeded(), device) for device in ("cpu", "cuda"))
    assert there.is_cuda and torch.allclose(here, there.cpu(), atol=1e-4)


# --- folders

def test_folder_of_any_images(photos):
    source = FolderTextures(photos)
    assert [path.relative_to(photos).as_posix() for path in source.paths] == [
        "a/b/cmyk.tif", "a/palette.gif", "a/rgba.png", "deep.png", "grey.PNG", "rgb.jpg"]
    images = source.sample(24, (48, 64), seeded())
    assert images.shape == (24, 3, 48, 64) and 0 <= images.min() and images.max() <= 1
    assert images.flatten(1).std(1).min() > .005
    assert torch.equal(images, source.sample(24, (48, 64), seeded()))
    assert torch.equal(images, FolderTextures(str(photos)).sample(24, (48, 64), seeded()))


def test_photographs_keep_their_colours_and_stay_upright(tmp_path):
    ramp = np.zeros((64, 64, 3), np.uint8)
    ramp[..., 0] = np.arange(64)[:, None] * 4  # red, brighter towards the bottom
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    images = FolderTextures(tmp_path).sample(8, (32, 32), seeded())
    assert images[:, 1:].max() < .01
    assert (images[:, 0, -1] > images[:, 0, 0]).all()


def test_bytes_of_a_file_are_those_that_the_reader_of_images_finds(photos):
    turned, clear = Image.fromarray(picture()), Image.fromarray(picture())
    exif = turned.getexif()
    exif[0x0112] = 6  # lies on its side
    turned.save(photos / "turned.jpg", exif=exif)
    clear.save(photos / "clear.png", transparency=tuple(picture()[0, 0].tolist()))
    clear.save(photos / "plain.png")
    source = FolderTextures(photos)
    for k, path in enumerate(source.paths):
        expected = (read_image(path) * 255).round().byte()
        least = min(expected.shape[1:])  # nothing is scaled
        assert torch.equal(source.sheet(k, least), expected[:, :2 * least, :2 * least]), path.name


def test_every_file_is_opened_at_once_and_a_broken_one_is_left_out(photos):
    expected = FolderTextures(photos)
    assert expected.note == ""
    whole = (photos / "rgb.jpg").read_bytes()
    cut = whole[:len(whole) // 2]
    for name, data in ("cut.jpg", cut), ("text.png", b"not an image"), ("empty.jpeg", b""):
        (photos / name).write_bytes(data)
    found = FolderTextures(photos)
    assert found.paths == expected.paths and found.note.startswith("3 of 9 textures")
    assert "cut.jpg" in found.note and "text.png" in found.note and "empty.jpeg" in found.note
    assert torch.equal(found.sample(9, (32, 32), seeded()), expected.sample(9, (32, 32), seeded()))


def test_a_small_cache_changes_nothing(photos):
    wide, none = FolderTextures(photos), FolderTextures(photos, cache_bytes=0)
    for size in ((32, 32), (64, 64)):
        assert torch.equal(wide.sample(9, size, seeded()), none.sample(9, size, seeded()))
    assert wide._cached == sum(sheet.numel() for sheet in wide._cache.values()) > 0
    assert not none._cache


@pytest.mark.parametrize("layout", ["", "images"])
def test_dtd_as_root_or_images(tmp_path, layout):
    for kind in ("banded", "zigzagged"):
        folder = tmp_path / "dtd" / "images" / kind
        folder.mkdir(parents=True)
        for k in range(2):
            Image.fromarray(picture(seed=k)).save(folder / f"{kind}_{k:04}.jpg")
    (tmp_path / "dtd" / "labels").mkdir()
    (tmp_path / "dtd" / "labels" / "train1.txt").write_text("banded/banded_0000.jpg\n")
    (tmp_path / "dtd" / "images" / "banded" / ".directory").write_text("")
    source = FolderTextures(tmp_path / "dtd" / layout)
    assert [path.name for path in source.paths] == [
        "banded_0000.jpg", "banded_0001.jpg", "zigzagged_0000.jpg", "zigzagged_0001.jpg"]
    assert source.sample(2, (32, 32), seeded()).shape == (2, 3, 32, 32)


def test_folders_that_are_no_use(tmp_path):
    with pytest.raises(MemSegError, match="no folder"):
        FolderTextures(tmp_path / "nowhere")
    with pytest.raises(MemSegError, match="no images in"):
        FolderTextures(tmp_path)
    (tmp_path / "file.txt").write_text("text")
    with pytest.raises(MemSegError, match="no folder"):
        FolderTextures(tmp_path / "file.txt")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(MemSegError, match="broken.png.*none is left"):
        FolderTextures(tmp_path)


def test_open_textures(photos):
    for nothing in (None, ""): assert isinstance(open_textures(nothing), ProceduralTextures)
    assert open_textures(None, size=96, seed=3).size == 96 and open_textures(size=96, seed=3).seed == 3
    assert len(open_textures(photos)) == 6


# --- DTD from the network

@pytest.fixture
def dtd_server(monkeypatch, tmp_path):
    "A tiny archive in DTD's layout on a server of this machine, where torchvision looks for DTD"
    folder = tmp_path / "server"
    folder.mkdir()
    archive, jpeg = folder / "dtd-r1.0.1.tar.gz", io.BytesIO()
    Image.fromarray(picture()).save(jpeg, "JPEG")
    files = {"images/banded/banded_0001.jpg": jpeg.getvalue()}
    files |= {f"labels/{split}1.txt": b"banded/banded_0001.jpg\n" for split in ("train", "val", "test")}
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"dtd/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(DTD, "_URL", f"http://127.0.0.1:{server.server_port}/{archive.name}")
        monkeypatch.setattr(DTD, "_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
        yield archive
        server.shutdown()


def test_download(dtd_server, tmp_path):
    root = tmp_path / "new folder" / "textures"
    images = download_dtd(root)
    assert images == root / "dtd" / "dtd" / "images"
    assert [path.name for path in FolderTextures(images).paths] == ["banded_0001.jpg"]
    assert [path.name for path in root.iterdir()] == ["dtd"], "something left behind"
    dtd_server.unlink()
    assert download_dtd(root) == images, "what is there is not fetched again"
    assert len(DTD(root)) == 1, "torchvision finds it there too"


def test_download_that_breaks_off_leaves_nothing(dtd_server, tmp_path):
    dtd_server.write_bytes(dtd_server.read_bytes()[:200])
    with pytest.raises(MemSegError, match="could not be fetched.*procedural"):
        download_dtd(tmp_path / "root")
    assert not list((tmp_path / "root").iterdir())


def test_download_without_network(monkeypatch, tmp_path):
    monkeypatch.setattr(DTD, "_URL", "http://127.0.0.1:9/dtd.tar.gz")
    with pytest.raises(MemSegError, match="network"):
        download_dtd(tmp_path)


# --- several processes

class Steps(Dataset):
    "Item k: textures of all sources, drawn from k"
    def __init__(self, sources): self.sources = sources
    def __len__(self): return 5
    def __getitem__(self, k): return torch.cat([one.sample(2, (32, 48), seeded(k)) for one in self.sources])


def test_workers_change_nothing(small, photos):
    steps = Steps([small, FolderTextures(photos)])
    alone = list(DataLoader(steps, batch_size=None))
    for options in ({"num_workers": 2}, {"num_workers": 1, "multiprocessing_context": "spawn"}):
        loader = DataLoader(steps, batch_size=None, **options)
        assert all(torch.equal(*pair) for pair in zip(alone, loader, strict=True))


def test_pickles_are_small(small, photos):
    for source in (small, FolderTextures(photos)):
        source.sample(8, (64, 64), seeded())
        message = pickle.dumps(source)
        assert len(message) < 5000
        here, there = (one.sample(3, (64, 64), seeded()) for one in (source, pickle.loads(message)))
        assert torch.equal(here, there)
