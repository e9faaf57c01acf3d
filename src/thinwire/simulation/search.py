"""The search over (rank, density): from the smallest of both, compare the two next larger ones, and take the better.

Steps of equal factor make both of a pair cost about the same bytes, so that a pair asks where bytes are spent better.
Source: FLASC-Search, doi:10.1145/3786335.3813151. Differs: it goes by the validation loss at the end of a whole run.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thinwire.config import Recipe, SearchConfig
from thinwire.engine.rounds import RunStopped
from thinwire.methods import kind_of
from thinwire.settings import APART, ConfigError
from thinwire.storage.directory import RunDirectory, write_json

Play = Callable[[Recipe, RunDirectory, bool], dict[str, Any]]
"""Plays a recipe to its end in a directory, resuming what is there if the last is true; the summary."""


@dataclass(frozen=True, order=True)
class Point:
    """A configuration."""

    rank: int
    density: float

    @property
    def name(self) -> str:
        return f"rank{self.rank}-density{self.density:.6g}"


@dataclass(frozen=True)
class Measurement:
    """What a run of it gave: mean validation loss and score over domains, bytes both ways."""

    loss: float
    score: float
    bytes: int


@dataclass(frozen=True)
class Comparison:
    """A pair that was compared (one, where only one can rise), and what was taken of it; None: the search ends."""

    start: Point
    pair: tuple[Point, ...]
    taken: Point | None
    why: str


def climb(config: SearchConfig, measure: Callable[[Point], Measurement]) -> tuple[Point, list[Comparison]]:
    """Where the search ends, and its steps. Equal losses: the one of fewer bytes, then of lower rank."""
    here, steps = Point(config.ranks[0], config.densities[0]), []
    best = measure(here)
    while pair := neighbours(config, here):
        found = {point: measure(point) for point in pair}
        within = {p: m for p, m in found.items() if config.budget_mb is None or m.bytes <= config.budget_mb * 1e6}
        if not within:
            steps.append(Comparison(here, pair, None, f"both beyond {config.budget_mb} MB"))
            break
        point = min(within, key=lambda point: (within[point].loss, within[point].bytes, point))
        won = best.loss - within[point].loss
        if not won > config.gain:
            steps.append(Comparison(here, pair, None, f"no gain above {config.gain}"))
            break
        steps.append(Comparison(here, pair, point, f"loss falls by {won:.4g}"))
        here, best = point, within[point]
    return here, steps


def neighbours(config: SearchConfig, here: Point) -> tuple[Point, ...]:
    """The next rank with this density, and this rank with the next density."""
    rank, density = config.ranks.index(here.rank) + 1, config.densities.index(here.density) + 1
    pair = [Point(config.ranks[rank], here.density)] if rank < len(config.ranks) else []
    return (*pair, *([Point(here.rank, config.densities[density])] if density < len(config.densities) else []))


def search(recipe: Recipe, folder: Path, play: Play, done: Callable[[Point, Measurement], None]) -> dict[str, Any]:
    """Climb with real runs, one in a folder each; what search.json holds. Runs that `folder` has are not played again.

    Raises: ConfigError.
    """
    check(recipe)
    begin(recipe, folder)
    measured: dict[Point, Measurement] = {}

    def measure(point: Point) -> Measurement:
        if point not in measured:
            measured[point] = measured_at(point_recipe(recipe, point), RunDirectory(folder / point.name), play)
            done(point, measured[point])
        return measured[point]

    chosen, steps = climb(recipe.search, measure)
    found = {
        "method": recipe.method["name"],
        "seed": recipe.run.seed,
        "chosen": row(chosen, measured[chosen]),
        "steps": [dataclasses.asdict(step) for step in steps],
        "runs": [row(point, result) for point, result in sorted(measured.items())],
    }
    write_json(folder / "search.json", found)
    return found


def row(point: Point, result: Measurement) -> dict[str, Any]:
    return {**dataclasses.asdict(point), **dataclasses.asdict(result), "directory": point.name}


def measured_at(recipe: Recipe, directory: RunDirectory, play: Play) -> Measurement:
    """What the run in this directory gave; it is played, or continued, if it is not finished.

    A run that stops because it diverged has an infinite loss, so that it is never taken.
    """
    path = directory.path / "summary.json"
    if path.is_file():
        summary: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    else:
        try:
            summary = play(recipe, directory, (directory.path / "config.json").is_file())
        except RunStopped:
            return Measurement(math.inf, 0.0, 0)
    loss, score = (mean_after(summary[name]) for name in ("loss", "score"))
    return Measurement(loss, score, summary["bytes_up"] + summary["bytes_down"])


def mean_after(rows: Mapping[str, Mapping[str, float | None]]) -> float:
    """The mean over domains after the run; infinity if a domain's is not finite."""
    values = [row["after"] for row in rows.values()]
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if len(known) == len(values) else math.inf


def point_recipe(recipe: Recipe, point: Point) -> Recipe:
    """The recipe at a point: the same scale alpha / r at every rank, the validation split, no references."""
    scale = recipe.lora.alpha / (recipe.lora.rank**0.5 if recipe.lora.rslora else recipe.lora.rank)
    alpha = scale * (point.rank**0.5 if recipe.lora.rslora else point.rank)
    return replace(
        recipe,
        lora=replace(recipe.lora, rank=point.rank, alpha=alpha),
        data=replace(recipe.data, split="validation"),
        method={**recipe.method, **dict.fromkeys(recipe.search.fields, point.density)},
        run=replace(recipe.run, output=None, references=False, evaluate_every=0),
    )


def check(recipe: Recipe) -> None:
    """Raises: ConfigError for a search that cannot be made."""
    config, name = recipe.search, recipe.method["name"]
    for field, values in (("ranks", config.ranks), ("densities", config.densities)):
        if not values or list(values) != sorted(set(values)):
            raise ConfigError(f"search.{field} = {list(values)!r}: allowed are some numbers, each larger than the last")
    known = {spec.name for spec in dataclasses.fields(kind_of(name)) if APART not in spec.metadata}
    for field in config.fields:
        if field not in known:
            others = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"search.fields: {name} has no field {field}; allowed are {others}")
    federation = recipe.federation
    if federation.ranks or federation.rank_of or federation.capability or federation.densities or federation.density_of:
        raise ConfigError("search: allowed with the same rank and density for all clients only")


def begin(recipe: Recipe, folder: Path) -> None:
    """Make the folder with the recipe. Raises: ConfigError if it holds a search of another one, or anything else."""
    path = folder / "recipe.json"
    ours = json.loads(json.dumps(dataclasses.asdict(recipe)))
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != ours:
            raise ConfigError(f"--to {folder}: it holds a search of another recipe; allowed is a new folder")
        return
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"--to {folder}: the folder exists and holds no search; allowed is a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, ours)
