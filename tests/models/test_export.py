"""What merged rounds leave behind, exported: one PEFT adapter, or a model that transformers loads alone."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.models.test_peft_bridge import TOKENS, Vision, logits, noisy, tiny_base
from tests.tiny_models import ARCHITECTURES, close
from thinwire import peft_bridge
from thinwire.adapters import Adapters
from thinwire.lowrank import LowRank, norm, stack, truncate
from thinwire.models.base import Base
from thinwire.models.config import LoraConfig
from thinwire.models.merging import bake, one_adapter
from thinwire.randomness import derive, uniform


def with_merged(adapters: Adapters, ranks=(3, 9, 1)) -> Adapters:
    """The adapters on a base into which pairs of several ranks were merged; every fourth module has none."""
    merged = {}
    for at, (name, module) in enumerate(adapters.modules.items()):
        if at % 4 == 3:
            continue
        rank = ranks[at % len(ranks)]
        b, a = uniform(derive(at, "b"), len(module.b), rank), uniform(derive(at, "a"), rank, module.a.shape[1])
        merged[name] = LowRank(b - 0.5, a - 0.5)
    return Adapters(adapters.modules, adapters.extras, merged)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("rslora", [False, True])
def test_one_adapter_holds_merged_and_current(tiny, tmp_path, architecture, rslora):
    model = peft_bridge.attach(tiny_base(tiny(architecture)), LoraConfig(rank=4, alpha=6.0, rslora=rslora))
    adapters = with_merged(noisy(model))
    peft_bridge.write(model, adapters)
    want = logits(peft_bridge.network(model))
    assert peft_bridge.export(model, adapters, tmp_path / "adapter").relative_error == 0.0
    loaded = peft.PeftModel.from_pretrained(tiny_base(tiny(architecture)).model, tmp_path / "adapter")
    close(logits(loaded), want, 1e-4)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["rank_pattern"].keys() == config["alpha_pattern"].keys() == adapters.modules.keys()
    assert set(config["rank_pattern"].values()) == {4, 5, 7, 13}
    assert config["r"] == 13
    fresh = Adapters(adapters.modules, adapters.extras)
    peft_bridge.export(model, fresh, tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "adapter_config.json").read_text())["rank_pattern"] == {}


def test_a_fresh_pair_adds_no_rank(tiny):
    """FLoRA ends a round with B zero everywhere: only what was merged is exported."""
    model = peft_bridge.attach(tiny_base(tiny("llama")), LoraConfig(rank=4))
    begun = peft_bridge.start(model, 1)
    pairs, error = one_adapter(with_merged(begun, ranks=(2,)))
    assert error == 0.0
    assert {pair.rank for name, pair in pairs.items() if begun.modules[name] is not pair} == {2}


def test_a_rank_bounds_it_and_the_error_is_that_of_the_dense_matrices(tiny, tmp_path):
    model = peft_bridge.attach(tiny_base(tiny("llama")), LoraConfig(rank=4))
    adapters = with_merged(noisy(model))
    left = whole = 0.0
    pairs, error = one_adapter(adapters, 3)
    for name, module in adapters.modules.items():
        dense = module.scale * module.b.double() @ module.a.double()
        if name in adapters.merged:
            dense = dense + adapters.merged[name].b.double() @ adapters.merged[name].a.double()
        values = torch.linalg.svdvals(dense)
        left, whole = left + float(values[3:].square().sum()), whole + float(values.square().sum())
        assert float((pairs[name].b @ pairs[name].a).norm()) == pytest.approx(float(values[:3].norm()), rel=1e-5)
    assert error == pytest.approx((left / whole) ** 0.5, rel=1e-6)
    assert peft_bridge.export(model, adapters, tmp_path / "adapter", rank=3).relative_error == error > 0.1
    loaded = peft.PeftModel.from_pretrained(tiny_base(tiny("llama")).model, tmp_path / "adapter")
    peft_bridge.write(model, Adapters(pairs, adapters.extras))
    close(logits(loaded), logits(peft_bridge.network(model)), 1e-4)
    assert peft_bridge.export(model, adapters, tmp_path / "adapter", rank=64).relative_error == 0.0


def test_beyond_full_rank_a_pair_is_the_matrix():
    module = LowRank(torch.zeros(5, 2), torch.ones(2, 3))
    merged = LowRank(uniform(1, 5, 9), uniform(2, 9, 3))
    pairs, error = one_adapter(Adapters({"s": module}, {}, {"s": merged}))
    assert (pairs["s"].rank, error) == (3, 0.0)
    torch.testing.assert_close(pairs["s"].b @ pairs["s"].a, merged.b @ merged.a)
    best, _ = one_adapter(Adapters({"s": module}, {}, {"s": merged}), 2)
    assert float(norm(stack([best["s"], truncate(merged, 2)], [1.0, -1.0]))) < 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_model_loads_without_peft(tiny, tmp_path, architecture, dtype):
    lora = LoraConfig(rank=4, alpha=2.0, extras=("lm_head",))
    model = peft_bridge.attach(tiny_base(tiny(architecture), dtype), lora)
    adapters = with_merged(noisy(model))
    bare = tiny_base(tiny(architecture), dtype)
    bake(bare.model, adapters)
    bare.model.save_pretrained(tmp_path / "model")
    bare.tokenizer.save_pretrained(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=getattr(torch, dtype))
    peft_bridge.write(model, adapters)
    want = logits(peft_bridge.network(model))
    close(logits(loaded), want, 1e-4 if dtype == "float32" else 0.2)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").eos_token == "<eos>"


@pytest.mark.parametrize("architecture", ["llama-tied", "gpt2"])
def test_what_is_merged_into_a_tied_head_stays_out_of_the_embeddings(tiny, tmp_path, architecture):
    """The head and the embeddings are one tensor: in rounds that merge, and in a merged model, they must become two."""
    model = peft_bridge.attach(tiny_base(tiny(architecture)), LoraConfig(rank=4, targets=("all-linear", "lm_head")))
    adapters = with_merged(noisy(model))
    assert "lm_head" in adapters.merged
    peft_bridge.export(model, adapters, tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(tiny_base(tiny(architecture)).model, tmp_path / "adapter")
    peft_bridge.write(model, adapters)
    want = logits(peft_bridge.network(model))
    close(logits(loaded), want, 1e-4)
    bare = tiny_base(tiny(architecture)).model
    bake(bare, adapters)
    bare.save_pretrained(tmp_path / "model")
    assert not bare.config.tie_word_embeddings
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    close(logits(merged), want, 1e-4)
    peft_bridge.write(model, Adapters(peft_bridge.start(model, 0).modules))
    assert torch.equal(logits(peft_bridge.network(model)), logits(tiny_base(tiny(architecture)).model))
    head, embeddings = peft_bridge.network(model).lm_head, peft_bridge.network(model).get_input_embeddings()
    assert head.get_base_layer().weight is embeddings.weight, "tied again, once nothing is merged"


def test_sites_named_alike_keep_their_own_ranks(tmp_path):
    """PEFT matches endings: `proj` must not take the rank of `block.proj`, nor the other way round."""

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.proj, self.block = nn.Linear(6, 6), nn.Sequential()
            self.block.add_module("proj", nn.Linear(6, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(self.proj(x))

    base = Base(Twins().requires_grad_(False), None, "twins", torch.device("cpu"))
    model = peft_bridge.attach(base, LoraConfig(rank=2, targets=("proj",)))
    adapters = noisy(model)
    short, long = LowRank(uniform(1, 6, 1), uniform(2, 1, 6)), LowRank(uniform(3, 6, 3), uniform(4, 3, 6))
    adapters = Adapters(adapters.modules, {}, {"proj": short, "block.proj": long})
    peft_bridge.write(model, adapters)
    want = model(torch.eye(6))
    peft_bridge.export(model, adapters, tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(Twins(), tmp_path / "adapter")
    torch.testing.assert_close(loaded(torch.eye(6)), want, rtol=1e-4, atol=1e-4)


def test_convolutions_are_exported_whole(tmp_path):
    base = Base(Vision().requires_grad_(False), None, "vision", torch.device("cpu"))
    model = peft_bridge.attach(base, LoraConfig(rank=2, targets=("one", "two"), extras=("head",)))
    adapters = with_merged(noisy(model))
    peft_bridge.write(model, adapters)
    images = uniform(5, 2, 3, 6, 6)
    want = model(images)
    peft_bridge.export(model, adapters, tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(Vision(), tmp_path / "adapter")
    torch.testing.assert_close(loaded(images), want, rtol=1e-4, atol=1e-4)
    bare = Vision()
    bake(bare, adapters)
    torch.testing.assert_close(bare(images), want, rtol=1e-4, atol=1e-4)


def test_the_bases_fingerprint_is_that_of_the_base_alone(tiny):
    want = tiny_base(tiny("llama")).fingerprint
    base = tiny_base(tiny("llama"))
    model = peft_bridge.attach(base, LoraConfig(rank=4))
    peft_bridge.write(model, with_merged(noisy(model)))
    assert base.fingerprint == want, "what is merged now is no part of it"


def test_the_model_may_hold_another_rank_at_the_time(tiny, tmp_path):
    model = peft_bridge.attach(tiny_base(tiny("llama")), LoraConfig(rank=4))
    adapters = noisy(model)
    small = {name: LowRank(s.b[:, :1], s.a[:1], s.scale) for name, s in adapters.modules.items()}
    peft_bridge.write(model, Adapters(small))
    peft_bridge.export(model, adapters, tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(tiny_base(tiny("llama")).model, tmp_path / "adapter")
    peft_bridge.write(model, adapters)
    close(logits(loaded), logits(peft_bridge.network(model)), 1e-5)
    assert TOKENS.shape == (2, 12)
