"""Lossy steps on a change, chained: each maps leaves to leaves and knows the factors it compresses for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from thinwire.adapters import Adapters, Change
from thinwire.payload import Leaves, dense
from thinwire.randomness import derive

__all__ = ["Step", "StepContext", "compress", "decode", "owed"]


@dataclass(frozen=True)
class StepContext:
    """What a step knows besides the leaves: the factors before and after the change, and a seed of its own."""

    before: Adapters
    after: Adapters
    seed: int

    def derive(self, *names: str | int) -> int:
        return derive(self.seed, *names)


class Step(Protocol):
    """One lossy step. Pure: leaves are never changed in place."""

    def __call__(self, leaves: Leaves, context: StepContext) -> Leaves: ...


def compress(
    change: Change, steps: Sequence[Step], context: StepContext, residual: Change, feedback: float = 0.0
) -> tuple[Leaves, Change]:
    """Leaves of `change + feedback * residual` after every step, and the new residual: what they leave out of that sum.

    Keys of the residual that are not in the change are kept as they are; without feedback nothing is kept.
    Source: error feedback, Seide et al. 2014; Karimireddy et al., arXiv:1901.09847.
    """
    total = owed(change, residual, feedback)
    leaves: Leaves = {key: dense(tensor.float()) for key, tensor in total.items()}
    for step in steps:
        leaves = step(leaves, context)
    if not feedback:
        return leaves, {}
    sent = decode(leaves)
    return leaves, {**residual, **{key: tensor - sent[key] for key, tensor in total.items()}}


def owed(change: Change, residual: Change, feedback: float) -> Change:
    """What a sender has to send: its change and, by `feedback`, what compression left out before."""
    return {key: tensor + feedback * residual[key] if key in residual else tensor for key, tensor in change.items()}


def decode(leaves: Leaves) -> Change:
    """The float32 change that leaves stand for."""
    return {key: leaf.dense() for key, leaf in leaves.items()}
