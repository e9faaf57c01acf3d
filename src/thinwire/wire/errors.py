"""What the receiver accepts, and the one error for anything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from thinwire.adapters import Key

LIMIT = 1 << 31


class WireError(ValueError):
    """Bytes that are not a payload, or not the one expected; says what and where."""


class LeafHeader(Protocol):
    """A leaf as the directory describes it."""

    @property
    def key(self) -> Key: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def where(self) -> str: ...


@dataclass(frozen=True)
class Expect:
    """What the receiver accepts; None accepts anything.

    shapes: of the tensors it holds, leaves may be a subset; a dimension that is None is open, any from 0 to
    `open_limit`. limit: most bytes of the packed payload and, apart from that, of the decoded leaves (8 a listed
    position, 1 to 4 a value); also most values, kept or not, of the leaves whose shape is open or not given.
    """

    shapes: Mapping[Key, tuple[int | None, ...]] | None = None
    run: int | None = None
    kind: str | None = None
    version: int | None = None
    limit: int = LIMIT
    open_limit: int = 0

    def check(self, field: str, found: object) -> None:
        """Raises: WireError if the payload's `field` is another than expected."""
        wanted = getattr(self, field)
        if wanted is not None and found != wanted:
            raise WireError(f"{field} is {found!r}, expected {wanted!r}")

    def check_leaf(self, leaf: LeafHeader) -> None:
        """Raises: WireError for a leaf that is unknown or of another shape."""
        if self.shapes is None:
            return
        if leaf.key not in self.shapes:
            raise WireError(f"{leaf.where}: not among the {len(self.shapes)} tensors expected")
        wanted = tuple(self.shapes[leaf.key])
        if not self._fits(leaf.shape, wanted):
            opened = f" (None: 0 to {self.open_limit})" if None in wanted else ""
            raise WireError(f"{leaf.where}: shape {leaf.shape}, expected {wanted}{opened}")

    def is_open(self, key: Key) -> bool:
        """Whether the sender has a say in the shape of this leaf."""
        return self.shapes is None or None in self.shapes[key]

    def _fits(self, shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
        """Whether every dimension is the one wanted, or open and small enough."""
        return len(shape) == len(wanted) and all(
            found <= self.open_limit if size is None else found == size
            for found, size in zip(shape, wanted, strict=True)
        )
