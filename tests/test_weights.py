"Weights: strict about files, on record, and those of the package do what the model card says."
import hashlib
import http.server
import io
import json
import pickle
import re
import threading
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18, resnet34

from memseg_nb.model.encoder import Encoder
from memseg_nb.model.memseg import build_model
from memseg_nb.model.weights import (IMAGENET_URL, LITE0, NETWORK, SHIPPED, WARM, imagenet_file, load_encoder,
                                     noise_images, read_weights, standardise, warm_start)
from memseg_nb.files import MemSegError
from memseg_nb.recipe import load_recipe
from memseg_nb.training.checkpoints import load_state

CARD = (SHIPPED / "README.md").read_text(encoding="utf-8")
FILES = ("formulas.safetensors", NETWORK)


@pytest.fixture(scope="module")
def images():
    return torch.rand((3, 3, 64, 96), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def standard():
    "A random encoder, not to be changed"
    return load_encoder("random")[0]


@pytest.fixture(scope="module")
def weights(standard):
    "A state dict as torchvision's files hold it: with the classifier, in half precision to be small"
    net = resnet18(weights=None)
    net.load_state_dict(standard.state_dict(), strict=False)
    return {name: value.half() if value.is_floating_point() else value
            for name, value in net.state_dict().items()}


@pytest.fixture(scope="module")
def weights_bytes(weights):
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()


# --- random weights

def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone(standard, images):
    state = torch.get_rng_state()
    again, record = load_encoder("random", seed=0)
    other, _ = load_encoder("random", seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert all(map(torch.equal, again(images), standard(images)))
    assert not torch.equal(other.conv1.weight, again.conv1.weight)
    assert (record.requested, record.used, record.source, record.sha256) == (
        "random", "random", "seed 0", None)


def test_standardise_makes_every_batch_norm_standardise(images):
    encoder, noise = Encoder(seed=2).eval(), noise_images(8, 128, torch.Generator().manual_seed(5))
    standardise(encoder, noise)
    outputs = []
    for part in encoder.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.momentum == 0.1 and not part.training
            part.register_forward_hook(lambda part, inputs, output: outputs.append(output.clone()))
    with torch.no_grad():
        encoder.layer4(encoder(noise).layer3)
    assert len(outputs) == 20
    for output in outputs:
        # not 0: batch norm divides by n, and stores the variance
        assert output.mean((0, 2, 3)).abs().max() < 0.1
        # divided by n - 1, which differ in the last, small maps
        assert (output.std((0, 2, 3)) - 1).abs().max() < 0.1


def test_noise_images():
    noise = noise_images(4, 64, torch.Generator().manual_seed(0))
    assert noise.shape == (4, 3, 64, 64) and noise.min() >= 0 and noise.max() <= 1
    neighbours = (noise[..., 1:] - noise[..., :-1]).abs().mean()
    assert noise.std() > 0.15 and neighbours < 0.5 * noise.std()  # contrast, but smooth


# --- files

@pytest.mark.parametrize("prefix", ["", "module.", "encoder.", "module.encoder."])
def test_prefixes_are_tolerated(tmp_path, weights, standard, prefix):
    path = tmp_path / "weights.pth"
    torch.save({prefix + name: value for name, value in weights.items()}, path)
    encoder, record = load_encoder(path)
    assert torch.equal(encoder.layer4[1].conv2.weight, weights["layer4.1.conv2.weight"].float())
    assert all(value.dtype == torch.float32 for name, value in encoder.state_dict().items()
               if "num_" not in name)
    assert (record.requested, record.used, record.source, record.note) == (str(path), "file", str(path), "")
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_of_a_larger_network_only_the_encoder_is_taken(tmp_path, weights):
    path = tmp_path / "weights.pth"
    larger = {"encoder." + name: value for name, value in weights.items()} | {"memory.layer1": torch.zeros(2)}
    torch.save({"state_dict": larger, "epoch": 3}, path)
    encoder, _ = load_encoder(str(path))
    assert torch.equal(encoder.conv1.weight, weights["conv1.weight"].float())


def test_safetensors_without_classifier_and_layer4(tmp_path, weights):
    path = tmp_path / "weights.safetensors"
    save_file({name: value for name, value in weights.items() if not name.startswith(("fc.", "layer4."))},
              path)
    encoder, record = load_encoder(path, seed=7)
    assert torch.equal(encoder.layer3[1].bn2.running_var, weights["layer3.1.bn2.running_var"].float())
    assert torch.equal(encoder.layer4[0].conv1.weight, Encoder(seed=7).layer4[0].conv1.weight)
    assert "layer4" in record.note and "seed 7" in record.note


def test_old_files_without_batch_counters(tmp_path, weights):
    path = tmp_path / "weights.pth"
    torch.save({name: value for name, value in weights.items() if "num_batches" not in name}, path)
    assert load_encoder(path)[1].used == "file"


def test_record_goes_into_json_and_stays_as_it_is(standard):
    record = load_encoder("random")[1]
    assert json.loads(json.dumps(asdict(record)))["used"] == "random"
    with pytest.raises(FrozenInstanceError):
        record.used = "imagenet"


@pytest.mark.parametrize("name, message", [
    ("imagnet", "formulas, imagenet, random, auto"), ("weights.onnx", "formulas, imagenet, random, auto"),
    ("", "formulas, imagenet, random, auto"),
    ("nowhere/weights.pth", "cannot be read"), ("folder.pth", "cannot be read")])
def test_names_that_lead_nowhere(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(MemSegError, match=message):
        load_encoder(name)


def test_read_weights_knows_two_suffixes(tmp_path):
    with pytest.raises(MemSegError, match=r"\.pth or \.safetensors"):
        read_weights(tmp_path / "weights.pkl")


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_pickle_is_refused_and_not_run(tmp_path, zipped):
    hostile, victim, path = Hostile(), tmp_path / "victim", tmp_path / "hostile.pth"
    hostile.path = str(victim)
    if zipped:
        torch.save({"conv1.weight": hostile}, path)
    else:
        path.write_bytes(pickle.dumps({"conv1.weight": hostile}, protocol=2))
    with pytest.raises(MemSegError, match="objects other than tensors"):
        load_encoder(path)
    assert not victim.exists()


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_cut_off_files(tmp_path, weights, weights_bytes, suffix, share):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        path.write_bytes(weights_bytes)
    else:
        save_file(weights, path)
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * share)])
    with pytest.raises(MemSegError, match="cut off or damaged"):
        load_encoder(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_garbage_is_refused_whatever_it_is(tmp_path, suffix):
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / f"weights{suffix}"
    for length in (1, 7, 8, 64, 1000):
        for start in (b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02]", b"{}", b"\xff" * 8):
            path.write_bytes(start + bytes(torch.randint(0, 256, (length,), generator=generator).tolist()))
            with pytest.raises(MemSegError):
                read_weights(path)


@pytest.mark.parametrize("content", [[torch.zeros(3)], {"conv1.weight": 3}, {"state_dict": [1]}, 5, "text"])
def test_not_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(MemSegError, match="state dict"):
        load_encoder(tmp_path / "weights.pth")


def altered(weights, what):
    weights = dict(weights)
    if what == "missing":
        del weights["layer2.0.bn1.running_mean"]
    elif what == "part of layer4":
        weights = {name: value for name, value in weights.items() if not name.startswith("layer4.1.conv2")}
    elif what == "shape":
        weights["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    elif what == "nan":
        weights["bn1.running_var"] = torch.full((64,), torch.nan)
    elif what == "other network":
        weights = resnet34(weights=None).state_dict()
    elif what == "empty":
        weights = {}
    return weights


@pytest.mark.parametrize("what, message", [
    ("missing", "lacks layer2.0.bn1.running_mean"), ("part of layer4", "lacks layer4.1.conv2.weight"),
    ("shape", r"layer1.0.conv1.weight has shape \(64, 64, 1, 1\), a ResNet18 has \(64, 64, 3, 3\)"),
    ("nan", "bn1.running_var has values that are not finite"), ("other network", "has unknown layer1.2"),
    ("empty", "lacks conv1.weight")])
def test_files_of_something_else(tmp_path, weights, what, message):
    torch.save(altered(weights, what), tmp_path / "weights.pth")
    with pytest.raises(MemSegError, match=message):
        load_encoder(tmp_path / "weights.pth")


# --- the network, in the other sense

@pytest.fixture
def cache(tmp_path, monkeypatch):
    "torch.hub's cache in an empty folder"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def serve():
    "A function that starts a web server on this machine, which answers with `answer(handler)`"
    servers = []

    def start(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests += 1
                answer(self)

            def log_message(self, *args):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        server.requests = 0
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def send(handler, data, length=None):
    handler.send_response(200)
    handler.send_header("Content-Length", str(length or len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def url_of(server, data):
    digits = hashlib.sha256(data).hexdigest()[:8]
    return f"http://127.0.0.1:{server.server_address[1]}/resnet18-{digits}.pth"


def contents(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_download_once_then_from_the_cache(cache, serve, weights_bytes):
    server = serve(lambda handler: send(handler, weights_bytes))
    path = imagenet_file(url_of(server, weights_bytes))
    assert path.parent == cache and path.read_bytes() == weights_bytes
    assert imagenet_file(url_of(server, weights_bytes)) == path
    assert server.requests == 1 and contents(cache) == [path.name]


def test_imagenet_weights_come_from_the_cache(cache, weights, weights_bytes):
    cache.mkdir(parents=True)
    path = cache / IMAGENET_URL.rsplit("/", 1)[-1]
    path.write_bytes(weights_bytes)
    encoder, record = load_encoder("imagenet")
    assert (record.requested, record.used, record.source) == ("imagenet", "imagenet", str(path))
    assert torch.equal(encoder.conv1.weight, weights["conv1.weight"].float()) and encoder.exposure == 0
    path.write_bytes(weights_bytes[:1000])
    with pytest.raises(MemSegError, match=f"{path.name}: is cut off or damaged.*delete it"):
        load_encoder("imagenet")


@pytest.mark.parametrize("answer", [
    lambda handler: send(handler, b"<html>log in first</html>"),
    lambda handler: send(handler, b"half", length=8),
    lambda handler: handler.send_error(404),
    lambda handler: handler.wfile.write(b"no HTTP\r\n\r\n")])
def test_bad_answers_leave_nothing_behind(cache, serve, answer):
    url = url_of(serve(answer), b"another file")
    with pytest.raises(MemSegError, match="ImageNet weights: not on disk, and not from http"):
        imagenet_file(url)
    assert contents(cache) == []


def test_a_cache_that_cannot_be_written(cache, serve, weights_bytes):
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder should be")
    server = serve(lambda handler: send(handler, weights_bytes))
    with pytest.raises(MemSegError, match="ImageNet weights"):
        imagenet_file(url_of(server, weights_bytes))
    assert server.requests == 0


# --- those of the package

@pytest.mark.parametrize("name", [*FILES, LITE0])
def test_checksum_is_that_of_the_model_card(name):
    row = next(line for line in CARD.splitlines() if line.startswith(f"| `{name}`"))
    assert hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest() == re.search(r"`([0-9a-f]{64})`", row)[1]


def test_small_enough_for_a_wheel():
    assert (SHIPPED / FILES[0]).stat().st_size < 5.7e6
    assert sum((SHIPPED / name).stat().st_size for name in (*FILES, LITE0)) < 48e6


@pytest.mark.parametrize("name", [*FILES, LITE0])
def test_half_precision_but_not_the_statistics(name):
    tensors, _ = load_state(SHIPPED / name)
    assert all(value.dtype == (torch.float16 if value.ndim > 1 else torch.float32)
               for value in tensors.values())
    assert all(value.isfinite().all() for value in tensors.values())


def test_metadata_say_how_to_make_them_again():
    (_, encoder), (_, network) = [load_state(SHIPPED / name) for name in FILES]
    assert (encoder["kind"], network["kind"]) == ("encoder", "network")
    for metadata in encoder, network:
        assert metadata["plan"]["seed"] == 0 and metadata["plan"]["minutes"] > 0
        assert metadata["trained"]["encoder"]["images"] > 0 and metadata["trained"]["network"]["images"] > 0
        assert {"device", "precision"} <= set(metadata["machine"]) and "torch" in metadata["versions"]


def test_the_card_states_the_training_as_the_metadata_do():
    _, metadata = load_state(SHIPPED / FILES[0])
    for stage in metadata["trained"].values():
        assert f"{stage['steps']} steps" in CARD and f"{stage['images']} images" in CARD
    assert f"{metadata['plan']['minutes']:g} minutes" in CARD
    for stage in load_state(SHIPPED / LITE0)[1]["trained"].values(): assert f"{stage['steps']} steps" in CARD


def test_auto_takes_them_without_a_network(monkeypatch):
    monkeypatch.setattr("memseg_nb.model.weights.imagenet_file", lambda: pytest.fail("asked the network"))
    encoder, record = load_encoder("auto")
    assert record.used == "formulas" and encoder.exposure > 0
    assert record.sha256 == load_encoder("formulas")[1].sha256
    assert "layer4" in record.note and load_encoder("auto", exposure="as_is")[0].exposure == 0


def test_the_network_goes_with_the_encoder():
    model = build_model(load_recipe(), load_encoder("formulas")[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    warm_start(model, SHIPPED / NETWORK)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith(WARM) for name in changed)


def test_recipes_of_earlier_versions_still_load(tmp_path):
    "They have a setting that is gone: how long `auto` waited for a download"
    recipe, path = load_recipe(), tmp_path / "recipe.ini"
    recipe.save(path)
    path.write_text(path.read_text().replace("[encoder]", "[encoder]\ntimeout = 5.0"))
    assert load_recipe(path) == recipe
