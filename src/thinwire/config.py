"""A recipe: everything that defines a run, from TOML and `--set key=value`, checked before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinwire.old_keys import modern
from thinwire.participation import FederationConfig
from thinwire.presets import PRESETS
from thinwire.privacy.config import PrivacyConfig
from thinwire.privacy.config import check as check_privacy
from thinwire.server_optimizer import ServerConfig
from thinwire.server_optimizer import check as check_server
from thinwire.settings import ConfigError, build, setting, unknown
from thinwire.values import DTYPES, ValuesConfig

TASKS = ("text", "sequence", "token", "image")
RESNETS = ("resnet8", "resnet18")
FEW = 16
"""Clients of which each has a row in the table and is also trained alone, unless the recipe says otherwise."""


@dataclass(frozen=True)
class ModelConfig:
    """The base model."""

    name: str = setting(
        "embedded",
        "`embedded`, `resnet8`, `resnet18`, a name that `thinwire models` lists, a folder, a GGUF file, or the name of "
        "a model on the hub",
    )
    width: int = setting(64, "channels of a resnet's first stage", low=1)
    norm: str = setting("group", "a resnet's normalisation", choices=("group", "batch"))
    dtype: str = setting("float32", "dtype of the frozen base; factors are float32 always", choices=DTYPES)
    bits: int | None = setting(None, "load the base in 8 or 4 bits by bitsandbytes (CUDA only)", low=4, high=8)
    adapter: str | None = setting(None, "folder of a PEFT LoRA adapter to start from")


@dataclass(frozen=True)
class LoraConfig:
    """The adapter's shape."""

    rank: int = setting(16, "inner rank r of every module", low=1)
    alpha: float = setting(32.0, "numerator of the scale alpha / r", above=0)
    ranks: dict[str, int] = setting(  # noqa: RUF009
        doc="module name -> rank of its own, of the same scale as the others", factory=dict, low=1
    )
    rslora: bool = setting(False, "scale alpha / sqrt(r) instead of alpha / r")
    targets: tuple[str, ...] = setting(
        ("all-linear",), "module names to adapt; all-linear (all but the head), all-conv; empty: none"
    )
    dropout: float = setting(0.0, "dropout on the adapter's input", low=0, below=1)
    extras: tuple[str, ...] = setting((), "modules trained in full (PEFT's modules_to_save); all-norm, all")


@dataclass(frozen=True)
class DataConfig:
    """Examples, and who holds which."""

    task: str = setting(
        "text", "what is learned: to write text, or a class of each sequence, token or image", choices=TASKS
    )
    source: str = setting("generator", "`generator`, `digits`, a folder or file (JSONL, CSV, Parquet), a hub data set")
    clients: tuple[str, ...] = setting((), "domains or files that are clients; empty: all that the source has")
    evaluate: tuple[str, ...] = setting((), "further domains that are only evaluated (out of domain)")
    partition: str = setting("file", "how examples become clients", choices=("file", "column", "iid", "dirichlet"))
    column: str | None = setting(None, "column of the client (partition column) or of the label (dirichlet, table)")
    count: int = setting(4, "number of clients for iid and dirichlet", low=1)
    alpha: float = setting(0.5, "concentration of dirichlet; small is uneven", above=0)
    instruction: str = setting("instruction", "column of the question")
    context: str = setting("input", "column of further input, may be absent")
    response: str = setting("response", "column of the answer, on which the loss is taken")
    messages: str | None = setting(
        None, "column of a conversation; none: `messages` or `conversations`, where a record has one; empty: no column"
    )
    system: str | None = setting(
        None, "column of the system prompt, may be absent; none: `system`, beside a conversation; empty: no column"
    )
    turns: str = setting("all", "the assistant's turns that training takes the loss on", choices=("all", "last"))
    template: str = setting(
        "auto",
        "how an example becomes text; auto: chat for a conversation, if the tokenizer has a template, else alpaca",
        choices=("auto", "alpaca", "chat", "plain"),
    )
    text: str = setting("text", "column of what is classified, and of the text of template plain")
    label: str = setting("label", "column of the class; of the class of each word with task token")
    labels: tuple[str, ...] = setting((), "all classes; empty: the training records' labels, sorted")
    image: str = setting("image", "column of the image")
    image_size: int | None = setting(None, "side in pixels to resize images to; none: the model's, or none", low=1)
    max_length: int = setting(128, "tokens of a sequence; what is longer is cut off, or into several (plain)", low=8)
    train_limit: int | None = setting(None, "examples per domain for training", low=1)
    validation: float = setting(0.0, "share set aside as validation split where the source has none", low=0, below=1)
    held_out: str = setting(
        "records", "what is set aside: whole records, or the tail of every text", choices=("records", "tail")
    )
    test_limit: int | None = setting(None, "examples per domain for evaluation", low=1)
    split: str = setting("test", "split on which the run is evaluated", choices=("test", "validation"))


@dataclass(frozen=True)
class TrainConfig:
    """Local training."""

    steps: int = setting(10, "optimizer steps of a client in a round", low=1)
    epochs: float | None = setting(None, "passes over the client's examples instead of steps", above=0)
    optimizer: str = setting("adamw", "local optimizer", choices=("adamw", "sgd"))
    learning_rate: float = setting(1e-3, "peak learning rate", above=0)
    schedule: str = setting("constant", "learning rate over all rounds", choices=("constant", "cosine", "linear"))
    horizon: int | None = setting(None, "rounds over which the schedule runs; none: the recipe's rounds", low=1)
    warmup: int = setting(0, "steps of linear warm-up", low=0)
    batch: int = setting(8, "examples of a forward pass", low=1)
    accumulation: int = setting(1, "forward passes of an optimizer step", low=1)
    weight_decay: float = setting(0.0, "AdamW's or SGD's weight decay", low=0)
    momentum: float = setting(0.0, "SGD's momentum", low=0, below=1)
    clip: float | None = setting(1.0, "largest gradient norm; none: no clipping", above=0)
    autocast: bool = setting(False, "bfloat16 autocast where the device has it")
    checkpointing: bool = setting(False, "gradient checkpointing")
    augment: tuple[str, ...] = setting((), "changes of images in training", choices=("flip", "crop"))
    proximal: float = setting(0.0, "FedProx: pull towards the round's start, mu / 2 |w - start|^2", low=0)
    keep_optimizer: bool = setting(False, "keep a client's optimizer state between rounds")


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
