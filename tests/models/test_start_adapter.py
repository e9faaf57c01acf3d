"""Adapters to start from, as PEFT users have them: the logits are plain PEFT's, or the reason is named."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.test_peft_bridge import logits, tiny_base
from thinwire import peft_bridge
from thinwire.models.config import LoraConfig
from thinwire.settings import ConfigError

TARGETS = ("q_proj", "v_proj", "up_proj")
PLAIN = {"r": 4, "lora_alpha": 8, "target_modules": list(TARGETS), "init_lora_weights": False}
RANKS = {"v_proj": 2, "layers.1.mlp.up_proj": 3}


def saved(tiny, folder, architecture="llama", **fields):
    """A PEFT adapter that adds something, in a folder; and the logits of plain PEFT that loads it."""
    torch.manual_seed(1)
    config = peft.LoraConfig(**(PLAIN | fields))
    model = peft.get_peft_model(tiny_base(tiny(architecture)).model, config)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn_like(parameter) / 2)
    model.save_pretrained(folder)
    fresh = tiny_base(tiny(architecture)).model
    return logits(peft.PeftModel.from_pretrained(fresh, folder).eval())


def loaded(tiny, folder, lora, architecture="llama"):
    """The logits of ours that starts from it."""
    model = peft_bridge.attach(tiny_base(tiny(architecture)), lora)
    peft_bridge.write(model, peft_bridge.load_adapter(model, folder))
    return logits(peft_bridge.network(model))


@pytest.mark.parametrize(
    ("fields", "lora"),
    [
        ({}, {}),
        ({}, {"alpha": 8.0}),
        ({"use_rslora": True}, {}),
        ({}, {"rslora": True}),
        ({"rank_pattern": RANKS}, {"ranks": RANKS}),
        ({"rank_pattern": RANKS, "use_rslora": True}, {"ranks": RANKS}),
        ({"rank_pattern": RANKS, "alpha_pattern": {"v_proj": 32, ".*1.self_attn.q_proj": 1}}, {"ranks": RANKS}),
        ({"alpha_pattern": {"q_proj": 1}}, {"rslora": True}),
        ({"init_lora_weights": "gaussian"}, {}),
        ({"init_lora_weights": "orthogonal"}, {}),
        ({"lora_dropout": 0.5}, {}),
        ({"modules_to_save": ["lm_head"]}, {"extras": ("lm_head",)}),
        ({"layers_to_transform": [1]}, {"targets": tuple(f"layers.1.{n}" for n in (
            "self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"))}),
        ({"exclude_modules": ["v_proj"]}, {"targets": ("q_proj", "up_proj")}),
        ({"fan_in_fan_out": True}, {}),
        ({"target_modules": ".*self_attn.(q|v)_proj"}, {"targets": ("q_proj", "v_proj")}),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_loaded_is_what_plain_peft_computes(tiny, tmp_path, fields, lora):
    want = saved(tiny, tmp_path, **fields)
    found = loaded(tiny, tmp_path, LoraConfig(**({"rank": 4, "targets": TARGETS} | lora)))
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(want, logits(tiny_base(tiny("llama")).model), atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_adapter_in_half_precision_is_read(tiny, tmp_path, dtype):
    saved(tiny, tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    save_file({name: value.to(dtype) for name, value in load_file(weights).items()}, weights)
    want = logits(peft.PeftModel.from_pretrained(tiny_base(tiny("llama")).model, tmp_path).eval())
    found = loaded(tiny, tmp_path, LoraConfig(rank=4, targets=TARGETS))
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"init_lora_weights": "pissa"}, r"its init_lora_weights is 'pissa', which changes the base's weights too"),
        ({"init_lora_weights": "pissa_niter_2"}, r"its init_lora_weights is 'pissa_niter_2'"),
        ({"init_lora_weights": "olora"}, r"its init_lora_weights is 'olora'.*path_initial_model"),
        ({"use_dora": True}, r"its use_dora is true; allowed is plain LoRA"),
        ({"bias": "lora_only"}, r"its bias is 'lora_only'; allowed is 'none'"),
        ({"lora_bias": True}, r"its lora_bias is true"),
        ({"trainable_token_indices": [3, 4]}, r"its trainable_token_indices is .*3, 4"),
        ({"layer_replication": [[0, 2], [0, 2]]}, r"its layer_replication is"),
        ({"alora_invocation_tokens": [3], "task_type": "CAUSAL_LM"}, r"its alora_invocation_tokens is \[3\]"),
        ({"modules_to_save": ["lm_head"]}, r"it has, and lora.targets or lora.extras do not, lm_head"),
        ({"target_modules": ["q_proj"]}, r"it lacks model.layers.0.mlp.up_proj"),
        ({"target_modules": [*TARGETS, "embed_tokens"]}, r"it has, .* model.embed_tokens"),
        ({"r": 3}, r"its rank at model.layers.0.mlp.up_proj is 3, but lora.rank or lora.ranks is 4 there"),
        ({"rank_pattern": {"v_proj": 2}}, r"its rank at model.layers.0.self_attn.v_proj is 2, but lora.rank"),
    ],
    ids=str,
)
def test_what_cannot_be_loaded_rightly_is_refused_by_name(tiny, tmp_path, fields, words):
    saved(tiny, tmp_path, **fields)
    with pytest.raises(ConfigError, match=rf"^model.adapter = .*: {words}"):
        loaded(tiny, tmp_path, LoraConfig(rank=4, targets=TARGETS))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a_field_of_tomorrow": {"on": 1}}, r'its a_field_of_tomorrow is {"on": 1}; allowed is plain LoRA'),
        ({"target_parameters": ["mlp.experts.up"]}, r"its target_parameters is"),
        ({"peft_type": "VERA"}, r"its peft_type is 'VERA'; allowed is LORA"),
        ({"r": "four"}, r'its r \(r\) is "four"; allowed is a number above 0'),
        ({"alpha_pattern": {"q_proj": -1}}, r"its lora_alpha \(q_proj\) is -1"),
        ({"rank_pattern": ["q_proj"]}, r"its rank_pattern is .*allowed is a table"),
        ({"r": 2}, r"its rank at model.layers.0.mlp.up_proj is 4, but adapter_config.json says 2"),
    ],
)
def test_a_configuration_that_says_something_else_is_refused(tiny, tmp_path, change, words):
    saved(tiny, tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=words):
        loaded(tiny, tmp_path, LoraConfig(rank=4, targets=TARGETS))


def test_an_adapter_of_another_base_is_refused_by_its_shapes(tiny, tmp_path):
    saved(tiny, tmp_path, target_modules=["q_proj", "v_proj"])
    weights = tmp_path / "adapter_model.safetensors"
    held = load_file(weights)
    held["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.ones(4, 64)
    save_file(held, weights)
    with pytest.raises(ConfigError, match=r"its model.layers.0.self_attn.q_proj \(a\) is \(4, 64\), the model's is"):
        loaded(tiny, tmp_path, LoraConfig(rank=4, targets=("q_proj", "v_proj")))
    held["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.full((4, 32), torch.nan)
    save_file(held, weights)
    with pytest.raises(ConfigError, match=r"q_proj.lora_A.weight is not finite"):
        loaded(tiny, tmp_path, LoraConfig(rank=4, targets=("q_proj", "v_proj")))
