"The memory: the definition, worked by hand and in loops, against the fast search."
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from memseg_nb.model.encoder import Encoder, Features
from memseg_nb.model.memory import LEVELS, Memory, differences, distances, pool, search
from memseg_nb.files import MemSegError

MATCHES, KINDS = ("joint", "level"), ("absolute", "squared")
each_option = [pytest.mark.parametrize("match", MATCHES), pytest.mark.parametrize("difference", KINDS),
               pytest.mark.parametrize("pooling", (1, 3, 5))]


def options(function):
    for mark in each_option:
        function = mark(function)
    return function


def random_features(count, seed, height=32, width=64):
    "Features of `count` images that do not exist"
    generator = torch.Generator().manual_seed(seed)
    shapes = [(64, 2), (64, 4), (128, 8), (256, 16)]
    return Features(*(torch.randn((count, channels, height // stride, width // stride), generator=generator)
                      for channels, stride in shapes))


def filled(features, *args, **kwargs):
    memory = Memory(*args, **kwargs)
    memory.fill(features)
    return memory


def naive_pool(level, side):
    "Mean of the pixels under a window that are inside of the map, pixel by pixel"
    out, reach = torch.empty_like(level), side // 2
    for i in range(level.shape[-2]):
        for j in range(level.shape[-1]):
            window = level[..., max(0, i - reach):i + reach + 1, max(0, j - reach):j + reach + 1]
            out[..., i, j] = window.mean((-2, -1))
    return out


def naive_match(features, samples, match, difference, pooling):
    "The definition, in double precision: loops over images, samples and levels"
    sums, gaps = torch.zeros(len(features.stem), 3, len(samples.stem)).double(), {}
    for l, name in enumerate(LEVELS):
        ours, theirs = (naive_pool(getattr(each, name).double(), pooling) for each in (features, samples))
        for b in range(len(ours)):
            for n in range(len(theirs)):
                gap = (theirs[n] - ours[b]).abs()
                gaps[b, l, n] = gap if difference == "absolute" else gap**2
                sums[b, l, n] = gaps[b, l, n].sum()
    joint = sums.sum(1)
    index = joint.argmin(1) if match == "joint" else sums.argmin(2)
    chosen = index if match == "level" else index[:, None].expand(-1, 3)
    maps = [torch.stack([gaps[b, l, int(chosen[b, l])] for b in range(len(sums))]) for l in range(3)]
    return index, joint if match == "joint" else sums, maps


@options
def test_agrees_with_the_definition(match, difference, pooling):
    features, samples = random_features(3, 0), random_features(4, 1)
    found = filled(samples, match, difference, pooling)(features)
    index, sums, maps = naive_match(features, samples, match, difference, pooling)
    assert torch.equal(found.index, index)
    torch.testing.assert_close(found.distances.double(), sums, rtol=1e-5, atol=0)
    for ours, theirs in zip(found.difference, maps):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


def test_search_and_difference_without_a_memory():
    "For those who bring their own maps, and their own choice of samples"
    features, samples = random_features(2, 0), random_features(4, 1)
    ours, theirs = ([pool(level) for level in each[1:]] for each in (features, samples))
    found, expected = search(ours, theirs), filled(samples)(features)
    assert torch.equal(found.index, expected.index) and torch.equal(found.distances, expected.distances)
    for others in (found.difference, differences(ours, theirs, found.index)):
        assert all(map(torch.equal, others, expected.difference))


@options
def test_shapes(match, difference, pooling):
    found = filled(random_features(5, 1), match, difference, pooling)(random_features(2, 0))
    assert found.index.shape == ((2,) if match == "joint" else (2, 3)) and found.index.dtype == torch.int64
    assert found.distances.shape == ((2, 5) if match == "joint" else (2, 3, 5))
    assert [tuple(level.shape) for level in found.difference] == [
        (2, 64, 8, 16), (2, 128, 4, 8), (2, 256, 2, 4)]
    assert all(level.dtype == torch.float32 and level.min() >= 0 for level in found.difference)


def by_hand(*values):
    "Features of images with one channel of 2 x 2 pixels in layer 1, and a single zero in the others"
    maps = torch.tensor(values).float().view(-1, 1, 2, 2)
    nothing = torch.zeros(len(maps), 1, 1, 1)
    return Features(nothing, maps, nothing, nothing)


THREE = by_hand([0, 0, 0, 3], [1, 1, 1, 1], [2, 2, 0, 0])


@pytest.mark.parametrize("difference, sums, index", [("absolute", [3, 4, 4], 0), ("squared", [9, 4, 8], 1)])
def test_by_hand(difference, sums, index):
    found = filled(THREE, difference=difference, pooling=1)(by_hand([0, 0, 0, 0]))
    assert found.distances.tolist() == [sums] and found.index.tolist() == [index]
    assert found.difference[0].flatten().tolist() == [[0, 0, 0, 3], [1, 1, 1, 1]][index]


def test_by_hand_with_pooling():
    "A window of 3 x 3 covers all of a 2 x 2 map: each pixel becomes the mean, 0.75, 1 and 1 here, 0.5 there"
    found = filled(THREE)(by_hand([2, 0, 0, 0]))
    assert found.distances.tolist() == [[1, 2, 2]] and found.difference[0].flatten().tolist() == [0.25] * 4


def test_by_hand_a_level_may_choose_for_itself():
    far, near = torch.full((1, 1, 1, 1), 9.0), torch.zeros(1, 1, 1, 1)
    samples = Features(None, torch.cat([near, far]), torch.cat([far, near]), torch.cat([far, near]))
    features = Features(None, near, near, near)
    joint, level = filled(samples, "joint")(features), filled(samples, "level")(features)
    assert joint.index.tolist() == [1] and [gap.item() for gap in joint.difference] == [9, 0, 0]
    assert level.index.tolist() == [[0, 1, 1]] and [gap.item() for gap in level.difference] == [0, 0, 0]


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("difference", KINDS)
def test_ties_go_to_the_lowest_index(match, difference):
    samples = random_features(3, 2)
    doubled = Features(*(torch.cat([level, level, level]) for level in samples))  # 0 = 3 = 6, 1 = 4 = 7, ...
    found = filled(doubled, match, difference)(random_features(6, 3))
    assert found.index.max() <= 2
    assert torch.equal(found.distances[..., :3], found.distances[..., 3:6])


@pytest.mark.parametrize("difference", KINDS)
def test_a_sample_is_at_distance_zero_from_itself(difference):
    samples = random_features(7, 4)
    found = filled(samples, difference=difference)(samples)
    assert found.index.tolist() == list(range(7)) and found.distances.diagonal().tolist() == [0] * 7
    assert all(level.max() == 0 for level in found.difference)


@pytest.mark.parametrize("difference", KINDS)
@pytest.mark.parametrize("block", [None, 1, 7, 100, 1000, 5000])
def test_blocks_change_nothing(difference, block):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn((3, 1000), generator=generator), torch.randn((5, 1000), generator=generator)
    order = 1 if difference == "absolute" else 2
    expected = torch.cdist(ours.double(), theirs.double(), p=order) ** order
    torch.testing.assert_close(distances(ours, theirs, difference, block).double(), expected, rtol=1e-5,
                               atol=0)


class Largest(TorchDispatchMode):
    "Notes the largest tensor that any operation makes, and counts the operations"
    size = calls = 0

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.calls += 1
        self.made += [each for each in torch.utils._pytree.tree_leaves(out) if isinstance(each, Tensor)]
        self.size = max([self.size, *(each.numel() for each in self.made)])
        return out


@pytest.mark.parametrize("images, samples", [(1, 30), (8, 30), (8, 120)])
def test_no_large_intermediates_and_no_loop_over_images_or_samples(images, samples):
    ours, theirs = torch.zeros(images, 100_000), torch.zeros(samples, 100_000)
    with Largest() as largest:
        distances(ours, theirs)
    assert largest.size <= theirs.numel() and (images == 1 or largest.size < images * samples * 100_000 / 10)
    with Largest() as wide:
        distances(ours, theirs, block=1000)
    assert wide.calls < 100 * 10  # a few operations a block, whatever the number of images and samples


@pytest.mark.parametrize("difference", KINDS)
@pytest.mark.parametrize("features", [10_000, 10_300])
def test_all_blocks_use_the_same_room(difference, features):
    ours, theirs = torch.rand(3, features), torch.rand(5, features)
    known = {each.untyped_storage().data_ptr() for each in (ours, theirs)}
    with Largest() as watched:  # keeps all that is made, so that no address is given twice
        distances(ours, theirs, difference, block=1000)
    rooms = {each.untyped_storage().data_ptr() for each in watched.made if each.numel() >= 3 * 5 * 300}
    assert len(rooms - known) == 1


def test_differences_carry_no_gradient_whoever_asks():
    ours, theirs = torch.rand(2, 50, requires_grad=True), torch.rand(3, 50, requires_grad=True)
    found = distances(ours, theirs)
    torch.testing.assert_close(found, torch.cdist(ours, theirs, p=1).detach())
    assert not found.requires_grad


def test_squared_differences_do_not_cancel():
    "Products that are nearly alike, features far from zero: where |a|^2 + |b|^2 - 2ab loses everything"
    generator = torch.Generator().manual_seed(0)
    one = 100 + torch.randn((1, 20_000), generator=generator)
    many = one + 1e-3 * torch.randn((6, 20_000), generator=generator)
    exact = (one.double() - many.double()).square().sum(1)
    assert ((distances(one, many, "squared")[0] - exact).abs() / exact).max() < 1e-5
    product = one.square().sum() + many.square().sum(1) - 2 * (many @ one[0])
    assert ((product - exact).abs() / exact).max() > 1  # so the test can tell


@pytest.mark.parametrize("side", [1, 3, 5, 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 4)])
def test_pooling(side, size):
    maps = torch.randn((2, 3, *size), generator=torch.Generator().manual_seed(0))
    before = maps.clone()
    torch.testing.assert_close(pool(maps, side), naive_pool(maps, side), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pool(maps, side),
                               F.avg_pool2d(maps, side, 1, side // 2, count_include_pad=False))
    assert torch.equal(maps, before)


def test_no_gradients():
    features = Features(*(level.requires_grad_() for level in random_features(2, 0)))
    memory = filled(features)
    found = memory(features)
    assert not any(each.requires_grad for each in (found.distances, *found.difference, *memory.buffers()))
    assert not list(memory.parameters())


# --- forced choice

def test_forced_index_joint():
    samples, features = random_features(4, 1), random_features(3, 0)
    memory = filled(samples)
    free = memory(features)
    forced = memory(features, index=torch.tensor([3, 0, 2]))
    assert forced.index.tolist() == [3, 0, 2] and torch.equal(forced.distances, free.distances)
    torch.testing.assert_close(forced.difference[1][0],
                               (pool(samples.layer2)[3] - pool(features.layer2)[0]).abs())
    assert memory(features, index=2).index.tolist() == [2, 2, 2]
    assert all(map(torch.equal, memory(features, index=free.index).difference, free.difference))


def test_forced_index_level():
    memory = filled(random_features(4, 1), "level")
    features = random_features(2, 0)
    rows = [[0, 1, 2], [3, 3, 0]]
    assert memory(features, index=torch.tensor(rows)).index.tolist() == rows
    assert memory(features, index=torch.tensor([1, 2])).index.tolist() == [[1] * 3, [2] * 3]
    assert memory(features, index=3).index.tolist() == [[3] * 3] * 2
    joint = filled(random_features(4, 1), "joint")(features, index=torch.tensor([1, 2]))
    assert all(map(torch.equal, memory(features, index=torch.tensor([1, 2])).difference, joint.difference))


@pytest.mark.parametrize("match, index", [
    ("joint", 4), ("joint", -1), ("joint", [0, 1, 2]), ("joint", [[0, 1, 2], [0, 1, 2]]), ("joint", 1.0),
    ("level", [[0, 1, 4], [0, 1, 2]]), ("level", [[0, 1], [0, 1]]), ("level", [0, 1, 2])])
def test_forced_index_that_does_not_fit(match, index):
    with pytest.raises(MemSegError, match="memory index"):
        filled(random_features(4, 1), match)(random_features(2, 0), index=torch.tensor(index))


# --- keeping

def test_fill_from_batches_or_all_at_once():
    samples = random_features(5, 1)
    whole = filled(samples)
    parts = filled(Features(*(level[k:k + 2] for level in samples)) for k in (0, 2, 4))
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), parts.buffers()))
    parts.fill(random_features(2, 3))
    assert parts.samples == 2


@pytest.mark.parametrize("samples", [[], [random_features(0, 0)], random_features(0, 0)])
def test_fill_with_nothing(samples):
    with pytest.raises(MemSegError, match="no samples"):
        Memory().fill(samples)


@pytest.mark.parametrize("before", [0, 2, 3, 9])
def test_state_dict_round_trip(before):
    "Into an empty memory, into a fuller one, and inside of a network"
    samples, features = random_features(3, 1), random_features(2, 0)
    network = nn.ModuleDict({"memory": filled(samples)})
    state = network.state_dict()
    assert list(state) == [f"memory.{name}" for name in LEVELS]
    fresh = nn.ModuleDict({"memory": filled(random_features(before, 5)) if before else Memory()})
    fresh.load_state_dict({name: value.clone() for name, value in state.items()})
    assert fresh["memory"].samples == 3
    ours, theirs = fresh["memory"](features), network["memory"](features)
    assert (torch.equal(ours.distances, theirs.distances)
            and all(map(torch.equal, ours.difference, theirs.difference)))
    assert all(map(torch.equal, fresh["memory"].spread(), network["memory"].spread()))


def test_another_image_size_is_loaded_too():
    memory = filled(random_features(2, 0, 32, 32))
    memory.load_state_dict(filled(random_features(2, 0, 64, 96)).state_dict())
    assert memory(random_features(1, 1, 64, 96)).index.shape == (1,)


def test_an_empty_memory_round_trips():
    memory = filled(random_features(2, 0))
    memory.load_state_dict(Memory().state_dict())
    assert memory.samples == 0


@pytest.mark.parametrize("change, message", [
    ({"layer2": torch.zeros(4, 128, 4, 8)}, "as many samples"),
    ({"layer2": torch.zeros(3)}, "as many samples"),
    ({"layer2": None}, "Missing key"), ({"layer4": torch.zeros(3)}, "Unexpected key")])
def test_state_dicts_that_do_not_fit(change, message):
    state = {**filled(random_features(3, 0)).state_dict(), **change}
    with pytest.raises(RuntimeError, match=message):
        Memory().load_state_dict({name: value for name, value in state.items() if value is not None})


def test_copies_are_copies():
    memory = filled(random_features(3, 0))
    other = copy.deepcopy(memory)
    other.fill(random_features(2, 1))
    assert memory.samples == 3 and other.samples == 2


# --- spread

def test_spread_by_hand():
    samples = by_hand([1, 1, 3, 3], [1, 3, 3, 1])
    assert filled(samples).spread()[0].tolist() == [[[1.0]]]  # half of the values are 1, half are 3
    assert filled(samples).spread()[1].tolist() == [[[1.0]]]  # silent everywhere: nothing to divide by


def test_spread_is_each_channels_standard_deviation_but_not_too_small():
    samples = random_features(4, 0)
    samples.layer1[:, 0] = 5.0           # silent in all good images
    samples.layer1[:, 1] *= 1000
    spread = filled(samples).spread()
    assert [tuple(level.shape) for level in spread] == [(64, 1, 1), (128, 1, 1), (256, 1, 1)]
    std = samples.layer1.std((0, 2, 3), unbiased=False)
    torch.testing.assert_close(spread[0].flatten(), std.clamp_min(0.1 * std.mean()))
    assert spread[0][0] == spread[0].min() > 0
    torch.testing.assert_close(spread[2].flatten(), samples.layer3.std((0, 2, 3), unbiased=False))


def test_spread_of_one_sample():
    assert all(level.min() > 0 for level in filled(random_features(1, 0)).spread())


# --- errors

@pytest.mark.parametrize("options",
                         [dict(match="both"), dict(difference="cubed"), dict(pooling=2), dict(pooling=0)])
def test_options_that_do_not_exist(options):
    with pytest.raises(MemSegError, match="expected"):
        Memory(**options)


def test_an_empty_memory_says_so():
    for use in (lambda: Memory()(random_features(1, 0)), lambda: Memory().spread()):
        with pytest.raises(MemSegError, match="memory is empty"):
            use()


def test_another_image_size_is_an_error():
    with pytest.raises(MemSegError,
                       match=r"layer1 \(1, 64, 16, 16\) do not fit the memory's \(2, 64, 8, 16\)"):
        filled(random_features(2, 0))(random_features(1, 0, 64, 64))


def test_channels_last_stays_so():
    features = Features(*(level.contiguous(memory_format=torch.channels_last)
                          for level in random_features(2, 0)))
    found = filled(random_features(3, 1))(features)
    assert all(level.is_contiguous(memory_format=torch.channels_last) for level in found.difference)
    assert torch.equal(found.distances, filled(random_features(3, 1))(random_features(2, 0)).distances)


# --- with the encoder, under autocast, on other devices

def test_bfloat16_autocast_searches_in_float32():
    encoder, images = Encoder(), torch.rand((6, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    memory = filled(encoder(images[:4]))
    full = memory(encoder(images))
    with torch.autocast("cpu", torch.bfloat16):
        half = memory(encoder(images))
    assert (half.distances.dtype == torch.float32
            and all(level.dtype == torch.float32 for level in half.difference))
    assert half.index[:4].tolist() == [0, 1, 2, 3]
    others = full.distances[4:]
    assert ((half.distances[4:] - others).abs() / others).max() < 0.1


def test_filled_from_bfloat16():
    samples = Features(*(level.bfloat16() for level in random_features(2, 0)))
    memory = filled(samples)
    assert memory.layer1.dtype == torch.float32 and memory(samples).distances.diagonal().tolist() == [0, 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    samples, features = random_features(5, 1), random_features(3, 0)
    memory = filled(samples)
    expected = memory(features)
    memory.to("cuda")
    found = memory(Features(*(level.cuda() for level in features)))
    assert torch.equal(found.index.cpu(), expected.index)
    torch.testing.assert_close(found.distances.cpu(), expected.distances, rtol=1e-5, atol=0)
    memory.fill(samples)  # from the CPU onto the device that the memory is on
    assert memory.layer1_pooled.is_cuda
    memory.load_state_dict(filled(random_features(2, 2)).state_dict())
    assert memory.layer1.is_cuda


def test_moves_as_a_whole():
    "The meta device stands for any other: all buffers go there, and filling does not bring them back"
    memory = filled(random_features(2, 0)).to("meta")
    assert all(buffer.is_meta for buffer in memory.buffers())
    memory.fill(random_features(3, 0))
    assert all(getattr(memory, name).is_meta for name in LEVELS)


def test_an_encoder_that_learns_leaves_its_memory_behind():
    images = torch.rand((4, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    for network, stale in ((Encoder(), False), (Encoder(frozen=False).eval(), True)):
        memory = filled(network(images))
        before = memory(network(images)).distances.diagonal()
        optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
        network.layer4(network(images).layer3).mean().backward()
        optimiser.step()
        after = memory(network(images)).distances.diagonal()
        assert before.max() == 0 and bool(after.min() > 0) == stale
