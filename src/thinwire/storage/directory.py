"""A run's directory: resolved recipe, environment, metrics, checkpoints, adapters, summary."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from thinwire.config import Recipe, from_dict
from thinwire.settings import ConfigError
from thinwire.storage.files import write_whole
from thinwire.storage.metrics import Line

LIBRARIES = ("thinwire", "torch", "transformers", "peft", "numpy", "safetensors", "constriction", "zstandard")
LONGEST = 200
"""Bytes of a folder's name that is made of a client's."""


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Paths and small files of one run."""

    path: Path

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoint"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def client(self, client: str) -> Path:
        """Where one client's own adapters lie, besides the global one."""
        return self.path / "clients" / file_name(client)

    def adapter_of(self, client: str) -> Path:
        """Where one client's own adapter lies."""
        return self.adapter / file_name(client)

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def alone(self) -> RunDirectory:
        """The nested run in which everyone trains alone."""
        return RunDirectory(self.path / "alone")

    def recipe(self) -> Recipe:
        """The recipe this run was started with. Raises: ConfigError if the folder holds no run."""
        path = self.path / "config.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigError(f"{self.path}: no run there (config.json is missing)") from None
        except ValueError as error:
            raise ConfigError(f"{path} is damaged: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path} is damaged: it holds no recipe")
        return from_dict(values)

    def check_free(self) -> None:
        """Raises: ConfigError if the folder holds anything, OSError if it cannot be a folder."""
        if self.path.exists() and any(self.path.iterdir()):
            raise ConfigError(
                f"run.output = {str(self.path)!r}: the folder exists and is not empty; "
                f"allowed is a new folder, or continue it with: thinwire run --resume {self.path}"
            )

    @property
    def accepted(self) -> frozenset[str]:
        """Kinds of changes that the next resume accepts."""
        path = self.path / "accepted.json"
        return frozenset(json.loads(path.read_text()) if path.exists() else ())

    def accept(self, kinds: Collection[str]) -> None:
        """Let the next resume accept these kinds of changes, until its first checkpoint."""
        path = self.path / "accepted.json"
        write_json(path, sorted(kinds)) if kinds else path.unlink(missing_ok=True)

    def begin(self, recipe: Recipe) -> None:
        """Make the folder and write the recipe and the environment. Raises: as `check_free`."""
        self.check_free()
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_recipe(recipe)
        write_json(self.path / "environment.json", environment())

    def write_recipe(self, recipe: Recipe) -> None:
        write_json(self.path / "config.json", dataclasses.asdict(recipe))

    def append(self, lines: list[Line]) -> None:
        """Add lines to metrics.jsonl, durably."""
        with self.metrics.open("a") as stream:
            stream.writelines(as_json(line) + "\n" for line in lines)
            stream.flush()
            os.fsync(stream.fileno())

    def rewind(self, round_: int) -> None:
        """Keep the metrics of the first `round_` rounds: a resumed run plays the others again.

        Rounds count from 1; a file that counts from 0, as thinwire once did, is put right.
        """
        lines = self.lines()
        if any(line["round"] == 0 for line in lines):
            lines = [{**line, "round": line["round"] + 1} for line in lines]
        kept = [as_json(line) + "\n" for line in lines if line["round"] <= round_]
        write_whole(self.metrics, "".join(kept).encode())

    def lines(self) -> list[Line]:
        """The metrics so far; lines that a crash cut short are left out."""
        lines = []
        for text in self.metrics.read_text().splitlines() if self.metrics.exists() else []:
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return lines


def file_name(name: str) -> str:
    """A client's name as that of one folder: `/`, `%` and a leading dot as in an address, the rest as it is.

    One too long for a file system is cut and ends with its hash.
    """
    text = name.replace("%", "%25").replace("/", "%2F")
    text = f"%2E{text[1:]}" if text.startswith(".") else text or "%"
    if len(text.encode()) <= LONGEST:
        return text
    cut = text.encode()[: LONGEST - 34].decode(errors="ignore")
    return f"{cut}%-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def free_directory(name: str, root: Path = Path("runs")) -> Path:
    """`root/name`, or the first of `name-2`, `name-3`, ... that does not exist yet."""
    number, path = 1, root / name
    while path.exists():
        number += 1
        path = root / f"{name}-{number}"
    return path


def environment() -> dict[str, Any]:
    """Versions, platform, command and, in a git checkout, the commit."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "command": sys.argv,
        "commit": commit(),
    }


def version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the source checkout thinwire runs from, None for an installed package."""
    folder = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def write_json(path: Path, content: Any) -> None:
    write_whole(path, (as_json(content, indent=1) + "\n").encode())


def as_json(content: Any, indent: int | None = None) -> str:
    """JSON for any reader: a number that is not finite becomes null."""
    return json.dumps(finite(content), indent=indent, allow_nan=False)


def finite(content: Any) -> Any:
    """The content with null in place of numbers that are not finite."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
