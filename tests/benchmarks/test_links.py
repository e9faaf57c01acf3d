"""The benchmarks over Flower's processes still run, and their tables say what the stamps say."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr", reason="the extra flower is not installed")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS / "apps"))
sys.path.insert(0, str(BENCHMARKS))

import federation  # noqa: E402
import links  # noqa: E402
import overhead  # noqa: E402
import payload  # noqa: E402

faults = pytest.mark.skipif("THINWIRE_FAULTS" not in os.environ, reason="minutes of processes: set THINWIRE_FAULTS=1")


def test_the_large_payload_is_llama_s_size():
    shapes = links.shapes_of("3b")
    assert len(shapes) == 28 * 7 * 2
    assert sum(math.prod(shape) for shape in shapes.values()) == 97_255_424


def test_bits_are_bfloat16():
    tensors = {"x": torch.tensor([[1.0, -2.5, 3e-8]])}
    record = payload.bits(tensors)
    assert record["x"].dtype == "uint16"
    assert payload.floats(record)["x"].equal(tensors["x"].bfloat16().float())


def test_training_is_repeatable_and_differs_by_node(tmp_path):
    (tmp_path / "shapes.json").write_text(json.dumps(links.shapes_of("tiny")))
    tensors = payload.initial(tmp_path / "shapes.json")
    one, again, other = (payload.trained(tensors, node, 1) for node in (1, 1, 2))
    assert all(one[name].equal(again[name]) for name in tensors)
    assert not any(one[name].equal(other[name]) for name in tensors)


def test_seconds_and_bytes_by_round(tmp_path):
    made = federation.Federation(tmp_path, ("a", "b"))
    server = [("began", 100.0), ("asked", 101.0), ("answered", 109.0), ("aggregated", 109.5)]
    for name, late in (("a", 0.0), ("b", 1.0)):
        made.site(name).mkdir(parents=True)
        called = {"what": "called", "time": 105.0 + late, "process": 103.0}
        done = {"what": "done", "time": 107.0 + late, "process": 103.0}
        (made.site(name) / "stamps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (called, done)))
        made.log(name).write_text("99.0 5 5\n104.0 25 105\n110.0 65 110\n")
    found = {"lines": [{"what": what, "time": when, "round": 1} for what, when in server]}
    (line,) = links.table(made, found, 120.0)
    assert line == {
        "round": 1,
        "seconds": 9.5,
        "before_asking": 1.0,
        "aggregates": 0.5,
        "arrives": 2.0,
        "starts": 2.5,
        "works": 2.0,
        "returns": 1.5,
        "link_up": 120,
        "link_down": 210,
    }


@pytest.mark.slow
@pytest.mark.long
def test_a_small_run_over_links(tmp_path):
    given = argparse.Namespace(payload="tiny", sites=1, rounds=2, megabits=20.0, round_trip=50.0)
    line = links.measure(given, "thin", tmp_path)
    assert [each["round"] for each in line["rounds"]] == [1, 2]
    for way in ("up", "down"):
        assert 0 < line["payload_bytes"][way] < line["flower_bytes"][way] < line["link_bytes"][way]
    assert {"SuperLink", "SuperNode", "ServerApp", "ClientApp"} <= line["megabytes"].keys()


@faults
@pytest.mark.slow
def test_a_small_run_at_the_floor():
    (case,) = overhead.apps(1, 2, ["floor"])
    assert len(case["seconds_by_round"]) == 1
    assert case["megabytes"]["ClientApp"] < 200, "nothing heavy is imported"
