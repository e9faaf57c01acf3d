"""One round of a federation with everything that travelled and was trained laid open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.laws.synthetic import federation, learn
from thinwire.adapters import Adapters, Change
from thinwire.compress import decode
from thinwire.engine import rounds as module
from thinwire.engine.jobs import Job, TrainingResult
from thinwire.method import Plan
from thinwire.payload import Payload
from thinwire.simulation.rounds import Federation, messages_for, play
from thinwire.storage.state import State
from thinwire.wire import unpack


@dataclass(frozen=True)
class Seen:
    """By client: the messages it was sent, its plan, what it trained, what it uploaded; and the state after."""

    before: State
    after: State
    down: dict[str, list[Payload]]
    plans: dict[str, Plan]
    trained: dict[str, Adapters]
    up: dict[str, Payload]

    def sent(self, client: str) -> Change:
        """The upload as the server decodes it."""
        return decode(self.up[client].leaves)


def unequal(
    method: Any, ranks: Sequence[int | None] = (), densities: Sequence[float] = (), **config: Any
) -> Federation:
    """A federation of clients with these ranks or densities."""
    made = federation(method, max(len(ranks), len(densities)), **config)
    given = {client.name: (None, None) for client in made.clients}
    for at, client in enumerate(made.clients):
        given[client.name] = (ranks[at] if ranks else None, densities[at] if densities else None)
    own = [replace(c, rank=given[c.name][0], density=given[c.name][1]) for c in made.clients]
    return replace(made, clients=own)


def watched(federated: Federation, before: State) -> Seen:
    """Play one round of a federation from which nobody drops out."""
    jobs: list[tuple[Job, TrainingResult]] = []
    up: dict[str, Payload] = {}
    aggregate = module.aggregate

    def train(given: Sequence[Job]) -> list[TrainingResult]:
        done = [held(job, end) for job, end in zip(given, learn(given), strict=True)]
        jobs.extend(zip(given, done, strict=True))
        return done

    def collected(method: Any, server: Any, uploads: Any, *rest: Any) -> Any:
        uploads = list(uploads)
        up.update({upload.client: unpack(upload.blob) for upload in uploads})
        return aggregate(method, server, uploads, *rest)

    down = {c.name: [unpack(blob) for blob in messages_for(federated, before, c)] for c in federated.clients}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "aggregate", collected)
        after = play(replace(federated, train=train), before, lambda line: None)
    names = [client.name for client in federated.clients]
    plans = {name: job.plan for name, (job, _) in zip(names, jobs, strict=True)}
    trained = {name: done.adapters for name, (_, done) in zip(names, jobs, strict=True)}
    return Seen(before, after, down, plans, trained, up)


def held(job: Job, done: TrainingResult) -> TrainingResult:
    """What was trained, with the entries that the plan's masks hold back at their start."""
    start, end = job.plan.start, done.adapters
    kept = {key: torch.where(mask, end[key], start[key]) for key, mask in job.plan.masks.items()}
    return replace(done, adapters=end.put(kept))


def product(adapters: Adapters, name: str) -> Tensor:
    """What the adapters add to a module's base weight, merged parts included; float64 (O, I)."""
    module = adapters.modules[name]
    total = module.scale * module.b.double() @ module.a.double()
    if name in adapters.merged:
        total = total + adapters.merged[name].b.double() @ adapters.merged[name].a.double()
    return total
