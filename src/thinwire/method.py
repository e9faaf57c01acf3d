"""The one abstraction: what is trained, how a change is compressed, and how changes become the new adapter.

Every part has a neutral default, which together are FedIT; a method's file holds only the part its paper invented. A
method is a frozen dataclass of hyper-parameters; its functions are pure, and it never sees a model, an optimizer, a
data set or a socket. The engine owns versions, bytes, error feedback, order, drop-outs and refusals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from thinwire.adapters import EXTRA, Adapters, Change, Key, subtract
from thinwire.compress import Step
from thinwire.parts import (
    Changes,
    Client,
    Context,
    Mean,
    Memory,
    Own,
    Parts,
    Personal,
    Reread,
    Rule,
    Score,
    States,
    Uploads,
    weighted_sum,
)
from thinwire.server_optimizer import PLAIN, ServerConfig
from thinwire.settings import APART, ConfigError, check, setting
from thinwire.values import ValuesConfig

__all__ = [
    "Changes",
    "Client",
    "ConfigError",
    "Context",
    "Mean",
    "Memory",
    "Method",
    "Own",
    "Parts",
    "Personal",
    "Plan",
    "Reread",
    "Rule",
    "Score",
    "States",
    "Uploads",
    "setting",
    "weighted_sum",
]


@dataclass(frozen=True)
class Plan:
    """What a client is to train, as data: start from `start`, move only the tensors whose part is in `parts`.

    masks: by key, the entries that may move (boolean, of the tensor's shape); keys without one move whole.
    length: in multiples of the recipe's steps; set by the engine.
    """

    start: Adapters
    parts: frozenset[str]
    masks: Mapping[Key, Tensor] = field(default_factory=dict)
    length: int = 1


@dataclass(frozen=True, kw_only=True)
class Method:
    """FedIT's neutral parts; a method overrides what its paper changes. Fields are checked on creation."""

    name: ClassVar[str]
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""

    values: ValuesConfig = field(default=ValuesConfig(), metadata={APART: True})
    """How values travel; a recipe says it for every method alike, in [values]."""

    def __post_init__(self) -> None:
        check(self, f"method {self.name}")

    @property
    def rule(self) -> Rule:
        """How one module's uploads become its global change."""
        return Mean()

    @property
    def exchange(self) -> Changes:
        """Who is sent what: one change for all, or to each client a state of its own."""
        return Changes()

    @property
    def personal(self) -> Personal | None:
        """What clients keep for themselves."""
        return None

    @property
    def feedback(self) -> float:
        """Share of what compression left out that is added to the sender's next change (error feedback); 0: none."""
        return 0.0

    def trains(self, ctx: Context) -> frozenset[str]:
        """Parts trained in this round; extras always are."""
        return frozenset({"a", "b", EXTRA})

    def sends(self, ctx: Context) -> frozenset[str]:
        """Parts that travel: those trained unless the method keeps some to the client."""
        return self.trains(ctx)

    def length(self, ctx: Context) -> int:
        """How long a client trains, in multiples of the recipe's steps."""
        return 1

    def plan(self, view: Adapters, client: Client, memory: Memory, ctx: Context) -> Plan:
        """What this client trains, from the global adapters it holds."""
        return Plan(view, self.trains(ctx))

    def encode(self, plan: Plan, trained: Adapters, ctx: Context) -> Change:
        """What it offers for upload, before `up` compresses it."""
        return subtract(trained, plan.start, trained.trained(self.sends(ctx)))

    def up(self, client: Client, ctx: Context) -> tuple[Step, ...]:
        """Lossy steps of the upload; the values' own come after them."""
        return ()

    def down(self, ctx: Context) -> tuple[Step, ...]:
        """Lossy steps of the broadcast change; the values' own come after them."""
        return ()

    def outer(self, ctx: Context) -> ServerConfig:
        """The method's own server optimizer, used where the recipe names none."""
        return PLAIN
