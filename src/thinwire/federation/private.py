"""A site's privacy: noise of its own secret, a record of what it gave away, and its own stop at the budget."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from thinwire.federation.book import FILE, Book, Release, begin_book, read_book
from thinwire.federation.store import STATE, Saved, Store
from thinwire.privacy.noise import Noise
from thinwire.settings import ConfigError
from thinwire.simulation.rounds import Federation
from thinwire.simulation.session import Session
from thinwire.simulation.spending import own_release

WITHHELD = ("loss", "seconds", "tokens")
"""Facts of training that no noise covers: a site with privacy keeps them to itself."""


@dataclass(frozen=True)
class Private:
    """A round under the site's own noise. federate: a session, with its noise, -> this site as a federation."""

    book: Book
    session: Session
    federate: Callable[[Session], Federation]

    def play(self, number: int, work: Callable[[Federation], Saved]) -> Saved:
        """What `work` gives under noise that was never used for another upload, recorded. Raises: BudgetSpent."""

        def made(noise: Noise) -> tuple[Saved, str]:
            saved = work(self.federate(noised(self.session, noise)))
            return saved, hashlib.sha256(saved.upload).hexdigest()

        (release,) = plan(self.session, [number])
        saved = self.book.show(release, made)
        facts = {name: value for name, value in saved.facts.items() if name not in WITHHELD}
        return replace(saved, facts={**facts, "privacy": self.book.told})


def noised(session: Session, noise: Noise) -> Session:
    """The session with this noise in place of the recipe's."""
    privacy = replace(session.recipe.privacy, noise_multiplier=noise.multiplier, epsilon=None)
    return replace(session, recipe=replace(session.recipe, privacy=privacy), secret=noise.seed)


def plan(session: Session, rounds: Iterable[int]) -> list[Release]:
    """What each of these rounds releases of the site's one client."""
    federation, place = session.federation(session.method()), "upload" if session.recipe.privacy.local else "gradient"
    (name,) = federation.examples
    found = []
    for number in rounds:
        (((drawn, among), times),) = own_release(federation, session.recipe.train, place, name, number).items()
        found.append(Release(number, drawn, among, times))
    return found


def begin(kept: Store, session: Session, values: Mapping[str, Any]) -> None:
    """Begin the record of a run that is new to the site. values: the recipe as the server sent it.

    Raises: ConfigError if the run began under another [privacy], or its first round is beyond the budget.
    """
    before, now = kept.recipe(), values.get("privacy")
    if before is not None and before.get("privacy") != now:
        raise ConfigError(f"privacy = {now}: this run began with {before.get('privacy')}; allowed is that")
    known = before is not None or any((kept.folder / name).exists() for name in (STATE, FILE))
    recipe = session.recipe
    if recipe.privacy.own and not known:
        planned = plan(session, range(recipe.federation.rounds))
        begin_book(kept.folder, recipe.privacy, recipe.run.seed, planned)


def record(kept: Store, session: Session) -> Book | None:
    """The record of a run; None where the site puts on no noise. Raises: ConfigError if it or the secret is lost."""
    recipe = session.recipe
    return read_book(kept.folder, recipe.privacy, recipe.run.seed) if recipe.privacy.own else None
