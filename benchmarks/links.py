"""A round over slow links: FedIT in bfloat16 over Flower alone against thinwire's FedSRD, real processes with TLS.

    python benchmarks/links.py --payload embedded --sites 4 --megabits 20 --round-trip 50 --rounds 4

Each site's SuperNode reaches the SuperLink over a link of its own (relay.py). All sides pretend the same training, so
that what differs is what travels. Sides: `plain`, FedAvg of uint16 arrays, one for each tensor, as a user's state dict
becomes them; `joined`, the same values as one array; `thin`, thinwire's Strategy and mod. Payloads: `embedded`, the
LoRA of thinwire's own base at its default rank; `3b`, rank 64 on all linear modules of Llama-3.2-3B, 97 million values;
`tiny`, to try it out. One run is one JSON line of RESULTS; a run of the same payload, side and link takes the old one's
place. `--plot` draws the lines that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import federation
from federation import Federation

RESULTS = Path(__file__).parent / "results" / "links.jsonl"
SIDES = {"plain": "plain", "joined": "plain", "thin": "thin"}
"""Side -> its apps."""
Shapes = dict[str, tuple[int, int]]


def joined(shapes: Shapes) -> Shapes:
    """One array of as many values."""
    return {"lora_A": (sum(rows * columns for rows, columns in shapes.values()) // 64, 64)}


def shapes_of(payload: str) -> Shapes:
    """LoRA's tensors by PEFT's names."""
    if payload == "embedded":
        return embedded()
    if payload == "tiny":
        return named({"layers.0.q_proj": (16, 16), "layers.1.q_proj": (16, 16)}, 4)
    from server import LAYERS, MODELS

    model, names = MODELS[0], ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    modules = {
        f"model.layers.{layer}.{name}": shape
        for layer in range(LAYERS)
        for name, shape in zip(names, model.shapes, strict=True)
    }
    return named(modules, model.rank)


def named(modules: dict[str, tuple[int, int]], rank: int) -> Shapes:
    """modules: path -> (O, I)."""
    found = {}
    for path, (rows, columns) in modules.items():
        found[f"base_model.model.{path}.lora_A.weight"] = (rank, columns)
        found[f"base_model.model.{path}.lora_B.weight"] = (rows, rank)
    return found


def embedded() -> Shapes:
    from peft import get_peft_model_state_dict

    from thinwire import peft_bridge
    from thinwire.config import load_recipe
    from thinwire.models.base import load_base

    recipe = load_recipe(None)
    model = peft_bridge.attach(load_base(recipe.model, "cpu"), recipe.lora)
    return {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}


def measure(given: argparse.Namespace, side: str, folder: Path) -> dict[str, Any]:
    """One run of one side over links of its own."""
    made = federation.create(folder / side, given.sites)
    shapes = made.folder / "shapes.json"
    tensors = joined(shapes_of(given.payload)) if side == "joined" else shapes_of(given.payload)
    shapes.write_text(json.dumps(tensors))
    values = sum(rows * columns for rows, columns in tensors.values())
    settings = {"rounds": given.rounds, "shapes": str(shapes), "method": "fedsrd"}
    with federation.links(made, given.megabits, given.round_trip), federation.running(made):
        began, load = time.time(), os.getloadavg()[0]
        found = federation.play(made, SIDES[side], settings)
        ended = time.time()
        time.sleep(5)
        idle = rate(federation.crossed(made, [ended, ended + 4.9]), 4.9 * given.sites)
        rounds = table(made, found, ended)
        before, after = federation.crossed(made, [began, ended])
    own = payloads(found["output"], given, side, values)
    for line, sent in zip(rounds, own, strict=True):
        line["payload_up"], line["payload_down"] = sent
    return {
        "payload": given.payload,
        "side": side,
        "megabits": given.megabits,
        "round_trip_ms": given.round_trip,
        "sites": given.sites,
        "values": values,
        "load_before": round(load, 2),
        "rounds": rounds,
        "payload_bytes": {"up": sum(up for up, _ in own), "down": sum(down for _, down in own)},
        "flower_bytes": found["traffic"],
        "link_bytes": {"up": after[0] - before[0], "down": after[1] - before[1]},
        "idle_bytes_per_second_and_site": idle,
        "megabytes": {kind: round(size) for kind, size in sorted(found["megabytes"].items())},
    }


def rate(crossed: Sequence[tuple[int, int]], seconds: float) -> dict[str, float]:
    (up, down), (later_up, later_down) = crossed
    return {"up": round((later_up - up) / seconds), "down": round((later_down - down) / seconds)}


def table(made: Federation, found: dict[str, Any], ended: float) -> list[dict[str, Any]]:
    """Seconds and bytes by round; a node's seconds are means over sites, from the server's question on."""
    at = {(line["what"], line.get("round", 0)): line["time"] for line in found["lines"]}
    numbers = sorted(number for what, number in at if what == "began")
    sites = [federation.lines(made.site(name) / "stamps.jsonl") for name in made.sites]
    rounds = []
    for number in numbers:
        began, asked, answered, over = (at[what, number] for what in ("began", "asked", "answered", "aggregated"))
        (up, down), (later_up, later_down) = federation.crossed(made, [began, at.get(("began", number + 1), ended)])
        nodes = [
            {line["what"]: line for line in lines if line["time"] > asked and line["time"] < over} for lines in sites
        ]
        steps = {
            "arrives": [node["called"]["process"] - asked for node in nodes],
            "starts": [node["called"]["time"] - node["called"]["process"] for node in nodes],
            "works": [node["done"]["time"] - node["called"]["time"] for node in nodes],
            "returns": [answered - node["done"]["time"] for node in nodes],
        }
        rounds.append(
            {
                "round": number,
                "seconds": round(over - began, 2),
                "before_asking": round(asked - began, 2),
                "aggregates": round(over - answered, 2),
                **{name: round(sum(each) / len(each), 2) for name, each in steps.items()},
                "link_up": later_up - up,
                "link_down": later_down - down,
            }
        )
    return rounds


def payloads(output: Path, given: argparse.Namespace, side: str, values: int) -> list[tuple[int, int]]:
    """Bytes of the payloads by round, up and down, all sites together."""
    if SIDES[side] == "plain":
        return [(2 * values * given.sites,) * 2] * given.rounds
    lines = federation.lines(output / "run" / "metrics.jsonl")
    return [
        tuple(sum(line[way] for line in lines if line["round"] == number + 1) for way in ("bytes_up", "bytes_down"))
        for number in range(given.rounds)
    ]


def keep(line: dict[str, Any]) -> None:
    """Write the line to the results in its place."""
    same = ("payload", "side", "megabits", "round_trip_ms", "sites")
    old = [each for each in federation.lines(RESULTS) if any(each[key] != line[key] for key in same)]
    RESULTS.write_text("".join(json.dumps(each) + "\n" for each in [*old, line]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payload", choices=("tiny", "embedded", "3b"), default="embedded")
    parser.add_argument("--side", choices=tuple(SIDES), help="none: all")
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--megabits", type=float, default=20.0, help="a second, each way, of each site's link")
    parser.add_argument("--round-trip", type=float, default=50.0, help="milliseconds")
    parser.add_argument("--plot", action="store_true", help="draw what is in the results, and run nothing")
    parser.add_argument("--dry", action="store_true", help="print, and keep nothing")
    given = parser.parse_args()
    if given.plot:
        from links_plot import plot

        plot(federation.lines(RESULTS), RESULTS.with_suffix(".png"))
        return
    for side in [given.side] if given.side else SIDES:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            line = measure(given, side, Path(place))
        print(json.dumps(line), flush=True)
        if not given.dry:
            keep(line)


if __name__ == "__main__":
    main()
