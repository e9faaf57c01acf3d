"""What noised releases cost and when it is too much: one rule for the simulation, a server and a site."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from thinwire.privacy import accountant
from thinwire.privacy.accountant import ADD_OR_REMOVE, REPLACE, Releases
from thinwire.privacy.config import PrivacyConfig
from thinwire.privacy.noise import Noise

PROTECTED = {"sum": "client", "upload": "client", "gradient": "example of a client"}
WORDS = {
    ("sum", REPLACE): "clients drawn as a set of fixed size, without replacement",
    ("sum", ADD_OR_REMOVE): "clients drawn each by itself (Poisson), or all",
    ("upload", REPLACE): "every round of a client counts in full: the server sees who sends",
    ("gradient", ADD_OR_REMOVE): "examples drawn each by itself (Poisson) in every step of every round",
}


@dataclass(frozen=True)
class Account:
    """Epsilon of releases under one noise, at one delta, with one limit.

    relation: which data sets are neighbours; secret: whether the noise's seed is one, and not the run's.
    """

    noise: Noise
    relation: str
    delta: float
    budget: float | None = None
    secret: bool = False

    def epsilon(self, releases: Iterable[Releases], multiplier: float | None = None) -> float:
        """Epsilon of whoever gave away most; 0 without anyone."""
        multiplier = self.noise.multiplier if multiplier is None else multiplier
        costs = [accountant.epsilon(each, multiplier, self.delta, self.relation) for each in undominated(releases)]
        return max(costs, default=0.0)

    def calibrated(self, planned: Iterable[Releases], target: float) -> Account:
        """With the noise that epsilon `target` asks for over what is planned; it is the budget, too, if none is given.

        Raises: ConfigError if no noise is enough.
        """
        multiplier = accountant.calibrated(partial(self.epsilon, list(planned)), target)
        budget = target if self.budget is None else self.budget
        return replace(self, noise=replace(self.noise, multiplier=multiplier), budget=budget)

    def over(self, rounds: int, cost: float) -> str:
        """Why the next round, which brings epsilon to `cost`, may not follow the first `rounds`; empty if it may."""
        if self.budget is None or cost <= self.budget:
            return ""
        return f"round {rounds + 1} would bring epsilon to {cost:.4g}; the budget is {self.budget:.4g}"

    def summary(self, epsilon: float, stopped: str | None) -> dict[str, Any]:
        """What a reader must know to judge the guarantee. stopped: why the run ended early, if it did."""
        place = self.noise.place
        return {
            "epsilon": epsilon,
            "delta": self.delta,
            "protects": PROTECTED[place],
            "neighbours": self.relation,
            "sampler": WORDS[place, self.relation],
            "accountant": accountant.name(place == "sum" and self.relation == REPLACE),
            "noise": f"on each {place}" if place != "sum" else "on the server's sum",
            "clip": self.noise.clip,
            "noise_multiplier": self.noise.multiplier,
            "secret_seed": self.secret,
            "budget": self.budget,
            "stopped": stopped,
        }


def account_of(config: PrivacyConfig, seed: int, fixed_samples: bool) -> Account | None:
    """The account of a recipe, whose noise follows from `seed`; None without privacy.

    fixed_samples: whether any noised sum is of a set of fixed size.
    """
    noise = noise_of(config, seed)
    if noise is None:
        return None
    assert config.delta is not None
    relation = relation_of(noise.place, fixed_samples)
    return Account(noise, relation, config.delta, config.budget, config.seed == "system")


def relation_of(place: str, fixed_samples: bool) -> str:
    """Which data sets are neighbours: those of the sampler that is really used."""
    return REPLACE if place == "upload" or (place == "sum" and fixed_samples) else ADD_OR_REMOVE


def noise_of(config: PrivacyConfig, seed: int) -> Noise | None:
    """The noise of a recipe; without any where its amount is still to be chosen."""
    if config.level is None:
        return None
    assert config.clip is not None
    return Noise(config.place, config.clip, config.noise_multiplier or 0.0, seed)


def undominated(releases: Iterable[Releases]) -> list[Releases]:
    """Those of one kind each that no other exceeds in rate and number; all others as they are."""
    found: list[Releases] = []
    alone: list[tuple[float, int, Releases]] = []
    for each in releases:
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
