"""A real SuperLink and SuperNodes as processes, with TLS and node keys: whatever dies, the adapter is the same."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr", reason="the extra flower is not installed")

import thinwire
from tests.federation.conftest import NAMES
from tests.simulation.conftest import perform, place, recipe, settings, write_toml  # noqa: F401
from thinwire.federation import trainer
from thinwire.flower.folder import Link, create, node_key, open_server, toml
from thinwire.flower.processes import free_port

pytestmark = pytest.mark.slow

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(thinwire.__file__).parents[1]),
}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "thinwire", "federation", *map(str, arguments)]


def answer(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


def ask(*arguments: object) -> str:
    done = answer(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait(until: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := until()):
        assert time.monotonic() < end, f"{what}: it took longer than {seconds:g} s"
        time.sleep(0.1)
    return found


@dataclass
class Federation:
    """The folder, and its foreground commands."""

    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def server(self) -> Path:
        return self.folder / "server"

    def site(self, name: str) -> Path:
        return self.folder / "sites" / name

    def start(self, name: str) -> None:
        """serve, or join of a site."""
        action, folder = ("serve", self.server) if name == "server" else ("join", self.site(name))
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command(action, folder), env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            process.wait(60)
        for name in OWNERS:
            if (found := trainer.running(self.site(name))) is not None:
                os.kill(found, signal.SIGKILL)

    def children(self, pattern: str, folder: Path) -> list[int]:
        """Processes of this federation by what is in their command line."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().decode().replace("\0", " ")
                mine = f"FLWR_HOME={folder / 'flower'}" in (path / "environ").read_bytes().decode()
            except OSError:
                continue
            if pattern in words and mine:
                found.append(int(path.name))
        return found

    def submit(self, *arguments: object) -> Path:
        return Path(ask("submit", self.server, *arguments).rpartition(": ")[2].strip())

    def counted(self, run: Path) -> int:
        path = run / "metrics.jsonl"
        lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
        return max((line["round"] + 1 for line in lines if line.get("status") == "counted"), default=0)

    def finished(self, run: Path) -> bytes:
        """The adapter of a finished run."""
        wait(lambda: (run / "summary.json").exists(), "the run", 400)
        return (run / "adapter" / "adapter_model.safetensors").read_bytes()


ROUNDS = {"federation": {"rounds": 2}, "run": {"seed": 3, "threads": 1, "references": False, "evaluate_every": 0}}
OWNERS = NAMES[:2]


@pytest.fixture(scope="module")
def straight(place, recipe, tmp_path_factory):  # noqa: F811
    """The same run by the simulation: two rounds of two owners."""
    torch.set_num_threads(1)
    data = {"clients": list(OWNERS)}
    return perform(recipe(**ROUNDS, data=data), tmp_path_factory.mktemp("straight") / "run")


@pytest.fixture(scope="module")
def federation(place, settings, tmp_path_factory) -> Iterator[Federation]:  # noqa: F811
    folder = tmp_path_factory.mktemp("flower") / "f"
    quick = write_toml(folder.parent / "recipe.toml", {**settings, **ROUNDS})
    address = f"localhost:{free_port()}"
    ask("init", folder, "--address", address, "--host", "127.0.0.1", "--sites", *OWNERS, "--recipe", quick)
    made = Federation(folder)
    for name in OWNERS:
        site = made.site(name)
        (site / "data").mkdir()
        for split in ("train", "validation", "test"):
            shutil.copy(place / "data" / f"{name}.{split}.jsonl", site / "data")
        text = (site / "site.toml").read_text().replace('name = "embedded"', f'name = "{place / "model"}"')
        (site / "site.toml").write_text(text)
    opened = open_server(made.server)
    rules = {"quorum": 2, "deadline": 90.0, "attempts": 5, "patience": 90.0}
    (made.server / "server.toml").write_text(toml({**asdict(opened.link), "rules": rules}))
    try:
        for name in ("server", *OWNERS):
            made.start(name)
        wait(lambda: "serving" in (folder / "server.log").read_text(), "the server")
        online(made)
        yield made
    finally:
        made.stop()


def online(federation: Federation) -> None:
    wait(lambda: answer("status", federation.server).stdout.count("online") == len(OWNERS), "every site online")


def test_the_adapter_is_the_simulation_s(federation, straight):
    run = federation.submit("--output", federation.folder / "straight")
    assert federation.finished(run) == straight.adapter
    summary = json.loads((run / "summary.json").read_text())
    for figure in ("loss", "score", "bytes_up", "bytes_down"):
        assert summary[figure] == straight.summary[figure], figure
    assert "round 2/2 counted" in (run / "run.log").read_text()
    counted = wait(lambda: traffic(federation), "Flower's end of the run")
    assert summary["bytes_up"] < counted["inbound-bytes"] < summary["bytes_up"] + 10 * 3000
    assert summary["bytes_down"] < counted["outbound-bytes"] < summary["bytes_down"] + 10 * 6000


faults = pytest.mark.skipif("THINWIRE_FAULTS" not in os.environ, reason="minutes of processes: set THINWIRE_FAULTS=1")


@faults
def test_a_power_cut_in_mid_run_changes_nothing(federation, straight):
    """Everything is killed at once between the rounds, and comes back by itself but for the run, which is resumed."""
    run = federation.submit("--output", federation.folder / "run")
    wait(lambda: federation.counted(run) >= 1, "round 1")
    folders = [federation.server, *(federation.site(name) for name in OWNERS)]
    victims = [
        number for folder in folders for word in ("flwr", "flower-") for number in federation.children(word, folder)
    ]
    victims += [number for name in OWNERS if (number := trainer.running(federation.site(name))) is not None]
    assert len(victims) >= 2 * len(OWNERS) + 3
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    assert not (run / "summary.json").exists()
    online(federation)
    assert federation.submit("--resume", run) == run
    assert federation.finished(run) == straight.adapter
    assert (run / "metrics.jsonl").read_text().count("counted") == 2 * len(OWNERS)
    assert "round 2/2 counted" in (run / "run.log").read_text()


def traffic(federation: Federation) -> Any:
    """Flower's own count of the newest run's bytes, once it ended."""
    runs = json.loads(ask("status", federation.server, "--json"))["runs"]
    return runs[0]["network-traffic"] if str(runs[0]["status"]).startswith("finished") else None


@faults
@pytest.mark.parametrize("victim", ["trainer", "supernode", "superlink", "serverapp"])
def test_whatever_is_killed_the_run_ends_the_same(federation, straight, victim):
    """The victim dies while a site trains; what the quorum misses is asked again."""
    run = federation.submit("--output", federation.folder / victim)
    log = federation.site("alpha") / "trainer" / "trainer.log"
    before = log.read_text().count("round, run") if log.exists() else 0
    wait(lambda: log.exists() and log.read_text().count("round, run") > before, "alpha trains")
    if victim == "trainer":
        os.kill(trainer.running(federation.site("alpha")), signal.SIGKILL)
    else:
        name = {"supernode": "bin/flower-supernode", "superlink": "bin/flower-superlink", "serverapp": "flwr-serverapp"}
        owner = federation.site("alpha") if victim == "supernode" else federation.server
        for process in federation.children(name[victim], owner):
            os.kill(process, signal.SIGKILL)
    wait(lambda: (run / "summary.json").exists() or ended(federation), "the app's end", 240)
    if not (run / "summary.json").exists():
        online(federation)
        assert federation.submit("--resume", run) == run
    assert federation.finished(run) == straight.adapter


@faults
def test_under_privacy_a_killed_trainer_ends_the_same_and_counts_once(federation, recipe, tmp_path):  # noqa: F811
    """With the run's seed, so that there is a run to compare with; alpha's trainer dies while it trains."""
    privacy = {"level": "example", "clip": 0.5, "delta": 1e-3, "noise_multiplier": 2.0}
    expected = perform(recipe(**ROUNDS, data={"clients": list(OWNERS)}, privacy=privacy), tmp_path / "straight")
    changes = [word for key, value in privacy.items() for word in ("--set", f"privacy.{key}={value}")]
    log = federation.site("alpha") / "trainer" / "trainer.log"
    before = log.read_text().count("round, run") if log.exists() else 0
    run = federation.submit("--output", federation.folder / "private", *changes)
    wait(lambda: log.exists() and log.read_text().count("round, run") > before, "alpha trains")
    os.kill(trainer.running(federation.site("alpha")), signal.SIGKILL)
    assert federation.finished(run) == expected.adapter
    assert (
        json.loads((run / "summary.json").read_text())["privacy"]["clients"] == expected.summary["privacy"]["clients"]
    )


def ended(federation: Federation) -> bool:
    """Whether no ServerApp runs any more."""
    return not federation.children("flwr-serverapp", federation.server)


@faults
def test_a_frozen_site_is_left_out_by_name_and_catches_up(federation):
    """SIGSTOP: the round counts without it after the deadline; awake, it takes part again."""
    rules(federation, quorum=1, deadline=25.0)
    try:
        run = federation.submit("--output", federation.folder / "frozen", "--set", "federation.rounds=3")
        wait(lambda: federation.counted(run) >= 1, "round 1")
        frozen = federation.children("flower-supernode", federation.site("beta"))
        for process in frozen:
            os.kill(process, signal.SIGSTOP)
        wait(lambda: federation.counted(run) >= 2, "round 2", 240)
        for process in frozen:
            os.kill(process, signal.SIGCONT)
        federation.finished(run)
        lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
        status = {(line["round"], line["client"]): line["status"] for line in lines}
        assert status[1, "alpha"] == "counted"
        assert status.get((1, "beta"), "refused: gone").startswith("refused")
    finally:
        rules(federation, quorum=2, deadline=90.0)


FRESH = shutil.ignore_patterns("state", "trainer", "logs", "flower", "audit.jsonl")


@faults
def test_a_key_that_is_not_registered_is_refused(federation):
    folder = federation.folder / "stranger"
    shutil.copytree(
        federation.site("beta"), folder, ignore=shutil.ignore_patterns("state", "trainer", "logs", "flower")
    )
    (folder / "node.key").unlink()
    node_key(folder / "node.key", federation.folder / "stranger.pub")
    log = refused(federation, folder)
    assert "online" in answer("status", federation.server).stdout
    assert answer("status", federation.server).stdout.count("online") == len(OWNERS)
    assert log


@faults
def test_a_second_node_with_the_same_key_does_no_harm(federation, straight):
    folder = federation.folder / "twin"
    shutil.copytree(
        federation.site("beta"), folder, ignore=shutil.ignore_patterns("state", "trainer", "logs", "flower")
    )
    log = refused(federation, folder)
    assert log
    online(federation)
    run = federation.submit("--output", federation.folder / "twins")
    assert federation.finished(run) == straight.adapter


@faults
def test_an_expired_certificate_is_refused(federation, tmp_path):
    """A server with an expired certificate, on another port: no SuperNode talks to it."""
    old = Link("old", f"localhost:{free_port()}", "127.0.0.1")
    create(tmp_path / "old", old, ["beta"], None, timedelta(days=-1))
    server = subprocess.Popen(command("serve", tmp_path / "old" / "server"), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    try:
        site = tmp_path / "old" / "sites" / "beta"
        log = refused(federation, site, "certificate")
        assert "expired" in log
    finally:
        server.terminate()
        server.wait(60)


def refused(federation: Federation, folder: Path, word: str = "") -> str:
    """The log of a SuperNode that is not let in, after a while."""
    joining = subprocess.Popen(command("join", folder), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    log = folder / "logs" / "supernode.log"
    try:
        wait(lambda: log.exists() and len(log.read_text()) > 0, "its log", 60)
        time.sleep(20)
        text = log.read_text()
        assert word in text, text[-2000:]
        assert "SuperNode ID" not in text.split(word)[-1] if word else True
        print(text[-1500:])
        return text
    finally:
        joining.terminate()
        joining.wait(60)


def rules(federation: Federation, **changes: Any) -> None:
    opened = open_server(federation.server)
    values = {**asdict(opened.rules), **changes}
    (federation.server / "server.toml").write_text(toml({**asdict(opened.link), "rules": values}))
