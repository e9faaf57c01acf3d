"""A real federation on this machine: SuperLink, SuperNodes and trainers as processes, with TLS and node keys."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import thinwire
from thinwire.federation import trainer
from thinwire.flower.folder import open_server
from thinwire.flower.processes import free_port

faults = pytest.mark.skipif("THINWIRE_FAULTS" not in os.environ, reason="minutes of processes: set THINWIRE_FAULTS=1")

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(thinwire.__file__).parents[1]),
}

Line = dict[str, Any]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "thinwire", "federation", *map(str, arguments)]


def answer(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


def ask(*arguments: object) -> str:
    done = answer(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait(until: Callable[[], Any], what: str, seconds: float = 180.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := until()):
        assert time.monotonic() < end, f"{what}: it took longer than {seconds:g} s"
        time.sleep(0.1)
    return found


@dataclass
class Federation:
    """The folder, and its foreground commands."""

    folder: Path
    names: Sequence[str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def server(self) -> Path:
        return self.folder / "server"

    def site(self, name: str) -> Path:
        return self.folder / "sites" / name

    def start(self, name: str, **environment: str) -> None:
        """serve, or join of a site."""
        action, folder = ("serve", self.server) if name == "server" else ("join", self.site(name))
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command(action, folder),
                env={**ENVIRONMENT, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def end(self, name: str) -> None:
        """SIGTERM to one of the commands, which ends what it started."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        process.wait(60)

    def stop(self) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            process.wait(60)
        for name in self.names:
            if (found := trainer.running(self.site(name))) is not None:
                os.kill(found, signal.SIGKILL)

    def said(self, name: str) -> str:
        """What serve or join printed so far."""
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

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

    def online(self) -> int:
        """How many sites the server knows to be there."""
        return answer("status", self.server).stdout.count(": online")

    def all_online(self) -> None:
        wait(lambda: self.online() == len(self.names), "every site online")

    def submit(self, *arguments: object) -> Path:
        return Path(ask("submit", self.server, *arguments).rpartition(": ")[2].strip())

    def lines(self, run: Path) -> list[Line]:
        """The lines of metrics.jsonl that are whole."""
        path = run / "metrics.jsonl"
        texts = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(text) for text in texts if text.endswith("\n")]

    def counted(self, run: Path) -> int:
        return max((line["round"] for line in self.lines(run) if line.get("status") == "counted"), default=0)

    def statuses(self, run: Path, name: str) -> list[str]:
        """What became of a site's uploads, in the order of metrics.jsonl."""
        return [line["status"] for line in self.lines(run) if line.get("client") == name]

    def ended(self) -> bool:
        """Whether no ServerApp runs any more."""
        return not self.children("flwr-serverapp", self.server)

    def finished(self, run: Path, seconds: float = 400) -> bytes:
        """The adapter of a finished run."""
        wait(lambda: (run / "summary.json").exists(), "the run", seconds)
        return (run / "adapter" / "adapter_model.safetensors").read_bytes()

    def rules(self, **changes: Any) -> None:
        opened = open_server(self.server)
        values = {**asdict(opened.rules), **changes}
        (self.server / "server.toml").write_text(tomli_w.dumps({**asdict(opened.link), "rules": values}))

    def traffic(self) -> Line | None:
        """Flower's own count of the newest run's bytes, once it ended."""
        newest = json.loads(ask("status", self.server, "--json"))["runs"][0]
        return newest["network-traffic"] if str(newest["status"]).startswith("finished") else None


def made(folder: Path, names: Sequence[str], recipe: Path, *more: object, address: str = "") -> Federation:
    """A new federation's folder; nothing runs yet."""
    where = address or f"localhost:{free_port()}"
    ask("init", folder, "--address", where, "--host", "127.0.0.1", "--sites", *names, "--recipe", recipe, *more)
    return Federation(folder, names)


def furnish(site: Path, name: str, place: Path) -> None:
    """A site's own records, and where the tiny base is."""
    (site / "data").mkdir()
    for split in ("train", "validation", "test"):
        shutil.copy(place / "data" / f"{name}.{split}.jsonl", site / "data")
    text = (site / "site.toml").read_text().replace('name = "embedded"', f'name = "{place / "model"}"')
    (site / "site.toml").write_text(text)


@contextmanager
def everyone(federation: Federation) -> Iterator[Federation]:
    """All processes, until the end of the block."""
    try:
        for name in ("server", *federation.names):
            federation.start(name)
        wait(lambda: "serving" in federation.said("server"), "the server")
        federation.all_online()
        yield federation
    finally:
        federation.stop()
