"""What was released under privacy, on disk: of a run at a site, or of the server's sums. It holds what must not repeat.

spent.json    every release, with epsilon so far; written before what it counts is shown
secret        the seed of the noise, where the recipe asks for one (mode 0600)
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from thinwire.privacy.account import PROTECTED, Account, account_of, relation_of
from thinwire.privacy.accountant import Releases
from thinwire.privacy.config import PrivacyConfig, smallest
from thinwire.privacy.noise import Noise
from thinwire.settings import ConfigError
from thinwire.simulation.secret import draw_secret, keep_secret, read_secret
from thinwire.simulation.spending import check_first
from thinwire.storage.directory import as_json
from thinwire.storage.files import flush, write_whole

T = TypeVar("T")

FILE, FORMAT = "spent.json", 1
SPENT = "privacy budget spent"
"""How the problem of a site begins that gives nothing away any more."""

TOLD = ("epsilon", "delta", "protects", "noise_multiplier")


class BudgetSpent(RuntimeError):
    """Nothing more may be released; the text says what the next release would cost."""


@dataclass(frozen=True)
class Release:
    """Of `among` records, `drawn` (expected) were in it, `times` times. sha256: of what was shown; planned: empty."""

    round: int
    drawn: float
    among: int
    times: int = 1
    sha256: str = ""


@dataclass
class Book:
    """The releases of one run, what they cost, and the noise of the next.

    sets: whether what is drawn is drawn as a set of fixed size.
    """

    folder: Path
    account: Account
    sets: bool = False
    releases: tuple[Release, ...] = ()

    @property
    def noise(self) -> Noise:
        return self.account.noise

    def epsilon(self, *more: Release) -> float:
        """Epsilon so far, or with more releases."""
        every = (*self.releases, *more)
        return counted_by(self.account, every, self.sets).epsilon([counted(every)])

    def summary(self, stopped: str | None) -> dict[str, Any]:
        """What a reader must know to judge the guarantee. stopped: why the run ended early, if it did."""
        return counted_by(self.account, self.releases, self.sets).summary(self.epsilon(), stopped)

    def shown(self, number: int) -> list[Release]:
        """The releases of a round: one, unless it was played again and came out differently."""
        return [release for release in self.releases if release.round == number]

    def over(self, release: Release) -> str:
        """Why a release is beyond the budget; empty if it is not."""
        return self.account.over(release.round, self.epsilon(release)) if self.account.budget is not None else ""

    def show(self, release: Release, make: Callable[[Noise], tuple[T, str]]) -> T:
        """What `make` gives under noise that was never shown with anything else, recorded before it is returned.

        make: noise -> (what it gives, its SHA-256; "": nothing of it will be shown). A round that was released before
        is made with its noise again: the same bytes cost nothing; others are made anew with fresh noise, and counted.
        Raises: BudgetSpent, OSError; then nothing may be shown.
        """
        before = self.shown(release.round)
        for again, old in enumerate(before):
            made, sha256 = make(self.noise.again(again))
            if sha256 in ("", old.sha256):
                return made
        if why := self.over(release):
            raise BudgetSpent(why)
        made, sha256 = make(self.noise.again(len(before)))
        if sha256:
            self.releases = (*self.releases, replace(release, sha256=sha256))
            self.save()
        return made

    @property
    def told(self) -> dict[str, Any]:
        """What may be said of it: it follows from counts alone. Epsilon is None where there is no bound."""
        cost, noise = self.epsilon(), self.noise
        known = (cost if math.isfinite(cost) else None, self.account.delta, PROTECTED[noise.place], noise.multiplier)
        return dict(zip(TOLD, known, strict=True))

    def save(self) -> None:
        """Replace the record, whole or not at all, durably. Raises: OSError."""
        releases = [asdict(release) for release in self.releases]
        content = {"format": FORMAT, **self.told, "budget": self.account.budget, "releases": releases}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / FILE, as_json(content, indent=1).encode())
        flush(self.folder)


def counted(releases: Sequence[Release]) -> Releases:
    """The releases by kind."""
    found: Counter[tuple[float, int]] = Counter()
    for release in releases:
        found[release.drawn, release.among] += release.times
    return found


def counted_by(account: Account, releases: Sequence[Release], sets: bool) -> Account:
    """The account with the neighbours that these releases ask for."""
    parts = sets and any(release.drawn < release.among for release in releases)
    return replace(account, relation=relation_of(account.noise.place, parts))


def begin_book(folder: Path, config: PrivacyConfig, seed: int, planned: Sequence[Release], sets: bool = False) -> Book:
    """A record without releases, with a secret if the recipe asks for one, else the run's seed; both are on the disk.

    planned: the releases of all rounds, for which the noise of an epsilon is chosen. Raises: ConfigError where the
    first is beyond the budget already, OSError.
    """
    if config.seed == "system":
        seed = draw_secret()
    account = account_of(config, seed, False)
    assert account is not None
    if config.epsilon is not None:
        account = counted_by(account, planned, sets).calibrated([counted(planned)], config.epsilon)
    book = Book(folder, account, sets)
    check_first(account.budget, book.over(planned[0]))
    if config.seed == "system":
        keep_secret(folder, seed)
    book.save()
    return book


def read_book(folder: Path, config: PrivacyConfig, seed: int, sets: bool = False) -> Book:
    """The record of a run that goes on; the smaller budget holds. Raises: ConfigError if it or the secret is lost."""
    try:
        content = json.loads((folder / FILE).read_text())
        if content["format"] != FORMAT:
            raise ValueError
        budget = smallest(config.budget, content["budget"])
        known: dict[str, Any] = {"noise_multiplier": float(content["noise_multiplier"]), "budget": budget}
        releases = tuple(Release(**release) for release in content["releases"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{folder / FILE}: what this run has released is missing or damaged, so nothing more is; "
            "allowed is to forget the run and to begin another"
        ) from None
    seed = read_secret(folder) if config.seed == "system" else seed
    account = account_of(replace(config, epsilon=None, **known), seed, False)
    assert account is not None
    return Book(folder, account, sets, releases)


def spent_in(folder: Path) -> dict[str, Any]:
    """What the record in a folder says of itself; empty without one that can be read."""
    try:
        content = json.loads((folder / FILE).read_text())
        return {name: content[name] for name in TOLD}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
