"""The secret that a run's noise and samples follow from, where they do not follow from the run's seed."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from thinwire.settings import ConfigError
from thinwire.storage.files import flush
from thinwire.training.shares import here

SECRET = "secret"
"""The file with the seed of noise and sampling; who has it can take the noise off again."""


def draw_secret() -> int:
    """256 random bits of the operating system. Raises: ConfigError where several processes play the same run."""
    if here().count > 1:
        raise ConfigError("privacy.seed = 'system': each of several processes would draw its own; allowed is run")
    return secrets.randbits(256)


def keep_secret(folder: Path, secret: int) -> None:
    """Write the secret, whole or not at all, readable by the owner only. Raises: OSError."""
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
