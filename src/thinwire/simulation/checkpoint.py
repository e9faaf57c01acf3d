"""Checkpoints: the whole state of a run as a safetensors file and a manifest, written atomically, the last two kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thinwire.adapters import Adapters, Change
from thinwire.engine import ClientState, Server
from thinwire.simulation.rounds import State, Totals

FORMAT = 1
KEPT = 2


class CheckpointError(RuntimeError):
    """No checkpoint of the directory can be used; the text says why for each."""


def save(state: State, folder: Path) -> None:
    """Write `folder/<round>/`, whole or not at all, and delete all but the last two."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover)
    writing = folder / f".writing-{state.round:06d}"
    writing.mkdir()
    save_file(flatten(state), writing / "state.safetensors")
    manifest = {**describe(state), "sha256": digest(writing / "state.safetensors")}
    (writing / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for path in writing.iterdir():
        flush(path)
    final = folder / f"{state.round:06d}"
    shutil.rmtree(final, ignore_errors=True)
    os.replace(writing, final)
    flush(folder)
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)


def load(folder: Path, start: Adapters, run: int) -> tuple[State, list[str]]:
    """The newest whole checkpoint, and why newer ones were passed over. Raises: CheckpointError if there is none."""
    problems: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            return read(path, start, run), problems
        except Exception as error:  # any damage means: take the previous one
            problems.append(f"{path.name}: {error or type(error).__name__}")
    raise CheckpointError("; ".join(problems) or f"no checkpoint in {folder}")


def checkpoints(folder: Path) -> list[Path]:
    """Folders of finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def read(path: Path, start: Adapters, run: int) -> State:
    """The state of one checkpoint folder. Raises: ValueError for another format, OSError or ValueError for damage."""
    from safetensors.torch import load_file

    manifest = json.loads((path / "manifest.json").read_text())
    if manifest.get("format") != FORMAT:
        raise ValueError(f"format {manifest.get('format')}, this version reads {FORMAT}")
    if digest(path / "state.safetensors") != manifest["sha256"]:
        raise ValueError("damaged: its checksum does not match")
    return unflatten(load_file(path / "state.safetensors"), manifest, start, run)


def describe(state: State) -> dict[str, Any]:
    """The part of a state that is no tensor."""
    return {
        "format": FORMAT,
        "round": state.round,
        "version": state.server.version,
        "held_version": state.held_version,
        "clients": {name: client.version for name, client in state.clients.items()},
        "totals": dataclasses.asdict(state.totals),
        "best_round": state.best_round,
        "best_loss": state.best_loss if state.best_round >= 0 else None,
    }


def flatten(state: State) -> dict[str, Tensor]:
    """Every tensor of a state by the JSON of its path."""
    paths: dict[tuple[str, ...], Tensor] = {}
    paths |= {("server", "adapters", *key): tensor for key, tensor in state.server.adapters.items()}
    paths |= {("server", "residual", *key): tensor for key, tensor in state.server.residual.items()}
    paths |= {("held", *key): tensor for key, tensor in state.held.items()}
    for version, blob in state.server.log.items():
        paths["log", str(version)] = torch.frombuffer(bytearray(blob), dtype=torch.uint8)
    for name, client in state.clients.items():
        paths |= {("client", name, "residual", *key): tensor for key, tensor in client.residual.items()}
        paths |= {("client", name, "optimizer", key): tensor for key, tensor in client.optimizer.items()}
        for slot, adapters in client.memory.items():
            paths |= {("client", name, "memory", slot, *key): tensor for key, tensor in adapters.items()}
    return {json.dumps(path): tensor.detach().contiguous().clone() for path, tensor in paths.items()}


def unflatten(tensors: Mapping[str, Tensor], manifest: Mapping[str, Any], start: Adapters, run: int) -> State:
    """The state that `flatten` and `describe` came from; `start` gives what the seed gives."""
    paths = {tuple(json.loads(text)): tensor for text, tensor in tensors.items()}
    log = {int(path[1]): tensor.numpy().tobytes() for path, tensor in paths.items() if path[0] == "log"}
    server = Server(
        run=run,
        start=start,
        adapters=start.put(below(paths, "server", "adapters")),
        version=manifest["version"],
        residual=below(paths, "server", "residual"),
        log=dict(sorted(log.items())),
    )
    clients = {name: client_state(paths, name, version, start) for name, version in manifest["clients"].items()}
    best = manifest["best_loss"]
    return State(
        round=manifest["round"],
        server=server,
        held=start.put(below(paths, "held")),
        clients=clients,
        held_version=manifest["held_version"],
        totals=Totals(**manifest["totals"]),
        best_round=manifest["best_round"],
        best_loss=float("inf") if best is None else best,
    )


def client_state(
    paths: Mapping[tuple[str, ...], Tensor], name: str, version: int | None, start: Adapters
) -> ClientState:
    """One client's part of the state."""
    slots = {path[3] for path in paths if path[:3] == ("client", name, "memory")}
    optimizer = {path[3]: tensor for path, tensor in paths.items() if path[:3] == ("client", name, "optimizer")}
    return ClientState(
        version=version,
        memory={slot: start.put(below(paths, "client", name, "memory", slot)) for slot in sorted(slots)},
        residual=below(paths, "client", name, "residual"),
        optimizer=optimizer,
    )


def below(paths: Mapping[tuple[str, ...], Tensor], *prefix: str) -> Change:
    """The tensors under a prefix, by key."""
    size = len(prefix)
    return {(path[size], path[size + 1]): tensor for path, tensor in paths.items() if path[:size] == prefix}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Make a file or folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
