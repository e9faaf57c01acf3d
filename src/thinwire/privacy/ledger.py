"""What was released under noise, what that costs, and when it is too much."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from thinwire.privacy import accountant
from thinwire.privacy.accountant import ADD_OR_REMOVE, REPLACE, Counts
from thinwire.privacy.config import PrivacyConfig
from thinwire.privacy.noise import Noise, noise_of
from thinwire.settings import ConfigError

T = TypeVar("T")

PROTECTED = {"sum": "client", "upload": "client", "gradient": "example of a client"}
WORDS = {
    ("sum", REPLACE): "clients drawn as a set of fixed size, without replacement",
    ("sum", ADD_OR_REMOVE): "clients drawn each by itself (Poisson), or all",
    ("upload", REPLACE): "every round of a client counts in full: the server sees who sends",
    ("gradient", ADD_OR_REMOVE): "examples drawn each by itself (Poisson) in every step of every round",
}


class BudgetSpent(RuntimeError):
    """Nothing more may be released; the text says what the next release would cost."""


@dataclass(frozen=True)
class Release:
    """Of `among` records, `drawn` (expected) were in it, `times` times. sha256: of what was shown; planned: empty.

    of: whose records, where each client's add up by themselves; empty where there is one account for all.
    """

    round: int
    drawn: float
    among: int
    times: int = 1
    sha256: str = ""
    of: str = ""


@dataclass(frozen=True)
class Ledger:
    """The releases of one run under one noise, and what may still be released.

    sets: whether records are drawn as sets of fixed size; secret: whether the noise's seed is one, and not the run's.
    """

    noise: Noise
    delta: float
    budget: float | None = None
    sets: bool = False
    secret: bool = False
    releases: tuple[Release, ...] = ()

    def add(self, releases: Iterable[Release]) -> Ledger:
        """The ledger with more releases."""
        return replace(self, releases=(*self.releases, *releases))

    @property
    def relation(self) -> str:
        """Which data sets are neighbours: those of the sampler that was really used."""
        place = self.noise.place
        parts = self.sets and any(release.drawn < release.among for release in self.releases)
        return REPLACE if place == "upload" or (place == "sum" and parts) else ADD_OR_REMOVE

    @property
    def epsilon(self) -> float:
        """Epsilon of the releases, for whoever gave away most; 0 without any."""
        return max((self._cost(each) for each in undominated(counted(self.releases).values())), default=0.0)

    @property
    def by_client(self) -> dict[str, float]:
        """Epsilon for each client whose releases are counted by themselves."""
        return {name: self._cost(each) for name, each in counted(self.releases).items()}

    def _cost(self, counts: Counts) -> float:
        return accountant.epsilon(counts, self.noise.multiplier, self.delta, self.relation)

    def calibrated(self, planned: Sequence[Release], target: float) -> Ledger:
        """With the noise that epsilon `target` asks for over what is planned; it is the budget, too, if there is none.

        Raises: ConfigError if no noise is enough.
        """

        def under(multiplier: float) -> Ledger:
            return replace(self, noise=replace(self.noise, multiplier=multiplier))

        chosen = under(accountant.calibrated(lambda multiplier: under(multiplier).add(planned).epsilon, target))
        return replace(chosen, budget=target if self.budget is None else self.budget)

    def over(self, *next_: Release) -> str:
        """Why the next releases, of one round, are beyond the budget; empty if they are not."""
        if self.budget is None or not next_ or (cost := self.add(next_).epsilon) <= self.budget:
            return ""
        return f"round {next_[0].round + 1} would bring epsilon to {cost:.4g}; the budget is {self.budget:.4g}"

    def check_first(self, *next_: Release) -> None:
        """Raises: ConfigError if the releases of the first round are beyond the budget already."""
        if why := self.over(*next_):
            raise ConfigError(f"privacy.budget = {self.budget}: {why}; allowed is a larger one, or more noise")

    def of_round(self, number: int) -> list[Release]:
        """The releases of a round."""
        return [release for release in self.releases if release.round == number]

    def show(
        self, release: Release, make: Callable[[Noise], tuple[T, str]], keep: Callable[[Ledger], None]
    ) -> tuple[T, Ledger]:
        """What `make` gives under noise that was never shown with anything else, and the ledger with it.

        make: noise -> (what it gives, its SHA-256; "": nothing of it will be shown). keep: makes the new ledger
        durable, before anything is shown. A round that was released before is made with its noise again: the same bytes
        cost nothing; others are made anew with fresh noise, and counted.
        Raises: BudgetSpent, and what `keep` raises; then nothing may be shown.
        """
        before = self.of_round(release.round)
        for again, old in enumerate(before):
            made, sha256 = make(self.noise.again(again))
            if sha256 in ("", old.sha256):
                return made, self
        if why := self.over(release):
            raise BudgetSpent(why)
        made, sha256 = make(self.noise.again(len(before)))
        if not sha256:
            return made, self
        ledger = self.add([replace(release, sha256=sha256)])
        keep(ledger)
        return made, ledger

    @property
    def public(self) -> dict[str, Any]:
        """What a site may say of it: it follows from counts alone. Epsilon is None where there is no bound."""
        cost = self.epsilon
        return {
            "epsilon": cost if math.isfinite(cost) else None,
            "delta": self.delta,
            "protects": PROTECTED[self.noise.place],
            "noise_multiplier": self.noise.multiplier,
        }

    def summary(self, stopped: str | None) -> dict[str, Any]:
        """What a reader must know of the guarantee. stopped: why the run ended early, if it did."""
        place, relation = self.noise.place, self.relation
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "protects": PROTECTED[place],
            "neighbours": relation,
            "sampler": WORDS[place, relation],
            "accountant": accountant.name(place == "sum" and relation == REPLACE),
            "noise": f"on each {place}" if place != "sum" else "on the server's sum",
            "clip": self.noise.clip,
            "noise_multiplier": self.noise.multiplier,
            "secret_seed": self.secret,
            "budget": self.budget,
            "stopped": stopped,
        }


def ledger_of(config: PrivacyConfig, seed: int, sets: bool = False) -> Ledger:
    """An empty ledger for a recipe with privacy, whose noise follows from `seed`."""
    noise = noise_of(config, seed)
    assert noise is not None
    assert config.delta is not None
    return Ledger(noise, config.delta, config.budget, sets, config.seed == "system")


def counted(releases: Iterable[Release]) -> dict[str, Counts]:
    """How often which share of the records was drawn, by whose they are."""
    found: dict[str, Counter[tuple[float, int]]] = defaultdict(Counter)
    for release in releases:
        found[release.of][release.drawn, release.among] += release.times
    return dict(found)


def undominated(counts: Iterable[Counts]) -> list[Counts]:
    """Those of one kind each that no other exceeds in rate and number; all others as they are."""
    found: list[Counts] = []
    alone: list[tuple[float, int, Counts]] = []
    for each in counts:
        if len(each) == 1:
            ((drawn, among), count) = next(iter(each.items()))
            alone.append((drawn / among, count, each))
        else:
            found.append(each)
    most = -1
    for _, count, each in sorted(alone, key=lambda item: (-item[0], -item[1])):
        if count > most:
            most = count
            found.append(each)
    return found
