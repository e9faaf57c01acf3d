"""Checkpoints, the last two kept: the server's state, a manifest, and the files of clients, which checkpoints share.

    checkpoint/000041/server.safetensors    the server: adapters, residual, broadcasts, moments
    checkpoint/000041/manifest.json         round, totals, the server file's SHA-256, version and file of each client
    checkpoint/clients/SHA256.safetensors   what a client keeps, written when the client took part

Client files come first, then the round's folder in one rename, then what neither checkpoint needs is deleted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thinwire.adapters import Adapters
from thinwire.engine import Server
from thinwire.storage.clients import SUFFIX, ClientFiles, ClientStore, Paths, below
from thinwire.storage.files import digest, flush
from thinwire.storage.state import State, Totals
from thinwire.wire import readable

FORMAT = 2
KEPT = 2
SERVER, MANIFEST, CLIENTS = "server.safetensors", "manifest.json", "clients"


class CheckpointError(RuntimeError):
    """No checkpoint of the directory can be used; the text says why for each."""


def save(state: State, folder: Path, identity: Mapping[str, Any] | None = None) -> State:
    """Write `folder/<round>/`, whole or not at all; the state with its clients in files.

    identity: the fingerprints of what the state was computed from.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = dataclasses.replace(state, clients=state.clients.write(folder / CLIENTS))
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover)
    writing = folder / f".writing-{state.round:06d}"
    writing.mkdir()
    save_file(flatten(state), writing / SERVER)
    manifest = {**describe(state), "sha256": digest(writing / SERVER), "identity": identity}
    (writing / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in writing.iterdir():
        flush(path)
    final = folder / f"{state.round:06d}"
    shutil.rmtree(final, ignore_errors=True)
    os.replace(writing, final)
    flush(folder)
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)
    sweep(folder)
    return state


def sweep(folder: Path) -> None:
    """Delete the client files, and what a kill left half written, that no checkpoint needs."""
    needed = {name for path in checkpoints(folder) for name in client_files(path)}
    for path in (folder / CLIENTS).iterdir():
        if path.name not in needed:
            path.unlink()


def client_files(path: Path) -> Iterator[str]:
    """Names of the client files that a checkpoint needs; none if its manifest cannot be read."""
    try:
        clients = read_manifest(path)["clients"].values()
    except (OSError, ValueError):
        return
    yield from (f"{client['sha256']}{SUFFIX}" for client in clients if client["sha256"])


def load(folder: Path, start: Adapters, seed: int, run: int | None = None) -> tuple[State, list[str]]:
    """The newest whole checkpoint, and why newer ones were passed over. Raises: CheckpointError if there is none.

    run: the id that the run has from now on; None: as it was.
    """
    problems: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            return read(path, start, seed, run), problems
        except Exception as error:  # any damage means: take the previous one
            problems.append(f"{path.name}: {error or type(error).__name__}")
    raise CheckpointError("; ".join(problems) or f"no checkpoint in {folder}")


def identity(folder: Path) -> dict[str, Any] | None:
    """The fingerprints in the newest manifest that can be read; None if it has none, or there is no such manifest."""
    for path in reversed(checkpoints(folder)):
        try:
            return read_manifest(path).get("identity")
        except (OSError, ValueError):
            continue
    return None


def checkpoints(folder: Path) -> list[Path]:
    """Folders of finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def read(path: Path, start: Adapters, seed: int, run: int | None) -> State:
    """The state of one checkpoint folder. Raises: ValueError for another format, OSError or ValueError for damage."""
    from safetensors.torch import load_file

    manifest = read_manifest(path)
    if digest(path / SERVER) != manifest["sha256"]:
        raise ValueError("damaged: its checksum does not match")
    tensors = {tuple(json.loads(text)): tensor for text, tensor in load_file(path / SERVER).items()}
    clients = ClientStore(start, {name: saved(client, path) for name, client in manifest["clients"].items()})
    clients.verify()
    return unflatten(tensors, manifest, clients, start, seed, run)


def read_manifest(path: Path) -> dict[str, Any]:
    """A checkpoint's manifest. Raises: ValueError for another format or damage, OSError if it cannot be read."""
    manifest = json.loads((path / MANIFEST).read_text())
    if manifest.get("format") != FORMAT:
        raise ValueError(f"format {manifest.get('format')}, this version reads {FORMAT}")
    return manifest


def saved(client: dict[str, Any], path: Path) -> ClientFiles:
    """A client's entry in the manifest of the checkpoint `path`."""
    digest = client["sha256"]
    return ClientFiles(client["version"], path.with_name(CLIENTS) / f"{digest}{SUFFIX}" if digest else None)


def describe(state: State) -> dict[str, Any]:
    """The part of a state that is not a tensor, and where its clients' are."""
    return {
        "format": FORMAT,
        "run": state.server.run,
        "round": state.round,
        "version": state.server.version,
        "held_version": state.held_version,
        "clients": {
            name: {"version": client.version, "sha256": client.file.stem if client.file else None}
            for name, client in state.clients.saved.items()
        },
        "totals": dataclasses.asdict(state.totals),
        "best": {"round": state.best_round, "loss": state.best_loss} if state.best_round else None,
    }


def flatten(state: State) -> dict[str, Tensor]:
    """Every tensor of a state but its clients', by the JSON of its path."""
    paths: dict[tuple[str, ...], Tensor] = {}
    paths |= {("server", "adapters", *key): tensor for key, tensor in state.server.adapters.items()}
    paths |= {("server", "residual", *key): tensor for key, tensor in state.server.residual.items()}
    for name, means in state.server.moments.items():
        paths |= {("server", "moments", name, *key): tensor for key, tensor in means.items()}
    paths |= {("held", *key): tensor for key, tensor in state.held.items()}
    for version, blob in state.server.broadcasts.items():
        paths["log", str(version)] = torch.frombuffer(bytearray(blob), dtype=torch.uint8)
    return {json.dumps(path): tensor.detach().contiguous().clone() for path, tensor in paths.items()}


def unflatten(
    paths: Paths, manifest: dict[str, Any], clients: ClientStore, start: Adapters, seed: int, run: int | None
) -> State:
    """The state that `flatten` and `describe` came from; `start` gives what the seed gives.

    Broadcasts of an earlier format, or under another run's id, are dropped: who missed one is sent the
    state, which holds the same bits.
    """
    run = manifest.get("run", seed) if run is None else run
    log = {int(path[1]): tensor.numpy().tobytes() for path, tensor in paths.items() if path[0] == "log"}
    log = {version: blob for version, blob in log.items() if readable(blob, run)}
    moments = {path[2] for path in paths if path[:2] == ("server", "moments")}
    server = Server(
        run=run,
        seed=seed,
        start=start,
        adapters=start.put(below(paths, "server", "adapters")),
        version=manifest["version"],
        residual=below(paths, "server", "residual"),
        broadcasts=dict(sorted(log.items())),
        moments={name: below(paths, "server", "moments", name) for name in sorted(moments)},
    )
    best_round, best_loss = best_of(manifest)
    return State(
        round=manifest["round"],
        server=server,
        held=start.put(below(paths, "held")),
        clients=clients,
        held_version=manifest["held_version"],
        totals=Totals(**manifest["totals"]),
        best_round=best_round,
        best_loss=best_loss,
    )


def best_of(manifest: dict[str, Any]) -> tuple[int, float]:
    """The best round, from 1, and its loss. Earlier manifests have `best_round`, from 0."""
    if "best" not in manifest:
        manifest = {"best": {"round": manifest["best_round"] + 1, "loss": manifest["best_loss"]}}
    best = manifest["best"]
    return (best["round"], best["loss"]) if best and best["round"] else (0, float("inf"))
