"""The learning rate over all rounds of a run: a pure function of the position, so that a resumed run continues it."""

from __future__ import annotations

import math


def factor(schedule: str, position: int, total: int, warmup: int) -> float:
    """Share of the peak rate at step `position` (0-based) of `total`: linear warm-up, then the schedule down to 0."""
    if position < warmup:
        return (position + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = min((position - warmup) / max(total - warmup, 1), 1.0)
    return 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
