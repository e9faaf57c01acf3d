"""What LoRA cannot reach is left out of all-linear, refused by its name, and told in one line."""

from __future__ import annotations

import re
from pathlib import Path

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tests.models.architectures import tiny_config
from tests.models.refusals import REFUSED, UNBUILT
from tests.models.test_peft_bridge import logits, noisy
from thinwire import peft_bridge
from thinwire.adapters import same
from thinwire.models.base import Base
from thinwire.models.config import LoraConfig
from thinwire.settings import ConfigError

MIXER = "backbone.layers.0.mixer"


def base_of(architecture: str) -> Base:
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(tiny_config(architecture)).requires_grad_(False).eval()
    return Base(network, None, architecture, torch.device("cpu"))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose shared expert has the names that its experts had before they were fused."""
    base = base_of("qwen2_moe")
    for parameter in base.model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("mixture")
    base.model.save_pretrained(folder)  # type: ignore[operator]
    return folder


def mixture_base(folder: Path) -> Base:
    network = AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False)
    return Base(network, None, str(folder), torch.device("cpu"))


@pytest.mark.parametrize("ranks", [{}, {"up_proj": 1, "q_proj": 3}])
def test_modules_named_as_experts_were_arrive_in_plain_peft(mixture, tmp_path, ranks):
    lora = LoraConfig(rank=2, alpha=3.0, dropout=0.1, ranks=ranks)
    model = peft_bridge.attach(mixture_base(mixture), lora)
    adapters = noisy(model)
    assert {name.rpartition(".")[2] for name in adapters.modules} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    peft_bridge.write(model, adapters)
    peft_bridge.export(model, adapters, tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(mixture_base(mixture).model, tmp_path / "adapter")
    want = logits(peft_bridge.network(model).eval())
    torch.testing.assert_close(logits(loaded), want, rtol=1e-4, atol=1e-5)
    assert same(peft_bridge.load_adapter(model, tmp_path / "adapter"), adapters)


def test_one_line_says_what_is_adapted_and_what_is_frozen(mixture):
    model = peft_bridge.attach(mixture_base(mixture), LoraConfig(rank=2, extras=("lm_head",)))
    assert peft_bridge.coverage(model) == (
        "adapts 14 modules (q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj); trains in full: lm_head; "
        "frozen: experts of 2 MoE layers, gate, shared_expert_gate"
    )
    part = peft_bridge.attach(mixture_base(mixture), LoraConfig(rank=2, targets=("0.self_attn.q_proj", "v_proj")))
    assert peft_bridge.coverage(part) == (
        "adapts 3 modules (q_proj, v_proj); frozen: experts of 2 MoE layers, k_proj, o_proj, gate, gate_proj, "
        "up_proj, down_proj, shared_expert_gate, q_proj (1 of 2), lm_head"
    )


def test_layers_whose_weight_is_used_without_a_call_are_left_out():
    base = base_of("mamba")
    with pytest.raises(ConfigError, match=rf"'x_proj': {MIXER}.x_proj cannot be adapted: MambaMixer uses its weight"):
        peft_bridge.attach(base, LoraConfig(rank=2, targets=("x_proj",)))
    model = peft_bridge.attach(base, LoraConfig(rank=2))
    assert set(peft_bridge.read(model).modules) == {f"backbone.layers.{k}.mixer.in_proj" for k in (0, 1)}


def test_a_layer_that_computes_more_than_a_product_is_left_out():
    base = base_of("llama4_text")
    with pytest.raises(ConfigError, match=r"router cannot be adapted: Llama4Router computes more"):
        peft_bridge.attach(base, LoraConfig(rank=2, targets=("router",)))
    model = peft_bridge.attach(base, LoraConfig(rank=2))
    assert "router" in peft_bridge.coverage(model)
    assert not any("router" in name for name in peft_bridge.read(model).modules)


def test_factors_that_peft_would_lose_are_refused():
    base = base_of("laguna")
    words = r"factors of model.layers.1.mlp.shared_experts.down_proj.*into a laguna model.*allowed are g_proj, k_proj"
    with pytest.raises(ConfigError, match=words):
        peft_bridge.attach(base, LoraConfig(rank=2))
    peft_bridge.attach(base, LoraConfig(rank=2, targets=("q_proj",)))


class Scaled(nn.Linear):
    """A linear layer all the same."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.weight.T + (0 if self.bias is None else self.bias)


def test_a_class_of_its_own_may_be_linear():
    network = nn.Sequential(Scaled(4, 3), nn.Linear(3, 1)).requires_grad_(False)
    model = peft_bridge.attach(Base(network, None, "own", torch.device("cpu")), LoraConfig(rank=2))
    assert peft_bridge.coverage(model) == "adapts 1 module (0); frozen: 1"


def test_the_page_lists_what_the_matrix_cannot_run():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([\w-]+)`", page.split("## Architectures\n", 1)[1].split("\n## ", 1)[0]))
    assert {name for _, name in {**REFUSED, **UNBUILT}} <= listed
