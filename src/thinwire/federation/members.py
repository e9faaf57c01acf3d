"""Who is in a run across sites: the nodes that speak for sites, what sites said of themselves, and who is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from thinwire.compatibility import takes_densities, takes_ranks
from thinwire.engine.clients import clients_of
from thinwire.federation.handshake import mismatch
from thinwire.federation.messages import MessageError, Reply, Request
from thinwire.federation.replies import limits_of
from thinwire.federation.settings import SiteLimits
from thinwire.federation.setup import Setup
from thinwire.method import Client
from thinwire.settings import ConfigError

Replies = Mapping[int, Reply | str]
"""What came back by node: a reply, or why there is none, in words."""


@dataclass
class Members:
    """nodes: site -> the node that speaks for it now. examples, limits: of every site ever met; note: of trouble."""

    setup: Setup
    run: str
    note: Callable[[str], None]
    nodes: dict[str, int] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    limits: dict[str, SiteLimits] = field(default_factory=dict)
    turned_away: dict[int, str] = field(default_factory=dict)

    @property
    def clients(self) -> list[Client]:
        """All sites ever met, as the round loop knows them, within their own limits."""
        config, rank = self.setup.federation, self.setup.rank
        tables = {name: getattr(config, name) for name in ("first_round", "rank_of", "density_of")}
        here: dict[str, Any] = {
            name: {k: v for k, v in table.items() if k in self.examples} for name, table in tables.items()
        }
        clients = clients_of(replace(config, **here), self.examples, rank)
        return [within(client, self.limits.get(client.name, SiteLimits()), rank) for client in clients]

    def greet(self, nodes: Iterable[int], round_: int) -> dict[int, Request]:
        """A hello to each node that is new; sites whose node is gone are forgotten until they come back."""
        nodes = set(nodes)
        for name in [name for name, node in self.nodes.items() if node not in nodes]:
            self.note(f"round {round_ + 1}: {name} is gone")
            del self.nodes[name]
        self.turned_away = {node: why for node, why in self.turned_away.items() if node in nodes}
        new = nodes - set(self.nodes.values()) - set(self.turned_away)
        return {node: Request("hello", self.run, recipe=dict(self.setup.hello)) for node in sorted(new)}

    def meet(self, replies: Replies) -> list[Reply]:
        """Take in the sites that answered a hello and fit: their replies. The others are named, with the reason."""
        taken = []
        for node, reply in sorted(replies.items()):
            if isinstance(reply, str):
                self.note(f"node {node}: {reply}")
            elif reason := self._misfit(reply):
                self.turned_away[node] = reason
                self.note(f"site {reply.site!r} (node {node}) is refused: {reason}")
            else:
                self.nodes[reply.site] = node
                self.examples[reply.site] = reply.facts["examples"]
                self.limits[reply.site] = limits_of(reply.facts)
                taken.append(reply)
        return taken

    def _misfit(self, reply: Reply) -> str:
        count = reply.facts.get("examples")
        if reply.problem:
            return reply.trouble
        if reply.run != self.run:
            return f"it answers for run {reply.run}"
        if not reply.site or reply.site in self.nodes:
            return f"node {self.nodes[reply.site]} is {reply.site!r} already" if reply.site else "it has no name"
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            return f"its number of examples is {count!r}"
        try:
            limits = limits_of(reply.facts)
        except (ConfigError, MessageError) as error:
            return str(error)
        return mismatch(self.setup.identity, reply.facts) or self._too_small(limits)

    def _too_small(self, limits: SiteLimits) -> str:
        """Why the method cannot keep to a site's limits; empty if it can."""
        method, rank = self.setup.method, self.setup.rank
        if limits.rank is not None and limits.rank < rank and not takes_ranks(method):
            return f"limits.rank = {limits.rank}: {method.name} needs rank {rank} everywhere"
        if limits.density is not None and not takes_densities(method):
            return f"limits.density = {limits.density}: {method.name} has no density of its own"
        return ""


def within(client: Client, limits: SiteLimits, largest: int) -> Client:
    """The client with its rank and density no larger than its site's limits. largest: the recipe's rank."""
    rank = None if limits.rank is None or limits.rank >= largest else limits.rank
    return replace(client, rank=least(client.rank, rank), density=least(client.density, limits.density))


def least(*values: Any) -> Any:
    """The smallest of those given; None without any."""
    return min((value for value in values if value is not None), default=None)
