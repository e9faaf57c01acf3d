"""What an operator asks of a running server, through Flower's own command line."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from thinwire.config import Recipe
from thinwire.flower.folder import CA, ServerFolder, toml
from thinwire.flower.processes import environment, program
from thinwire.settings import ConfigError
from thinwire.simulation.directory import RunDirectory

CONNECTION = "thinwire"

APP = {
    "project": {"name": "thinwire-run", "version": "1.0.0", "description": "thinwire's apps; the code is installed"},
    "tool.flwr.app": {"publisher": "thinwire"},
    "tool.flwr.app.components": {"serverapp": "serverside:app", "clientapp": "clientside:app"},
    "tool.flwr.app.config": {"recipe": "", "rules": "", "output": ""},
}
MODULES = {"serverside": "thinwire.flower.server_app", "clientside": "thinwire.flower.client_app"}


class ControlError(RuntimeError):
    """Flower refused what was asked; the text is Flower's."""


def flwr(server: ServerFolder, *arguments: str, timeout: float = 120.0) -> Any:
    """Flower's command with JSON output. Raises: ControlError."""
    connect(server)
    command, clean = [program("flwr"), *arguments, "--format", "json"], environment(home(server))
    done = subprocess.run(command, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
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
    (home(server) / "config.toml").write_text(
        toml({"superlink": {"default": CONNECTION}, f"superlink.{CONNECTION}": connection})
    )


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


def submit(server: ServerFolder, recipe: Recipe, output: Path) -> str:
    """Start a run of the recipe, or go on with the one in `output`; Flower's id of it. Raises: ControlError."""
    app = server.path / "app"
    app.mkdir(exist_ok=True)
    (app / "pyproject.toml").write_text(toml(APP))
    for name, module in MODULES.items():
        (app / f"{name}.py").write_text(f"import {module} as installed\n\napp = installed.app\n")
    texts = {"recipe": json.dumps(asdict(recipe)), "rules": json.dumps(asdict(server.rules))}
    settings = app.parent / "submitted.toml"
    settings.write_text(toml({**texts, "output": str(output.resolve())}))
    return str(flwr(server, "run", str(app), CONNECTION, "--run-config", str(settings))["run-id"])


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
    if not (path / "config.json").exists():
        raise ConfigError(f"{path}: no run there")
    return {
        "run": str(path),
        "round": max((line["round"] + 1 for line in counted), default=0),
        "rounds": recipe.federation.rounds,
        "loss": next((line["loss"] for line in reversed(lines) if "evaluation" in line), None),
        "epsilon": next((line["epsilon"] for line in reversed(lines) if "epsilon" in line), None),
        "finished": (path / "summary.json").exists(),
    }
