"""What a client asks of whoever trains, and what comes back; how it is trained is not the engine's business."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thinwire.adapters import Adapters
from thinwire.method import Plan


@dataclass(frozen=True)
class Job:
    """One client's work of one round. `seed` is the client's, the same in every round: it fixes the order of examples.

    `steps_factor` multiplies the recipe's steps (epochs grow with the examples by themselves). `optimizer` is the state
    that the round before returned, if the recipe keeps it.
    """

    plan: Plan
    examples: Sequence[Any]
    seed: int
    round: int
    steps_factor: int = 1
    optimizer: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class TrainingResult:
    """What came of a job: adapters, mean loss in nats per target token (nan if it diverged), loss of each step.

    `steps` done, `tokens` fed (padding not counted), `seconds` of wall time, `optimizer` state if the recipe keeps it.
    """

    adapters: Adapters
    loss: float
    losses: tuple[float, ...]
    steps: int
    tokens: int
    seconds: float
    optimizer: dict[str, Tensor]


Train = Callable[[Sequence[Job]], Sequence[TrainingResult]]
"""Runs jobs; the results in their order."""
