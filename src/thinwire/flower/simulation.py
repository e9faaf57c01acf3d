"""A recipe through Flower's simulation, on this machine or a Ray cluster: the local engine's adapter."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from thinwire.config import FederationConfig, Recipe
from thinwire.data.load import load
from thinwire.engine.rounds import RunStopped
from thinwire.evaluation.figures import HeldOut
from thinwire.federation import handshake
from thinwire.federation.coordinator import Coordinator
from thinwire.federation.drive import drive, gather
from thinwire.federation.messages import Reply
from thinwire.federation.server import open_run
from thinwire.federation.settings import Rules, Site, SiteData
from thinwire.federation.site import Trainers
from thinwire.flower import records
from thinwire.flower.grid import GridTransport
from thinwire.flower.processes import OFFLINE
from thinwire.identity import Identity
from thinwire.session.loaded import Session, open_session
from thinwire.session.opened import device, set_threads
from thinwire.settings import listed
from thinwire.simulation.run import Watcher
from thinwire.storage.directory import RunDirectory, file_name

FEDERATION = "simulated"


def run(
    recipe: Recipe, directory: RunDirectory, watcher: Watcher, accepted: Collection[str] = ()
) -> dict[str, Any]:
    """Play the recipe to its end; the summary. Raises: ConfigError, RunStopped; a checkpoint is kept."""
    from flwr.simulation import run_simulation

    names = sorted(load(recipe.data, recipe.run.seed).clients)
    rules = Rules(quorum=1, attempts=1, patience=60.0)
    directory.accept(accepted)
    coordinator = open_run(recipe, directory, rules, watcher.warn)
    server = ServerApp()
    done: list[dict[str, Any] | Exception] = []

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            done.append(play(coordinator, GridTransport(grid), names, recipe.federation.rounds))
        except Exception as error:  # Flower would swallow it
            done.append(error)

    threads = recipe.run.threads or 1
    gpus = 0.0 if device(recipe.run.device) == "cpu" else 1.0
    backend = {"client_resources": {"num_cpus": threads, "num_gpus": gpus}}
    folder = str(directory.path.resolve() / "sites")
    with offline():
        run_simulation(server, app_of(names, folder, "data" in accepted), len(names), backend_config=backend)
    result = done[0]
    if isinstance(result, Exception):
        raise result
    return result


def play(coordinator: Coordinator, transport: GridTransport, names: list[str], rounds: int) -> dict[str, Any]:
    """All rounds; the summary. Raises: RunStopped, also if a client cannot take part."""
    gather(coordinator, transport)
    if absent := sorted(set(names) - set(coordinator.members.nodes)):
        reasons = sorted(set(coordinator.members.turned_away.values())) or ["no answer"]
        raise RunStopped(f"{listed(absent)} cannot take part: {'; '.join(reasons)}")
    return drive(coordinator, transport, rounds)


def app_of(names: list[str], folder: str, may_change: bool) -> ClientApp:
    """A ClientApp whose node number n is the n-th client; Ray carries it to its processes."""
    app = ClientApp()

    @app.train()
    @app.evaluate()
    def answer(message: Message, context: Context) -> Message:
        name = names[int(context.node_config["partition-id"])]
        site = Site(Path(folder) / file_name(name), name, FEDERATION, SiteData(may_change=may_change))
        trainers = VirtualSites(site, FEDERATION)
        asked = records.request(message.content)
        if Path(folder).parent.is_dir():
            return Message(records.content(trainers.answer(asked)), reply_to=message)
        return Message(records.content(Reply(asked.task, asked.run, name, problem="folder")), reply_to=message)

    return app


_loaded: dict[str, tuple[Session, dict[str, Any]]] = {}
"""The session of this process, which serves all clients that Ray sends here."""


@dataclass
class VirtualSites(Trainers):
    """One of many clients on one machine: the recipe's own data, of which it sees its part."""

    def open(self, recipe: Recipe) -> Session:
        key = repr((recipe.model, recipe.lora, recipe.data, recipe.run))
        if key not in _loaded:
            _loaded.clear()
            session = open_session(recipe)
            _loaded[key] = session, handshake.identity(session, recipe.data)
        session, self.identities = _loaded[key]
        set_threads(recipe.run)
        own = self.site.name
        config = FederationConfig(rounds=recipe.federation.rounds)
        return replace(
            session,
            recipe=replace(recipe, federation=config),
            clients={own: session.clients[own]},
            fingerprints=only(session.fingerprints, own),
            tests=part(session.tests, own),
            monitor=part(session.monitor, own),
        )


def only(fingerprints: Identity, own: str) -> Identity:
    """The fingerprints that concern this client."""
    return {**fingerprints, "clients": {own: fingerprints["clients"][own]}}


def part(held: HeldOut, own: str) -> HeldOut:
    """What is held out of this client's own records; all of it where nothing is."""
    rows = {
        domain: [at for at, owner in enumerate(held.owners[domain]) if owner == own or domain == own]
        for domain in held.examples
    }
    if not any(rows.values()):
        return held
    return HeldOut(
        {domain: [held.examples[domain][at] for at in places] for domain, places in rows.items() if places},
        {domain: [held.owners[domain][at] for at in places] for domain, places in rows.items() if places},
    )


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """The environment that keeps Flower and Ray to this machine."""
    before = dict(os.environ)
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
