"""Seconds a round and memory, with nothing to train: Flower's floor, an app with torch, thinwire's mod, its trainer.

    python benchmarks/overhead.py --sites 4 20 --rounds 6

Real processes with TLS on this machine. `floor`: FedAvg of one small array, a ClientApp that imports nothing. `plain`:
FedAvg of a small adapter, with torch in the ClientApp. `thin`: thinwire's Strategy and mod around the same function.
`resident`: the recipe path, a trainer that stays, one step on the embedded base. Where a round's seconds go is a mean
over sites and rounds. One line of JSON a case; results go to benchmarks/results/overhead.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import federation
import flower
from links import shapes_of, table

SIDES = ("floor", "plain", "thin")
IMPORTS = ("flwr.supernode.cli.flwr_clientapp", "thinwire.flower.client_app", "torch", "thinwire.flower.node")
STEPS = ("before_asking", "arrives", "starts", "works", "returns", "aggregates")


def apps(count: int, rounds: int, sides: list[str]) -> list[dict[str, Any]]:
    """The apps one after the other on one federation."""
    with tempfile.TemporaryDirectory() as place:
        made = federation.create(Path(place) / "f", count)
        shapes = made.folder / "shapes.json"
        shapes.write_text(json.dumps(shapes_of("tiny")))
        settings = {"rounds": rounds, "shapes": str(shapes), "method": "fedsrd"}
        with federation.running(made):
            time.sleep(5)
            idle = cores_used(made, 20)
            found = []
            for side in sides:
                played = federation.play(made, side, settings)
                found.append({"case": side, "sites": count, "cores_used_idle": idle, **summary(made, played)})
        return found


def summary(made: federation.Federation, played: dict[str, Any]) -> dict[str, Any]:
    """The rounds after the first, which begins with a hello."""
    first, *rest = table(made, played, time.time())
    seconds = [line["seconds"] for line in rest]
    return {
        "seconds_first": first["seconds"],
        "seconds_by_round": seconds,
        "rounds_per_minute": round(60 / mean(seconds), 1),
        "steps": {step: round(mean(line[step] for line in rest), 2) for step in STEPS},
        "megabytes": {kind: round(size) for kind, size in sorted(played["megabytes"].items())},
    }


def resident(count: int, rounds: int) -> dict[str, Any]:
    """The recipe path. Its rounds are timed to a second."""
    found = flower.measure(count, flower.recipe(rounds, "fedsrd"))
    return {
        "case": "resident",
        "sites": count,
        "seconds_by_round": found["seconds_by_round"],
        "rounds_per_minute": round(60 / mean(found["seconds_by_round"]), 1),
        "megabytes": found["megabytes"],
    }


def cores_used(made: federation.Federation, seconds: float) -> float:
    """Cores that all processes of a federation use while no run goes on."""
    before = federation.cpu(made)
    time.sleep(seconds)
    return round((federation.cpu(made) - before) / seconds, 3)


def importing(module: str) -> float:
    """Seconds of a process that imports the module, less one that imports nothing; the median of five of each."""

    def took(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, env=federation.environment())
        return time.perf_counter() - began

    pairs = [(took(f"import {module}"), took("pass")) for _ in range(5)]
    return round(median(whole for whole, _ in pairs) - median(nothing for _, nothing in pairs), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 20])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--sides", nargs="+", default=[*SIDES, "resident"], choices=(*SIDES, "resident"))
    parser.add_argument("--name", default="overhead", help="of the results' file; empty: keep nothing")
    given = parser.parse_args()
    result: dict[str, Any] = {"cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2), "cases": []}
    result["import_seconds"] = {module: importing(module) for module in IMPORTS}
    for count in given.sites:
        cases = apps(count, given.rounds, [side for side in given.sides if side in SIDES])
        if "resident" in given.sides and count == given.sites[0]:
            cases.append(resident(count, given.rounds))
        for case in cases:
            print(json.dumps(case), flush=True)
        result["cases"] += cases
    if given.name:
        path = flower.RESULTS / f"{given.name}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
