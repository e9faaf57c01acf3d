"""Progress while a run goes on: a live bar on a terminal, a line a round elsewhere."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from thinwire.storage.metrics import Line
    from thinwire.storage.state import State

SHOWN = 6
"""Clients that are named in one round; the others are counted."""
QUIET = 10.0
"""Seconds after which a log without a terminal says again how far scoring is."""
PATIENCE = 1.0
"""Seconds after which a wait is worth a word."""


def terminal(**options: Any) -> Console:
    """A console to which brackets and colons in names are neither markup nor emoji."""
    return Console(markup=False, emoji=False, **options)


def silence_libraries() -> None:
    """Keep the libraries' own bars and advice out of the picture, and off the network unless the user asks for it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads crawl on a shared machine
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="peft|torch|transformers")


class Live:
    """Shows what `Watcher` hears: phases, clients, rounds, bytes so far and the time left."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self.console, self.progress = console, progress
        self.task = progress.add_task("starting", total=None, detail="")
        self.began = self.said = time.monotonic()
        self.first = self.done = self.total = 0
        self.losses: dict[str, float | None] = {}
        self.troubles = 0
        self.privacy = ""

    def phase(self, text: str, rounds: int | None = None, done: int = 0) -> None:
        self._begin(text, rounds, done)
        if not self.console.is_terminal:
            self.console.print(text if rounds is None else f"{text}: {rounds - done} rounds")

    def scoring(self, text: str, examples: int | None) -> None:
        self._begin(text, examples, 0)
        if not self.console.is_terminal:
            self.console.print(f"{text}: {examples:,} examples" if examples else text)

    def evaluated(self, examples: int) -> None:
        self.done += examples
        self.progress.update(self.task, completed=self.done, detail=f"{self.done:,} examples")
        if not self.console.is_terminal and time.monotonic() - self.said > QUIET:
            self.said = time.monotonic()
            self.console.print(f"  {self.done:,} examples so far")

    def _begin(self, text: str, total: int | None, done: int) -> None:
        self.total, self.first, self.done = total or 0, done, done
        self.began = self.said = time.monotonic()
        self.privacy = ""
        self.progress.reset(self.task, description=text, total=total, completed=done, detail="")

    def line(self, line: Line) -> None:
        self.losses[line["client"]] = line["loss"]
        self.progress.update(self.task, detail=self.clients())
        if line["status"] != "counted":
            self.troubles += 1
            if self.troubles <= SHOWN:
                self.warn(f"round {line['round']}: {line['client']} {line['status']}")

    def spent(self, epsilon: float, delta: float) -> None:
        self.privacy = f"  epsilon {epsilon:.3g} (delta {delta:.0e})"

    def round(self, state: State) -> None:
        detail = f"{self.clients()}  {travelled(state)}{self.privacy}"
        self.progress.update(self.task, completed=state.round, detail=detail)
        if not self.console.is_terminal:
            left = (time.monotonic() - self.began) / (state.round - self.first) * (self.total - state.round)
            text = f"  round {state.round}/{self.total}  {detail}  {left:.0f} s left"
            self.console.print(text, soft_wrap=True)
        if self.troubles > SHOWN:
            self.warn(f"round {state.round}: {self.troubles - SHOWN} more clients did not count; see metrics.jsonl")
        self.losses, self.troubles = {}, 0

    def warn(self, text: str) -> None:
        self.console.print(f"note: {text}", style="yellow", soft_wrap=True)

    def note(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)

    def clients(self) -> str:
        known = [loss for loss in self.losses.values() if loss is not None]
        if len(self.losses) > SHOWN:
            return f"{len(self.losses)} clients, loss {sum(known) / max(len(known), 1):.3f}"
        shown = (f"{name} {loss:.3f}" if loss is not None else f"{name} -" for name, loss in self.losses.items())
        return "loss " + " ".join(shown) if self.losses else ""


@contextmanager
def watch(directory: Path, quiet: bool = False) -> Iterator[Live]:
    """A live display on standard error for the length of a run."""
    console = terminal(stderr=True, quiet=quiet)
    console.print(f"run directory: {directory}", soft_wrap=True)
    with progress_bar(console, disable=not console.is_terminal or quiet) as progress:
        yield Live(console, progress)


def progress_bar(console: Console, disable: bool = False) -> Progress:
    """What is done, how far it is, its clients, and the time gone and left."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=disable)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Says on standard error what is being waited for, if it takes longer than `PATIENCE`; a spinner on a terminal."""
    console = terminal(stderr=True)
    status = console.status(Text(text))
    show = status.start if console.is_terminal else partial(console.print, text)
    timer = Timer(PATIENCE, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()


def travelled(state: State) -> str:
    """The bytes of a run so far."""
    totals = state.totals
    if not totals.bytes_up and not totals.bytes_down:
        return "nothing travels"
    return f"up {megabytes(totals.bytes_up)}  down {megabytes(totals.bytes_down)}"


def megabytes(count: float) -> str:
    """Bytes in words: 812 B, 3.4 kB, 1.25 MB."""
    if count < 1000:
        return f"{count:.0f} B"
    if count < 1e6:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.2f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"
