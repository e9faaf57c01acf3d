"""A site that sends garbage, another run's payload, NaNs and what it sent before: real SuperNodes carry it all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="the extra flower is not installed")

from tests.flower import evil_trainer
from tests.flower.processes import ENVIRONMENT, faults, wait
from thinwire.federation import socket, trainer

pytestmark = [pytest.mark.slow, faults]

REASONS = (
    "counted",
    "not a thinwire payload",
    "refused: run is 4, expected 3",
    "is not finite",
    "refused: version is 0, expected 4",
    "its reply is of run 'fedsrd-0123456789abcdef'",
    "its reply is of round 0",
    "Flower reports",
    "counted",
)


@pytest.fixture
def evil(federation):
    """Beta's trainer is the one that lies."""
    site = federation.site("beta")
    assert trainer.running(site) is None
    process = subprocess.Popen([sys.executable, evil_trainer.__file__, str(site)], env=ENVIRONMENT)
    wait((Path(site) / socket.FOLDER / socket.NAME).exists, "its socket")
    yield
    assert process.poll() is None, "it lied to the end"
    process.kill()
    process.wait()


def test_the_run_goes_on_and_names_site_round_and_reason(federation, evil):
    federation.rules(quorum=1)
    rounds = len(evil_trainer.LIES)
    run = federation.submit("--set", f"federation.rounds={rounds}")
    federation.finished(run)
    assert federation.statuses(run, "alpha") == ["counted"] * rounds
    found, log = federation.statuses(run, "beta"), (run / "run.log").read_text()
    assert len(found) == rounds
    for number, (status, reason) in enumerate(zip(found, REASONS, strict=True)):
        assert reason in status, (number, status)
        if reason != "counted":
            assert f" round {number + 1}: beta {status}\n" in log
