"""A ledger on disk, of a run at a site or of the server's sums, and the secret of a run's noise.

spent.json    every release, with epsilon so far; written before what it counts is shown
secret        the seed of the noise and the samples, where the recipe asks for one (mode 0600)
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from thinwire.privacy.config import PrivacyConfig, smallest
from thinwire.privacy.ledger import Ledger, Release, ledger_of
from thinwire.settings import ConfigError
from thinwire.storage.directory import as_json
from thinwire.storage.files import flush, write_whole
from thinwire.training.shares import here

FILE, FORMAT, SECRET = "spent.json", 1, "secret"
PUBLIC = ("epsilon", "delta", "protects", "noise_multiplier")


def save(folder: Path, ledger: Ledger) -> None:
    """Replace the record, whole or not at all, durably. Raises: OSError."""
    releases = [{name: value for name, value in asdict(release).items() if name != "of"} for release in ledger.releases]
    content = {"format": FORMAT, **ledger.public, "budget": ledger.budget, "releases": releases}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / FILE, as_json(content, indent=1).encode())
    flush(folder)


def begin(folder: Path, config: PrivacyConfig, seed: int, planned: Sequence[Release], sets: bool = False) -> Ledger:
    """A record without releases, with a secret if the recipe asks for one, else the run's seed; both are on the disk.

    planned: the releases of all rounds, for which the noise of an epsilon is chosen. Raises: ConfigError where the
    first is beyond the budget already, OSError.
    """
    seed = draw_secret() if config.seed == "system" else seed
    ledger = ledger_of(config, seed, sets)
    if config.epsilon is not None:
        ledger = ledger.calibrated(planned, config.epsilon)
    ledger.check_first(planned[0])
    if config.seed == "system":
        keep_secret(folder, seed)
    save(folder, ledger)
    return ledger


def read(folder: Path, config: PrivacyConfig, seed: int, sets: bool = False) -> Ledger:
    """The record of a run that goes on; the smaller budget holds. Raises: ConfigError if it or the secret is lost."""
    try:
        content = json.loads((folder / FILE).read_text())
        if content["format"] != FORMAT:
            raise ValueError
        budget = smallest(config.budget, content["budget"])
        known: dict[str, Any] = {"noise_multiplier": float(content["noise_multiplier"]), "budget": budget}
        releases = [Release(**release) for release in content["releases"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{folder / FILE}: what this run has released is missing or damaged, so nothing more is; "
            "allowed is to forget the run and to begin another"
        ) from None
    seed = read_secret(folder) if config.seed == "system" else seed
    return ledger_of(replace(config, epsilon=None, **known), seed, sets).add(releases)


def spent_in(folder: Path) -> dict[str, Any]:
    """What the record in a folder says of itself; empty without one that can be read."""
    try:
        content = json.loads((folder / FILE).read_text())
        return {name: content[name] for name in PUBLIC}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def draw_secret() -> int:
    """256 random bits of the operating system. Raises: ConfigError where several processes play the same run."""
    if here().count > 1:
        raise ConfigError("privacy.seed = 'system': each of several processes would draw its own; allowed is run")
    return secrets.randbits(256)


def keep_secret(folder: Path, secret: int) -> None:
    """Write the secret, whole or not at all, readable by the owner only: who has it can take the noise off again.

    Raises: OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writing = folder / f".{SECRET}.writing"
    writing.unlink(missing_ok=True)
    with os.fdopen(os.open(writing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(f"{secret:064x}\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(writing, folder / SECRET)
    flush(folder)


def read_secret(folder: Path) -> int:
    """The secret that is kept in the folder. Raises: ConfigError if it is gone."""
    try:
        return int((folder / SECRET).read_text(), 16)
    except (OSError, ValueError):
        raise ConfigError(f"{folder / SECRET}: the run's secret is missing or damaged") from None
