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
from thinwire.engine import ClientSide, ClientState, Work, plan, receive, send, train
from thinwire.engine.checks import shapes
from thinwire.federation.messages import MessageError, Reply, Request
from thinwire.federation.store import SiteState, Store
from thinwire.method import Client, Context
from thinwire.wire import Expect, WireError, unpack

LOG = logging.getLogger("thinwire.site")


@dataclass(frozen=True)
class Visit:
    """A request with all that answering it needs.

    notes: what training adds to the facts of its reply. under_noise: does the work
    under the site's own noise, where it puts on some.
    """

    side: ClientSide
    start: Adapters
    store: Store
    saved: SiteState
    request: Request
    notes: Mapping[str, Any] = field(default_factory=dict)
    under_noise: Callable[[Callable[[ClientSide], SiteState]], SiteState] | None = None

    @property
    def client(self) -> Client:
        return self.side.client

    def received(self) -> tuple[Adapters, ClientState]:
        """What the client holds after the request's blobs, and its state, settled by what the server says counted.

        Raises: WireError, MessageError.
        """
        request, saved = self.request, self.saved
        state = saved.settled(request.counted)
        last, run = (saved.held, saved.version), self.side.run
        held, version = receive(self.side.method, self.client, last, request.blobs, self.start, run)
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
        method, saved = self.side.method, self.saved
        if not self.missed:
            return {}, {}
        number = saved.round
        adds = method.rule.linear and not method.feedback and not self.side.noise_on("sum")
        change = self._sent(held) if adds else {}
        if change or method.feedback:
            words = "round %d: the upload did not count; it goes out with round %d"
            LOG.warning(words, number + 1, self.request.round + 1)
            return change, {"late": number}
        LOG.error("round %d: the upload did not count; it is discarded", number + 1)
        return {}, {"discarded": number}

    def _sent(self, held: Adapters) -> Change:
        """The last upload, decoded; empty if this round sends other parts or has other shapes."""
        ctx = Context(self.request.round, self.side.seed)
        mine = self.side.method.rule.cut(held, self.client.rank)
        sends = mine.trained(self.side.method.sends(ctx))
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
            saved = self.under_noise(work) if self.under_noise else work(self.side)
            self.store.save(saved)
        return replace(blank, version=saved.version, facts=dict(saved.facts), blobs=(saved.upload,))

    def work(
        self, side: ClientSide, held: Adapters, state: ClientState, missed: tuple[Change, dict[str, int]]
    ) -> SiteState:
        """Train and pack; what the site then keeps. missed: `late`. Raises: ValueError for what is not finite."""
        request, (late, note) = self.request, missed
        ctx = Context(request.round, side.seed)
        (done,) = train([plan(side, held, state, ctx)], side.train)
        done = with_late(done, late)
        sending, shared = send(side, state, done, ctx), done.shared
        facts = {"loss": shared.loss, "density": sending.density, "seconds": shared.seconds, "tokens": shared.tokens}
        kept = held, state.version, sending.counted, sending.lost
        return SiteState(*kept, request.round, question(request), {**facts, **self.notes, **note}, sending.blob)


def with_late(work: Work, late: Change) -> Work:
    """Training that ended further on by what was late."""
    return replace(work, shared=replace(work.shared, adapters=work.shared.adapters.add(late)))


def question(request: Request) -> str:
    """What makes two requests the same: the round, what is held in it, and the client's rank and density."""
    fixed = {key: value for key, value in request.client.items() if key not in ("index", "examples")}
    return json.dumps([request.round, request.version, fixed], sort_keys=True)
