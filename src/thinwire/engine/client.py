"""A client's side of a round: plan, train and send. What it holds before, `receive` says (`exchange.py`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from thinwire.adapters import Adapters, Change
from thinwire.compress import StepContext, compress, owed
from thinwire.compress.values import steps_up
from thinwire.engine.checks import refuse_non_finite
from thinwire.engine.exchange import exchange_of
from thinwire.engine.jobs import Job, Train, TrainingResult
from thinwire.method import Client, Context, Memory, Method, Plan
from thinwire.payload import Payload
from thinwire.privacy.noise import Noise
from thinwire.randomness import derive


@dataclass(frozen=True, kw_only=True)
class ClientSide:
    """A client with what does not change over a run. train: runs jobs; noise: the run's, wherever it is put.

    seed: what its random choices derive from; run: the run that its uploads name.
    """

    method: Method
    client: Client
    examples: Sequence[Any]
    train: Train
    seed: int
    run: int
    steps_factor: int = 1
    noise: Noise | None = None

    def noise_on(self, place: str) -> Noise | None:
        """The noise, if this is where it is put."""
        return self.noise if self.noise and self.noise.place == place else None


@dataclass(frozen=True)
class ClientState:
    """What a client keeps between rounds. version: of the global adapters it holds, None before it joined."""

    version: int | None = None
    memory: Memory = field(default_factory=dict)
    residual: Change = field(default_factory=dict)
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Jobs:
    """What a client is to train in a round: for all, and for itself besides."""

    shared: Job
    own: Job | None = None


@dataclass(frozen=True)
class Work:
    """What a client trained: by which plan, for all, and for itself."""

    plan: Plan
    shared: TrainingResult
    own: TrainingResult | None = None


@dataclass(frozen=True)
class Sending:
    """An upload, and the client's state after it: provisional until the server says whether the upload counted."""

    blob: bytes
    density: float
    counted: ClientState
    lost: ClientState


def plan(side: ClientSide, held: Adapters, state: ClientState, ctx: Context) -> Jobs:
    """What the client is to train, from the global adapters that it holds."""
    method, name = side.method, side.client.name
    shared = replace(method.plan(held, side.client, state.memory, ctx), length=method.length(ctx))
    own = method.personal.start(held, state.memory, ctx) if method.personal else None
    seed = derive(side.seed, "train", name)
    job = Job(shared, side.examples, seed, ctx.round, side.steps_factor, state.optimizer or None)
    if own is None:
        return Jobs(job)
    seed = derive(side.seed, "train", name, "own")
    return Jobs(job, replace(job, plan=replace(shared, start=own), seed=seed, optimizer=None))


def train(jobs: Sequence[Jobs], run: Train) -> list[Work]:
    """What came of several clients' jobs, in their order; all are run at once."""
    wanted = [job for each in jobs for job in (each.shared, each.own) if job is not None]
    done = iter(run(wanted))
    return [Work(each.shared.plan, next(done), next(done) if each.own else None) for each in jobs]


def send(side: ClientSide, state: ClientState, work: Work, ctx: Context) -> Sending:
    """Pack what the client offers. Raises: ValueError naming what is not finite; then it sends nothing.

    With noise on uploads, the change is clipped and noised first: positions, values and residual are made of that
    alone.
    """
    method, trained = side.method, work.shared.adapters
    _check(work)
    change = method.encode(work.plan, trained, ctx)
    refuse_non_finite(change)
    shown = trained
    if noise := side.noise_on("upload"):
        change = noise.onto_change(change, "upload", ctx.round, side.client.name)
        shown = work.plan.start.add(change)
    context = StepContext(work.plan.start, shown, ctx.seed_for("up", side.client.name))
    steps = (*method.up(side.client, ctx), *steps_up(method.values))
    leaves, residual = compress(change, steps, context, state.residual, method.feedback)
    payload = Payload("change", state.version or 0, side.run, leaves)
    state = replace(state, optimizer=work.shared.optimizer)
    if method.personal:
        own = work.own.adapters if work.own else None
        state = replace(state, memory=method.personal.remember(trained, own, state.memory, ctx))
    again = {**state.residual, **owed(change, state.residual, method.feedback)} if method.feedback else {}
    blob = exchange_of(method).pack(payload)
    return Sending(blob, payload.density, replace(state, residual=residual), replace(state, residual=again))


def _check(work: Work) -> None:
    """Raises: ValueError where training left the finite numbers."""
    if not math.isfinite(work.shared.loss):
        raise ValueError("the loss is not finite")
    for done in (work.shared, work.own):
        if done is not None:
            refuse_non_finite(dict(done.adapters.items()))
