"""When things happened in the processes of a run: lines of JSON."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Message


def stamp(path: Path, what: str, **facts: Any) -> None:
    """Append a line with the seconds since 1970."""
    with path.open("a") as stream:
        stream.write(json.dumps({"what": what, "time": time.time(), **facts}) + "\n")


def stamped_client(context: Context, what: str, number: int) -> None:
    """A line in the site's folder, with when this process began."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    age = float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    folder = Path(str(context.node_config["site"]))
    stamp(folder / "stamps.jsonl", what, round=number, process=time.time() - age)


class Clock:
    """Before a Flower strategy in a class's bases: when a round began, was asked, was answered and was aggregated."""

    stamps: Path

    def configure_train(self, server_round: int, *rest: Any) -> Iterable[Message]:
        stamp(self.stamps, "began", round=server_round)
        messages = list(super().configure_train(server_round, *rest))  # type: ignore[misc]
        stamp(self.stamps, "asked", round=server_round)
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        stamp(self.stamps, "answered", round=server_round)
        found = super().aggregate_train(server_round, list(replies))  # type: ignore[misc]
        stamp(self.stamps, "aggregated", round=server_round)
        return found


def play(strategy: Any, context: Context, grid: Any, arrays: ArrayRecord) -> None:
    """All rounds, with their stamps in the output folder."""
    output = Path(str(context.run_config["output"]))
    strategy.stamps = output / "stamps.jsonl"
    strategy.start(grid, arrays, num_rounds=int(context.run_config["rounds"]))
    stamp(strategy.stamps, "done")
