"""One request at a site: what it holds, what it trains and sends, and what it keeps on its disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from thinwire.adapters import Adapters, Change
from thinwire.compress import decode
from thinwire.engine import ClientState, receive
from thinwire.engine.checks import shapes
from thinwire.federation.messages import MessageError, Reply, Request
from thinwire.federation.store import Saved, Store
from thinwire.method import Client, Context
from thinwire.simulation.rounds import Federation, Worked, send_all, train
from thinwire.wire import Expect, WireError, unpack

LOG = logging.getLogger("thinwire.site")


@dataclass(frozen=True)
class Visit:
    """A request with all that answering it needs. federation: with this site as its only client.

    notes: what training adds to the facts of its reply. under_noise: does the work
    under the site's own noise, where it puts on some.
    """

    federation: Federation
    start: Adapters
    store: Store
    saved: Saved
    request: Request
    notes: Mapping[str, Any] = field(default_factory=dict)
    under_noise: Callable[[Callable[[Federation], Saved]], Saved] | None = None

    @property
    def client(self) -> Client:
        return self.federation.clients[0]

    def received(self) -> tuple[Adapters, ClientState]:
        """What the client holds after the request's blobs, and its state, settled by what the server says counted.

        Raises: WireError, MessageError.
        """
        request, saved = self.request, self.saved
        state = saved.settled(request.counted)
        known = (saved.held, saved.version, request.blobs, self.start, self.federation.seed)
        held, version = receive(self.federation.method, self.client, *known)
        if version != request.version:
            raise MessageError(f"the blobs end at version {version}, the server is at {request.version}")
        return held, replace(state, version=version)

    def caught_up(self) -> tuple[Adapters, ClientState]:
        """The same, kept on the disk; the last upload stays, as it may be asked for again or be late."""
        held, state = self.received()
        self.store.save(replace(self.saved, held=held, version=state.version))
        return held, state

    @property
    def missed(self) -> bool:
        """Whether the last upload is of an earlier round and did not count: it was late, or lost."""
        return self.request.counted < self.saved.round < self.request.round

    def late(self, held: Adapters) -> tuple[Change, dict[str, int]]:
        """What of an upload that missed its round is added to the next one, and a note for the server.

        Only where the method is linear; with error feedback it is part of the client's residual already. Under noise on
        the server's sum a client must keep nothing between rounds, so there it is discarded, too.
        """
        method, saved = self.federation.method, self.saved
        if not self.missed:
            return {}, {}
        number = saved.round
        adds = method.rule.linear and not method.feedback and not self.federation.noise_on("sum")
        change = self._sent(held) if adds else {}
        if change or method.feedback:
            LOG.warning("round %d: the upload did not count; it goes out with round %d", number, self.request.round)
            return change, {"late": number}
        LOG.error("round %d: the upload did not count; it is discarded", number)
        return {}, {"discarded": number}

    def _sent(self, held: Adapters) -> Change:
        """The last upload, decoded; empty if this round sends other parts or has other shapes."""
        ctx = Context(self.request.round, self.federation.seed)
        mine = self.federation.method.rule.cut(held, self.client.rank)
        sends = mine.trained(self.federation.method.sends(ctx))
        wanted = {key: shape for key, shape in shapes(mine).items() if key in sends}
        try:
            return decode(unpack(self.saved.upload, Expect(wanted)).leaves)
        except WireError:
            return {}

    def play(self, blank: Reply) -> Reply:
        """Train and send; a request that was answered before is answered with the same bytes, without training.

        Raises: ValueError for a change that is not finite, OSError where the disk is full, BudgetSpent; then nothing is
        sent.
        """
        saved = self.saved
        if saved.round != self.request.round or saved.asked != question(self.request):
            held, state = self.received()
            work = partial(self.work, held=held, state=state, missed=self.late(held))
            saved = self.under_noise(work) if self.under_noise else work(self.federation)
            self.store.save(saved)
        return replace(blank, version=saved.version, facts=dict(saved.facts), blobs=(saved.upload,))

    def work(
        self, federation: Federation, held: Adapters, state: ClientState, missed: tuple[Change, dict[str, int]]
    ) -> Saved:
        """Train and pack; what the site then keeps. missed: `late`. Raises: ValueError for what is not finite."""
        request, name, (late, note) = self.request, self.client.name, missed
        ctx = Context(request.round, federation.seed)
        trained = with_late(train(federation, [self.client], {name: held}, {name: state}, ctx), late)
        sendings, refused = send_all(federation, [self.client], {name: state}, trained, ctx)
        if refused:
            raise ValueError(refused[name])
        sending, done = sendings[name], trained[name][1]
        facts = {"loss": done.loss, "density": sending.density, "seconds": done.seconds, "tokens": done.tokens}
        kept = held, state.version, sending.counted, sending.lost
        return Saved(*kept, request.round, question(request), {**facts, **self.notes, **note}, sending.blob)


def with_late(trained: Mapping[str, Worked], late: Change) -> dict[str, Worked]:
    """Training that ended further on by what was late."""
    return {
        name: (plan, replace(done, adapters=done.adapters.add(late)), own)
        for name, (plan, done, own) in trained.items()
    }


def question(request: Request) -> str:
    """What makes two requests the same: the round, what is held in it, and the client's rank and density."""
    fixed = {key: value for key, value in request.client.items() if key not in ("index", "examples")}
    return json.dumps([request.round, request.version, fixed], sort_keys=True)
