"""Submitted runs: `serve` submits one again that was interrupted, until it is finished or stopped."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinwire.flower import control
from thinwire.flower.folder import ServerFolder
from thinwire.flower.processes import answered, warn
from thinwire.settings import ConfigError
from thinwire.storage.directory import write_json
from thinwire.storage.files import write_whole

FOLDER, LOCK, HOPELESS, PAUSE = "going", "lock", "hopeless", 15.0
"""Markers of submitted runs; of a run directory: the lock, and why another try would end the same. Seconds."""

TRIES = 3
"""How often a run is submitted again without a round more that counted."""


@dataclass(frozen=True)
class SubmittedRun:
    """A submitted run, kept in `going/ID.json`. run: Flower's id; round: rounds that counted before it was submitted.

    tries: how often it was submitted again at that round.
    """

    run: str
    output: str
    round: int = 0
    tries: int = 0


def going(server: ServerFolder) -> list[SubmittedRun]:
    """Runs that were submitted and, as far as `tend` saw, neither finished nor were stopped."""
    return [SubmittedRun(**json.loads(path.read_text())) for path in sorted((server.path / FOLDER).glob("*.json"))]


def begin(server: ServerFolder, output: Path, tries: int = 0) -> str:
    """Submit the run in a directory and remember it; Flower's id. Raises: ControlError."""
    (output / HOPELESS).unlink(missing_ok=True)
    run = control.submit(server, output)
    entry = SubmittedRun(run, str(output.resolve()), control.progress(output)["round"], tries)
    folder = server.path / FOLDER
    folder.mkdir(exist_ok=True)
    write_whole(folder / f"{run}.json", json.dumps(asdict(entry)).encode())
    for other in going(server):
        if other.output == entry.output and other.run != run:
            drop(server, other.run)
    return run


def drop(server: ServerFolder, run: str) -> None:
    """Forget a run, so that it is not submitted again."""
    (server.path / FOLDER / f"{run}.json").unlink(missing_ok=True)


def tend(server: ServerFolder, note: Callable[[str], None]) -> None:
    """Submit again what was interrupted, close what is finished. Raises: ControlError if the server does not answer."""
    for entry in going(server):
        if not (Path(entry.output) / "config.json").exists():
            note(f"{entry.output} is gone: run {entry.run} is not submitted again")
            drop(server, entry.run)
    quiet = [entry for entry in going(server) if not played(Path(entry.output))]
    runs = control.runs(server) if quiet else []
    statuses = {str(run["run-id"]): str(run["status"]) for run in runs}
    for entry in quiet:
        status, output = statuses.get(entry.run, "unknown to Flower"), Path(entry.output)
        if not (status.startswith("finished") or entry.run not in statuses):
            continue
        if (output / "summary.json").exists():
            close(output, runs)
            drop(server, entry.run)
        elif (output / HOPELESS).exists():
            note(f"{output}: {(output / HOPELESS).read_text()}; it is not submitted again")
            drop(server, entry.run)
        elif entry.run not in statuses or status == "finished:stopped":
            note(f"run {entry.run} is {status}: {output} is not submitted again")
            drop(server, entry.run)
        else:
            again(server, entry, note)


def again(server: ServerFolder, entry: SubmittedRun, note: Callable[[str], None]) -> None:
    """Submit an interrupted run from its last round, or give it up. Raises: ControlError."""
    output = Path(entry.output)
    counted = control.progress(output)["round"]
    tries = entry.tries + 1 if counted == entry.round else 1
    if tries > TRIES:
        command = f"thinwire federation submit {server.path} --resume {output}"
        note(f"{output}: no round in {TRIES} tries since round {counted}; it is given up. Go on with: {command}")
        drop(server, entry.run)
        return
    note(f"{output} was interrupted after round {counted}; it is submitted again, try {tries} of {TRIES}")
    begin(server, output, tries)


def close(output: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Add Flower's own count of bytes to the summary."""
    path = output / "summary.json"
    write_json(path, {**json.loads(path.read_text()), "flower": control.traffic(output, runs)})


@contextlib.contextmanager
def playing(run: Path) -> Iterator[None]:
    """A run directory for one process alone, until the end of the block. Raises: ConfigError if another plays it."""
    with (run / LOCK).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{run}: another process plays this run") from None
        yield


def played(run: Path) -> bool:
    """Whether a process plays the run now."""
    try:
        with playing(run):
            return False
    except ConfigError:
        return True


@dataclass
class Keeper:
    """What `serve` does beside its processes, every few seconds: make sites known, tend runs."""

    server: ServerFolder
    due: float = 0.0
    open: bool = False

    def __call__(self) -> None:
        if time.monotonic() < self.due or not answered(self.server):
            return
        try:
            self.greet(control.register(self.server))
            tend(self.server, warn)
            self.due = time.monotonic() + PAUSE
        except (control.ControlError, ConfigError, OSError) as error:
            warn(f"{'the server says' if self.open else 'not ready yet'}: {error}")
            self.due = time.monotonic() + 1

    def greet(self, new: Sequence[str]) -> None:
        """Tell once that the server is there, and of every site that is new to it."""
        link, known = self.server.link, f"; new: {', '.join(new)}" if new else ""
        if new or not self.open:
            sites = len(self.server.sites)
            print(f"serving {link.name} on port {link.listening}, {sites} sites{known}", flush=True)
        self.open = True
