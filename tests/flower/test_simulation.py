"""`--engine flower`: Flower's simulation on Ray ends where the local engine ends, to the last bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr", reason="the extra flower is not installed")
pytest.importorskip("ray", reason="the extra flower is not installed")

import thinwire
from tests.simulation.conftest import perform, place, recipe, settings, write_toml  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_the_adapter_is_the_local_engine_s(place, recipe, settings, tmp_path):  # noqa: F811
    torch.set_num_threads(1)
    changes = {
        "federation": {"rounds": 2, "clients_per_round": 2},
        "data": {"partition": "iid", "count": 3},
        "run": {"references": False, "evaluate_every": 2},
    }
    straight = perform(recipe(**changes), tmp_path / "local")
    sections = {name: {**table, **changes.get(name, {})} for name, table in settings.items()}
    path = write_toml(tmp_path / "recipe.toml", sections)
    environment = {**os.environ, "PYTHONPATH": str(Path(thinwire.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "thinwire", "run", str(path), "--engine", "flower", "--output", "run", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "run"
    assert (run / "adapter" / "adapter_model.safetensors").read_bytes() == straight.adapter
    summary = json.loads((run / "summary.json").read_text())
    assert summary["bytes_up"] == straight.summary["bytes_up"]
    assert json.loads(done.stdout[done.stdout.index("{") :])["rounds"] == 2
