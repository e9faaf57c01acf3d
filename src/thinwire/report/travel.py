"""What travels each way, in words: found by asking the method, so that they follow its settings."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from thinwire.adapters import EXTRA, Adapters, Key
from thinwire.compatibility import takes_ranks
from thinwire.compress import Step
from thinwire.compress.importance import ImportanceBudget, ImportanceDrop
from thinwire.compress.random_drop import RandomDrop
from thinwire.compress.top_k import TopK
from thinwire.lowrank import LowRank
from thinwire.method import Client, Context, Method, States, Uploads
from thinwire.parts import Nothing
from thinwire.values import ValuesConfig

MODULE = "module"
ANYONE = Client("anyone", 0, 1)
ROUNDS = 12
"""As many are looked at; what changes more slowly than that is not told."""
WORDS: dict[type, tuple[str, str]] = {
    TopK: ("top-k", ""),
    ImportanceBudget: ("sparse", "by importance"),
    ImportanceDrop: ("sparse", "by importance"),
    RandomDrop: ("random", "by seed"),
}
"""What a lossy step does to what travels: before it and after it."""
ORDER = ("A", "dA", "B", "dB", "merged pair")


def travels(method: Method) -> tuple[str, str]:
    """What clients send and what they are sent."""
    if isinstance(method.exchange, Nothing):
        return "nothing", "nothing"
    contexts = [Context(number, 0) for number in range(ROUNDS)]
    rank = " of own rank" if takes_ranks(method) else ""
    up = written(in_turn([offered(method, ctx) for ctx in contexts]) + rank, method.up(ANYONE, contexts[-1]))
    if isinstance(method.exchange, States):
        held = in_turn([{part.upper() for part in method.sends(ctx) - {EXTRA}} for ctx in contexts])
        down = written(held + rank, method.exchange.steps(ANYONE, contexts[-1]))
    else:
        down = written(in_turn([broadcast(method, ctx) for ctx in contexts]), method.down(contexts[-1]))
    values = method.values
    return f"{up}, {coded(values.bits_up, values)}", f"{down}, {coded(values.bits_down, values)}"


def offered(method: Method, ctx: Context) -> set[str]:
    """What one client offers in a round: factors, or their changes."""
    _, trained, change = played(method, ctx)
    return {key[1].upper() if tensor.equal(trained[key]) else f"d{key[1].upper()}" for key, tensor in change.items()}


def broadcast(method: Method, ctx: Context) -> set[str]:
    """What the rule makes of two clients' uploads."""
    start, _, change = played(method, ctx)
    uploads = [(0.5, {part: (1 + k) * tensor for (_, part), tensor in change.items()}) for k in range(2)]
    found = method.rule(start.modules[MODULE], Uploads(2, uploads.__getitem__), ctx)
    return {f"d{part.upper()}" if part in ("a", "b") else "merged pair" for part in found}


def played(method: Method, ctx: Context) -> tuple[Adapters, Adapters, dict[Key, torch.Tensor]]:
    """The global adapters, what a client trains from them, and what it offers: one module of two components."""
    values = torch.arange(6.0)
    start = Adapters({MODULE: LowRank(1 + values.view(3, 2), 1 + values.flip(0).view(2, 3))})
    plan = method.plan(start, ANYONE, {}, ctx)
    moved = {key: 0.5 + plan.start[key].square() for key in plan.start.trained(plan.parts)}
    trained = plan.start.put(moved)
    return start, trained, method.encode(plan, trained, ctx)


def in_turn(rounds: Sequence[set[str]]) -> str:
    """The parts of each round, where they differ in the order in which they come."""
    kinds = list(dict.fromkeys(" and ".join(sorted(parts, key=ORDER.index)) for parts in rounds))
    return kinds[0] if len(kinds) == 1 else f"{' or '.join(kinds)}, in turn"


def coded(bits: int, values: ValuesConfig) -> str:
    """How values are written."""
    return f"{bits} bits" if bits else values.precision


def written(parts: str, steps: Sequence[Step]) -> str:
    """The parts as the steps leave them."""
    words = [WORDS.get(type(step), (type(step).__name__, "")) for step in steps] or [("dense", "")]
    return ", ".join([" ".join([*(before for before, _ in words), parts]), *(after for _, after in words if after)])
