"""Optimizers over the live parameters, and their state as plain tensors that safetensors can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from thinwire.adapters import Key
from thinwire.training.config import TrainConfig

State = dict[str, Tensor]
"""JSON of [name, part, field] -> tensor, as torch's optimizer keeps it."""


def build(config: TrainConfig, live: Mapping[Key, nn.Parameter]) -> torch.optim.Optimizer:
    """A fresh optimizer over the parameters that are trained."""
    values = list(live.values())
    fused = all(value.device.type in ("cpu", "cuda") for value in values)
    common = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": fused}
    if config.optimizer == "sgd":
        return torch.optim.SGD(values, momentum=config.momentum, **common)  # type: ignore[arg-type]
    return torch.optim.AdamW(values, **common)  # type: ignore[arg-type]


def save(optimizer: torch.optim.Optimizer, live: Mapping[Key, nn.Parameter]) -> State:
    """Copies of the state on the CPU."""
    return {
        json.dumps([*key, field]): value.detach().to("cpu", copy=True)
        for key, parameter in live.items()
        for field, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load(optimizer: torch.optim.Optimizer, live: Mapping[Key, nn.Parameter], state: Mapping[str, Tensor]) -> None:
    """Take up a saved state; what it holds of parameters that are not trained now is left aside."""
    for text, value in state.items():
        name, part, field = json.loads(text)
        parameter = live.get((name, part))
        if parameter is not None:
            optimizer.state[parameter][field] = value.to(parameter.device, copy=True)
