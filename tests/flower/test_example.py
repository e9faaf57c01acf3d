"""The example for Flower users does what its page says, in a process of its own and through Flower's serialisation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="the extra flower is not installed")

ROOT = Path(__file__).parents[2]
RUN = """
import sys, types
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import os; os.environ["HOME"] = os.getcwd()
import torch; torch.set_num_threads(1); torch.manual_seed(0)
from flwr.supercore.task_identity import TaskIdentity
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
from tests.flower.grid import LocalGrid
from thinapp import client_app, server_app
settings = {node: {"partition-id": node} for node in (1, 2, 3)}
config = {"num-server-rounds": 2, "steps": 2, "learning-rate": 0.002}
grid = LocalGrid(dict.fromkeys(settings, client_app.app), settings, config=config)
server_app.main(grid, types.SimpleNamespace(run_config=config))
"""


@pytest.mark.slow
@pytest.mark.long
def test_the_example_learns_and_leaves_an_adapter(tmp_path):
    command = [sys.executable, "-c", RUN, str(ROOT / "examples" / "flower"), str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert sorted(path.name for path in (tmp_path / ".thinwire" / "flower").iterdir()) == ["node-1", "node-2", "node-3"]
    assert "round 2" not in done.stdout or "no quorum" not in done.stderr


@pytest.mark.parametrize("name", ["client_app.py", "server_app.py"])
def test_one_line_of_an_app_is_thinwire_s(name):
    text = (ROOT / "examples" / "flower" / "thinapp" / name).read_text()
    assert text.count("# <- thinwire") == 1
    assert len(text.splitlines()) < 50
