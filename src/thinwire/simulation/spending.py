"""What the rounds of a run cost in privacy, how much noise an epsilon asks for, and when the budget ends a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from thinwire.config import FederationConfig, Recipe, TrainConfig
from thinwire.method import Context, Method
from thinwire.privacy.account import Account, relation_of
from thinwire.privacy.accountant import REPLACE, Releases
from thinwire.privacy.noise import Noise
from thinwire.settings import ConfigError
from thinwire.simulation.rounds import Federation, expected_count, joined, taking_part
from thinwire.training.trainer import step_examples, steps_of


@dataclass(frozen=True)
class Ledger:
    """The cost of a run's rounds: it follows from the recipe, the seed and the rounds played, and is never stored."""

    federation: Federation
    train: TrainConfig
    noise: Noise
    delta: float
    budget: float | None
    secret: bool = False
    """Whether the noise's seed is a secret; if it is the run's, the guarantee is a simulated one."""

    @property
    def relation(self) -> str:
        """Which data sets are neighbours: those of the sampler that is really used."""
        return relation_of(self.noise.place, self.noise.place == "sum" and self._fixed_samples)

    @property
    def account(self) -> Account:
        """The rule by which releases are counted."""
        return Account(self.noise, self.relation, self.delta, self.budget, self.secret)

    @cached_property
    def _fixed_samples(self) -> bool:
        """Whether any round draws a set of fixed size."""
        return self.federation.config.sampling == "fixed" and any(drawn < among for drawn, among in self._sizes)

    @cached_property
    def _sizes(self) -> list[tuple[int, int]]:
        """`sizes` by round."""
        return [sizes(self.federation, number) for number in range(self.federation.config.rounds)]

    @cached_property
    def _cohorts(self) -> list[list[str]]:
        """Who takes part, by round."""
        numbers = range(self.federation.config.rounds)
        return [[client.name for client in taking_part(self.federation, number)] for number in numbers]

    def releases(self, rounds: int) -> dict[str, Releases]:
        """What was released of whom in the first rounds: of any client ("any"), or of each by name."""
        if self.noise.place == "sum":
            return {"any": Counter(self._sizes[:rounds])}
        found: dict[str, Counter[tuple[float, int]]] = {name: Counter() for name in self.federation.examples}
        for number, cohort in enumerate(self._cohorts[:rounds]):
            for name in cohort:
                found[name] += own_release(self.federation, self.train, self.noise.place, name, number)
        return {name: dict(counted) for name, counted in found.items()}

    def epsilon(self, rounds: int, multiplier: float | None = None) -> float:
        """Epsilon after so many rounds, of whoever gave away most."""
        return self.account.epsilon(self.releases(rounds).values(), multiplier)

    def stops(self, rounds: int) -> str:
        """Why no round may follow the first `rounds`; empty if one may."""
        return self.account.over(rounds, self.epsilon(rounds + 1)) if self.budget is not None else ""

    def summary(self, rounds: int) -> dict[str, Any]:
        """What a reader must know to judge the guarantee."""
        found = self.releases(rounds)
        stopped = self.stops(rounds) if rounds < self.federation.config.rounds else None
        each = {name: self.account.epsilon([given]) for name, given in found.items()}
        whole = self.account.summary(self.epsilon(rounds), stopped)
        return whole if self.noise.place == "sum" else {**whole, "clients": each}


def sizes(federation: Federation, number: int) -> tuple[int, int]:
    """A round's (clients expected, of how many)."""
    return expected_count(federation, number), len(joined(federation, number))


def own_release(
    federation: Federation, train: TrainConfig, place: str, name: str, number: int
) -> Counter[tuple[float, int]]:
    """What a client gives away in a round in which it takes part, with noise on its upload or its gradients."""
    if place == "upload":
        return Counter({(1, 1): 1})
    held = len(federation.examples[name])
    length = federation.method.length(Context(number, federation.seed))
    return Counter({(min(step_examples(train), held), held): length * steps_of(train, held, federation.steps_factor)})


def ledger_of(recipe: Recipe, federation: Federation) -> Ledger | None:
    """The run's ledger; None without privacy."""
    config = recipe.privacy
    if federation.noise is None:
        return None
    assert config.delta is not None
    return Ledger(federation, recipe.train, federation.noise, config.delta, config.budget, config.seed == "system")


def resolved(recipe: Recipe, federation: Federation) -> Recipe:
    """The recipe with the noise that its epsilon asks for, which then is its budget too.

    Raises: ConfigError where privacy makes no sense, is not to be had, or the budget is spent by the first round.
    """
    ledger = ledger_of(recipe, federation)
    if ledger is None:
        return recipe
    if ledger.noise.place == "sum" and ledger.relation == REPLACE:
        check_no_memory(federation.method, recipe.train.keep_optimizer)
    config = recipe.privacy
    if config.epsilon is not None:
        planned = ledger.releases(federation.config.rounds).values()
        account = ledger.account.calibrated(planned, config.epsilon)
        ledger = replace(ledger, noise=account.noise, budget=account.budget)
        config = replace(config, noise_multiplier=account.noise.multiplier, epsilon=None, budget=account.budget)
    check_first(ledger.budget, ledger.stops(0))
    return replace(recipe, privacy=config)


def check_first(budget: float | None, why: str) -> None:
    """Raises: ConfigError if the first round is beyond the budget; `why` says so, or is empty."""
    if why:
        raise ConfigError(f"privacy.budget = {budget}: {why}; allowed is a larger one, or more noise")


def check_privacy(recipe: Recipe, method: Method) -> None:
    """Raises: ConfigError for privacy that makes no sense with the method, with the reason."""
    config = recipe.privacy
    if config.level == "client" and not method.federates:
        raise ConfigError(f"privacy.level = 'client': not with {method.name}: nothing travels; allowed is example")
    if config.central:
        check_central(method)


def check_central(method: Method) -> None:
    """Raises: ConfigError where the method's change at the server is no sum that noise could cover."""
    merged = "what it broadcasts are the uploads themselves, side by side" if method.merges else ""
    if reason := method.no_central_noise or merged:
        raise ConfigError(f"privacy.noise = 'central': not with {method.name}: {reason}; allowed is local")


def draws_sets(config: FederationConfig) -> bool:
    """Whether a round may draw a set of fixed size, however many clients there will be."""
    return config.sampling == "fixed" and config.clients_per_round is not None


def check_no_memory(method: Method, keep_optimizer: bool = False) -> None:
    """What a client keeps depends on the rounds it was drawn in; a sample of fixed size does not hide these.

    Raises: ConfigError if clients keep anything between rounds.
    """
    keeps = {
        "error feedback": bool(method.feedback),
        "a memory of the method": type(method).remember is not Method.remember,
        "train.keep_optimizer": keep_optimizer,
    }
    if found := [what for what, kept in keeps.items() if kept]:
        raise ConfigError(
            f"federation.sampling = 'fixed': with privacy.noise = central, clients must keep nothing between rounds, "
            f"and they keep {found[0]}; allowed is federation.sampling = poisson, or all clients in every round"
        )
