"""What the receiver accepts, and the one error for anything else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from thinwire.adapters import Key

LIMIT = 1 << 31


class WireError(ValueError):
    """Bytes that are no payload, or not the one expected; says what and where."""


@dataclass(frozen=True)
class Expect:
    """What the receiver accepts; None accepts anything.

    shapes: of the tensors it holds, leaves may be a subset. limit: most bytes of the packed payload and, apart from
    that, of the decoded leaves (8 a listed position, 1 to 4 a value).
    """

    shapes: Mapping[Key, tuple[int, ...]] | None = None
    run: int | None = None
    kind: str | None = None
    version: int | None = None
    limit: int = LIMIT

    def check(self, field: str, found: object) -> None:
        """Raises: WireError if the header's `field` is another than expected."""
        wanted = getattr(self, field)
        if wanted is not None and found != wanted:
            raise WireError(f"header: {field} is {found!r}, expected {wanted!r}")

    def check_leaf(self, key: Key, shape: tuple[int, ...]) -> None:
        """Raises: WireError for a leaf that is unknown, of another shape or beyond the limit."""
        where = f"leaf {key[0]!r} ({key[1]})"
        if self.shapes is not None:
            if key not in self.shapes:
                raise WireError(f"{where}: not among the {len(self.shapes)} tensors expected")
            if shape != tuple(self.shapes[key]):
                raise WireError(f"{where}: shape {shape}, expected {tuple(self.shapes[key])}")
        elif math.prod(shape) >= 1 << 48:
            raise WireError(f"{where}: shape {shape} has more than 2^48 values")
