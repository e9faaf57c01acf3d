"""A site's side of a run: what its resident trainer does with each of the server's requests."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from thinwire import peft_bridge
from thinwire.config import Recipe, from_dict
from thinwire.engine import ClientSide
from thinwire.federation import audit, handshake, privacy
from thinwire.federation.facts import check_outward
from thinwire.federation.messages import MessageError, Reply, Request
from thinwire.federation.problems import SiteProblem, during, keep
from thinwire.federation.settings import Site
from thinwire.federation.store import SiteState, Store, StoreError, store
from thinwire.federation.visit import Visit
from thinwire.identity import code_of, run_id
from thinwire.method import Client, Context
from thinwire.privacy.ledger import Release
from thinwire.privacy.noise import Noise
from thinwire.session.loaded import Session, open_session
from thinwire.session.opened import set_threads
from thinwire.settings import ConfigError
from thinwire.simulation.personal import loss_on_some

LOG = logging.getLogger("thinwire.site")


@dataclass
class Trainers:
    """Answers requests for one site. Keeps the last loaded session, so that a second run on it loads nothing."""

    site: Site
    federation: str
    key: str = ""
    session: Session | None = None
    loads: int = 0
    identities: dict[str, Any] = field(default_factory=dict)

    def answer(self, request: Request) -> Reply:
        """The reply, already in the audit log; of a problem its code. Raises nothing but OSError of the log."""
        blank = Reply(request.task, request.run, self.site.name, request.round)
        try:
            reply = self._answer(request, blank)
            check_outward(reply.task, reply.site, reply.facts)
        except Exception as error:  # also a defect, or no memory: the trainer goes on
            reply = replace(blank, problem=keep(self.site.folder, request.run, request.task, request.round, error))
        spent = privacy.spent(self.site.folder, self.federation, request.run)
        audit.record(self.site.folder, self.federation, reply, spent)
        return reply

    def _answer(self, request: Request, blank: Reply) -> Reply:
        kept = store(self.site.folder, self.federation, request.run)
        if request.task == "hello":
            session = self.open(from_dict(request.recipe))
            with during("privacy"):
                self.begin(kept, session, request)
            kept.save_recipe(request.recipe)
        values = kept.recipe()
        if values is None:
            raise SiteProblem("unknown", f"run {request.run}: unknown here; a hello must come first")
        session = self.open(from_dict(values))
        with during("changed"):
            for text in kept.same(session.records, self.site.data.may_change):
                LOG.warning("%s", text)
        config = session.recipe.privacy
        with during("state"):
            ledger = privacy.recorded(kept, config, session.recipe.run.seed)
        saved = self.load(kept, session)
        if request.task == "hello":
            told = {"privacy": ledger.public} if ledger else {}
            return replace(blank, version=saved.version, facts={**self.hello(session), **told})
        side, under_noise = client_side(self.site, session, request), None
        if ledger is not None:
            release = privacy.release_of(side, session.recipe.train, config.place, request.round)
            noisy = lambda noise: client_side(self.site, noised(session, noise), request)  # noqa: E731
            under_noise = partial(privacy.under_noise, kept, ledger, release, noisy)
        visit = Visit(side, session.start, kept, saved, request, under_noise=under_noise)
        return work(session, visit, blank)

    def begin(self, kept: Store, session: Session, request: Request) -> None:
        """Begin the record of what privacy costs, if the run is new here and asks for noise at the site."""
        recipe = session.recipe

        def plan() -> list[Release]:
            numbers, place = range(recipe.federation.rounds), recipe.privacy.place
            side = side_of(session, Client(self.site.name, 0, len(examples_of(self.site, session))), request.run)
            return [privacy.release_of(side, recipe.train, place, number) for number in numbers]

        privacy.begin(kept, request.recipe, recipe.privacy, recipe.run.seed, plan)

    def open(self, recipe: Recipe) -> Session:
        """The session of a recipe at this site, loaded if the last one does not serve. Raises: ConfigError."""
        with during("privacy"):
            self.site.privacy.within(recipe.privacy)
        with during("method"):
            self.site.allowed(recipe.method["name"])
        recipe = self.site.recipe(recipe)
        shared = (recipe.model, recipe.lora, recipe.data, recipe.run, recipe.federation.ranks)
        key = repr(shared)
        if self.session is None or key != self.key:
            self.session = None  # the old base goes before the new one comes
            with during("load"):
                self.session, self.key = open_session(recipe), key
            self.loads += 1
            self.identities = handshake.identity(self.session, recipe.data)
        set_threads(recipe.run)
        return replace(self.session, recipe=recipe)

    def hello(self, session: Session) -> dict[str, Any]:
        """What the site tells of itself."""
        count = len(examples_of(self.site, session))
        code = code_of(session.recipe.method["name"])
        return {**self.identities, **code, "examples": count, "limits": vars(self.site.limits)}

    def load(self, kept: Store, session: Session) -> SiteState:
        """The run's state on this disk; a damaged one is told and replaced by that of a site which never joined."""
        try:
            return kept.load(session.start)
        except StoreError as error:
            LOG.error("%s; this site begins anew and is sent the state", error)
            return SiteState(session.start)


def work(session: Session, visit: Visit, blank: Reply) -> Reply:
    """What is left of a task once the site holds the server's version."""
    task = visit.request.task
    if task == "round":
        return visit.play(blank)
    held, state = visit.caught_up()
    reply = replace(blank, version=state.version)
    rows = {"evaluate": session.monitor, "test": session.tests, "finish": session.tests}.get(task)
    if rows is None:
        return reply
    method, ctx = visit.side.method, Context(visit.request.round, visit.side.seed)
    whole = method.exchange.result(held, ctx)
    scores = session.score(whole, rows)
    if task == "finish":
        peft_bridge.export(session.model, whole, visit.store.folder / "adapter")
        score = partial(loss_on_some, session, visit.side)
        own = method.personal.ends(held, state.memory, score) if method.personal and state.memory else {}
        for name, personal in own.items():
            peft_bridge.export(session.model, personal.adapters, visit.store.folder / name)
    names = [blank.site] if len(scores) == 1 else [str(number) for number in range(1, len(scores) + 1)]
    return replace(reply, facts=dict(zip(names, map(vars, scores.values()), strict=True)))


def noised(session: Session, noise: Noise) -> Session:
    """The session with this noise in place of the recipe's."""
    config = replace(session.recipe.privacy, noise_multiplier=noise.multiplier, epsilon=None)
    return replace(session, recipe=replace(session.recipe, privacy=config), secret=noise.seed)


def client_side(site: Site, session: Session, request: Request) -> ClientSide:
    """This site as the server's request knows it. Raises: MessageError, ConfigError."""
    try:
        client = Client(**request.client)
    except TypeError as error:
        raise MessageError(f"client: {error}") from None
    if client.name != site.name:
        raise MessageError(f"a message for {client.name!r}; this site is {site.name!r}")
    return side_of(session, client, request.run)


def side_of(session: Session, client: Client, run: str) -> ClientSide:
    """A client of the run `run` with all the examples of a session that has one."""
    (examples,) = session.clients.values()
    return ClientSide(
        method=session.method(),
        client=client,
        examples=examples,
        train=session.trainer().train,
        seed=session.recipe.run.seed,
        run=run_id(run),
        noise=session.noise,
    )


def examples_of(site: Site, session: Session) -> Any:
    """The examples of the site: all that its source has. Raises: ConfigError if the source divides into several."""
    if len(session.clients) != 1:
        names = ", ".join(session.clients)
        raise ConfigError(f"site {site.name}: data.source holds {names}; allowed is one, named in data.clients")
    return next(iter(session.clients.values()))
