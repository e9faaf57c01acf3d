"""What the rounds of a run release under noise, and the recipe with the noise that a stated epsilon asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from thinwire.compatibility import check_no_memory
from thinwire.config import Recipe
from thinwire.engine import ClientSide
from thinwire.engine.rounds import ServerSide, expected_count, joined, sample
from thinwire.method import Context
from thinwire.privacy.accountant import REPLACE
from thinwire.privacy.ledger import Ledger, Release, ledger_of
from thinwire.simulation.rounds import Federation
from thinwire.training.config import TrainConfig
from thinwire.training.trainer import step_examples, steps_of


def sizes(federation: ServerSide, number: int) -> tuple[int, int]:
    """A round's (clients expected, of how many)."""
    return expected_count(federation, number), len(joined(federation, number))


def own_release(side: ClientSide, train: TrainConfig, place: str, number: int) -> Release:
    """What a client gives away in a round in which it takes part, with noise on its upload or its gradients."""
    held, name = len(side.examples), side.client.name
    if place == "upload":
        return Release(number, 1, 1, of=name)
    length = side.method.length(Context(number, side.seed))
    times = length * steps_of(train, held, side.steps_factor)
    return Release(number, min(step_examples(train), held), held, times, of=name)


def releases_of(federation: Federation, train: TrainConfig, rounds: range) -> list[Release]:
    """What these rounds give away, in a simulation: it follows from the recipe, the seed and the rounds alone."""
    if federation.noise is None:
        return []
    place = federation.noise.place
    if place == "sum":
        return [Release(number, *sizes(federation, number)) for number in rounds]
    return [
        own_release(federation.side(client), train, place, number)
        for number in rounds
        for client in sample(federation, number)
    ]


def run_ledger(recipe: Recipe, federation: Federation, rounds: int) -> Ledger | None:
    """The ledger of a simulated run after its first rounds, which is never stored; None without privacy."""
    config = recipe.privacy
    if federation.noise is None:
        return None
    ledger = ledger_of(config, federation.noise.seed, federation.config.sampling == "fixed")
    return ledger.add(releases_of(federation, recipe.train, range(rounds)))


def guarantee(recipe: Recipe, federation: Federation, rounds: int) -> dict[str, Any] | None:
    """What a reader must know of the guarantee of a simulated run; None without privacy."""
    ledger = run_ledger(recipe, federation, rounds)
    if ledger is None:
        return None
    more = releases_of(federation, recipe.train, range(rounds, min(rounds + 1, federation.config.rounds)))
    whole = ledger.summary(ledger.over(*more) or None)
    if ledger.noise.place == "sum":
        return whole
    return {**whole, "clients": {**dict.fromkeys(federation.examples, 0.0), **ledger.by_client}}


def resolved(recipe: Recipe, federation: Federation) -> Recipe:
    """The recipe with the noise that its epsilon asks for, which then is its budget too.

    Raises: ConfigError where privacy makes no sense or is not supported, or the first round would exceed the budget.
    """
    ledger = run_ledger(recipe, federation, 0)
    if ledger is None:
        return recipe
    config, planned = recipe.privacy, releases_of(federation, recipe.train, range(federation.config.rounds))
    if config.central and ledger.add(planned).relation == REPLACE:
        check_no_memory(federation.method, recipe.train.keep_optimizer)
    if config.epsilon is not None:
        ledger = ledger.calibrated(planned, config.epsilon)
        config = replace(config, noise_multiplier=ledger.noise.multiplier, epsilon=None, budget=ledger.budget)
    ledger.check_first(*(release for release in planned if release.round == 0))
    return replace(recipe, privacy=config)
