"""What privacy has cost, as the server knows it: of its own noised sums, or as each site says of itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from thinwire.federation.book import FILE, SPENT, Book, Release, begin_book, read_book
from thinwire.federation.messages import Reply
from thinwire.federation.replies import number
from thinwire.privacy.account import account_of
from thinwire.privacy.config import PrivacyConfig
from thinwire.privacy.noise import Noise
from thinwire.settings import listed
from thinwire.simulation.rounds import Federation
from thinwire.simulation.spending import sizes


@dataclass
class Costs:
    """The privacy of a run. book: of the noise on the server's sum, once it is open.

    sites: epsilon and noise multiplier by site, where these put the noise on; out: sites whose budget is spent.
    """

    config: PrivacyConfig
    book: Book | None = None
    sites: dict[str, tuple[float, float]] = field(default_factory=dict)
    out: set[str] = field(default_factory=set)

    def open(self, folder: Path, federation: Federation, begun: bool) -> None:
        """Read the record of the server's noise; or begin it, where nothing was sent yet, for the sites known now.

        Raises: ConfigError if it is lost, or the first round is beyond the budget.
        """
        if not self.config.central or self.book is not None:
            return
        common = folder, self.config, federation.seed
        sets = federation.config.sampling == "fixed"
        if begun or (folder / FILE).exists():
            self.book = read_book(*common, sets=sets)
        else:
            plan = [Release(number, *sizes(federation, number)) for number in range(federation.config.rounds)]
            self.book = begin_book(*common, plan, sets=sets)

    @property
    def noise(self) -> Noise | None:
        """The noise on the server's sum."""
        return self.book.noise if self.book else None

    def note(self, reply: Reply) -> None:
        """Remember what a site says of itself; what it does not say in numbers counts as no bound at all."""
        told = reply.facts.get("privacy")
        if not self.config.own:
            return
        if reply.problem.startswith(SPENT):
            self.out.add(reply.site)
        elif isinstance(told, Mapping):
            figures = (number(told, name) for name in ("epsilon", "noise_multiplier"))
            epsilon, multiplier = (math.inf if math.isnan(figure) else figure for figure in figures)
            self.sites[reply.site] = epsilon, multiplier

    def over(self, federation: Federation, round_: int, quorum: int) -> str:
        """Why no round may be played; empty if one may."""
        known = {client.name for client in federation.clients}
        if self.out and len(known - self.out) < quorum:
            names = listed(sorted(self.out))
            return f"{SPENT} at {names}; {len(known - self.out)} sites are left, the quorum is {quorum}"
        if self.book is None or self.book.shown(round_):
            return ""
        return self.book.over(Release(round_, *sizes(federation, round_)))

    @property
    def spent(self) -> dict[str, float]:
        """Epsilon so far, of whoever gave away most, with its delta; empty without privacy or before anyone told."""
        if self.book is not None:
            return {"epsilon": self.book.epsilon(), "delta": self.book.account.delta}
        if not self.sites:
            return {}
        assert self.config.delta is not None
        return {"epsilon": max(epsilon for epsilon, _ in self.sites.values()), "delta": self.config.delta}

    def summary(self, stopped: str) -> dict[str, Any] | None:
        """What a reader must know to judge the guarantee; None without privacy."""
        if self.book is not None:
            return self.book.summary(stopped or None)
        if not self.sites:
            return None
        smallest = min(multiplier for _, multiplier in self.sites.values())
        budget = self.config.epsilon if self.config.budget is None else self.config.budget
        account = account_of(replace(self.config, noise_multiplier=smallest, budget=budget), 0, False)
        assert account is not None
        return {
            **account.summary(self.spent["epsilon"], stopped or None),
            "clients": {name: epsilon for name, (epsilon, _) in sorted(self.sites.items())},
            "noise_multipliers": {name: multiplier for name, (_, multiplier) in sorted(self.sites.items())},
        }
