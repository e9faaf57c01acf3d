"""A site's privacy: noise of its own secret, a record of what it gave away, and its own stop at the budget."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thinwire.config import TrainConfig
from thinwire.federation.book import FILE, Book, Release, begin_book, read_book, spent_in
from thinwire.federation.store import STATE, Saved, Store, store
from thinwire.privacy.config import PrivacyConfig
from thinwire.privacy.noise import Noise
from thinwire.settings import ConfigError
from thinwire.simulation.rounds import Federation
from thinwire.simulation.spending import own_release

WITHHELD = ("loss", "seconds", "tokens", "metrics")
"""Facts of training that no noise covers: a site with privacy keeps them to itself."""


@dataclass(frozen=True)
class Private:
    """A round under the site's own noise. release: what it costs; federate: noise -> this site as a federation."""

    book: Book
    release: Release
    federate: Callable[[Noise], Federation]

    def play(self, work: Callable[[Federation], Saved]) -> Saved:
        """What `work` gives under noise that was never used for another upload, recorded. Raises: BudgetSpent."""

        def made(noise: Noise) -> tuple[Saved, str]:
            saved = work(self.federate(noise))
            return saved, hashlib.sha256(saved.upload).hexdigest()

        saved = self.book.show(self.release, made)
        facts = {name: value for name, value in saved.facts.items() if name not in WITHHELD}
        return replace(saved, facts={**facts, "privacy": self.book.told})


def release_of(federation: Federation, train: TrainConfig, place: str, number: int) -> Release:
    """What a round releases of a federation's one client. Its noise is on the "upload" or on each "gradient"."""
    (name,) = federation.examples
    (((drawn, among), times),) = own_release(federation, train, place, name, number).items()
    return Release(number, drawn, among, times)


def spent(site: Path, federation: str, run: str) -> dict[str, Any]:
    """What privacy has cost a site in a run so far, in words and figures; empty where there is no record."""
    try:
        return spent_in(store(site, federation, run).folder)
    except ConfigError:
        return {}


def begin(
    kept: Store, values: Mapping[str, Any], config: PrivacyConfig, seed: int, plan: Callable[[], Sequence[Release]]
) -> None:
    """Begin the record of a run that is new to the site. values: the recipe as the server sent it; plan: of all rounds.

    Raises: ConfigError if the run began under another [privacy], or its first round is beyond the budget.
    """
    before, now = kept.recipe(), values.get("privacy")
    if before is not None and before.get("privacy") != now:
        raise ConfigError(f"privacy = {now}: this run began with {before.get('privacy')}; allowed is that")
    known = before is not None or any((kept.folder / name).exists() for name in (STATE, FILE))
    if config.own and not known:
        begin_book(kept.folder, config, seed, plan())


def record(kept: Store, config: PrivacyConfig, seed: int) -> Book | None:
    """The record of a run; None where the site puts on no noise. Raises: ConfigError if it or the secret is lost."""
    return read_book(kept.folder, config, seed) if config.own else None
