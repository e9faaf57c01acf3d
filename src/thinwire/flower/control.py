"""What an operator asks of a running server, through Flower's own command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from thinwire.flower.folder import CA, ServerFolder
from thinwire.flower.processes import environment, program
from thinwire.storage.directory import RunDirectory, write_json
from thinwire.storage.files import write_whole

CONNECTION, RUNS = "thinwire", "flower.json"

APP = {
    "project": {"name": "thinwire-run", "version": "1.0.0", "description": "thinwire's apps; the code is installed"},
    "tool": {
        "flwr": {
            "app": {
                "publisher": "thinwire",
                "components": {"serverapp": "serverside:app", "clientapp": "clientside:app"},
                "config": {"rules": "", "output": ""},
            }
        }
    },
}
MODULES = {"serverside": "thinwire.flower.server_app", "clientside": "thinwire.flower.client_app"}


class ControlError(RuntimeError):
    """Flower refused what was asked; the text is Flower's."""


def flwr(server: ServerFolder, *arguments: str, timeout: float = 120.0) -> Any:
    """Flower's command with JSON output. Raises: ControlError."""
    connect(server)
    command, clean = [program("flwr"), *arguments, "--format", "json"], environment(home(server))
    try:
        done = subprocess.run(
            command, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise ControlError(f"no answer to flwr {arguments[0]} after {timeout:g} s") from None
    try:
        answer = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        words = " ".join((done.stderr or done.stdout).split())
        raise ControlError(words or f"flwr ended with {done.returncode}") from None
    if not answer.get("success", True):
        raise ControlError(str(answer.get("error-message", answer)))
    return answer


def home(server: ServerFolder) -> Path:
    return server.path / "flower"


def connect(server: ServerFolder) -> None:
    """Tell Flower's command line where the server is."""
    home(server).mkdir(exist_ok=True)
    connection = {"address": server.link.local, "root-certificates": str(server.path / CA)}
    text = tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}})
    put(home(server) / "config.toml", text)


def put(path: Path, text: str) -> None:
    """Make a file hold the text; one that does already is left alone, as another command may read it now."""
    if not path.exists() or path.read_text() != text:
        write_whole(path, text.encode())


def register(server: ServerFolder) -> list[str]:
    """Make the keys in `nodes/` known to the SuperLink; the sites that were new to it."""
    new = []
    for name in server.sites:
        mark = server.path / "nodes" / f"{name}.id"
        if mark.exists():
            continue
        key = server.path / "nodes" / f"{name}.pub"
        answer = flwr(server, "supernode", "register", str(key), CONNECTION, "--name", name)
        mark.write_text(f"{answer['node-id']}\n")
        new.append(name)
    return new


def submit(server: ServerFolder, output: Path) -> str:
    """Start the run in a directory, or go on with it; Flower's id, noted in the directory too. Raises: ControlError."""
    app = server.path / "app"
    app.mkdir(exist_ok=True)
    put(app / "pyproject.toml", tomli_w.dumps(APP))
    for name, module in MODULES.items():
        put(app / f"{name}.py", f"import {module} as installed\n\napp = installed.app\n")
    settings = output / "submitted.toml"
    put(settings, tomli_w.dumps({"rules": json.dumps(asdict(server.rules)), "output": str(output.resolve())}))
    run = str(flwr(server, "run", str(app), CONNECTION, "--run-config", str(settings))["run-id"])
    write_json(output / RUNS, [*flower_runs(output), run])
    return run


def flower_runs(output: Path) -> list[str]:
    """Flower's ids of a run directory's submissions, oldest first."""
    path = output / RUNS
    return list(json.loads(path.read_text())) if path.exists() else []


def runs(server: ServerFolder) -> list[dict[str, Any]]:
    """Flower's runs, newest first."""
    return list(flwr(server, "list", CONNECTION)["runs"])


def nodes(server: ServerFolder) -> list[dict[str, Any]]:
    """The registered nodes by the site's name, and whether they are online."""
    names = {path.read_text().strip(): path.stem for path in (server.path / "nodes").glob("*.id")}
    found = flwr(server, "supernode", "list", CONNECTION)["nodes"]
    return [{"name": names.get(str(node["node-id"]), node["node-id"]), **node} for node in found]


def stop(server: ServerFolder, run: str) -> None:
    """End one of Flower's runs; its run directory can be submitted again."""
    flwr(server, "stop", run, CONNECTION)


def progress(path: Path) -> dict[str, Any]:
    """How far a run directory is. Raises: ConfigError if it is none."""
    directory = RunDirectory(path)
    recipe = directory.recipe()
    lines = directory.lines()
    counted = [line for line in lines if line.get("status") == "counted"]
    return {
        "run": str(path),
        "round": max((line["round"] for line in counted), default=0),
        "rounds": recipe.federation.rounds,
        "loss": next((line["loss"] for line in reversed(lines) if "evaluation" in line), None),
        "epsilon": next((line["epsilon"] for line in reversed(lines) if "epsilon" in line), None),
        "finished": (path / "summary.json").exists(),
    }


def overview(path: Path, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far a run directory is, with both counts of its bytes. Raises: ConfigError if it is none."""
    return {**progress(path), **bytes_of(path), "flower": traffic(path, runs)}


def bytes_of(path: Path) -> dict[str, int]:
    """thinwire's count of a run's bytes: all of a finished one, of another one those before its last checkpoint."""
    from thinwire.storage.checkpoint import checkpoints, read_manifest

    summary = path / "summary.json"
    if summary.exists():
        found = json.loads(summary.read_text())
    else:
        totals = [read_manifest(folder)["totals"] for folder in checkpoints(RunDirectory(path).checkpoints)]
        found = totals[-1] if totals else {"bytes_up": 0, "bytes_down": 0}
    return {name: found[name] for name in ("bytes_up", "bytes_down")}


def traffic(path: Path, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Flower's count of a run directory's bytes, over all its submissions; None if the server forgot one of them."""
    known = {str(run["run-id"]): run["network-traffic"] for run in runs}
    ids = flower_runs(path)
    if not ids or not known.keys() >= set(ids):
        return None
    return {
        "runs": ids,
        "bytes_up": sum(known[number]["inbound-bytes"] for number in ids),
        "bytes_down": sum(known[number]["outbound-bytes"] for number in ids),
    }
