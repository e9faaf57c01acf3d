"""Another machine's rounding: `THINWIRE_ROUNDING=1 pytest -p tests.rounding` moves every matrix product a little.

Each number stands for a machine of its own. An entry moves by one last digit or not, by the shape alone, so what is
computed twice in the same way stays equal to the last bit. Values of few binary digits, which every machine computes
exactly, stay.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from thinwire.randomness import derive, uniform

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
LIBRARY = torch.library.Library("aten", "IMPL")


@lru_cache(64)
def pattern(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Factors of 1 - eps, 1 and 1 + eps."""
    seed = derive(int(os.environ.get("THINWIRE_ROUNDING", "1")), "rounding", *shape)
    steps = (uniform(seed, *shape) * 3 - 1.5).round()
    return 1 + steps.to(dtype) * torch.finfo(dtype).eps


def moved(exact: Tensor) -> Tensor:
    """What the other machine computes."""
    if not exact.is_floating_point() or exact.numel() == 0:
        return exact
    coarse = exact * 4096
    return torch.where(coarse == coarse.round(), exact, exact * pattern(exact.shape, exact.dtype))


def elsewhere(name: str) -> Callable[..., Tensor]:
    """A product of torch as the other machine has it."""
    packet = getattr(torch.ops.aten, name)

    def product(*arguments: Any, **options: Any) -> Tensor:
        out = arguments[0].new_empty(0)
        return moved(packet.out(*arguments, **options, out=out))

    return product


def pytest_configure() -> None:
    """Where this file is a plugin, and not where it is merely imported in search of doctests."""
    for name in PRODUCTS:
        LIBRARY.impl(name, elsewhere(name), "CPU")
