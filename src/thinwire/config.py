"""A recipe: everything that defines a run, from TOML and `--set key=value`, checked before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinwire.data.config import DataConfig
from thinwire.models.config import RESNETS, LoraConfig, ModelConfig
from thinwire.old_keys import modern
from thinwire.participation import FederationConfig
from thinwire.presets import PRESETS
from thinwire.privacy.config import PrivacyConfig
from thinwire.privacy.config import check as check_privacy
from thinwire.server_optimizer import ServerConfig
from thinwire.server_optimizer import check as check_server
from thinwire.settings import ConfigError, build, setting, unknown
from thinwire.training.config import TrainConfig
from thinwire.values import ValuesConfig

FEW = 16
"""Clients of which each has a row in the table and is also trained alone, unless the recipe says otherwise."""


@dataclass(frozen=True)
class RunConfig:
    """How the run is executed and where it is written."""

    seed: int = setting(0, "seed of everything", low=0, below=2**63)
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    threads: int | None = setting(None, "CPU threads; none: what torch chooses", low=1)
    output: str | None = setting(None, "run directory; none: runs/METHOD-seedN, numbered")
    evaluate_every: int = setting(0, "rounds between evaluations; 0: at the end only", low=0)
    references: bool | None = setting(
        None, f"also train each client alone, for the columns own and alone; none: up to {FEW} clients"
    )
    export_rank: int | None = setting(
        None, "largest rank of the exported adapter, its error in the summary; none: exact, of any rank", low=1
    )
    tune_steps: int = setting(0, "evaluate each client also with the final adapter after so many local steps", low=0)
    export_clients: bool = setting(False, "also export each client's own adapters, where the method has them")


@dataclass(frozen=True)
class SearchConfig:
    """What `thinwire search` tries; a run takes no notice of it."""

    ranks: tuple[int, ...] = setting((1, 4, 16), "ranks, rising; the first is where the search begins", low=1)
    densities: tuple[float, ...] = setting((1 / 64, 1 / 16, 1 / 4, 1.0), "densities, likewise", above=0, high=1)
    fields: tuple[str, ...] = setting(("down_density", "up_density"), "fields of the method that are the density")
    gain: float = setting(0.0, "a step must lower the validation loss by more than this", low=0)
    budget_mb: float | None = setting(None, "megabytes, both ways, that no configuration may exceed", above=0)


@dataclass(frozen=True)
class Recipe:
    """A run, whole."""

    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    data: DataConfig = field(default_factory=DataConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    method: dict[str, Any] = field(default_factory=lambda: {"name": "fedsrd"})
    values: ValuesConfig = field(default_factory=ValuesConfig)
    run: RunConfig = field(default_factory=RunConfig)
    search: SearchConfig = field(default_factory=SearchConfig)


SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "lora": LoraConfig,
    "data": DataConfig,
    "federation": FederationConfig,
    "server": ServerConfig,
    "privacy": PrivacyConfig,
    "train": TrainConfig,
    "values": ValuesConfig,
    "run": RunConfig,
    "search": SearchConfig,
}


def load_recipe(path: Path | None, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of a TOML file (None: the embedded default) with `section.key=value` changes. Raises: ConfigError."""
    values = read_toml(path) if path else read_toml(Path(__file__).with_name("default.toml"))
    for change in changes:
        apply_change(values, change)
    return from_dict(values)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary. Raises: ConfigError if it is missing or malformed, with the place."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"recipe {str(path)!r}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"recipe {str(path)!r}: is a folder; allowed is a TOML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"recipe {str(path)!r}: not text in UTF-8; allowed is a TOML file") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"recipe {str(path)!r}: malformed TOML: {error}") from None


def apply_change(values: dict[str, Any], change: str) -> None:
    """Apply `section.key=value` in place; the value is TOML, or a text if it is not TOML."""
    name, equals, text = change.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot or not key:
        raise ConfigError(f"--set {change!r}: allowed is SECTION.KEY=VALUE, for example train.learning_rate=1e-3")
    try:
        parsed = tomllib.loads(f"value = {text.strip()}")
    except (ValueError, RecursionError):
        parsed = {}
    value = parsed["value"] if len(parsed) == 1 else text.strip()
    table = values.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{section} = {table!r}: allowed is a table")
    *path, last = key.split(".")
    for place, part in enumerate(path):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            name = ".".join([section, *path[: place + 1]])
            raise ConfigError(f"--set {change!r}: {name} = {table!r} is not a table; allowed is {name}=VALUE")
    table[last] = value


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """A checked recipe. Raises: ConfigError naming the key, the value and what is allowed."""
    known = {spec.name: spec for spec in dataclasses.fields(Recipe)}
    for key, value in values.items():
        if key not in known:
            raise unknown(f"section [{key}]", key, known)
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} = {value!r}: allowed is a table, [{key}]")
    values = modern(values)
    method = dict(values.get("method", {"name": "fedsrd"}))
    if not isinstance(method.get("name"), str):
        raise ConfigError(f"method.name = {method.get('name')!r}: allowed is a method's name (see: thinwire methods)")
    if preset := PRESETS.get(method["name"]):
        values = {**values, "values": {**preset.values, **values.get("values", {})}}
    sections: dict[str, Any] = {name: build(cls, values.get(name, {}), name) for name, cls in SECTIONS.items()}
    recipe = Recipe(method=method, **sections)
    cross_check(recipe)
    return recipe


def check_sections(federation: FederationConfig, server: ServerConfig, privacy: PrivacyConfig) -> None:
    """What no single field of these can say. Raises: ConfigError."""
    if federation.sampling == "poisson" and federation.clients_per_round is None:
        raise ConfigError("federation.sampling = 'poisson': needs federation.clients_per_round, their mean number")
    check_server(server)
    check_privacy(privacy, federation.weights)


def cross_check(recipe: Recipe) -> None:
    """What no single field can say. Raises: ConfigError."""
    model, train, data = recipe.model, recipe.train, recipe.data
    if model.bits not in (None, 4, 8):
        raise ConfigError(f"model.bits = {model.bits}: allowed is 4, 8 or nothing")
    if train.optimizer == "adamw" and train.momentum:
        raise ConfigError(f"train.momentum = {train.momentum}: allowed with train.optimizer = sgd only")
    if data.partition == "column" and data.column is None:
        raise ConfigError("data.column is missing: data.partition = column needs the name of a column")
    if data.held_out == "tail" and (data.task, data.template) != ("text", "plain"):
        raise ConfigError("data.held_out = 'tail': allowed with data.task = text and data.template = plain only")
    if data.messages and (data.task != "text" or data.template == "plain"):
        raise ConfigError(
            f"data.messages = {data.messages!r}: allowed with data.task = text and data.template = auto, chat or alpaca"
        )
    if len(set(data.labels)) < len(data.labels):
        raise ConfigError(f"data.labels = {list(data.labels)!r}: allowed is every class once")
    if data.task != "text" and data.source == "generator":
        raise ConfigError(f"data.task = {data.task!r}: data.source = 'generator' has no classes; name a file or folder")
    if data.task != "image" and (data.source == "digits" or model.name in RESNETS):
        raise ConfigError(f"data.task = {data.task!r}: allowed with resnet8, resnet18 and the source digits is image")
    if data.task == "image" and model.name == "embedded":
        raise ConfigError("model.name = 'embedded': it reads text; allowed with data.task = image: resnet8, a folder")
    if train.checkpointing and model.name in RESNETS:
        raise ConfigError(f"train.checkpointing = true: allowed with model.name = {model.name!r} is false")
    check_sections(recipe.federation, recipe.server, recipe.privacy)
    most = (train.horizon or recipe.federation.rounds) * train.steps
    if train.warmup > most and train.epochs is None:
        raise ConfigError(f"train.warmup = {train.warmup}: allowed is at most {most}, all steps of the schedule")
