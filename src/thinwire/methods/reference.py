"""What federation is measured against: everyone alone, and everyone's examples in one place. Nothing travels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from thinwire.adapters import EXTRA, Adapters, Change
from thinwire.method import Changes, Client, Context, Memory, Method, Own, Personal, Plan, Score, setting
from thinwire.parts import Nothing


@dataclass(frozen=True, kw_only=True)
class Local(Method):
    """Each client trains an adapter of its own, as long as it would in a federation."""

    name: ClassVar[str] = "local"
    title: ClassVar[str] = "local training only"
    paper: ClassVar[str] = "reference"

    freeze_a: bool = setting(False, "train B only, as FFA-LoRA does")

    @property
    def exchange(self) -> Changes:
        return Nothing()

    @property
    def personal(self) -> Personal:
        return Whole()

    def trains(self, ctx: Context) -> frozenset[str]:
        return frozenset({"b", EXTRA}) if self.freeze_a else super().trains(ctx)

    def plan(self, view: Adapters, client: Client, memory: Memory, ctx: Context) -> Plan:
        return Plan(self.own(view, memory), self.trains(ctx))

    def encode(self, plan: Plan, trained: Adapters, ctx: Context) -> Change:
        return {}

    def own(self, view: Adapters, memory: Memory) -> Adapters:
        """The client's adapters so far."""
        return memory.get("own", view)


class Whole(Personal):
    """All that a client trained is its own, and it ends with nothing else."""

    def remember(self, trained: Adapters, own: Adapters | None, memory: Memory, ctx: Context) -> Memory:
        return {"own": trained}

    def ends(self, view: Adapters, memory: Memory, score: Score) -> Mapping[str, Own]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Centralised(Local):
    """One adapter trained on everyone's examples, as many steps a round as all clients take together."""

    name: ClassVar[str] = "centralised"
    title: ClassVar[str] = "all examples in one place"
