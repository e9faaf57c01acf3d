"""A Ray cluster of two nodes: with `RAY_ADDRESS`, `--engine flower` spreads over it to the local engine's adapter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr", reason="the extra flower is not installed")
pytest.importorskip("ray", reason="the extra flower is not installed")

from tests.flower.processes import ENVIRONMENT, faults, wait
from tests.simulation.conftest import perform, write_toml
from thinwire.flower.processes import OFFLINE, free_port, program

pytestmark = [pytest.mark.slow, faults]

CHANGES = {"federation": {"rounds": 2}, "run": {"references": False, "evaluate_every": 0, "threads": 1, "seed": 3}}


@contextmanager
def node(log: Path, *options: str, before: Sequence[str] = ()) -> Iterator[None]:
    """A Ray node of one CPU, with all its processes in one group."""
    command = [*before, program("ray"), "start", *options, "--num-cpus=1", "--block"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env={**OFFLINE, **ENVIRONMENT}, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        wait(lambda: "Ray runtime started" in log.read_text(), log.name)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.fixture
def cluster(tmp_path) -> Iterator[tuple[str, Path]]:
    """The address of a head and a second node, and a folder that the second does not see."""
    hidden, address = tmp_path / "hidden", f"127.0.0.1:{free_port()}"
    hidden.mkdir()
    hide = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs tmpfs {hidden} && exec "$@"', "sh"]
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as short:
        port = f"--port={address.rpartition(':')[2]}"
        client = f"--ray-client-server-port={free_port()}"
        head = ["--head", port, client, "--include-dashboard=false", f"--temp-dir={short}"]
        with (
            node(tmp_path / "head.log", *head),
            node(tmp_path / "second.log", f"--address={address}", before=hide),
        ):
            yield address, hidden


def play(folder: Path, recipe: Path, address: str) -> subprocess.CompletedProcess[str]:
    words = ["run", str(recipe), "--engine", "flower", "--output", str(folder), "--json"]
    environment = {**ENVIRONMENT, "RAY_ADDRESS": address}
    return subprocess.run(
        [sys.executable, "-m", "thinwire", *words], env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide a folder from the second node")
def test_two_nodes_give_the_local_engine_s_adapter_and_need_a_shared_folder(recipe, settings, cluster, tmp_path):
    torch.set_num_threads(1)
    address, hidden = cluster
    straight = perform(recipe(**CHANGES), tmp_path / "local")
    path = write_toml(tmp_path / "recipe.toml", {**settings, **CHANGES})
    done = play(tmp_path / "run", path, address)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes() == straight.adapter
    failed = play(hidden / "run", path, address)
    assert failed.returncode == 1
    assert "not on this machine; a Ray cluster needs it on a file system that all share" in failed.stderr
    assert "cannot take part: " in failed.stderr
