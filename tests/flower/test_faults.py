"""Processes are killed, frozen, stopped and starved of disk in mid-run: the adapter at the end is the same."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="the extra flower is not installed")

from tests.flower.conftest import OWNERS, ROUNDS
from tests.flower.processes import ask, faults, wait
from tests.simulation.conftest import perform
from thinwire.federation import trainer

pytestmark = [pytest.mark.slow, faults]

PROGRAMS = {
    "supernode": "thinwire.flower.supernode",
    "superlink": "thinwire.flower.superlink",
    "serverapp": "flwr-serverapp",
}


def alpha_trains(federation) -> None:
    """Wait for a training step of a new run."""
    log = federation.site("alpha") / "trainer" / "trainer.log"
    before = log.read_text().count("round, run") if log.exists() else 0
    wait(lambda: log.exists() and log.read_text().count("round, run") > before, "alpha trains")


@pytest.mark.parametrize("victim", ["trainer", "supernode", "superlink", "serverapp"])
def test_whatever_is_killed_the_run_ends_the_same(federation, straight, victim):
    """The victim dies while a site trains; what the quorum misses is asked again, and nobody has to do anything."""
    run = federation.submit("--output", federation.folder / victim)
    alpha_trains(federation)
    if victim == "trainer":
        os.kill(trainer.running(federation.site("alpha")), signal.SIGKILL)
    else:
        owner = federation.site("alpha") if victim == "supernode" else federation.server
        for process in federation.children(PROGRAMS[victim], owner):
            os.kill(process, signal.SIGKILL)
    assert federation.finished(run) == straight.adapter
    if victim == "serverapp":
        assert "was interrupted after round" in federation.said("server")
        assert len(json.loads((run / "flower.json").read_text())) == 2


def test_under_privacy_a_killed_trainer_ends_the_same_and_counts_once(federation, recipe, tmp_path):
    """With the run's seed, so that there is a run to compare with; alpha's trainer dies while it trains."""
    privacy = {"level": "example", "clip": 0.5, "delta": 1e-3, "noise_multiplier": 2.0}
    expected = perform(recipe(**ROUNDS, data={"clients": list(OWNERS)}, privacy=privacy), tmp_path / "straight")
    changes = [word for key, value in privacy.items() for word in ("--set", f"privacy.{key}={value}")]
    run = federation.submit("--output", federation.folder / "private", *changes)
    alpha_trains(federation)
    os.kill(trainer.running(federation.site("alpha")), signal.SIGKILL)
    assert federation.finished(run) == expected.adapter
    summary = json.loads((run / "summary.json").read_text())
    assert summary["privacy"]["clients"] == expected.summary["privacy"]["clients"]


def test_a_power_cut_in_mid_run_changes_nothing(federation, straight):
    """Everything is killed at once between the rounds, and comes back by itself, the run included."""
    run = federation.submit("--output", federation.folder / "run")
    wait(lambda: federation.counted(run) >= 1, "round 1")
    cut(federation)
    assert not (run / "summary.json").exists()
    for name in ("server", *OWNERS):
        federation.start(name)
    assert federation.finished(run) == straight.adapter
    assert federation.statuses(run, "alpha") == federation.statuses(run, "beta") == ["counted"] * 2
    assert "try 1 of 3" in federation.said("server")


def cut(federation) -> None:
    """SIGKILL to every process of the federation, serve and join first."""
    for process in federation.running.values():
        process.kill()
        process.wait()
    federation.running.clear()
    folders = [federation.server, *(federation.site(name) for name in OWNERS)]
    words = ("flwr", "flower-", "thinwire.flower.")
    victims = [number for folder in folders for word in words for number in federation.children(word, folder)]
    victims += [number for name in OWNERS if (number := trainer.running(federation.site(name))) is not None]
    assert len(victims) >= 2 * len(OWNERS) + 3
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)


def test_a_stopped_run_is_not_submitted_again(federation, straight):
    """It waits for whoever stopped it, and goes on to the same end."""
    run = federation.submit("--output", federation.folder / "stopped")
    alpha_trains(federation)
    assert "is stopped" in ask("stop", federation.server)
    wait(federation.ended, "the app's end")
    before = federation.said("server").count(str(run))
    with contextlib.suppress(subprocess.TimeoutExpired):
        federation.running["server"].wait(40)
    assert federation.said("server").count(str(run)) == before
    assert not (run / "summary.json").exists()
    federation.all_online()
    assert federation.submit("--resume", run) == run
    assert federation.finished(run) == straight.adapter


def test_a_site_whose_join_is_stopped_comes_back(federation, straight):
    """join ends its SuperNode and trainer at once; the round waits for the quorum and is played again."""
    run = federation.submit("--output", federation.folder / "left")
    alpha_trains(federation)
    federation.end("beta")
    assert trainer.running(federation.site("beta")) is None or wait(
        lambda: trainer.running(federation.site("beta")) is None, "its trainer's end"
    )
    federation.start("beta")
    assert federation.finished(run) == straight.adapter


def test_a_frozen_site_is_left_out_by_name_and_catches_up(federation):
    """SIGSTOP: the round counts without it after the deadline; awake, it takes part again."""
    federation.rules(quorum=1, deadline=25.0)
    try:
        run = federation.submit("--output", federation.folder / "frozen", "--set", "federation.rounds=3")
        wait(lambda: federation.counted(run) >= 1, "round 1")
        frozen = federation.children(PROGRAMS["supernode"], federation.site("beta"))
        for process in frozen:
            os.kill(process, signal.SIGSTOP)
        wait(lambda: federation.counted(run) >= 2, "round 2", 240)
        for process in frozen:
            os.kill(process, signal.SIGCONT)
        federation.finished(run)
        status = {(line["round"], line["client"]): line["status"] for line in federation.lines(run) if "client" in line}
        assert status[1, "alpha"] == "counted"
        assert status.get((1, "beta"), "refused: gone").startswith("refused")
    finally:
        federation.rules(quorum=2, deadline=90.0)


@pytest.fixture
def small_disk(federation) -> Iterator[Path]:
    """A file system of one megabyte on the state folder of beta, which is empty then."""
    folder = federation.site("beta") / "state"
    folder.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no right to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_at_a_site_is_named_and_nothing_leaves(federation, small_disk):
    """The others go on; with room again the site takes part."""
    federation.rules(quorum=1)
    log = federation.site("beta") / "audit.jsonl"
    try:
        run = federation.submit("--output", federation.folder / "full", "--set", "federation.rounds=12")
        wait(lambda: federation.statuses(run, "beta") == ["counted"], "beta's first round")
        before = len(log.read_text().splitlines())
        filler = small_disk / "filler"
        with contextlib.suppress(OSError):
            filler.write_bytes(bytes(2 << 20))
        refused = wait(lambda: [s for s in federation.statuses(run, "beta") if s != "counted"], "a refusal")
        assert "No space left on device" in refused[0]
        assert f"refused: {small_disk}" in refused[0]
        assert "beta refused: " in (run / "run.log").read_text()
        filler.unlink()
        told = [json.loads(text) for text in log.read_text().splitlines()[before:]]
        failed = [line for line in told if line["problem"]]
        assert failed
        assert all(line["bytes"] == 0 and not line["sha256"] for line in failed)
        wait(lambda: federation.statuses(run, "beta")[-1] == "counted", "beta takes part again")
        federation.finished(run)
        assert set(federation.statuses(run, "alpha")) == {"counted"}
    finally:
        federation.rules(quorum=2)
