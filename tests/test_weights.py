"The weights that come with the package: what they are, and that they do what the model card says"
import hashlib
import re

import pytest
import torch

from memseg_nb.training.checkpoints import load_state
from memseg_nb.model.encoder import NETWORK, SHIPPED, load_encoder
from memseg_nb.model.memseg import WARM, build_model, warm_start
from memseg_nb.recipe import load_recipe

CARD = (SHIPPED / "README.md").read_text(encoding="utf-8")
FILES = ("formulas.safetensors", NETWORK)


@pytest.mark.parametrize("name", FILES)
def test_checksum_is_that_of_the_model_card(name):
    row = next(line for line in CARD.splitlines() if line.startswith(f"| `{name}`"))
    assert hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest() == re.search(r"`([0-9a-f]{64})`", row)[1]


def test_small_enough_for_a_wheel():
    assert (SHIPPED / FILES[0]).stat().st_size < 5.7e6
    assert sum((SHIPPED / name).stat().st_size for name in FILES) < 45e6


@pytest.mark.parametrize("name", FILES)
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


def test_auto_takes_them_without_a_network(monkeypatch):
    monkeypatch.setattr("memseg_nb.model.encoder.download", lambda *args: pytest.fail("asked the network"))
    encoder, record = load_encoder("auto")
    assert record.used == "formulas" and encoder.exposure > 0


def test_the_network_goes_with_the_encoder():
    model = build_model(load_recipe(), load_encoder("formulas")[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    warm_start(model, SHIPPED / NETWORK)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith(WARM) for name in changed)
