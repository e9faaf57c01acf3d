"""FedSA-LoRA: Selective Aggregation for Low-Rank Adaptation in Federated Learning. Guo et al., ICLR 2025.

arXiv:2410.01463.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from thinwire.adapters import EXTRA, Adapters
from thinwire.method import Client, Context, Memory, Method, Own, Personal, Plan, Score


@dataclass(frozen=True, kw_only=True)
class FedSALoRA(Method):
    """Both factors are trained, A is sent and averaged, B stays with its client; extras are shared."""

    name: ClassVar[str] = "fedsa-lora"
    title: ClassVar[str] = "FedSA-LoRA (A shared, B local)"
    paper: ClassVar[str] = "arXiv:2410.01463"

    def sends(self, ctx: Context) -> frozenset[str]:
        return frozenset({"a", EXTRA})

    def plan(self, view: Adapters, client: Client, memory: Memory, ctx: Context) -> Plan:
        return Plan(joined_with(view, memory), self.trains(ctx))

    @property
    def personal(self) -> Personal:
        return OwnB()


class OwnB(Personal):
    """What a client trained last; of it B is its own."""

    def remember(self, trained: Adapters, own: Adapters | None, memory: Memory, ctx: Context) -> Memory:
        return {"own": trained}

    def ends(self, view: Adapters, memory: Memory, score: Score) -> Mapping[str, Own]:
        return {"personal": Own(joined_with(view, memory))}


def joined_with(view: Adapters, memory: Memory) -> Adapters:
    """The shared A and extras with the client's own B."""
    own = memory.get("own", view)
    return view.put({(name, "b"): own.modules[name].b for name in view.modules})
