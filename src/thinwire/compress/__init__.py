"""Lossy steps on a change, chained: each maps leaves to leaves and knows the factors it compresses for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from thinwire.adapters import Adapters, Change, add_changes
from thinwire.payload import Leaves, dense
from thinwire.randomness import derive

__all__ = ["Link", "Step", "compress", "decode"]


@dataclass(frozen=True)
class Link:
    """What a step knows besides the leaves: the factors before and after the change, and a seed of its own."""

    before: Adapters
    after: Adapters
    seed: int

    def derive(self, *names: str | int) -> int:
        return derive(self.seed, *names)


class Step(Protocol):
    """One lossy step. Pure: leaves are never changed in place."""

    def __call__(self, leaves: Leaves, link: Link) -> Leaves: ...


def compress(change: Change, steps: Sequence[Step], link: Link, residual: Change | None = None) -> tuple[Leaves, Change]:
    """Leaves of the change after every step, and what they leave out of `change + residual` (error feedback)."""
    total = add_changes(change, residual) if residual else change
    leaves: Leaves = {key: dense(tensor.float()) for key, tensor in total.items()}
    for step in steps:
        leaves = step(leaves, link)
    sent = decode(leaves)
    return leaves, {key: tensor - sent[key] for key, tensor in total.items()}


def decode(leaves: Leaves) -> Change:
    """The float32 change that leaves stand for."""
    return {key: leaf.dense() for key, leaf in leaves.items()}

