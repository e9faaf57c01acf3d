"""Logits in chunks: the losses and gradients of all at once, with few logits held and one pass through the layers."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.models.architectures import tiny_config
from tests.tiny_models import ARCHITECTURES, VOCABULARY, copying
from thinwire import peft_bridge
from thinwire.models.base import load_base
from thinwire.models.config import LoraConfig, ModelConfig
from thinwire.training import batches, forward
from thinwire.training.batches import collate
from thinwire.training.config import TrainConfig
from thinwire.training.forward import losses_at, outcomes_at, rows_at
from thinwire.training.trainer import Trainer

EXAMPLES = copying(6)


def adapted(folder, **lora):
    """A tiny model with adapters that are trained, and these."""
    base = load_base(ModelConfig(name=str(folder)), "cpu")
    model = peft_bridge.attach(base, LoraConfig(rank=2, **lora))
    noise = torch.Generator().manual_seed(0)
    parameters = list(peft_bridge.parameters(model).values())
    for value in parameters:
        value.requires_grad_(True)
        value.data += 0.1 * torch.randn(value.shape, generator=noise)
    return base, model, parameters


def few(monkeypatch, rows: int) -> None:
    monkeypatch.setattr(forward, "CHUNK", rows * VOCABULARY)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chunks_give_the_same_losses_gradients_and_guesses(tiny, architecture, monkeypatch):
    _, model, parameters = adapted(tiny(architecture))
    network, batch = peft_bridge.network(model), collate(EXAMPLES)
    weights = torch.linspace(0.5, 2, len(batch.targets))
    want = losses_at(network, batch)
    slopes = torch.autograd.grad((want * weights).sum(), parameters)
    guess, nats = outcomes_at(network, batch)
    few(monkeypatch, 7)
    assert len(batch.targets) > 7
    assert rows_at(network, batch).size == 7
    found = losses_at(network, batch)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    for got, slope in zip(torch.autograd.grad((found * weights).sum(), parameters), slopes, strict=True):
        torch.testing.assert_close(got, slope, rtol=1e-4, atol=1e-5 * float(slope.abs().max()))
    again, parts = outcomes_at(network, batch)
    torch.testing.assert_close(parts, nats, rtol=1e-5, atol=1e-5)
    assert (again == guess).float().mean() > 0.9


@pytest.mark.parametrize("name", ["gemma2", "granite"])
def test_what_a_model_does_to_its_logits_still_happens(name, monkeypatch):
    config = tiny_config(name)
    config.get_text_config().update({"final_logit_softcapping": 0.5, "logits_scaling": 0.1})
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    batch = collate(EXAMPLES)
    _, want = outcomes_at(network, batch)
    monkeypatch.setattr(forward, "CHUNK", 5 * config.get_text_config().vocab_size)
    _, found = outcomes_at(network, batch)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


def test_few_logits_are_held_and_the_layers_run_once(tiny, monkeypatch):
    _, model, _ = adapted(tiny("llama"))
    network, batch = peft_bridge.network(model), collate(EXAMPLES)
    few(monkeypatch, 4)
    passes: list[int] = []
    made: list[int] = []
    network.model.layers[0].register_forward_hook(lambda *_: passes.append(1))
    network.lm_head.register_forward_hook(lambda _, args, output: made.append(output.shape[1]))
    losses_at(network, batch).mean().backward()
    outcomes_at(network, batch)
    assert len(passes) == 2
    assert max(made) == 4
    assert sum(made) == 2 * (len(batch.targets) + 1)
    assert "forward" not in vars(network.model)


def test_a_head_that_is_trained_makes_all_its_logits_in_training_and_few_in_scoring(tiny, monkeypatch):
    _, model, parameters = adapted(tiny("llama"), extras=("lm_head",))
    network, batch = peft_bridge.network(model), collate(EXAMPLES)
    want = torch.autograd.grad(losses_at(network, batch).mean(), parameters)
    few(monkeypatch, 4)
    assert rows_at(network, batch).states.shape == (len(batch.targets), VOCABULARY)
    assert all(map(torch.equal, torch.autograd.grad(losses_at(network, batch).mean(), parameters), want))
    with torch.no_grad():
        assert rows_at(network, batch).size == 4


def test_a_model_that_fails_is_left_as_it_was(tiny, monkeypatch):
    _, model, _ = adapted(tiny("llama"))
    network, batch = peft_bridge.network(model), collate(EXAMPLES)
    want = outcomes_at(network, batch)[1]
    few(monkeypatch, 4)
    with monkeypatch.context() as broken:
        broken.setattr(torch.nn.functional, "cross_entropy", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            losses_at(network, batch)
    torch.testing.assert_close(outcomes_at(network, batch)[1], want, rtol=1e-5, atol=1e-5)


def test_small_passes_give_the_gradients_of_a_large_one(tiny, monkeypatch):
    base, model, parameters = adapted(tiny("llama"))
    config = TrainConfig(batch=6)
    slopes = []
    for tokens in (1000, 20):
        monkeypatch.setitem(batches.ROOM, "cpu", tokens * 2 * 32)  # layers times width
        trainer = Trainer(base, model, config, 1)
        assert trainer.room == tokens
        model.zero_grad()
        loss = trainer._gradients(EXAMPLES, peft_bridge.network(model))
        slopes.append([loss, *(value.grad.clone() for value in parameters)])
    assert slopes[1][0] == pytest.approx(slopes[0][0], rel=1e-5)
    for small, large in zip(slopes[1][1:], slopes[0][1:], strict=True):
        torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-5 * float(large.abs().max()))
