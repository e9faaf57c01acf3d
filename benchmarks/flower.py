"""What Flower adds to thinwire's bytes and seconds: real processes with TLS on this machine, a recipe's rounds.

    python benchmarks/flower.py --sites 4 --rounds 3 --method fedsrd

Prints for the run: thinwire's bytes, Flower's own count, what crossed the network interface between server and sites
(TLS, HTTP and TCP included; with --cable), seconds a round, and the largest process of each kind. Results go to
benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import federation
from federation import ask

from thinwire.federation import trainer

RESULTS = Path(__file__).parent / "results"
SPACE, CABLE, HERE, THERE = "thinwire", "thinwire0", "10.213.77.1", "10.213.77.2"
DOMAINS = ("code", "medical", "finance", "math")


@contextmanager
def cable(used: bool) -> Iterator[None]:
    """A network namespace for all sites, joined to this one by a pair of interfaces that nothing else uses."""
    if not used:
        yield
        return
    subprocess.run(["ip", "netns", "add", SPACE], check=True)
    try:
        for line in (
            f"ip link add {CABLE} type veth peer name eth0 netns {SPACE}",
            f"ip addr add {HERE}/30 dev {CABLE}",
            f"ip link set {CABLE} up",
            f"ip netns exec {SPACE} ip addr add {THERE}/30 dev eth0",
            f"ip netns exec {SPACE} ip link set eth0 up",
            f"ip netns exec {SPACE} ip link set lo up",
        ):
            subprocess.run(line.split(), check=True)
        yield
    finally:
        subprocess.run(["ip", "netns", "del", SPACE], check=True)


def crossed() -> dict[str, int]:
    """Bytes that the server's end of the cable received and sent so far; nothing without a cable."""
    folder = Path("/sys/class/net") / CABLE / "statistics"
    return {name: int((folder / f"{name}_bytes").read_text()) for name in ("rx", "tx")} if folder.exists() else {}


def rate(seconds: float) -> dict[str, float]:
    """Bytes a second on the cable while no run goes on."""
    before = crossed()
    time.sleep(seconds)
    return {name: (value - before[name]) / seconds for name, value in crossed().items()}


def seconds_by_round(run: Path) -> list[float]:
    """Seconds between the ends of rounds, to a second, from the run's log; the first round is not among them."""
    lines = [text for text in (run / "run.log").read_text().splitlines() if text.endswith("counted")]
    ends = [datetime.fromisoformat(text.split()[0]).timestamp() for text in lines]
    return [later - end for end, later in pairwise(ends)]


def measure(count: int, settings: Sequence[str]) -> dict[str, Any]:
    """One run of the embedded default's recipe with these settings at so many sites."""
    with tempfile.TemporaryDirectory() as place:
        made = federation.create(Path(place) / "f", count, HERE if crossed() else "127.0.0.1")
        for index, name in enumerate(made.sites):
            own = made.site(name) / "site.toml"
            source = f'source = "generator"\nclients = ["{DOMAINS[index % 4]}"]\n'
            own.write_text(own.read_text().replace('source = "data"', source + "# "))
        with federation.running(made, ["ip", "netns", "exec", SPACE] if crossed() else []):
            time.sleep(5)
            idle = rate(10)
            before, began = crossed(), time.perf_counter()
            changes = [word for setting in settings for word in ("--set", setting)]
            run = Path(ask("submit", made.server.path, *changes).rpartition(": ")[2].strip())
            peak: dict[str, float] = {}
            while not (run / "summary.json").exists():
                for kind, size in federation.memory(made).items():
                    peak[kind] = max(peak.get(kind, 0), size)
                time.sleep(0.5)
            seconds, after = time.perf_counter() - began, crossed()
            time.sleep(5)
            flower = json.loads(ask("status", made.server.path, "--json"))["runs"][0]["network-traffic"]
            summary, rounds = json.loads((run / "summary.json").read_text()), seconds_by_round(run)
            audit = [line for name in made.sites for line in federation.lines(made.site(name) / "audit.jsonl")]
            for name in made.sites:
                trainer.stop(made.site(name))
    return {
        "sites": count,
        "settings": list(settings),
        "rounds": summary["rounds"],
        "bytes_up": summary["bytes_up"],
        "bytes_down": summary["bytes_down"],
        "headers_up": sum(line["header_bytes"] for line in audit),
        "flower_in": flower["inbound-bytes"],
        "flower_out": flower["outbound-bytes"],
        "interface": {name: after[name] - before[name] for name in after},
        "interface_idle_per_second": idle,
        "seconds": round(seconds, 1),
        "seconds_by_round": rounds,
        "megabytes": {kind: round(size) for kind, size in sorted(peak.items())},
    }


def recipe(rounds: int, method: str) -> list[str]:
    """One step a round on few records."""
    return [
        f"federation.rounds={rounds}",
        f"method.name={method}",
        "run.evaluate_every=0",
        "run.threads=1",
        "data.train_limit=64",
        "data.test_limit=8",
        "train.steps=1",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--method", default="fedsrd")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--cable", action="store_true", help="sites in a network namespace of their own (needs root)")
    parser.add_argument("--name", default="flower", help="of the results' file")
    options = parser.parse_args()
    with cable(options.cable):
        found = measure(options.sites, [*recipe(options.rounds, options.method), *options.set])
    print(json.dumps(found, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{options.name}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
