"""The server's side of a round: what each client is sent, and how uploads become the next version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from thinwire.adapters import EXTRA, Adapters, Change, Key
from thinwire.clock import span
from thinwire.compress import Link, compress, decode
from thinwire.engine.client import refuse_non_finite, shapes
from thinwire.method import Context, Method, Uploads, weighted_sum
from thinwire.payload import Payload, dense
from thinwire.wire import Expect, Reader, WireError, open_payload, pack, unpack


@dataclass(frozen=True)
class Server:
    """The global adapters of a version, what the seed gave (`start`), and the broadcasts that led here.

    log: what was broadcast, by the version it leads to (0: the first message); pruned once a state is smaller.
    """

    run: int
    start: Adapters
    adapters: Adapters
    version: int = 0
    residual: Change = field(default_factory=dict)
    log: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Upload:
    """A client's bytes with its weight in the mean (not yet normalised)."""

    client: str
    weight: float
    blob: bytes


@dataclass(frozen=True)
class Outcome:
    """What became of the uploads of a round. refused: client -> reason."""

    accepted: tuple[str, ...]
    refused: Mapping[str, str]
    density: float = 0.0


def begin(start: Adapters, run: int, initial: Adapters | None = None) -> Server:
    """A server at version 0. `start` follows from the seed on all sides; `initial` (an adapter to continue) must travel."""
    server = Server(run, start, initial or start)
    return replace(server, log={0: state_message(server)})


def message(server: Server, version: int | None) -> list[bytes]:
    """What brings a client from `version` (None: it holds nothing) to the server's: what it missed or a state, the smaller."""
    missed = range(0 if version is None else version + 1, server.version + 1)
    state = [state_message(server)]
    if any(number not in server.log for number in missed):
        return state
    return min([server.log[number] for number in missed], state, key=lambda blobs: sum(map(len, blobs)))


def state_message(server: Server) -> bytes:
    """The tensors that differ from the seeded start, in float32, packed."""
    leaves = {key: dense(t.float()) for key, t in server.adapters.items() if not torch.equal(t, server.start[key])}
    with span("wire"):
        return pack(Payload("state", server.version, server.run, leaves))


def aggregate(method: Method, server: Server, uploads: Sequence[Upload], ctx: Context) -> tuple[Server, Outcome]:
    """The next version from the uploads that can be accepted, in client order; the same server if there are none.

    An upload that cannot be read, is of another run or version, is not finite, or holds other tensors than the method
    trains in this round is refused and named. Raises: ValueError if the new version would not be finite.
    """
    wanted = server.adapters.trained(method.trains(ctx))
    readers, refused = _open(server, sorted(uploads, key=lambda upload: upload.client), wanted)
    if not readers:
        return server, Outcome((), refused)
    weights = _normalised([upload.weight for upload, _ in readers])
    change = _changes(method, server, [reader for _, reader in readers], weights, ctx)
    refuse_non_finite(change)
    link = Link(server.adapters, server.adapters.add(change), ctx.seed_for("down"))
    leaves, residual = compress(change, method.down(ctx), link, server.residual, method.feedback)
    payload = Payload("change", server.version + 1, server.run, leaves)
    with span("wire"):
        blob = pack(payload)
        sent = decode(unpack(blob, Expect(shapes(server.adapters))).leaves)
    refuse_non_finite(sent)
    adapters = server.adapters.add(sent)
    log = {**server.log, payload.version: blob}
    after = replace(server, adapters=adapters, version=payload.version, residual=residual, log=log)
    return prune(after), Outcome(tuple(upload.client for upload, _ in readers), refused, payload.density)


def prune(server: Server) -> Server:
    """Forget broadcasts that no catch-up needs any more, because a full state would be smaller; the newest is kept."""
    limit, total, log = len(state_message(server)), 0, {}
    for version in sorted(server.log, reverse=True):
        total += len(server.log[version])
        if total > limit and log:
            break
        log[version] = server.log[version]
    return replace(server, log=log)


def _open(
    server: Server, uploads: Sequence[Upload], wanted: Sequence[Key]
) -> tuple[list[tuple[Upload, Reader]], dict[str, str]]:
    expect = Expect(shapes(server.adapters), run=server.run, kind="change", version=server.version)
    readers, refused = [], {}
    for upload in uploads:
        try:
            with span("wire"):
                reader = open_payload(upload.blob, expect)
                change = decode(reader.payload().leaves)
            refuse_non_finite(change)
            for name, part in sorted(set(wanted) ^ change.keys()):
                words = "is not trained in this round" if (name, part) in change else "is missing"
                raise ValueError(f"{name} ({part}) {words}")
        except (WireError, ValueError) as error:
            refused[upload.client] = str(error)
        else:
            readers.append((upload, reader))
    return readers, refused


def _changes(method: Method, server: Server, readers: Sequence[Reader], weights: Sequence[float], ctx: Context) -> Change:
    """The global change, one site after another, so that memory is one site's."""
    keys = set().union(*(reader.keys for reader in readers))
    change: Change = {}
    for name in sorted(server.adapters.sites):
        parts = [key for key in ((name, "a"), (name, "b")) if key in keys]
        if parts:
            uploads = Uploads(weights, [lambda r=r, parts=parts: _read(r, parts) for r in readers])  # type: ignore[misc]
            site = method.aggregate(server.adapters.sites[name], uploads, ctx)
            change |= {(name, part): tensor for part, tensor in site.items()}
    for key in sorted(key for key in keys if key[1] == EXTRA):
        mean = weighted_sum((p, {EXTRA: reader.leaf(key).dense()}) for p, reader in zip(weights, readers, strict=True))
        change[key] = mean[EXTRA]
    return change


def _read(reader: Reader, keys: Sequence[Key]) -> dict[str, Tensor]:
    with span("wire"):
        return {part: reader.leaf((name, part)).dense() for name, part in keys}


def _normalised(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights]
