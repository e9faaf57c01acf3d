"""Privacy across sites: a site's own noise with its record, and what the server knows of what privacy has cost."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from thinwire.engine import ClientSide, ServerSide
from thinwire.federation.messages import BUDGET, PROBLEMS, Reply
from thinwire.federation.replies import number
from thinwire.federation.store import STATE, SiteState, Store, store
from thinwire.privacy.config import PrivacyConfig
from thinwire.privacy.ledger import Ledger, Release, ledger_of
from thinwire.privacy.noise import Noise
from thinwire.settings import ConfigError, listed
from thinwire.simulation.releases import own_release, sizes
from thinwire.storage import ledger as record
from thinwire.training.config import TrainConfig

T = TypeVar("T")

WITHHELD = ("loss", "seconds", "tokens", "metrics")
"""Facts of training that no noise covers: a site with privacy keeps them to itself."""


# at a site


def begin(
    kept: Store, values: Mapping[str, Any], config: PrivacyConfig, seed: int, plan: Callable[[], Sequence[Release]]
) -> None:
    """Begin the record of a run that is new to the site. values: the recipe as the server sent it; plan: of all rounds.

    Raises: ConfigError if the run began under another [privacy], or its first round is beyond the budget.
    """
    before, now = kept.recipe(), values.get("privacy")
    if before is not None and before.get("privacy") != now:
        raise ConfigError(f"privacy = {now}: this run began with {before.get('privacy')}; allowed is that")
    known = before is not None or any((kept.folder / name).exists() for name in (STATE, record.FILE))
    if config.own and not known:
        record.begin(kept.folder, config, seed, plan())


def recorded(kept: Store, config: PrivacyConfig, seed: int) -> Ledger | None:
    """The record of a run; None where the site puts on no noise. Raises: ConfigError if it or the secret is lost."""
    return record.read(kept.folder, config, seed) if config.own else None


def release_of(side: ClientSide, train: TrainConfig, place: str, round_: int) -> Release:
    """What a round releases of this site. Its noise is on the "upload" or on each "gradient"."""
    return replace(own_release(side, train, place, round_), of="")


def under_noise(
    kept: Store, ledger: Ledger, release: Release, noisy: Callable[[Noise], ClientSide], work: Callable[..., SiteState]
) -> SiteState:
    """What `work` gives under noise that was never used for another upload, recorded. Raises: BudgetSpent.

    noisy: noise -> this site with it, which is what `work` is given.
    """

    def made(noise: Noise) -> tuple[SiteState, str]:
        saved = work(noisy(noise))
        return saved, hashlib.sha256(saved.upload).hexdigest()

    saved, ledger = ledger.show(release, made, partial(record.save, kept.folder))
    facts = {name: value for name, value in saved.facts.items() if name not in WITHHELD}
    return replace(saved, facts={**facts, "privacy": ledger.public})


def spent(site: Path, federation: str, run: str) -> dict[str, Any]:
    """What privacy has cost a site in a run so far, in words and figures; empty where there is no record."""
    try:
        return record.spent_in(store(site, federation, run).folder)
    except ConfigError:
        return {}


# at the server


@dataclass
class Costs:
    """What privacy has cost a run. ledger: of the noise on the server's sum, once `open` has read or begun it.

    sites: epsilon and noise multiplier by site, where these put the noise on; out: sites whose budget is spent.
    """

    config: PrivacyConfig
    folder: Path
    ledger: Ledger | None = None
    sites: dict[str, tuple[float, float]] = field(default_factory=dict)
    out: set[str] = field(default_factory=set)

    def open(self, federation: ServerSide, begun: bool) -> None:
        """Read the record of the server's noise; or begin it, where nothing was sent yet, for the sites known now.

        Raises: ConfigError if it is lost, or the first round is beyond the budget.
        """
        if not self.config.central or self.ledger is not None:
            return
        common = self.folder, self.config, federation.seed
        sets = federation.config.sampling == "fixed"
        if begun or (self.folder / record.FILE).exists():
            self.ledger = record.read(*common, sets=sets)
        else:
            plan = [Release(round_, *sizes(federation, round_)) for round_ in range(federation.config.rounds)]
            self.ledger = record.begin(*common, plan, sets=sets)

    @property
    def noise(self) -> Noise | None:
        """The noise on the server's sum."""
        return self.ledger.noise if self.ledger else None

    def show(self, federation: ServerSide, round_: int, make: Callable[[Noise], tuple[T, str]]) -> T:
        """A round's sum as `make` gives it, recorded before it is returned. Raises: BudgetSpent.

        A round that was shown before with other uploads gets fresh noise, and counts in full: its sample is not drawn
        anew.
        """
        assert self.ledger is not None
        size = (1, 1) if self.ledger.of_round(round_) else sizes(federation, round_)
        made, self.ledger = self.ledger.show(Release(round_, *size), make, partial(record.save, self.folder))
        return made

    def add(self, reply: Reply) -> None:
        """Remember what a site says of itself; what it does not say in numbers counts as no bound at all."""
        said = reply.facts.get("privacy")
        if not self.config.own:
            return
        if reply.problem == BUDGET:
            self.out.add(reply.site)
        elif isinstance(said, Mapping):
            figures = (number(said, name) for name in ("epsilon", "noise_multiplier"))
            epsilon, multiplier = (math.inf if math.isnan(figure) else figure for figure in figures)
            self.sites[reply.site] = epsilon, multiplier

    def over(self, federation: ServerSide, round_: int, quorum: int) -> str:
        """Why no round may be played; empty if one may."""
        known = {client.name for client in federation.clients}
        if self.out and len(known - self.out) < quorum:
            names = listed(sorted(self.out))
            return f"{PROBLEMS[BUDGET]} at {names}; {len(known - self.out)} sites are left, the quorum is {quorum}"
        if self.ledger is None or self.ledger.of_round(round_):
            return ""
        return self.ledger.over(Release(round_, *sizes(federation, round_)))

    @property
    def spent(self) -> dict[str, float]:
        """Epsilon so far, of whoever gave away most, with its delta; empty without privacy or before anyone said."""
        if self.ledger is not None:
            return {"epsilon": self.ledger.epsilon, "delta": self.ledger.delta}
        if not self.sites:
            return {}
        assert self.config.delta is not None
        return {"epsilon": max(epsilon for epsilon, _ in self.sites.values()), "delta": self.config.delta}

    def summary(self, stopped: str) -> dict[str, Any] | None:
        """What a reader must know of the guarantee; None without privacy."""
        if self.ledger is not None:
            return self.ledger.summary(stopped or None)
        if not self.sites:
            return None
        smallest = min(multiplier for _, multiplier in self.sites.values())
        budget = self.config.epsilon if self.config.budget is None else self.config.budget
        whole = ledger_of(replace(self.config, noise_multiplier=smallest, budget=budget), 0)
        return {
            **whole.summary(stopped or None),
            "epsilon": self.spent["epsilon"],
            "clients": {name: epsilon for name, (epsilon, _) in sorted(self.sites.items())},
            "noise_multipliers": {name: multiplier for name, (_, multiplier) in sorted(self.sites.items())},
        }
