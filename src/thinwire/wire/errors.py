"""What the receiver accepts, and the one error for anything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from thinwire.adapters import Key

LIMIT = 1 << 31


class WireError(ValueError):
    """Bytes that are no payload, or not the one expected; says what and where."""


class Described(Protocol):
    """A leaf as the directory describes it."""

    @property
    def key(self) -> Key: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def size(self) -> int: ...
    @property
    def where(self) -> str: ...


@dataclass(frozen=True)
class Expect:
    """What the receiver accepts; None accepts anything.

    shapes: of the tensors it holds, leaves may be a subset. limit: most bytes of the packed payload and, apart from
    that, of the decoded leaves (8 a listed position, 1 to 4 a value); without shapes also most values of a leaf.
    """

    shapes: Mapping[Key, tuple[int, ...]] | None = None
    run: int | None = None
    kind: str | None = None
    version: int | None = None
    limit: int = LIMIT

    def check(self, field: str, found: object) -> None:
        """Raises: WireError if the payload's `field` is another than expected."""
        wanted = getattr(self, field)
        if wanted is not None and found != wanted:
            raise WireError(f"{field} is {found!r}, expected {wanted!r}")

    def check_leaf(self, leaf: Described) -> None:
        """Raises: WireError for a leaf that is unknown, of another shape or too large."""
        if self.shapes is None:
            if leaf.size > self.limit:
                raise WireError(f"{leaf.where}: {leaf.size} values, at most {self.limit} allowed")
        elif leaf.key not in self.shapes:
            raise WireError(f"{leaf.where}: not among the {len(self.shapes)} tensors expected")
        elif leaf.shape != tuple(self.shapes[leaf.key]):
            raise WireError(f"{leaf.where}: shape {leaf.shape}, expected {tuple(self.shapes[leaf.key])}")
