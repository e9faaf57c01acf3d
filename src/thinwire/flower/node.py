"""Around a Flower user's own ClientApp: messages come in thin, the user's functions see plain arrays."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict

from thinwire.adapters import Adapters
from thinwire.engine import ClientSide
from thinwire.engine.jobs import Job, TrainingResult
from thinwire.federation import audit, privacy
from thinwire.federation.facts import check_outward
from thinwire.federation.messages import MessageError, Reply, Request
from thinwire.federation.problems import SiteProblem, keep
from thinwire.federation.store import store
from thinwire.federation.visit import Visit
from thinwire.flower import records
from thinwire.flower.arrays import Layout, tensors_of
from thinwire.flower.grid import SCORING
from thinwire.identity import run_id
from thinwire.method import Client, Method
from thinwire.privacy.config import PrivacyConfig
from thinwire.privacy.ledger import Release
from thinwire.settings import ConfigError, build
from thinwire.wire import FORMAT

App = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, App], Message]


def mod(method: Method, folder: Path | str = "~/.thinwire/flower") -> Mod:
    """A mod for `ClientApp(mods=[mod(method)])` or `@app.train(mods=[...])`; the server needs `Strategy(method)`.

    The wrapped functions get `arrays` (the adapter's state dict) and `config`, and return arrays and metrics, as in any
    Flower app. folder: where this node keeps its state between rounds, and the log of what left it.
    """

    def around(message: Message, context: Context, app: App) -> Message:
        name = f"node-{context.node_id}"
        node = Node(method, Path(folder).expanduser() / name, name, message, context, app)
        reply = records.answered(message.content, name, node.folder, node.answer)
        return Message(records.content(reply), reply_to=message)

    return around


@dataclass(frozen=True)
class Node:
    """One message at a node, with the user's function that answers it."""

    method: Method
    folder: Path
    name: str
    message: Message
    context: Context
    app: App
    notes: dict[str, Any] = field(default_factory=dict)

    def answer(self, request: Request) -> Reply:
        """The reply, already in the audit log; of a problem its code. Flower would tell the server an error's text."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        blank = Reply(request.task, request.run, self.name, request.round)
        with locked(self.folder):
            try:
                reply = self._answer(request, blank)
                check_outward(reply.task, reply.site, reply.facts)
            except Exception as error:  # also the user's own
                reply = replace(blank, problem=keep(self.folder, request.run, request.task, request.round, error))
            audit.record(self.folder, "flower", reply, privacy.spent(self.folder, "flower", request.run))
        return reply

    def _answer(self, request: Request, blank: Reply) -> Reply:
        kept = store(self.folder, "flower", request.run)
        if request.task == "hello":
            if request.recipe["method"] != repr(self.method):
                raise ConfigError(f"the server's method is {request.recipe['method']}, this node's {self.method!r}")
            privacy.begin(kept, request.recipe, *secrecy(request.recipe), partial(plan, request.recipe))
            kept.save_recipe(request.recipe)
        recipe = kept.recipe()
        if recipe is None:
            raise SiteProblem("unknown", f"run {request.run}: unknown here; a hello must come first")
        layout = Layout({name: tuple(shape) for name, shape in recipe["shapes"].items()}, recipe["scale"])
        start = layout.zeros
        ledger = privacy.recorded(kept, *secrecy(recipe))
        saved = kept.load(start)
        if request.task == "hello":
            told = {"privacy": ledger.public} if ledger else {}
            return replace(blank, version=saved.version, facts={"examples": 1, "wire": FORMAT, **told})
        try:
            client = Client(**request.client)
        except TypeError as error:
            raise MessageError(f"client: {error}") from None

        def train(jobs: Sequence[Job]) -> list[TrainingResult]:
            return [self.train(job, layout) for job in jobs]

        seed, run = recipe["seed"], run_id(request.run)
        side = ClientSide(method=self.method, client=client, examples=(), train=train, seed=seed, run=run)
        under_noise = None
        if ledger is not None:
            release, noisy = Release(request.round, 1, 1), lambda noise: replace(side, noise=noise)
            under_noise = partial(privacy.under_noise, kept, ledger, release, noisy)
        visit = Visit(side, start, kept, saved, request, self.notes, under_noise)
        if request.task == "round":
            return visit.play(blank)
        held, state = visit.caught_up()
        facts = self.scores(layout, held) if request.task in SCORING else {}
        return replace(blank, version=state.version, facts=facts)

    def train(self, job: Job, layout: Layout) -> TrainingResult:
        """The user's training from the plan's start. Raises: ValueError if a part moved that the method keeps fixed."""
        began = time.perf_counter()
        reply = self.call(layout, job.plan.start, {"thinwire-trains": ",".join(sorted(job.plan.parts))})
        arrays = next(iter(reply.content.array_records.values()), None)
        if arrays is None:
            raise ValueError("the train function returned no arrays")
        adapters = layout.adapters(tensors_of(arrays))
        for key, tensor in job.plan.start.items():
            if key[1] not in job.plan.parts and not tensor.equal(adapters[key]):
                trains = ", ".join(sorted(job.plan.parts))
                raise ValueError(
                    f"{key[0]} ({key[1]}) moved, and the method trains only {trains} in this round: "
                    "freeze the rest (thinwire-trains in the message's config says which parts move)"
                )
        metrics = metrics_of(reply)
        self.notes["metrics"] = metrics
        self.notes["examples"] = int(metrics.get("num-examples", 1))
        loss = metrics.get("train_loss", metrics.get("loss", 0.0))
        return TrainingResult(adapters, loss, (), 0, 0, time.perf_counter() - began, {})

    def scores(self, layout: Layout, adapters: Adapters) -> dict[str, Any]:
        """What the user's evaluate function says of the adapters."""
        return {"metrics": metrics_of(self.call(layout, adapters, {}))}

    def call(self, layout: Layout, adapters: Adapters, more: dict[str, str]) -> Message:
        """The user's function on plain arrays and the server's config."""
        config = dict(self.message.content["config"]) if "config" in self.message.content else {}
        content = RecordDict({"arrays": layout.arrays(adapters), "config": ConfigRecord({**config, **more})})
        plain = copy.copy(self.message)
        plain.content = content
        try:
            reply = self.app(plain, self.context)
        except Exception as error:
            raise SiteProblem("app", f"{type(error).__name__}: {error}") from error
        if reply.has_error():
            raise SiteProblem("app", f"the app failed: {reply.error.reason}")
        return reply


def secrecy(recipe: Mapping[str, Any]) -> tuple[PrivacyConfig, int]:
    """The server's privacy, and the run's seed."""
    return build(PrivacyConfig, recipe.get("privacy", {}), "privacy"), recipe["seed"]


def plan(recipe: Mapping[str, Any]) -> list[Release]:
    """Every round releases an upload."""
    return [Release(number, 1, 1) for number in range(recipe["rounds"])]


def metrics_of(reply: Message) -> dict[str, float]:
    """The single numbers among a reply's metrics."""
    pairs = (pair for record in reply.content.metric_records.values() for pair in record.items())
    return {name: float(value) for name, value in pairs if isinstance(value, int | float)}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One message at a time, also where a node's processes overlap."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
