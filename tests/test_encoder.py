"The encoder: frozen for good, and strict about what it loads."
import hashlib
import http.server
import io
import json
import pickle
import socket
import socketserver
import threading
import time
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18, resnet34

from memseg_nb.model import encoder as module
from memseg_nb.model.encoder import Encoder, load_encoder, noise_images, read_weights, standardise
from memseg_nb.files import MemSegError


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


def test_agrees_with_torchvision(weights, images):
    "The same numbers as torchvision's network with images normalised outside"
    net = resnet18(weights=None).eval()
    net.load_state_dict(weights)
    ours = Encoder()
    ours.load_state_dict({name: value for name, value in weights.items() if not name.startswith("fc.")})
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        stem = net.bn1(net.conv1((images - mean) / std))
        layer1 = net.layer1(net.maxpool(stem.relu()))
        layer3 = net.layer3(net.layer2(layer1))
    features = ours(images)
    for here, there in ((features.stem, stem), (features.layer1, layer1), (features.layer3, layer3)):
        torch.testing.assert_close(here, there)
    assert features.stem.min() < 0  # before the ReLU


def test_train_mode_changes_nothing_in_the_frozen_part(images):
    encoder, _ = load_encoder("random")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    expected = encoder.eval()(images)
    network = nn.Sequential(encoder)
    network.train()  # handed down by a parent, as in a training loop
    assert not any(part.training for name in module.FROZEN for part in getattr(encoder, name).modules())
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


def test_weights_have_the_spread_of_he_initialisation():
    encoder = Encoder()
    for layer in (encoder.conv1, encoder.layer2[0].conv1, encoder.layer4[1].conv2):
        fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
        assert abs(layer.weight.std() / (2 / fan_out) ** 0.5 - 1) < 0.05


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
    "torch.hub's cache in an empty folder, and a package without weights of its own"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "torch" / "hub" / "checkpoints"


def serve(answer):
    "A web server on this machine that answers with `answer(handler)`, until it is closed"
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.requests += 1
            answer(self)

        def log_message(self, *args):
            pass

    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads, requests = True, 0

        def handle_error(self, request, client_address):
            pass  # the client went away: what the tests are about

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


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


@pytest.mark.parametrize("requested", ["auto", "imagenet"])
def test_download_once_then_from_the_cache(cache, weights, weights_bytes, requested):
    server = serve(lambda handler: send(handler, weights_bytes))
    url = url_of(server, weights_bytes)
    encoder, record = load_encoder(requested, timeout=60, url=url)
    assert contents(cache) == [url.rsplit("/", 1)[-1]]
    assert (record.used, record.source) == ("imagenet", str(cache / url.rsplit("/", 1)[-1]))
    assert record.sha256 == hashlib.sha256(weights_bytes).hexdigest()
    assert torch.equal(encoder.conv1.weight, weights["conv1.weight"].float())
    server.shutdown()
    server.server_close()
    assert load_encoder(requested, timeout=1, url=url)[1] == record  # nobody listens any more
    assert server.requests == 1


def test_a_damaged_file_in_the_cache_is_replaced(cache, weights_bytes):
    server = serve(lambda handler: send(handler, weights_bytes))
    url = url_of(server, weights_bytes)
    cache.mkdir(parents=True)
    (cache / url.rsplit("/", 1)[-1]).write_bytes(weights_bytes[:1000])
    assert load_encoder("auto", timeout=60, url=url)[1].used == "imagenet"
    assert (cache / url.rsplit("/", 1)[-1]).read_bytes() == weights_bytes
    server.shutdown()


def drip(handler):
    "A byte every 50 ms: each wait is short, all of them together never end"
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    for _ in range(1200):
        handler.wfile.write(b"x")
        time.sleep(0.05)


def silence(handler):
    time.sleep(60)


@pytest.mark.parametrize("answer", [drip, silence])
def test_a_slow_server_costs_no_more_than_the_timeout(cache, answer):
    server = serve(answer)
    start = time.monotonic()
    _, record = load_encoder("auto", timeout=0.5, url=url_of(server, b""))
    assert time.monotonic() - start < 20  # nearly all of it makes the random weights
    assert record.used == "random" and ("within 0.5 s" in record.note or "timed out" in record.note)
    assert contents(cache) == []
    server.shutdown()


def test_a_download_given_up_ends_in_the_background_too(cache):
    server, before = serve(drip), set(threading.enumerate())
    with pytest.raises(TimeoutError):
        module.download(url_of(server, b""), timeout=0.5)
    left = [thread for thread in threading.enumerate() if thread not in before and "_fetch" in thread.name]
    for thread in left:
        thread.join(5)
    assert not any(thread.is_alive() for thread in left)
    server.shutdown()


def test_a_full_disk_leaves_no_part_of_a_file(cache, weights_bytes, monkeypatch):
    def write_half(path, data):
        with open(path, "wb") as file:
            file.write(data[:len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    server = serve(lambda handler: send(handler, weights_bytes))
    _, record = load_encoder("auto", timeout=60, url=url_of(server, weights_bytes))
    assert record.used == "random" and "No space left" in record.note and contents(cache) == []
    server.shutdown()


def test_a_slow_name_server_costs_no_more_than_the_timeout(cache, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: time.sleep(30))
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        module.download("http://weights.invalid/resnet18-00000000.pth", timeout=0.3)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("answer, said", [
    (lambda handler: send(handler, b"<html>log in first</html>"), "not the file"),
    (lambda handler: send(handler, b"half", length=8), "not the file"),
    (lambda handler: handler.send_error(404), "404"),
    (lambda handler: handler.wfile.write(b"no HTTP\r\n\r\n"), "")])
def test_bad_answers_leave_nothing_behind(cache, answer, said):
    server = serve(answer)
    url = url_of(server, b"another file")
    _, record = load_encoder("auto", timeout=10, url=url)
    assert record.used == "random" and said in record.note and record.note.startswith("no ImageNet weights")
    with pytest.raises(MemSegError, match="ImageNet weights: not on disk"):
        load_encoder("imagenet", url=url)
    assert contents(cache) == []
    server.shutdown()


def test_a_cache_that_cannot_be_written(cache, weights_bytes):
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder should be")
    server = serve(lambda handler: send(handler, weights_bytes))
    assert load_encoder("auto", timeout=60, url=url_of(server, weights_bytes))[1].used == "random"
    server.shutdown()


def test_auto_asks_nobody_when_the_package_ships_weights(cache, tmp_path, weights, monkeypatch):
    (tmp_path / "shipped").mkdir()
    frozen = {name: value for name, value in weights.items() if not name.startswith(("layer4", "fc"))}
    save_file(frozen | {"exposure": torch.tensor(.45)}, tmp_path / "shipped" / "formulas.safetensors")
    monkeypatch.setattr(module, "download", lambda *args: pytest.fail("asked the network"))
    encoder, record = load_encoder("auto")
    assert record.used == "formulas" and record.source.endswith("formulas.safetensors")
    assert (torch.equal(encoder.conv1.weight, weights["conv1.weight"].float())
            and encoder.exposure == torch.tensor(.45))
    assert load_encoder("formulas")[1].sha256 == record.sha256
    assert load_encoder("auto", exposure="as_is")[0].exposure == 0


def test_even_exposure_cancels_a_change_of_exposure(images):
    encoder = load_encoder("random", exposure="mean")[0]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(encoder(images), encoder(.6 * images)))
    plain = load_encoder("random")[0]
    assert not torch.allclose(plain(images).layer1, plain(.6 * images).layer1, atol=1e-2)
