"""Four sites with real records as processes: the adapter is the local engine's. In full: `python -m` this module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.flower.processes import ENVIRONMENT, everyone, faults, made, wait

RECIPE = Path(__file__).parents[2] / "recipes" / "four_domains.toml"
SITES = ("code", "medical", "finance", "math")
DATA = os.environ.get("THINWIRE_DATA", "")


def prove(folder: Path, changes: Sequence[str]) -> dict[str, Any]:
    """The recipe by the local engine and by a federation: both adapters, seconds and counts of bytes."""
    words = [word for change in ("run.threads=1", *changes) for word in ("--set", change)]
    began = time.perf_counter()
    local = [sys.executable, "-m", "thinwire", "run", str(RECIPE), *words, "--output", str(folder / "local"), "--json"]
    summary = json.loads(subprocess.run(local, env=ENVIRONMENT, capture_output=True, check=True).stdout)
    alone = time.perf_counter() - began
    federation = made(folder / "f", SITES, RECIPE)
    for name in SITES:
        settings = federation.site(name) / "site.toml"
        source = f'source = "{DATA}/instruct"\nclients = ["{name}"]\n'
        settings.write_text(settings.read_text().replace('source = "data"', source + "# "))
    federation.rules(quorum=len(SITES))
    with everyone(federation):
        began = time.perf_counter()
        run = federation.submit(*words)
        adapter = federation.finished(run, 3600)
        across = time.perf_counter() - began
        theirs = wait(lambda: json.loads((run / "summary.json").read_text()).get("flower"), "Flower's count")
    ours = json.loads((run / "summary.json").read_text())
    return {
        "rounds": ours["rounds"],
        "same": adapter == (folder / "local" / "adapter" / "adapter_model.safetensors").read_bytes(),
        "seconds": {"local": alone, "across": across},
        "bytes_up": {"local": summary["bytes_up"], "across": ours["bytes_up"], "flower": theirs["bytes_up"]},
        "bytes_down": {"local": summary["bytes_down"], "across": ours["bytes_down"], "flower": theirs["bytes_down"]},
        "loss": {name: figures["after"] for name, figures in ours["loss"].items()},
    }


@faults
@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="no real data: set THINWIRE_DATA")
def test_two_rounds_on_real_records_give_the_local_engine_s_adapter(tmp_path):
    pytest.importorskip("flwr", reason="the extra flower is not installed")
    few = ("federation.rounds=2", "data.train_limit=200", "data.test_limit=10", "train.steps=2")
    found = prove(tmp_path, few)
    assert found["same"]
    assert found["bytes_up"]["local"] == found["bytes_up"]["across"] < found["bytes_up"]["flower"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(prove(Path(place), sys.argv[1:]), indent=1))
