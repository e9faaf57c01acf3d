"""A client's side of a round: turn what was trained into bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from thinwire.adapters import Adapters, Change
from thinwire.compress import Link, compress, owed
from thinwire.compress.values import steps_up
from thinwire.engine.checks import refuse_non_finite
from thinwire.engine.exchange import exchange_of
from thinwire.method import Client, Context, Memory, Method, Plan
from thinwire.payload import Payload
from thinwire.privacy.noise import Noise


@dataclass(frozen=True)
class ClientState:
    """What a client keeps between rounds. version: of the global adapters it holds, None before it joined."""

    version: int | None = None
    memory: Memory = field(default_factory=dict)
    residual: Change = field(default_factory=dict)
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Sending:
    """An upload, and the client's state after it: provisional until the server says whether the upload counted."""

    blob: bytes
    density: float
    counted: ClientState
    lost: ClientState


def send(
    method: Method,
    client: Client,
    state: ClientState,
    plan: Plan,
    trained: Adapters,
    ctx: Context,
    noise: Noise | None = None,
    own: Adapters | None = None,
) -> Sending:
    """Pack what the client offers; raises ValueError naming the tensor if it is not finite.

    With `noise`, the change is clipped and noised first: positions, values and residual are made of that alone.
    """
    change = method.encode(plan, trained, ctx)
    refuse_non_finite(change)
    shown = trained
    if noise is not None:
        change = noise.onto_change(change, "upload", ctx.round, client.name)
        shown = plan.start.add(change)
    link = Link(plan.start, shown, ctx.seed_for("up", client.name))
    steps = (*method.up(client, ctx), *steps_up(method.values))
    leaves, residual = compress(change, steps, link, state.residual, method.feedback)
    payload = Payload("change", state.version or 0, ctx.seed, leaves)
    if method.personal:
        state = replace(state, memory=method.personal.remember(trained, own, state.memory, ctx))
    again = {**state.residual, **owed(change, state.residual, method.feedback)} if method.feedback else {}
    blob = exchange_of(method).pack(payload)
    return Sending(blob, payload.density, replace(state, residual=residual), replace(state, residual=again))
