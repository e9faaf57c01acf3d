"""Memory, time and checkpoints of a simulation with hundreds of clients, each with the residual of its uploads.

`python benchmarks/many_clients.py` prints a JSON line a round and writes them to benchmarks/results/many_clients.jsonl:
clients, round (from 1), seconds (of the round, without its checkpoint), rss_mb (held after the round), peak_rss_mb (the
most so far), checkpoint_seconds, checkpoint_bytes (written in this round), stored_bytes and files (all checkpoints
together), touched (clients that took part so far). MB are 10^6 bytes. The rounds are those of `thinwire run`: FedSRD
with error feedback on the embedded base and generated text, one local step, nothing evaluated.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thinwire.config import load_recipe
from thinwire.engine import begin
from thinwire.report.live import silence_libraries
from thinwire.session.loaded import open_session
from thinwire.simulation.federated import federated
from thinwire.simulation.rounds import play
from thinwire.storage import checkpoint
from thinwire.storage.state import start

RESULTS = Path(__file__).parent / "results" / "many_clients.jsonl"


def recipe(clients: int, each_round: int, rounds: int, threads: int) -> list[str]:
    """The changes to the embedded default."""
    return [
        "data.partition=iid",
        f"data.count={clients}",
        f"federation.rounds={rounds}",
        f"federation.clients_per_round={each_round}",
        "train.steps=1",
        f"run.threads={threads}",
    ]


def measure(changes: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """A line a round."""
    settings = load_recipe(None, changes)
    session = open_session(settings)
    federation = federated(session, session.method())
    state = start(begin(session.start, settings.run.seed), (client.name for client in federation.clients))
    before: dict[Path, tuple[int, int]] = {}
    for number in range(settings.federation.rounds):
        began = time.perf_counter()
        state = play(federation, state, lambda line: None)
        played = time.perf_counter()
        state = checkpoint.save(state, folder)
        ended = time.perf_counter()
        after = sizes(folder)
        yield {
            "clients": len(federation.clients),
            "round": number + 1,
            "seconds": round(played - began, 3),
            "rss_mb": round(resident() / 1e6, 1),
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),
            "checkpoint_seconds": round(ended - played, 4),
            "checkpoint_bytes": sum(size for path, (node, size) in after.items() if before.get(path) != (node, size)),
            "stored_bytes": sum(size for _, size in after.values()),
            "files": len(after),
            "touched": sum(state.clients.version(name) is not None for name in state.clients),
        }
        before = after


def sizes(folder: Path) -> dict[Path, tuple[int, int]]:
    """(inode, bytes) of every file; a file that is written anew has another inode."""
    found = ((path, path.stat()) for path in folder.rglob("*") if path.is_file())
    return {path: (entry.st_ino, entry.st_size) for path, entry in found}


def resident() -> int:
    """Bytes of memory that this process holds now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=805)
    parser.add_argument("--each-round", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; a temporary folder by default")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    silence_libraries()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        with options.results.open("w", encoding="utf-8") as stream:
            for line in measure(recipe(options.clients, options.each_round, options.rounds, options.threads), folder):
                print(json.dumps(line), file=stream, flush=True)
                print(json.dumps(line), flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
