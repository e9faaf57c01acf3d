"""One tiny run, shared: a two-layer Llama, three owners of words, FedSRD with everything on that has a state."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from tests.tiny_models import VOCABULARY, save_tiny
from thinwire.config import Recipe, from_dict
from thinwire.randomness import permutation
from thinwire.simulation.run import checked, longer, run
from thinwire.storage.directory import RunDirectory

ROUNDS = 4


@dataclass
class Notes:
    """A watcher that remembers."""

    phases: list[str] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    scores: list[int] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def phase(self, text: str, rounds: int | None = None, done: int = 0) -> None:
        self.phases.append(text)

    def scoring(self, text: str, examples: int | None) -> None:
        self.phases.append(text)

    def evaluated(self, examples: int) -> None:
        self.scores.append(examples)

    def line(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def spent(self, epsilon: float, delta: float) -> None:
        self.costs.append(epsilon)

    def round(self, state: Any) -> None:
        self.rounds.append(state.round)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def note(self, text: str) -> None:
        self.told.append(text)


def sentence(seed: int, length: int) -> str:
    return " ".join(f"w{2 + index}" for index in permutation(seed, VOCABULARY - 2)[:length])


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model/` and `data/`: alpha, beta and gamma with 12 examples each and 3 to test."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny("llama", folder / "model")
    (folder / "data").mkdir()
    for owner, name in enumerate(("alpha", "beta", "gamma")):
        for split, count in (("train", 12), ("validation", 3), ("test", 3)):
            start = 1000 * owner + {"train": 0, "validation": 100, "test": 200}[split]
            rows = [
                {"instruction": sentence(start + k, 3 + k % 4), "response": sentence(owner, 3)} for k in range(count)
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "data" / f"{name}.{split}.jsonl").write_text(text)
    return folder


@pytest.fixture(scope="session")
def settings(place: Path) -> dict[str, Any]:
    """The recipe as a table: small, and with dropout, sampling of examples, a schedule and a kept optimizer."""
    return {
        "model": {"name": str(place / "model")},
        "lora": {"rank": 4, "dropout": 0.1, "extras": ["norm"]},
        "data": {"source": str(place / "data"), "max_length": 32},
        "federation": {"rounds": ROUNDS},
        "method": {"name": "fedsrd"},
        "train": {"steps": 2, "batch": 4, "schedule": "cosine", "warmup": 1, "keep_optimizer": True},
        "run": {"seed": 3, "threads": 1, "evaluate_every": 1},
    }


Recipes = Callable[..., Recipe]


@pytest.fixture(scope="session")
def recipe(settings: dict[str, Any]) -> Recipes:
    """The recipe, with settings changed: recipe(train={"steps": 3})."""

    def made(**changes: dict[str, Any]) -> Recipe:
        sections = {name: {**settings.get(name, {}), **changes.get(name, {})} for name in {*settings, *changes}}
        if "name" in changes.get("method", {}):
            sections["method"] = changes["method"]
        return checked(from_dict(sections))

    return made


@pytest.fixture
def quick(recipe: Recipes) -> Recipe:
    """The recipe without references."""
    return recipe(run={"references": False})


@dataclass(frozen=True)
class Done:
    """A finished run."""

    directory: RunDirectory
    summary: dict[str, Any]
    notes: Notes

    @property
    def adapter(self) -> bytes:
        return (self.directory.adapter / "adapter_model.safetensors").read_bytes()

    def same_as(self, other: Done) -> None:
        """Equal to the last bit: adapters, metrics and figures (but for seconds)."""
        assert self.adapter == other.adapter
        assert results(self.summary) == results(other.summary)
        assert timeless(self.directory) == timeless(other.directory)


def results(summary: dict[str, Any]) -> dict[str, Any]:
    """What of a summary must not depend on how often the run was stopped."""
    return {key: value for key, value in summary.items() if key not in ("seconds", "peak_rss_mb", "directory")}


def timeless(directory: RunDirectory) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in directory.lines()]


def perform(recipe: Recipe, folder: Path, resume: bool = False) -> Done:
    """Start or resume a run in this process."""
    directory, notes = RunDirectory(folder), Notes()
    return Done(directory, run(recipe, directory, notes, resume), notes)


def resumed(folder: Path, rounds: int | None = None) -> Done:
    """What `thinwire run --resume` does."""
    directory = RunDirectory(folder)
    recipe = checked(longer(directory.recipe(), rounds))
    directory.write_recipe(recipe)
    return perform(recipe, folder, resume=True)


@pytest.fixture(scope="session")
def straight(recipe: Recipes, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The run, played without a stop, with its references."""
    torch.set_num_threads(1)
    return perform(recipe(), tmp_path_factory.mktemp("straight") / "run")


@pytest.fixture(scope="session")
def straight_quick(recipe: Recipes, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The run, played without a stop, without references."""
    torch.set_num_threads(1)
    return perform(recipe(run={"references": False}), tmp_path_factory.mktemp("straight") / "run")


MANY = {
    "data": {"partition": "iid", "count": 24},
    "federation": {"rounds": 8, "clients_per_round": 3},
}
"""24 clients of which 3 take part in a round; too many to be trained alone too."""


@pytest.fixture
def many(recipe: Recipes) -> Recipe:
    """The recipe with many clients, each with a residual and an optimizer's state."""
    return recipe(**MANY)


@pytest.fixture(scope="session")
def straight_many(recipe: Recipes, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The run with many clients, played without a stop."""
    torch.set_num_threads(1)
    return perform(recipe(**MANY), tmp_path_factory.mktemp("straight") / "run")


@pytest.fixture(scope="session")
def half_run(recipe: Recipes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of half the rounds on the whole run's horizon, to be copied before use."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("half") / "run"
    changes = {"federation": {"rounds": ROUNDS // 2}, "train": {"horizon": ROUNDS}, "run": {"references": False}}
    perform(recipe(**changes), folder)
    return folder


@pytest.fixture
def half(half_run: Path, tmp_path: Path) -> Path:
    """A copy of the run of half the rounds."""
    return Path(shutil.copytree(half_run, tmp_path / "run"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Bits are compared between runs of one thread."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


def write_toml(path: Path, settings: dict[str, Any]) -> Path:
    """A recipe file."""
    path.write_text(tomli_w.dumps(settings))
    return path


__all__ = ["MANY", "ROUNDS", "Done", "Notes", "perform", "replace", "resumed", "timeless", "write_toml"]
