"""A base with its adapters, as a recipe names them: the one way to open it, with data or without."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from thinwire import peft_bridge
from thinwire.adapters import Adapters
from thinwire.compatibility import check_together
from thinwire.config import Recipe, RunConfig
from thinwire.method import Method
from thinwire.methods import create
from thinwire.models.base import Base, load_base
from thinwire.models.config import LoraConfig, ModelConfig
from thinwire.models.heads import Head
from thinwire.settings import ConfigError
from thinwire.training.shares import local_device


@dataclass(frozen=True, kw_only=True)
class AdaptedBase:
    """start: the adapters the seed gives; initial: those of `model.adapter`, if any."""

    base: Base
    model: Any
    start: Adapters
    initial: Adapters | None


def open_base(model: ModelConfig, lora: LoraConfig, run: RunConfig, head: Head | None) -> AdaptedBase:
    """Load a base and give it adapters. head: of a classifier. Raises: ConfigError."""
    set_threads(run)
    base = load_base(model, device(run.device), head)
    adapted = peft_bridge.attach(base, lora)
    start = peft_bridge.start(adapted, run.seed)
    initial = peft_bridge.load_adapter(adapted, model.adapter) if model.adapter else None
    return AdaptedBase(base=base, model=adapted, start=start, initial=initial)


def method_of(recipe: Recipe) -> Method:
    """The method that a recipe names, with its fields. Raises: ConfigError."""
    fields = {key: value for key, value in recipe.method.items() if key != "name"}
    method = create(recipe.method["name"], fields, asdict(recipe.values))
    check_together(method, recipe.federation, recipe.server, recipe.privacy, recipe.train)
    return method


def set_threads(run: RunConfig) -> None:
    """Fix the number of threads: sums in another order end in other bits."""
    if run.threads:
        torch.set_num_threads(run.threads)


def device(name: str) -> str:
    """A device that exists. Raises: ConfigError."""
    if name == "auto":
        return local_device() if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"run.device = {name!r}: allowed is auto, cpu, cuda or cuda:N") from None
    count = torch.cuda.device_count()
    if wanted.type == "cuda" and (wanted.index or 0) >= count:
        raise ConfigError(f"run.device = {name!r}: this machine has {count} CUDA devices; allowed is auto or cpu")
    return name
