"""The processes of a federation: offline, with TLS, with node keys, in the foreground."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from thinwire.federation import trainer
from thinwire.federation.settings import load_site
from thinwire.flower import apps
from thinwire.flower.diagnosis import trouble
from thinwire.flower.folder import CA, KEY, LOCAL, OPERATOR, SECRET, ServerFolder
from thinwire.settings import ConfigError
from thinwire.storage.files import write_private

OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
}
"""Set unless the user says otherwise: nothing calls home, and no app brings its own packages."""

PACE = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
"""Also set: seconds between an executor's looks for a message. Flower's own second is felt in every round."""


def environment(home: Path) -> dict[str, str]:
    """For every process of Flower. home: where Flower keeps its own files."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**OFFLINE, **PACE, **os.environ, "FLWR_HOME": str(home), "PATH": path}


def program(name: str) -> str:
    """Flower's program of this environment. Raises: ConfigError if the extra is not installed."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise ConfigError(f"{name} is missing: install the extra, pip install 'thinwire[flower]'")
    return str(path)


def superlink(server: ServerFolder) -> list[str]:
    """The SuperLink behind its gate: a port for sites, one on loopback for the operator and the executor."""
    return [sys.executable, "-m", "thinwire.flower.superlink", str(server.path)]


def superexec(server: ServerFolder) -> list[str]:
    """The executor of ServerApps, a process of its own, so that the SuperLink may die and come back."""
    return [
        program("flower-superexec"),
        *("--runtime-api-address", f"127.0.0.1:{server.local_port}", "--root-certificates", str(server.path / CA)),
        *("--superexec-auth-secret-file", str(server.path / SECRET)),
    ]


def supernode(site: Path) -> list[str]:
    """A site's SuperNode; its ClientApp passes messages to the resident trainer of this folder."""
    return [sys.executable, "-m", "thinwire.flower.supernode", str(site)]


def serve(server: ServerFolder, tend: Callable[[], None]) -> int:
    """SuperLink and executor until a signal; whichever ends is started again. tend: called again and again."""
    complete(server.path, (OPERATOR, SECRET, apps.FOLDER))
    if not (server.path / LOCAL).exists():
        write_private(server.path / LOCAL, str(free_port()).encode())
    commands = {"superlink": superlink(server), "superexec": superexec(server)}
    return supervise(server.path, commands, tend, lambda: "")


def join(site: Path) -> int:
    """SuperNode and resident trainer until a signal. Raises: ConfigError for settings that cannot work."""
    load_site(site)
    complete(site, (CA, KEY, apps.TRUSTED))
    try:
        return supervise(site, {"supernode": supernode(site)}, lambda: None, lambda: trouble(site))
    finally:
        trainer.stop(site)


def complete(folder: Path, names: Sequence[str]) -> None:
    """Raises: ConfigError if a file of `init` is missing, as in a folder of an earlier version."""
    for name in names:
        if not (folder / name).exists():
            raise ConfigError(f"{folder / name}: it is missing; carry the folder here as `federation init` wrote it")


def supervise(
    folder: Path, commands: Mapping[str, Sequence[str]], tend: Callable[[], None], why: Callable[[], str]
) -> int:
    """Run all commands, each with its log in `logs/`, until SIGTERM or SIGINT; one that ends begins again after 2 s.

    tend: called five times a second. why: what may be wrong when a command ended, in words, or nothing.
    """
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopping.append(received))
    running: dict[str, subprocess.Popen[bytes]] = {}
    due = dict.fromkeys(commands, 0.0)
    try:
        while not stopping:
            for name, command in commands.items():
                process = running.get(name)
                if process is not None and process.poll() is not None:
                    reason = why() or f"see {logs / name}.log"
                    warn(f"{name} ended with {process.returncode} and is started again: {reason}")
                    due[name] = time.monotonic() + 2
                    del running[name]
                if name not in running and time.monotonic() >= due[name]:
                    running[name] = launch(command, folder, logs / f"{name}.log")
            tend()
            time.sleep(0.2)
    finally:
        for process in running.values():
            end(process)
    return 0


def warn(text: str) -> None:
    """To whoever looks after a command in the foreground."""
    print(f"thinwire: {text}", file=sys.stderr, flush=True)


def launch(command: Sequence[str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """A process in a group of its own, with its output appended to the log."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            command,
            env=environment(folder / "flower"),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """End a process and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def answered(server: ServerFolder) -> bool:
    """Whether somebody listens on the server's port for the operator."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", server.local_port)) == 0


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
