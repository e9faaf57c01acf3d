"""A method of one's own, as a user's file or package has it; copied by the tests that use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thinwire.adapters import EXTRA
from thinwire.method import Context, Method, setting


@dataclass(frozen=True, kw_only=True)
class OnlyB(Method):
    """Train, send and average B."""

    name: ClassVar[str] = "only-b"
    title: ClassVar[str] = "B alone"

    turn: int = setting(1, "a field of its own", low=1)

    def trains(self, ctx: Context) -> frozenset[str]:
        return frozenset({"b", EXTRA})
