"""Whether a model can be trained at all, asked before anything else is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from thinwire import peft_bridge
from thinwire.data import ClassExample, Example, TokenClassExample
from thinwire.models.base import Base
from thinwire.settings import ConfigError
from thinwire.training.batches import collate
from thinwire.training.forward import losses_at

LENGTHS = (5, 3)
TROUBLE = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ImportError)

SAMPLES: dict[str, Callable[[int], Example]] = {
    "text": lambda length: Example(tuple(range(length)), tuple(range(length))),
    "sequence": lambda length: ClassExample(tuple(range(length)), (0,)),
    "token": lambda length: TokenClassExample(tuple(range(length)), (0,) * length),
}
"""An example of so many tokens, by task."""


def try_out(base: Base, model: Any, task: str) -> None:
    """One pass forward and back over two short texts, in training mode, as the task has them; nothing is moved by it.

    Raises: ConfigError with the model's own words, if it cannot be called in this way.
    """
    batch = collate([SAMPLES[task](length) for length in LENGTHS]).to(base.device)
    network = peft_bridge.network(model).train()
    try:
        with torch.random.fork_rng([base.device] if base.device.type == "cuda" else []):
            losses_at(network, batch).mean().backward()
    except TROUBLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"model.name = {base.name!r}: {type(network).__name__} cannot be trained on texts of {LENGTHS[0]} tokens: "
            f"{reason}; allowed is a model that takes texts of any length"
        ) from error
    finally:
        network.eval()
        for parameter in peft_bridge.parameters(model).values():
            parameter.grad = None
