"""The server's side of a round: how uploads become the next version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thinwire.adapters import EXTRA, Change, Key
from thinwire.clock import span
from thinwire.engine.checks import refuse_non_finite, shapes
from thinwire.engine.exchange import exchange_of
from thinwire.engine.noised import Read, noised_changes
from thinwire.engine.versions import Server
from thinwire.engine.workers import submit, workers
from thinwire.lowrank import unit_weights
from thinwire.method import Context, Method, Uploads, weighted_sum
from thinwire.privacy.noise import Sum
from thinwire.server_optimizer import PLAIN, ServerConfig, step
from thinwire.wire import Expect, Reader, WireError, open_payload


@dataclass(frozen=True)
class Upload:
    """A client's bytes with its weight in the mean (not yet normalised), and its rank if it has one of its own."""

    client: str
    weight: float
    blob: bytes
    rank: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of the uploads of a round. refused: client -> reason."""

    accepted: tuple[str, ...]
    refused: Mapping[str, str]
    density: float = 0.0


def aggregate(
    method: Method,
    server: Server,
    uploads: Iterable[Upload],
    ctx: Context,
    optimizer: ServerConfig = PLAIN,
    noised: Sum | None = None,
) -> tuple[Server, Outcome]:
    """The next version from the uploads that can be accepted, in client order; the same server if there are none.

    With `noised`, the change is a noised sum whoever sent anything, and weights have no say.

    Uploads are checked as they arrive, while the next is waited for; then modules are aggregated side by side. Neither
    the order of arrival nor the number of threads changes a bit.

    An upload that cannot be read, is of another run or version, is not finite, or holds other tensors than the method
    trains in this round is refused and named. Raises: ValueError if the new version would not be finite.
    """
    wanted = server.adapters.trained(method.sends(ctx))
    with workers() as pool:
        readers, refused = _open(method, server, uploads, wanted, pool)
        if not readers and noised is None:
            return server, Outcome((), refused)
        change = _changes(method, server, readers, ctx, pool, noised)
    refuse_non_finite(change)
    optimizer = method.outer(ctx) if optimizer.optimizer == "none" else optimizer
    change, moments = step(optimizer, change, server.adapters, server.moments)
    after = replace(server, version=server.version + 1, moments=moments)
    after, density = exchange_of(method).publish(method, after, change, ctx)
    refuse_non_finite(dict(after.adapters.items()))
    return after, Outcome(tuple(upload.client for upload, _ in readers), refused, density)


def _open(
    method: Method, server: Server, uploads: Iterable[Upload], wanted: Sequence[Key], pool: Executor
) -> tuple[list[tuple[Upload, Reader]], dict[str, str]]:
    """Uploads with their readers in client order, and reasons by client for those refused."""
    expect = Expect(run=server.run, kind="change", version=server.version)

    def check(upload: Upload) -> Future[Reader]:
        own = method.rule.cut(server.adapters, upload.rank)
        return submit(pool, _check, upload.blob, replace(expect, shapes=shapes(own)), frozenset(wanted))

    checks = [(upload, check(upload)) for upload in uploads]
    readers, refused = [], {}
    for upload, checked in sorted(checks, key=lambda item: item[0].client):
        try:
            readers.append((upload, checked.result()))
        except (WireError, ValueError) as error:
            refused[upload.client] = str(error)
    return readers, refused


def _check(blob: bytes, expect: Expect, wanted: frozenset[Key]) -> Reader:
    """Decode every leaf once, one at a time. Raises: WireError, ValueError."""
    with span("wire"):
        reader = open_payload(blob, expect)
    for name, part in sorted(wanted.symmetric_difference(reader.keys)):
        words = "is missing" if (name, part) in wanted else "is not trained in this round"
        raise ValueError(f"{name} ({part}) {words}")
    for key in reader.keys:
        with span("wire"):
            tensor = reader.leaf(key).dense()
        refuse_non_finite({key: tensor})
    return reader


def _changes(
    method: Method,
    server: Server,
    uploads: Sequence[tuple[Upload, Reader]],
    ctx: Context,
    pool: Executor,
    noised: Sum | None = None,
) -> Change:
    """The global change, module by module in the pool: memory of one upload of one module a thread."""
    if noised is not None:
        return noised_changes(method, server.adapters, _reader_of(server, uploads), ctx, pool, noised)
    present = [(upload.weight, reader) for upload, reader in uploads if upload.weight != 0]
    weights, readers = unit_weights([weight for weight, _ in present]), [reader for _, reader in present]

    def module(name: str, parts: Sequence[str]) -> Change:
        own = server.adapters.modules[name]
        change = method.rule(own, _uploads(readers, weights, name, parts, own.a.device), ctx)
        return {(name, part): tensor for part, tensor in change.items()}

    def extra(name: str, parts: Sequence[str]) -> Change:
        mean = weighted_sum(_uploads(readers, weights, name, parts, server.adapters.extras[name].device))
        return {(name, part): tensor for part, tensor in mean.items()}

    parts: dict[str, list[str]] = {}
    for name, part in sorted(readers[0].keys):
        parts.setdefault(name, []).append(part)
    tasks = [submit(pool, extra if own == [EXTRA] else module, name, own) for name, own in parts.items()]
    return {key: tensor for task in tasks for key, tensor in task.result().items()}


def _reader_of(server: Server, uploads: Sequence[tuple[Upload, Reader]]) -> Read:
    """Any module's uploads, all with weight 1."""

    def read(name: str, parts: Sequence[str]) -> Uploads:
        device = server.adapters[name, parts[0]].device
        return _uploads([reader for _, reader in uploads], [1.0] * len(uploads), name, parts, device)

    return read


def _uploads(
    readers: Sequence[Reader], weights: Sequence[float], name: str, parts: Sequence[str], device: torch.device
) -> Uploads:
    def read(client: int) -> tuple[float, dict[str, Tensor]]:
        with span("wire"):
            leaves = {part: readers[client].leaf((name, part)).dense() for part in parts}
        return weights[client], {part: _aligned(tensor).to(device) for part, tensor in leaves.items()}

    return Uploads(len(readers), read)


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor at an address that torch would choose: matrix products may round by alignment."""
    return tensor if tensor.data_ptr() % 64 == 0 else tensor.clone()
