"""Examples, and who holds which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""The label where no loss is taken."""


@dataclass(frozen=True)
class Example:
    """A tokenised text, to be predicted token by token: `labels` equal `tokens` where the loss is taken, else -100."""

    tokens: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class TokenClassExample(Example):
    """A tokenised text whose tokens have classes of their own: `labels` are classes, or -100."""


@dataclass(frozen=True)
class ClassExample(Example):
    """A tokenised text with one class: `labels` holds that one."""


@dataclass(frozen=True, eq=False)
class Picture(ClassExample):
    """An image with one class, and no tokens: pixels (3, H, W), uint8."""

    pixels: Tensor
