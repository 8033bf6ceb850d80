"Figures: what goes in, what comes out, and that it can be seen without eyes and without a screen."
import base64
import html
import io
import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from memseg_nb import plots
from memseg_nb.files import MemSegError

RNG = np.random.default_rng(0)
IMAGE, MAP = RNG.random((3, 24, 32)), RNG.random((24, 32)).astype(np.float32)


@pytest.mark.parametrize("picture, shape", [
    (torch.rand(3, 24, 32), (24, 32, 3)),
    (torch.rand(1, 24, 32), (24, 32)),
    (torch.rand(24, 32, dtype=torch.float64, requires_grad=True), (24, 32)),
    (torch.rand(24, 32) > .5, (24, 32)),
    (np.zeros((24, 32, 3), np.uint8), (24, 32, 3)),
    (torch.rand(3, 24, 3), (3, 24, 3)),  # three pixels wide or high: already channels last
])
def test_as_array(picture, shape):
    array = plots.as_array(picture)
    assert array.shape == shape and array.dtype in (bool, np.float32)


def test_bytes_become_shares():
    assert plots.as_array(np.full((2, 2), 255, np.uint8)).tolist() == [[1, 1], [1, 1]]


def png(figure):
    return Image.open(io.BytesIO(plots.as_png(figure)))


@pytest.mark.parametrize("figure", [
    plots.grid([IMAGE, MAP, MAP > .5], ["image", "map", "mask"]),
    plots.grid(torch.rand(10, 3, 8, 8), columns=4),
    plots.grid([np.zeros((8, 8))]),
    plots.panel([(IMAGE, None, MAP)]),
    plots.panel([(IMAGE, MAP > .5, MAP), (IMAGE, MAP > .9, MAP * .1, "title")], threshold=.05),
    plots.score_histogram([.1, .2, .8], [0, 0, 1], .5),
    plots.score_histogram([.5, .5], [0, 0]),
    plots.roc_curve([0, 0, 1], [0, 1, 1], 1.),
    plots.pro_curve([0, .2, 1], [0, .5, 1], .4, .3),
    plots.loss_curve([1, 2], {"total": [1, .5], "l1": [.5, .2]}),
], ids=range(10))
def test_every_figure_can_be_drawn(figure):
    assert isinstance(figure, Figure) and min(png(figure).size) > 60


def test_no_global_state():
    assert "matplotlib.pyplot" not in sys.modules or not matplotlib.pyplot.get_fignums()
    code = ("import sys, memseg_nb.plots as p; p.as_png(p.grid([[[0., 1.]]])); assert 'matplotlib.pyplot' "
            "not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_overlay_leaves_good_surface_alone_and_hides_nothing():
    flat = np.full((4, 4), .5, np.float32)
    assert np.array_equal(plots.overlay(IMAGE, np.zeros((24, 32))), plots.as_array(IMAGE))
    covered = plots.overlay(flat, np.ones((4, 4)), alpha=1., cmap="gray")
    assert np.allclose(covered, 1)
    assert np.allclose(plots.overlay(flat, flat / 4, top=.125), plots.overlay(flat, np.ones((4, 4))))
    assert plots.overlay(IMAGE, MAP * 3).max() <= 1


def test_outline_lies_outside():
    mask = np.zeros((24, 32), bool)
    mask[8:12, 8:12] = True
    drawn = plots.outline(IMAGE, mask)
    changed = (drawn != plots.as_array(IMAGE)).any(2)
    assert changed.any() and not (changed & mask).any() and changed.sum() == 16
    assert (plots.outline(IMAGE, mask, width=2) != plots.as_array(IMAGE)).any(2).sum() > 16


def test_a_threshold_sets_the_range_of_the_colours():
    low = plots.panel([(IMAGE, None, MAP)], threshold=.05)
    assert low.axes[2].images[0].get_clim() == (0, .1)
    assert plots.panel([(IMAGE, None, MAP)]).axes[2].images[0].get_clim() == (0, 1)


def test_near_one_colours_follow_the_log_odds():
    "0.99 around a defect and 0.999999 on it look alike on a linear scale; log-odds worked by hand"
    map = np.array([[.01, .5, .99, .999999]], np.float32)
    values, (low, high), scale = plots.heat(map, .9999)
    assert np.allclose(values, np.log([[1 / 99, 1, 99, 999999]]), atol=.05)
    assert low == 0 and high == pytest.approx(np.log(9999) + 4) and scale == "log-odds 0..13"
    image = plots.panel([(np.ones((1, 4)), None, map)], threshold=.9999).axes[2].images[0]
    shades = image.norm(image.get_array()).clip(0, 1)[0]
    assert shades[1] == 0 and .3 < shades[2] < .4 and shades[3] == 1
    assert np.isfinite(plots.heat(np.array([[0., 1.]]), 1.)[0]).all()  # what rounding makes of them


@pytest.mark.parametrize("threshold, top", [(None, 1), (.05, .1), (.5, 1), (.9, 1)])
def test_below_a_threshold_of_nine_tenths_a_map_is_coloured_as_it_is(threshold, top):
    values, limits, scale = plots.heat(MAP, threshold)
    assert np.array_equal(values, plots.as_array(MAP)) and limits == (0, top) and scale == f"0..{top:g}"


def test_same_figure_same_bytes():
    first, second = (plots.as_png(plots.grid([IMAGE, MAP])) for _ in range(2))
    assert first == second
    assert len(plots.as_png(plots.grid(RNG.random((4, 3, 64, 64)), size=2.), small=False)) > 2 * len(first)


def test_a_small_palette_keeps_white_white_and_ramps_smooth():
    figure = plots.grid([RNG.random((3, 300, 300)), np.tile(np.linspace(0, 1, 256), (64, 1))], cmap="gray",
                        size=3.)
    small, full = (np.asarray(Image.open(io.BytesIO(plots.as_png(figure, small=small))).convert("RGB"), float)
                   for small in (True, False))
    assert (small[(full == 255).all(2)] == 255).all()
    assert np.abs(small - full).mean() < 12 and len(np.unique(small.reshape(-1, 3), axis=0)) <= 256


def test_save_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = plots.save(plots.grid([IMAGE]), tmp_path / "new folder" / "figure.png")
    before = path.read_bytes()
    assert Image.open(path).mode == "RGB" and [p.name for p in path.parent.iterdir()] == ["figure.png"]

    def stop(*_):
        raise OSError("disk full")
    monkeypatch.setattr(plots.os, "replace", stop)
    with pytest.raises(MemSegError, match="disk full.*make room"):
        plots.save(plots.grid([MAP]), path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["figure.png"]


def test_show_in_a_notebook_gives_the_alt_text(monkeypatch):
    import IPython
    import IPython.display
    seen = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: "a shell")
    monkeypatch.setattr(IPython.display, "display", lambda data, **more: seen.append((data, more)))
    plots.show(plots.grid([IMAGE]), alt="noise")
    (data, more), = seen
    assert data["image/png"].startswith(b"\x89PNG") and data["text/plain"] == "noise"
    plain, sharp = (Image.open(io.BytesIO(data[f"image/{kind}"])) for kind in ("png", "webp"))
    assert sharp.format == "WEBP" and np.allclose(sharp.size, 2 * np.array(plain.size), atol=1)
    assert more == {"raw": True, "metadata": {"image/png": {"alt": "noise"}}}


def test_show_without_a_screen_says_so(monkeypatch, capsys):
    monkeypatch.setattr(plots.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    plots.show(plots.grid([IMAGE]), alt="noise")
    out = capsys.readouterr().out
    assert "noise" in out and "plots.save" in out


def test_tables_as_html_escape_and_round():
    text = plots.html_table(["<a>", "b"], [("x & y", .12345), (None, 3)])
    assert "&lt;a&gt;" in text and "x &amp; y" in text and "<td>0.123</td>" in text and "<td>-</td>" in text
    assert "<td>0.0004</td>" in plots.html_table([], [("rate", .0004)], texts=True)
    assert "<th" not in plots.html_table([], [("a", 1)])


def test_a_picture_as_html_is_a_png_with_its_text():
    text = plots.html_picture(plots.grid([np.eye(9)]), 'a "diagonal" <line>')
    alt, data = re.fullmatch('<img alt="([^"]*)" src="data:image/png;base64,([^"]*)">', text).groups()
    assert html.unescape(alt) == 'a "diagonal" <line>'
    assert Image.open(io.BytesIO(base64.b64decode(data))).width > 9


# The network's figure

def test_the_figure_of_the_network_lights_what_is_asked_for():
    "Lit parts have thick borders; nothing else changes but colours and weights; text stays text"
    def thick(*lit):
        boxes = [p for p in plots.network_figure(*lit).axes[0].patches if isinstance(p, FancyBboxPatch)]
        return len(boxes), sum(box.get_linewidth() == 2 for box in boxes)
    count = sum(len(boxes) for _, boxes in plots.NETWORK.values())
    assert thick() == (count, 0) and thick(*plots.NETWORK) == (count, count)
    for part, (_, boxes) in plots.NETWORK.items(): assert thick(part) == (count, len(boxes))
    drawing = plots.as_svg(plots.network_figure("memory"))
    assert drawing == plots.as_svg(plots.network_figure("memory"))
    assert ElementTree.fromstring(drawing) is not None
    for words in ("argmin", "coordinate", "stored samples", "in training only", "simulated"):
        assert words in drawing
    wrong = "memmory: no part of the network's figure; expected some of photo, "
    with pytest.raises(MemSegError, match=wrong):
        plots.network_figure("memmory")


def test_boxes_of_the_network_do_not_overlap():
    "But for the cards of the memory, which lie on each other"
    boxes = [box[:4] for part, (_, some) in plots.NETWORK.items() for box in some if part != "memory"]
    for k, (x, y, width, height) in enumerate(boxes):
        assert 0 <= x and x + width <= 101 and 0 <= y and y + height <= 45
        for left, bottom, wide, high in boxes[:k]:
            assert x + width <= left or left + wide <= x or y + height <= bottom or bottom + high <= y


def test_a_drawing_is_shown_as_svg_and_as_png_with_the_same_words(monkeypatch):
    import IPython
    import IPython.display
    seen = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: "a shell")
    monkeypatch.setattr(IPython.display, "display", lambda data, **more: seen.append((data, more)))
    plots.show_network("memory", "difference")
    (data, more), = seen
    assert data["image/svg+xml"].startswith("<?xml") and data["image/png"].startswith(b"\x89PNG")
    assert data["text/plain"] == more["metadata"]["image/png"]["alt"]
    assert data["text/plain"].endswith("lit here: memory, difference")


def test_a_drawing_with_very_many_points_is_no_svg(monkeypatch):
    import IPython
    import IPython.display
    seen = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: "a shell")
    monkeypatch.setattr(IPython.display, "display", lambda data, **more: seen.append(data))
    for count in (9, 9000):
        figure, axes = plots.axes_grid()
        axes[0, 0].scatter(RNG.random(count), RNG.random(count))
        plots.show(figure, alt="dots")
    assert [set(data) for data in seen] == [{"image/png", "text/plain", f"image/{kind}"}
                                            for kind in ("svg+xml", "webp")]


def test_gains_have_a_dot_each_and_a_diamond_at_their_mean():
    _, axes = plots.axes_grid()
    plots.gains(axes[0, 0], {"no memory": [.1, .3], "no fusion": [-.2]}, "gain")
    dots, mean, other, alone, _ = axes[0, 0].lines  # the last is the line at zero
    assert dots.get_xdata().tolist() == [.1, .3] and mean.get_xdata().tolist() == [pytest.approx(.2)]
    assert other.get_xdata().tolist() == alone.get_xdata().tolist() == [-.2]
    assert [tick.get_text() for tick in axes[0, 0].get_yticklabels()] == ["no memory", "no fusion"]


def test_means_are_drawn_over_what_was_set():
    _, axes = plots.axes_grid()
    plots.means(axes[0, 0], {"nut": {1: (.8, .05), 30: (.9, None)}}, "N", "AUROC")
    assert axes[0, 0].lines[0].get_xydata().tolist() == [[1, .8], [30, .9]]
    assert [tick.get_text() for tick in axes[0, 0].get_xticklabels()] == ["1", "30"]
    plots.means(plots.axes_grid()[1][0, 0], {}, "N", "AUROC")  # nothing measured yet
