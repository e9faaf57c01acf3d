"""What may travel: finite tensors of the expected shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thinwire.adapters import MERGED, Adapters, Key
from thinwire.method import Method
from thinwire.wire import Expect

MERGED_RANK = 1 << 16
"""Largest inner rank of a merged pair that a client accepts."""


def expected(method: Method, adapters: Adapters, **fields: Any) -> Expect:
    """What a broadcast may hold: tensors of these shapes and, where the method merges, pairs of any inner rank."""
    wanted: dict[Key, tuple[int | None, ...]] = dict(shapes(adapters))
    if method.rule.merges:
        wanted |= {(name, "merged_a"): (None, module.a.shape[1]) for name, module in adapters.modules.items()}
        wanted |= {(name, "merged_b"): (module.b.shape[0], None) for name, module in adapters.modules.items()}
    return Expect(wanted, open_limit=MERGED_RANK, **fields)


def refuse_non_finite(change: Mapping[tuple[str, str], Tensor]) -> None:
    """Raises ValueError naming the first tensor that holds a NaN or an infinity."""
    for (name, part), tensor in change.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} ({part}) is not finite")


def shapes(adapters: Adapters) -> dict[tuple[str, str], tuple[int, ...]]:
    """The shape of every tensor that is trained, by key."""
    return {key: tuple(tensor.shape) for key, tensor in adapters.items() if key[1] not in MERGED}
