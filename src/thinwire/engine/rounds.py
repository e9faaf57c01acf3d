"""The server's side of a round: who takes part, what each is sent, and what becomes of the uploads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thinwire.engine.exchange import message
from thinwire.engine.server import Upload, aggregate
from thinwire.engine.versions import Server
from thinwire.method import Client, Context, Method
from thinwire.participation import FederationConfig
from thinwire.privacy.noise import Noise, Sum
from thinwire.randomness import derive, permutation, seeded_mask, uniform
from thinwire.server_optimizer import PLAIN, ServerConfig


class RunStopped(RuntimeError):
    """A round cannot be completed; the last checkpoint is kept."""


class AllUploadsRefused(RunStopped):
    """No client's upload of a round could be used."""


class Diverged(RunStopped):
    """What the server made of a round's uploads is not finite."""


@dataclass(frozen=True, kw_only=True)
class ServerSide:
    """A run as its server sees it: what does not change from round to round. noise: the run's, wherever it is put."""

    method: Method
    config: FederationConfig
    clients: Sequence[Client]
    seed: int
    server: ServerConfig = PLAIN
    noise: Noise | None = None

    def noise_on(self, place: str) -> Noise | None:
        """The noise, if this is where it is put."""
        return self.noise if self.noise and self.noise.place == place else None


@dataclass(frozen=True)
class Answer:
    """What a client's round came to, as its server hears of it. blob: empty if it sent nothing."""

    blob: bytes = b""
    density: float = 0.0
    loss: float = math.nan
    seconds: float = 0.0


def sample(side: ServerSide, number: int) -> list[Client]:
    """The clients of a round, in order: those that have joined, sampled if the recipe says so.

    With noise, its seed draws them: whoever cannot predict the noise must not be able to predict the sample.
    """
    present, count = joined(side, number), expected_count(side, number)
    if count == len(present):
        return present
    seed = derive(side.noise.seed if side.noise else side.seed, number, "sample")
    if side.config.sampling == "poisson":
        return [present[index] for index in seeded_mask(seed, len(present), count / len(present)).tolist()]
    return [present[index] for index in sorted(permutation(seed, len(present))[:count])]


def joined(side: ServerSide, number: int) -> list[Client]:
    """The clients that may take part in a round."""
    return [client for client in side.clients if side.config.first_round.get(client.name, 1) <= number + 1]


def expected_count(side: ServerSide, number: int) -> int:
    """How many of them the recipe asks for, or expects where each is drawn by itself."""
    present, count = len(joined(side, number)), side.config.clients_per_round
    return present if count is None else min(count, present)


def drops_out(side: ServerSide, client: Client, ctx: Context) -> bool:
    """Whether the client vanishes after its download and never uploads in this round."""
    return float(uniform(ctx.seed_for("drop", client.name), 1)) < side.config.drop


def messages(side: ServerSide, server: Server, client: Client, version: int | None, number: int) -> list[bytes]:
    """What brings a client from `version` (None: it holds nothing) to the server's."""
    return message(side.method, server, client, version, Context(number, side.seed))


def collect(
    side: ServerSide, server: Server, blobs: Mapping[str, bytes], number: int
) -> tuple[Server, dict[str, str]]:
    """The server after the uploads, by client, and why it refused some. Raises: Diverged."""
    noise, cohort = side.noise_on("sum"), expected_count(side, number)
    noised = Sum(noise, cohort) if noise and cohort else None
    by_name = {client.name: client for client in side.clients}
    uploads = [upload_of(side, by_name[name], blob) for name, blob in blobs.items() if blob]
    if not (uploads or noised):
        return server, {}
    try:
        server, outcome = aggregate(side.method, server, uploads, Context(number, side.seed), side.server, noised)
    except ValueError as error:
        text = f"round {number + 1}: the server's change is not usable: {error}; a smaller learning rate may help"
        raise Diverged(text) from None
    return server, dict(outcome.refused)


def upload_of(side: ServerSide, client: Client, blob: bytes) -> Upload:
    """A client's bytes with its weight in the mean."""
    weight = float(client.examples) if side.config.weights == "examples" else 1.0
    return Upload(client.name, weight, blob, client.rank)
