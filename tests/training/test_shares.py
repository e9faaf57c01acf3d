"""Two processes train one client together: real ones, started as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from thinwire.training.shares import ProcessPlace, here

SETTINGS = {
    "lora.rank": 4,
    "data.train_limit": 40,
    "data.test_limit": 4,
    "federation.rounds": 2,
    "train.steps": 2,
    "train.batch": 5,
    "run.references": "false",
    "run.evaluate_every": 0,
    "run.threads": 1,
    "method.name": "fedit",
    "values.precision": "float32",
}


def test_shares_cover_every_example_once():
    parts = [ProcessPlace(index, 3).mine(range(10)) for index in range(3)]
    assert sorted(index for part in parts for index in part) == list(range(10))
    assert here() == ProcessPlace(0, 1)
    assert ProcessPlace().add([], 0.5) == 0.5


def launch(folder: Path, processes: int, *more: str) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    sets = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    many = ["-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1", "--mixed_precision", "no"]
    many += ["--dynamo_backend", "no", "--num_processes", str(processes), "--main_process_port", "29571"]
    command = [sys.executable, *(many if processes > 1 else []), "-m", "thinwire", "run", *sets, *more]
    done = subprocess.run([*command, "--output", str(folder)], capture_output=True, text=True, env=env, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_end_where_one_does(tmp_path: Path):
    launch(tmp_path / "one", 1)
    launch(tmp_path / "two", 2)
    one, two = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    largest = max(float(tensor.abs().max()) for name, tensor in one.items() if "lora_B" in name)
    assert largest > 1e-4
    for name, tensor in one.items():
        assert float((tensor - two[name]).abs().max()) < 2e-2 * largest, name
