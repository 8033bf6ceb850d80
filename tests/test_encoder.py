"The encoder: the same network as torchvision's, and frozen for good."
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from memseg_nb.model.encoder import FROZEN, Encoder
from memseg_nb.model.weights import load_encoder
from memseg_nb.files import MemSegError


@pytest.fixture(scope="module")
def images():
    return torch.rand((3, 3, 64, 96), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def standard():
    "A random encoder, not to be changed"
    return load_encoder("random")[0]


def parameters(*modules):
    return sum(p.numel() for each in modules for p in each.parameters())


# --- the network

def test_shapes_and_parameter_counts(standard, images):
    features = standard(images)
    assert [tuple(level.shape) for level in features] == [
        (3, 64, 32, 48), (3, 64, 16, 24), (3, 128, 8, 12), (3, 256, 4, 6)]
    assert standard.layer4(features.layer3).shape == (3, 512, 2, 3)
    assert [parameters(part) for part in (standard.conv1, standard.bn1, standard.layer1, standard.layer2,
            standard.layer3, standard.layer4)] == [9_408, 128, 147_968, 525_568, 2_099_712, 8_393_728]
    assert parameters(standard) == 11_176_512
    assert sum(p.numel() for p in standard.parameters() if p.requires_grad) == 8_393_728


def test_sizes_of_the_paper(standard):
    features = standard(torch.zeros(1, 3, 256, 256))
    assert [tuple(level.shape[1:]) for level in features] == [
        (64, 128, 128), (64, 64, 64), (128, 32, 32), (256, 16, 16)]


def test_agrees_with_torchvision(standard, images):
    "The same names and numbers as torchvision's network with images normalised outside"
    net = resnet18(weights=None).eval()
    net.load_state_dict(standard.state_dict(), strict=False)
    weights = {name: value for name, value in net.state_dict().items() if not name.startswith("fc.")}
    assert list(weights) == [name for name in standard.state_dict() if name != "exposure"]
    ours = Encoder()
    ours.load_state_dict(weights)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        stem = net.bn1(net.conv1((images - mean) / std))
        layer1 = net.layer1(net.maxpool(stem.relu()))
        layer3 = net.layer3(net.layer2(layer1))
        layer4 = net.layer4(layer3)
    features = ours(images)
    for here, there in ((features.stem, stem), (features.layer1, layer1), (features.layer3, layer3),
                        (ours.eval().layer4(features.layer3), layer4)):
        torch.testing.assert_close(here, there)
    assert features.stem.min() < 0  # before the ReLU


def test_train_mode_changes_nothing_in_the_frozen_part(images):
    encoder, _ = load_encoder("random")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    expected = encoder.eval()(images)
    network = nn.Sequential(encoder)
    network.train()  # handed down by a parent, as in a training loop
    assert not any(part.training for name in FROZEN for part in getattr(encoder, name).modules())
    assert all(part.training for part in encoder.layer4.modules())
    features = encoder(images)
    encoder.layer4(features.layer3).mean().backward()
    torch.optim.SGD(encoder.parameters(), lr=1.0).step()
    after = encoder.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("layer4.") for name in changed)
    assert all(map(torch.equal, encoder(images), expected))


def test_no_gradients_but_in_layer4(images):
    encoder = Encoder()
    features = encoder(images.clone().requires_grad_())
    assert not any(level.requires_grad for level in features)
    encoder.layer4(features.layer3).sum().backward()
    assert {name.split(".")[0] for name, p in encoder.named_parameters() if p.grad is not None} == {"layer4"}


def test_state_dict_round_trip(standard, images):
    fresh = Encoder(seed=3)
    fresh.load_state_dict(standard.state_dict())
    assert all(map(torch.equal, fresh(images), standard(images)))
    assert "mean" not in standard.state_dict()


def test_bfloat16_autocast(standard, images):
    with torch.autocast("cpu", torch.bfloat16):
        features = standard(images)
    for half, full in zip(features, standard(images)):
        assert (half.float() - full).abs().mean() < 0.05 * full.abs().mean()


@pytest.mark.parametrize("shape",
                         [(1, 3, 250, 250), (1, 3, 64, 65), (1, 3, 0, 32), (1, 1, 64, 64), (3, 64, 64)])
def test_images_that_do_not_fit(standard, shape):
    with pytest.raises(MemSegError, match="multiples of 32|expected"):
        standard(torch.zeros(shape))

def test_without_freezing_all_of_it_trains(images):
    encoder = Encoder(frozen=False)
    encoder.layer4(encoder(images).layer3).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert all(part.training for part in encoder.modules())
    frozen = Encoder()
    frozen.load_state_dict(encoder.state_dict())
    assert all(map(torch.equal, encoder.eval()(images), frozen(images)))


def test_a_start_is_the_seed_s_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    first, again, other = Encoder(seed=0), Encoder(seed=0), Encoder(seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.layer4[1].conv2.weight, again.layer4[1].conv2.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_weights_have_the_spread_of_he_initialisation():
    encoder = Encoder()
    for layer in (encoder.conv1, encoder.layer2[0].conv1, encoder.layer4[1].conv2):
        fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
        assert abs(layer.weight.std() / (2 / fan_out) ** 0.5 - 1) < 0.05


def test_even_exposure_cancels_a_change_of_exposure(images):
    encoder = load_encoder("random", exposure="mean")[0]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(encoder(images), encoder(.6 * images)))
    plain = load_encoder("random")[0]
    assert not torch.allclose(plain(images).layer1, plain(.6 * images).layer1, atol=1e-2)
