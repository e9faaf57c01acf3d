"""Examples, and who holds which."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One tokenised sequence; `labels` equal `tokens` where the loss is taken and are -100 elsewhere."""

    tokens: tuple[int, ...]
    labels: tuple[int, ...]
