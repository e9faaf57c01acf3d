"""What every client keeps: in files since the last checkpoint, in memory only what has changed since then."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from thinwire.adapters import Adapters, Change
from thinwire.engine import ClientState
from thinwire.storage.files import digest, flush, write_whole

SUFFIX = ".safetensors"

Paths = Mapping[tuple[str, ...], Tensor]
"""Tensors by where they belong, as ("residual", module, part)."""


class DamagedClient(OSError):
    """A client's file is missing or does not hold what was written; the text names the client and the file."""


@dataclass(frozen=True)
class ClientFiles:
    """A client's part of a checkpoint. file: its tensors, named by their SHA-256; None for one that keeps no tensor."""

    version: int | None = None
    file: Path | None = None


@dataclass(frozen=True, eq=False)
class ClientStore(Mapping[str, ClientState]):
    """Every client's state by name, read from its file when asked for; memory is that of the states that changed.

    start: what the seed gives; changed: what `write` would write. Never mutated.
    """

    start: Adapters
    saved: Mapping[str, ClientFiles]
    changed: Mapping[str, ClientState] = field(default_factory=dict)

    def __getitem__(self, name: str) -> ClientState:
        if name in self.changed:
            return self.changed[name]
        saved = self.saved[name]
        tensors = read(name, saved.file) if saved.file else {}
        return client_state(tensors, saved.version, self.start)

    def __iter__(self) -> Iterator[str]:
        return iter({**self.saved, **self.changed})

    def __len__(self) -> int:
        return len({**self.saved, **self.changed})

    def version(self, name: str) -> int | None:
        """The version of the global adapters that a client holds, None before it took part; no file is read."""
        return self.changed[name].version if name in self.changed else self.saved[name].version

    def put(self, states: Mapping[str, ClientState]) -> ClientStore:
        """The store with these clients' states in place of their old ones; nothing is written."""
        return replace(self, changed={**self.changed, **states})

    def of(self, names: Iterable[str]) -> ClientStore:
        """The store of these clients alone; those that it does not know have not taken part yet."""
        names = dict.fromkeys(names)
        changed = {name: state for name, state in self.changed.items() if name in names}
        return replace(self, saved={name: self.saved.get(name, ClientFiles()) for name in names}, changed=changed)

    def write(self, folder: Path) -> ClientStore:
        """The store with all that changed in files of `folder`, durably. Files that are there are left as they are."""
        folder.mkdir(exist_ok=True)
        saved = {name: ClientFiles(state.version, write(state, folder)) for name, state in self.changed.items()}
        flush(folder)
        return replace(self, saved={**self.saved, **saved}, changed={})

    def verify(self) -> None:
        """Read every file once, in the memory of none. Raises: DamagedClient."""
        for name, saved in self.saved.items():
            if saved.file and not (saved.file.is_file() and digest(saved.file) == saved.file.stem):
                raise damaged(name, saved.file)


def write(state: ClientState, folder: Path) -> Path | None:
    """Write a state's tensors, if it has any, to a file of `folder` named by its SHA-256."""
    from safetensors.torch import save

    tensors = {json.dumps(path): tensor.detach().contiguous().clone() for path, tensor in client_tensors(state).items()}
    if not tensors:
        return None
    content = save(tensors)
    path = folder / f"{hashlib.sha256(content).hexdigest()}{SUFFIX}"
    write_whole(path, content)
    return path


def read(name: str, path: Path) -> Paths:
    """A client's tensors from its file. Raises: DamagedClient."""
    from safetensors.torch import load

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    if hashlib.sha256(content).hexdigest() != path.stem:
        raise damaged(name, path)
    return {tuple(json.loads(text)): tensor.clone() for text, tensor in load(content).items()}  # where torch aligns it


def damaged(name: str, path: Path) -> DamagedClient:
    what = "its checksum does not match" if path.is_file() else "it is missing"
    return DamagedClient(f"client {name}: its file {path} is damaged: {what}")


def client_tensors(state: ClientState, *prefix: str) -> Paths:
    """Every tensor of a client's state, under a prefix."""
    paths = {(*prefix, "residual", *key): tensor for key, tensor in state.residual.items()}
    paths |= {(*prefix, "optimizer", key): tensor for key, tensor in state.optimizer.items()}
    for slot, adapters in state.memory.items():
        paths |= {(*prefix, "memory", slot, *key): tensor for key, tensor in adapters.items()}
    return paths


def client_state(paths: Paths, version: int | None, start: Adapters, *prefix: str) -> ClientState:
    """The state that `client_tensors` came from; `start` gives what the seed gives."""
    own = {path[len(prefix) :]: tensor for path, tensor in paths.items() if path[: len(prefix)] == prefix}
    slots = {path[1] for path in own if path[0] == "memory"}
    return ClientState(
        version=version,
        memory={slot: start.put(below(own, "memory", slot)) for slot in sorted(slots)},
        residual=below(own, "residual"),
        optimizer={path[1]: tensor for path, tensor in own.items() if path[0] == "optimizer"},
    )


def below(paths: Paths, *prefix: str) -> Change:
    """The tensors under a prefix, by key."""
    size = len(prefix)
    return {(path[size], path[size + 1]): tensor for path, tensor in paths.items() if path[:size] == prefix}
