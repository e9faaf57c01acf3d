"""The server's numbered versions: the adapters, what the seed gave, and the broadcasts that led here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from thinwire.adapters import Adapters, Change
from thinwire.clock import span
from thinwire.payload import Payload, dense
from thinwire.server_optimizer import Moments
from thinwire.wire import pack


@dataclass(frozen=True)
class Server:
    """The global adapters of a version, what the seed gave (`start`), and the broadcasts that led here.

    broadcasts: what was sent to all, by the version it leads to (0: the first message); pruned once a state is smaller.
    run: the run that its messages name; seed: what its random choices derive from.
    moments: the server optimizer's running means, by name.
    """

    run: int
    seed: int
    start: Adapters
    adapters: Adapters
    version: int = 0
    residual: Change = field(default_factory=dict)
    broadcasts: Mapping[int, bytes] = field(default_factory=dict)
    moments: Moments = field(default_factory=dict)

    @cached_property
    def moved(self) -> Change:
        """The tensors that differ from the seeded start."""
        return {
            key: tensor
            for key, tensor in self.adapters.items()
            if key not in self.start or not torch.equal(tensor, self.start[key])
        }

    @cached_property
    def state(self) -> bytes:
        """The message that makes a client of any version, or of none, hold this one: what moved, in float32, packed."""
        leaves = {key: dense(tensor.float()) for key, tensor in self.moved.items()}
        with span("wire"):
            return pack(Payload("state", self.version, self.run, leaves))

    @cached_property
    def state_bounds(self) -> tuple[int, int]:
        """Bytes that `state` surely exceeds (2 a value that is not 0) and surely does not (4 a value), not packed."""
        values = self.moved.values()
        return 2 * sum(int(t.count_nonzero()) for t in values), 64 + sum(4 * t.numel() + 64 for t in values)


def begin(start: Adapters, seed: int, run: int, initial: Adapters | None = None) -> Server:
    """A server at version 0. `start` follows from the seed on all sides; `initial`, an adapter to continue, travels."""
    server = Server(run, seed, start, initial or start)
    return replace(server, broadcasts={0: server.state})


def prune(server: Server) -> Server:
    """Forget broadcasts that no catch-up needs any more, because a full state is surely smaller; the newest is kept."""
    total = 0
    kept: dict[int, bytes] = {}
    for version in sorted(server.broadcasts, reverse=True):
        total += len(server.broadcasts[version])
        if total > server.state_bounds[1] and kept:
            break
        kept[version] = server.broadcasts[version]
    return replace(server, broadcasts=kept)
