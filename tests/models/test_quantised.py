"""A base in 4 or 8 bits: loads, trains float32 factors and exports, where bitsandbytes is installed."""

import pytest
import torch

from thinwire import peft_bridge
from thinwire.data import Example
from thinwire.engine.jobs import Job
from thinwire.method import Plan
from thinwire.models.base import load_base
from thinwire.models.config import LoraConfig, ModelConfig
from thinwire.training.config import TrainConfig
from thinwire.training.trainer import Trainer

pytest.importorskip("bitsandbytes", reason="needs thinwire[quantised]")


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_trains_float32_factors(tiny, tmp_path, bits):
    base = load_base(ModelConfig(name=str(tiny("llama")), bits=bits), "cpu")
    model = peft_bridge.attach(base, LoraConfig(rank=4))
    start = peft_bridge.start(model, 0)
    examples = [Example(tuple(range(2, 14)), tuple(range(2, 14)))] * 8
    trainer = Trainer(base, model, TrainConfig(steps=6, batch=4, learning_rate=1e-2), 1)
    done = trainer.train([Job(Plan(start, frozenset({"a", "b"})), examples, 0, 0)])[0]
    assert done.losses[-1] < done.losses[0]
    assert {tensor.dtype for _, tensor in done.adapters.items()} == {torch.float32}
    weights = {parameter.dtype for name, parameter in base.model.named_parameters() if "base_layer" in name}
    assert torch.uint8 in weights if bits == 4 else torch.int8 in weights
    peft_bridge.export(model, done.adapters, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
