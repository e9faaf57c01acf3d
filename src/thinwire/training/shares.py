"""Several processes that train one client together, each on its share of every step: `accelerate launch -m thinwire`.

Every process plays the whole run, and all reach the same bits; only the gradients of a step are shared out. The first
process alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessPlace:
    """This process's place among `count`."""

    index: int = 0
    count: int = 1

    def mine(self, examples: Sequence[T]) -> Sequence[T]:
        """Every `count`-th of the examples, from this process's on."""
        return examples[self.index :: self.count]

    def add(self, parameters: Iterable[nn.Parameter], loss: float) -> float:
        """Sum the gradients over all processes, in place; the sum of the losses."""
        if self.count == 1:
            return loss
        from accelerate.utils import reduce

        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.copy_(reduce(parameter.grad, "sum"))
        return float(reduce(torch.tensor(loss, dtype=torch.float64, device=_device()), "sum"))


def here() -> ProcessPlace:
    """This process's share, as `accelerate launch` (or torchrun) says; the only one without either."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ProcessPlace()
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return ProcessPlace(state.process_index, state.num_processes)


def local_device() -> str:
    """This process's CUDA device among those of its machine."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if here().count > 1 else "cuda"


def _device() -> torch.device:
    from accelerate import PartialState

    return PartialState().device
