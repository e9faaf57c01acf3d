"""What a site keeps of a run on its own disk: one file, replaced as a whole, keyed by federation and run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thinwire.adapters import Adapters
from thinwire.engine import ClientState
from thinwire.federation.settings import WORD
from thinwire.identity import Identity, check_same
from thinwire.settings import ConfigError
from thinwire.storage.clients import below, client_state, client_tensors
from thinwire.storage.files import flush, write_whole

FORMAT = 1
STATE, RECIPE, IDENTITY = "state.safetensors", "recipe.json", "identity.json"


class StoreError(RuntimeError):
    """The state on disk cannot be used; the text says why."""


@dataclass(frozen=True)
class SiteState:
    """held: the global adapters of `version`. The last upload was of round `round` (-1: none) and is provisional.

    counted, lost: the client's state if that upload counted, and if it did not; facts, upload: what was sent.
    """

    held: Adapters
    version: int | None = None
    counted: ClientState = field(default_factory=ClientState)
    lost: ClientState = field(default_factory=ClientState)
    round: int = -1
    asked: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    upload: bytes = b""

    def settled(self, counted: int) -> ClientState:
        """The client's state, now that the server says which round's upload of this site was the last that counted."""
        return self.counted if counted == self.round else self.lost


@dataclass(frozen=True)
class Store:
    """The folder of one run: `<site>/state/<federation>/<run>`."""

    folder: Path

    def save(self, saved: SiteState) -> None:
        """Replace the state, whole or not at all. Raises: OSError that names the file."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        writing = self.folder / f".{STATE}.writing"
        try:
            save_file(flatten(saved), writing, metadata={"thinwire": json.dumps(describe(saved))})
            flush(writing)
        except SafetensorError as error:  # a full disk, in its words
            writing.unlink(missing_ok=True)
            raise OSError(f"{self.folder / STATE}: {error}") from error
        except BaseException:
            writing.unlink(missing_ok=True)
            raise
        os.replace(writing, self.folder / STATE)
        flush(self.folder)

    def load(self, start: Adapters) -> SiteState:
        """The state; a new one, which holds nothing, if there is none. Raises: StoreError for damage."""
        path = self.folder / STATE
        if not path.exists():
            return SiteState(start)
        try:
            return unflatten(*read(path), start)
        except Exception as error:  # whatever is wrong with the file: it cannot be used
            raise StoreError(f"{path}: {error or type(error).__name__}") from None

    def save_recipe(self, values: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / RECIPE, json.dumps(values).encode())

    def same(self, now: Identity, may_change: bool) -> list[str]:
        """Keep the fingerprints of this site's records; what to note if others were kept before.

        Raises: ConfigError if they differ and may not.
        """
        path, told = self.folder / IDENTITY, []
        if path.exists() or (self.folder / STATE).exists():
            before = json.loads(path.read_text()) if path.exists() else None
            accepted = {"data", "clients"} if may_change else ()
            told = check_same(before, now, accepted, "this site", "data.may_change = true in site.toml")
        content = json.dumps(now).encode()
        if not path.exists() or path.read_bytes() != content:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        return told

    def recipe(self) -> dict[str, Any] | None:
        """The recipe the server sent for this run, None if it did not yet."""
        path = self.folder / RECIPE
        return json.loads(path.read_text()) if path.exists() else None


def store(site: Path, federation: str, run: str) -> Store:
    """The store of a run. Raises: ConfigError for a name that is not a plain word."""
    for what, name in (("federation", federation), ("run", run)):
        if not WORD.fullmatch(name):
            raise ConfigError(f"{what} {name!r}: allowed are letters, digits, dot, dash and underscore")
    return Store(site / "state" / federation / run)


def forget(site: Path, federation: str, run: str | None) -> list[Path]:
    """Delete the state of one run, or of all runs of the federation; what was deleted. The audit log stays."""
    folder = store(site, federation, run or "all").folder
    gone = [folder] if run else sorted(folder.parent.glob("*"))
    gone = [path for path in gone if path.exists()]
    for path in gone:
        shutil.rmtree(path)
    return gone


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a state file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as stream:
        manifest = json.loads(stream.metadata()["thinwire"])
        if manifest.get("format") != FORMAT:
            raise ValueError(f"format {manifest.get('format')}, this version reads {FORMAT}")
        return {name: stream.get_tensor(name) for name in stream.keys()}, manifest  # noqa: SIM118


def describe(saved: SiteState) -> dict[str, Any]:
    """The part of a state that is not a tensor."""
    clients = {slot: getattr(saved, slot).version for slot in ("counted", "lost")}
    plain = {name: getattr(saved, name) for name in ("version", "round", "asked", "facts")}
    return {"format": FORMAT, "clients": clients, **plain}


def flatten(saved: SiteState) -> dict[str, Tensor]:
    """Every tensor of a state by the JSON of its path."""
    paths: dict[tuple[str, ...], Tensor] = {("held", *key): tensor for key, tensor in saved.held.items()}
    for slot in ("counted", "lost"):
        paths |= client_tensors(getattr(saved, slot), "client", slot)
    if saved.upload:
        paths["upload",] = torch.frombuffer(bytearray(saved.upload), dtype=torch.uint8)
    return {json.dumps(path): tensor.detach().cpu().contiguous().clone() for path, tensor in paths.items()}


def unflatten(tensors: Mapping[str, Tensor], manifest: Mapping[str, Any], start: Adapters) -> SiteState:
    """The state that `flatten` and `describe` came from."""
    paths = {tuple(json.loads(text)): tensor for text, tensor in tensors.items()}
    clients = {
        slot: client_state(paths, version, start, "client", slot) for slot, version in manifest["clients"].items()
    }
    upload = paths.get(("upload",))
    return SiteState(
        start.put(below(paths, "held")),
        manifest["version"],
        clients["counted"],
        clients["lost"],
        manifest["round"],
        manifest["asked"],
        manifest["facts"],
        b"" if upload is None else upload.numpy().tobytes(),
    )
