"""A client's side of a round: apply what the server sent, and turn what was trained into bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from thinwire.adapters import MERGED, Adapters, Change, Key
from thinwire.clock import span
from thinwire.compress import Link, compress, decode, owed
from thinwire.method import Client, Context, Memory, Method, Plan
from thinwire.payload import Payload
from thinwire.privacy.noise import Noise
from thinwire.wire import Expect, WireError, pack, unpack

MERGED_RANK = 1 << 16
"""Largest inner rank of a merged pair that a client accepts."""


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


def receive(
    method: Method,
    client: Client,
    held: Adapters,
    version: int | None,
    blobs: Sequence[bytes],
    start: Adapters,
    run: int,
) -> tuple[Adapters, int]:
    """What the client holds after the server's messages, applied in order, and its version.

    `start` is what the seed gives and a state message builds on. Changes that are in `held` already are passed over: a
    server that missed the last answer sends them again. Raises: WireError for bytes that do not fit.
    """
    own = method.cut(start, client.rank) if method.sends_states else start
    for blob in blobs:
        with span("wire"):
            payload = unpack(blob, expected(method, own, run=run))
        if payload.kind == "change" and version is not None and payload.version <= version:
            continue
        if payload.kind == "change" and (version is None or payload.version != version + 1):
            raise WireError(f"a change to version {payload.version} cannot follow version {version}")
        tensors = decode(payload.leaves)
        held = own.put(tensors) if payload.kind == "state" else held.add(tensors)
        version = payload.version
    if version is None:
        raise WireError("no message was sent to a client that holds nothing")
    return held, version


def expected(method: Method, adapters: Adapters, **fields: Any) -> Expect:
    """What a broadcast may hold: tensors of these shapes and, where the method merges, pairs of any inner rank."""
    wanted: dict[Key, tuple[int | None, ...]] = dict(shapes(adapters))
    if method.merges:
        wanted |= {(name, "merged_a"): (None, site.a.shape[1]) for name, site in adapters.sites.items()}
        wanted |= {(name, "merged_b"): (site.b.shape[0], None) for name, site in adapters.sites.items()}
    return Expect(wanted, open_limit=MERGED_RANK, **fields)


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
    leaves, residual = compress(change, method.up(client, ctx), link, state.residual, method.feedback)
    payload = Payload("change", state.version or 0, ctx.seed, leaves)
    state = replace(state, memory=method.remember(trained, own, state.memory, ctx))
    again = {**state.residual, **owed(change, state.residual, method.feedback)} if method.feedback else {}
    with span("wire"):
        blob = pack(payload) if method.federates else b""
    return Sending(blob, payload.density, replace(state, residual=residual), replace(state, residual=again))


def refuse_non_finite(change: Mapping[tuple[str, str], Tensor]) -> None:
    """Raises ValueError naming the first tensor that holds a NaN or an infinity."""
    for (name, part), tensor in change.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} ({part}) is not finite")


def shapes(adapters: Adapters) -> dict[tuple[str, str], tuple[int, ...]]:
    """The shape of every tensor that is trained, by key."""
    return {key: tuple(tensor.shape) for key, tensor in adapters.items() if key[1] not in MERGED}
