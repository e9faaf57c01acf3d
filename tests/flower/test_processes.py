"""A real SuperLink and SuperNodes as processes, with TLS and node keys: the adapter is the simulation's."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("flwr", reason="the extra flower is not installed")

from tests.flower.processes import ask, wait

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_the_adapter_is_the_simulation_s_and_both_counts_of_bytes_are_told(federation, straight):
    run = federation.submit()
    assert federation.finished(run) == straight.adapter
    summary = json.loads((run / "summary.json").read_text())
    for figure in ("loss", "score", "bytes_up", "bytes_down"):
        assert summary[figure] == straight.summary[figure], figure
    assert "round 2/2 counted" in (run / "run.log").read_text()
    flower = wait(lambda: json.loads((run / "summary.json").read_text()).get("flower"), "Flower's count")
    assert summary["bytes_up"] < flower["bytes_up"] < summary["bytes_up"] + 10 * 3000
    assert summary["bytes_down"] < flower["bytes_down"] < summary["bytes_down"] + 10 * 6000
    entry = json.loads(ask("status", federation.server, "--json"))["directories"][0]
    assert (entry["bytes_up"], entry["bytes_down"]) == (summary["bytes_up"], summary["bytes_down"])
    assert entry["flower"] == flower
    assert f"{entry['bytes_up']:,} bytes up (Flower: {flower['bytes_up']:,})" in ask("status", federation.server)
    assert not list((federation.server / "going").iterdir()), "it is not submitted again"
