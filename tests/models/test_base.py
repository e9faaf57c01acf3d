"""Loading a base: the embedded one, folders, what is frozen, fingerprints, errors."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_models import ARCHITECTURES
from thinwire import peft_bridge
from thinwire.models.base import load_base
from thinwire.models.config import LoraConfig, ModelConfig
from thinwire.settings import ConfigError


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folder_loads_frozen_with_a_pad_token(tiny, architecture):
    base = load_base(ModelConfig(name=str(tiny(architecture))), "cpu")
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert not base.model.training
    assert base.tokenizer.pad_token_id is not None


def test_the_embedded_base_loads():
    base = load_base(ModelConfig(), "cpu")
    assert base.model.get_input_embeddings().weight.dtype == torch.float32
    assert base.tokenizer.decode(base.tokenizer("two words")["input_ids"]) == "two words"


def test_dtype_is_the_recipes(tiny):
    base = load_base(ModelConfig(name=str(tiny("llama")), dtype="bfloat16"), "cpu")
    assert {parameter.dtype for parameter in base.model.parameters()} == {torch.bfloat16}


def test_the_fingerprint_knows_the_weights_and_not_the_adapter(tiny):
    config = ModelConfig(name=str(tiny("llama")))
    plain, adapted, changed = (load_base(config, "cpu") for _ in range(3))
    peft_bridge.attach(adapted, LoraConfig(rank=2, extras=("lm_head",)))
    assert adapted.fingerprint == plain.fingerprint
    with torch.no_grad():
        next(changed.model.parameters()).view(-1)[0] += 1e-3
    assert changed.fingerprint != plain.fingerprint


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "some/deep/folder"])
def test_a_missing_folder_is_named(name):
    with pytest.raises(
        ConfigError, match=rf"model.name = '{name}': there is no such folder. Allowed: embedded, a name"
    ):
        load_base(ModelConfig(name=name), "cpu")


def test_a_folder_without_a_model_is_named(tmp_path, tiny):
    with pytest.raises(ConfigError, match=r"model.name = .*no config.json"):
        load_base(ModelConfig(name=str(tmp_path)), "cpu")
    folder = shutil.copytree(tiny("llama"), tmp_path / "torn")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model.name = .*cannot be loaded"):
        load_base(ModelConfig(name=str(folder)), "cpu")


def test_damaged_weights_and_configs_are_named(tmp_path, tiny):
    folder = shutil.copytree(tiny("llama"), tmp_path / "cut")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"model.name = .*cannot be loaded"):
        load_base(ModelConfig(name=str(folder)), "cpu")
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-thing"}))
    with pytest.raises(ConfigError, match=r"model.name = .*transformers knows no model_type 'no-such-thing'"):
        load_base(ModelConfig(name=str(folder)), "cpu")


def test_bits_are_4_or_8(tiny):
    with pytest.raises(ConfigError, match=r"model.bits = 5: allowed is 4, 8"):
        load_base(ModelConfig(name=str(tiny("llama")), bits=5), "cpu")


def test_weights_that_lack_a_tensor_are_refused_not_drawn(tmp_path, tiny):
    folder = shutil.copytree(tiny("llama"), tmp_path / "lacking")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"its weights lack model.layers.1.mlp.up_proj.weight"):
        load_base(ModelConfig(name=str(folder)), "cpu")
