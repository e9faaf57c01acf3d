"""A federation of three sites, each with a folder of its own, around the tiny run of the simulation's tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.conftest import one_thread, place, recipe, settings, straight_quick
from thinwire.federation import messages
from thinwire.federation.coordinator import Coordinator, Replies
from thinwire.federation.drive import drive
from thinwire.federation.messages import Request
from thinwire.federation.server import open_run
from thinwire.federation.settings import Rules, load_site
from thinwire.federation.site import Trainers
from thinwire.storage.directory import RunDirectory

__all__ = ["one_thread", "place", "recipe", "settings", "straight_quick"]

NAMES = ("alpha", "beta", "gamma")


def make_site(folder: Path, name: str, place: Path, **more: str) -> Path:
    """A site's folder: only its own records, and where the base is."""
    (folder / "data").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        shutil.copy(place / "data" / f"{name}.{split}.jsonl", folder / "data")
    trainer = "".join(f"{key} = {value}\n" for key, value in more.items())
    (folder / "site.toml").write_text(
        f'name = "{name}"\nfederation = "words"\n[data]\nsource = "data"\n'
        f'[model]\nname = "{place / "model"}"\n[trainer]\ndevice = "cpu"\n{trainer}'
    )
    return folder


@pytest.fixture
def sites(place: Path, tmp_path: Path) -> dict[str, Path]:
    return {name: make_site(tmp_path / "sites" / name, name, place) for name in NAMES}


def problems(site: Path) -> list[dict[str, Any]]:
    """What the site's own log says of what went wrong."""
    path = site / messages.PROBLEMS_FILE
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


@dataclass
class Local:
    """A transport within this process, with the bytes of a real one. `spoil` may change what comes back, or drop it."""

    trainers: dict[int, Trainers]
    spoil: Callable[[int, Request, object], object] = lambda node, request, reply: reply
    asked: list[tuple[int, Request]] = field(default_factory=list)
    bytes: int = 0

    def nodes(self) -> Iterable[int]:
        return list(self.trainers)

    def exchange(self, requests: Mapping[int, Request], seconds: float) -> Replies:
        replies = {}
        for node, request in sorted(requests.items(), reverse=True):
            self.asked.append((node, request))
            reply = self.spoil(node, request, self.there_and_back(node, request))
            if reply is not None:
                replies[node] = reply
        return replies

    def there_and_back(self, node: int, request: Request) -> messages.Reply:
        reply = self.trainers[node].answer(messages.request(messages.header(request), request.blobs))
        return messages.reply(messages.header(reply), reply.blobs)


def local(sites: Mapping[str, Path]) -> Local:
    """Nodes 11, 12, ... in the reverse order of names, so that nothing can lean on the order of nodes."""
    folders = [sites[name] for name in sorted(sites, reverse=True)]
    return Local({11 + index: Trainers(load_site(folder), "words") for index, folder in enumerate(folders)})


def opened(recipe, folder: Path, **rules: object) -> tuple[Coordinator, list[str]]:
    """The coordinator, and what is told after the line that says what is adapted."""
    told: list[str] = []
    coordinator = open_run(recipe, RunDirectory(folder), Rules(**{"quorum": 3, "patience": 1.0, **rules}), told.append)
    assert "adapt" in told.pop(0)
    return coordinator, told


def run(recipe, folder: Path, transport: Local, **rules: object):
    """A whole run, begun or resumed: (summary, what was told, the exported adapter's bytes)."""
    coordinator, told = opened(recipe, folder, **rules)
    summary = drive(coordinator, transport, recipe.federation.rounds)
    return summary, told, (folder / "adapter" / "adapter_model.safetensors").read_bytes()
