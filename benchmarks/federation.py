"""A federation of real processes on this machine for the benchmarks: SuperLink, SuperNodes, TLS, node keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from relay import link, passed

import thinwire
from thinwire.flower import apps, control
from thinwire.flower.folder import LINK, ServerFolder, open_server
from thinwire.flower.processes import free_port

APPS = Path(__file__).parent / "apps"
KINDS = {
    "thinwire.flower.superlink": "SuperLink",
    "thinwire.flower.supernode": "SuperNode",
    "flower-superexec": "executor",
    "flwr-serverapp": "ServerApp",
    "flwr-clientapp": "ClientApp",
    "thinwire.federation.trainer": "resident trainer",
    "thinwire federation serve": "thinwire serve",
    "thinwire federation join": "thinwire join",
}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "thinwire", "federation", *map(str, arguments)]


def environment(threads: int = 1) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(thinwire.__file__).parents[1]), "OMP_NUM_THREADS": str(threads)}


def ask(*arguments: object) -> str:
    return subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True)
class Federation:
    """The folder of `thinwire federation init`, and the names of its sites."""

    folder: Path
    sites: tuple[str, ...]

    @property
    def server(self) -> ServerFolder:
        return open_server(self.folder / "server")

    def site(self, name: str) -> Path:
        return self.folder / "sites" / name

    def log(self, name: str) -> Path:
        """Of the site's link."""
        return self.folder / f"{name}.link"


def create(folder: Path, count: int, host: str = "localhost") -> Federation:
    """Folders for a server and `count` sites; a round needs all of them."""
    names = tuple(f"site{number}" for number in range(count))
    ask("init", folder, "--address", f"{host}:{free_port()}", "--host", "0.0.0.0", "--sites", *names)
    made = Federation(folder, names)
    link = made.server.link
    values = {"name": link.name, "address": link.address, "host": link.host}
    (folder / "server" / "server.toml").write_text(tomli_w.dumps({**values, "rules": {"quorum": count}}))
    return made


@contextmanager
def running(made: Federation, inside: Sequence[str] = ()) -> Iterator[None]:
    """All processes, until every site is online; the server may use all cores, the sites share them.

    inside: words before a site's command. Raises: TimeoutError after five minutes.
    """
    end = time.monotonic() + 300
    log, cores = (made.folder / "processes.log").open("ab"), os.cpu_count() or 1
    parts = [(command("serve", made.folder / "server"), environment(cores))]
    share = environment(max(1, cores // len(made.sites)))
    parts += [([*inside, *command("join", made.site(name))], share) for name in made.sites]
    started = [subprocess.Popen(part, env=clean, stdout=log, stderr=log) for part, clean in parts]
    try:
        while True:
            status = [*command("status", made.folder / "server")]
            done = subprocess.run(status, env=environment(), capture_output=True, text=True)
            if done.stdout.count("online") == len(made.sites):
                break
            if time.monotonic() > end:
                raise TimeoutError(f"not all sites are online; see {made.folder / 'processes.log'}")
            time.sleep(1)
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)


@contextmanager
def links(made: Federation, megabits: float, round_trip: float) -> Iterator[None]:
    """A slow link for each site, between its SuperNode and the SuperLink."""
    with ExitStack() as stack:
        for name in made.sites:
            port, path = free_port(), made.site(name) / LINK
            stack.enter_context(link(port, made.server.link.listening, made.log(name), megabits, round_trip))
            path.write_text(path.read_text().replace(made.server.link.address, f"localhost:{port}"))
        yield


def play(made: Federation, side: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A run of the apps `SIDE_server` and `SIDE_client`: its lines, Flower's count, and the largest processes in MB."""
    output = made.folder / f"{side}-{len(list(made.folder.glob('*')))}"
    output.mkdir()
    values = {"nodes": len(made.sites), "output": str(output), **settings}
    number = control.start(made.server, app(made, side, values), {})
    stamps = output / "stamps.jsonl"
    peak = watched(made, number, stamps)
    while not ended(made, number):
        time.sleep(1)
    return {"output": output, "lines": lines(stamps), "traffic": traffic(made, number), "megabytes": peak}


def app(made: Federation, side: str, values: Mapping[str, Any]) -> apps.SignedApp:
    """A Flower app with these settings, signed so that the sites run it."""
    table = {
        "project": {"name": f"bench-{side}", "version": "1.0.0", "description": "a benchmark"},
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "thinwire",
                    "components": {"serverapp": f"{side}_server:app", "clientapp": f"{side}_client:app"},
                    "config": dict(values),
                }
            }
        },
    }
    files = {path.name: path.read_bytes() for path in APPS.glob("*.py")}
    signed = apps.signed(files | {"pyproject.toml": tomli_w.dumps(table).encode()}, made.folder / "ca" / apps.SIGNER)
    apps.save(signed, made.server.path)
    return signed


def watched(made: Federation, number: object, stamps: Path) -> dict[str, float]:
    """The largest processes until the ServerApp says that it is done. Raises: RuntimeError if it fails before."""
    peak: dict[str, float] = {}
    looked = time.monotonic()
    while not done(stamps):
        for kind, size in memory(made).items():
            peak[kind] = max(peak.get(kind, 0.0), size)
        time.sleep(0.5)
        if time.monotonic() > looked + 30:
            looked = time.monotonic()
            if ended(made, number) and not done(stamps):
                raise RuntimeError(f"the run failed; see {made.server.path / 'logs'}")
    return peak


def done(stamps: Path) -> bool:
    return any(line["what"] == "done" for line in lines(stamps))


def ended(made: Federation, number: object) -> bool:
    return str(run_of(made, number)["status"]).startswith("finished")


def run_of(made: Federation, number: object) -> dict[str, Any]:
    return next(run for run in control.runs(made.server) if str(run["run-id"]) == str(number))


def traffic(made: Federation, number: object) -> dict[str, int]:
    """Bytes that the sites sent and were sent in a run, as Flower counts them."""
    found = run_of(made, number)["network-traffic"]
    return {"up": int(found["inbound-bytes"]), "down": int(found["outbound-bytes"])}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def processes(made: Federation) -> Iterator[tuple[str, Path]]:
    """Kind and folder under /proc of the federation's processes."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode().replace("\0", " ")
            kind = next((kind for mark, kind in KINDS.items() if mark in words), "")
            if kind and str(made.folder) in words + (path / "environ").read_bytes().decode():
                yield kind, path
        except (OSError, ValueError):
            continue


def memory(made: Federation) -> dict[str, float]:
    """Megabytes that the federation's processes have held at most so far, by kind, the largest of each."""
    found: dict[str, float] = {}
    for kind, path in processes(made):
        with suppress(OSError, IndexError):
            peak = int((path / "status").read_text().split("VmHWM:")[1].split()[0]) / 1000
            found[kind] = max(found.get(kind, 0.0), peak)
    return found


def cpu(made: Federation) -> float:
    """Seconds of computing that the federation's processes have used so far."""
    ticks = 0
    for _, path in processes(made):
        with suppress(OSError):
            words = (path / "stat").read_text().rpartition(")")[2].split()
            ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def crossed(made: Federation, moments: Sequence[float]) -> list[tuple[int, int]]:
    """Bytes on all links, up and down, until each moment."""
    by_site = [passed(made.log(name), moments) for name in made.sites]
    return [(sum(up for up, _ in at), sum(down for _, down in at)) for at in zip(*by_site, strict=True)]
