"""What a run loads once: base model, adapters at the start, examples, method and trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from safetensors.torch import save

from thinwire import peft_bridge
from thinwire.adapters import Adapters
from thinwire.config import Recipe
from thinwire.data import Example
from thinwire.data.load import HELD_OUT, encode_all, load
from thinwire.evaluation import Scores, evaluate
from thinwire.method import Client, Method
from thinwire.methods import create
from thinwire.models import Base, load_base
from thinwire.settings import ConfigError
from thinwire.simulation.rounds import Federation
from thinwire.training import Trainer

EVERYONE = "everyone"


@dataclass(frozen=True)
class Session:
    """A recipe, loaded. start: the adapters the seed gives; initial: those of `model.adapter`, if any."""

    recipe: Recipe
    base: Base
    model: Any
    start: Adapters
    initial: Adapters | None
    clients: Mapping[str, Sequence[Example]]
    tests: Mapping[str, Sequence[Example]]
    monitor: Mapping[str, Sequence[Example]]
    skipped: Mapping[str, int]

    def method(self) -> Method:
        """The recipe's method."""
        return method_of(self.recipe)

    def federation(self, method: Method) -> Federation:
        """The clients as this method sees them: each by itself, or pooled into one."""
        recipe = self.recipe
        examples = dict(self.clients)
        config = recipe.federation
        if method.pooled:
            owner = EVERYONE if len(examples) > 1 else next(iter(examples))
            examples = {owner: [example for name in examples for example in examples[name]]}
            config = replace(config, clients_per_round=None, drop=0.0, join={})
        clients = [Client(name, index, len(examples[name])) for index, name in enumerate(sorted(examples))]
        if unknown := sorted(set(config.join) - set(examples)):
            names = ", ".join(sorted(examples))
            raise ConfigError(f"federation.join.{unknown[0]}: no such client; allowed are {names}")
        trainer = Trainer(self.base, self.model, recipe.train, recipe.federation.rounds)
        together = (recipe.federation.clients_per_round or len(self.clients)) if method.pooled else 1
        return Federation(method, config, clients, examples, trainer.train, recipe.run.seed, together)

    def score(self, adapters: Adapters | None, examples: Mapping[str, Sequence[Example]]) -> dict[str, Scores]:
        """Scores by domain; None: the base as it is."""
        return {name: evaluate(self.base, self.model, adapters, rows) for name, rows in examples.items()}

    @cached_property
    def dense_bytes(self) -> int:
        """Bytes of all factors and extras as a bfloat16 safetensors file: one of FedIT's messages."""
        tensors = {f"{name}/{part}": t.to(torch.bfloat16).contiguous() for (name, part), t in self.start.items()}
        return len(save(tensors))


def method_of(recipe: Recipe) -> Method:
    """The method that a recipe names, with its fields. Raises: ConfigError."""
    return create(recipe.method["name"], {key: value for key, value in recipe.method.items() if key != "name"})


def open_session(recipe: Recipe) -> Session:
    """Load all that a recipe names. Raises: ConfigError."""
    method_of(recipe)
    set_threads(recipe)
    base = load_base(recipe.model, device(recipe.run.device))
    model = peft_bridge.attach(base, recipe.lora)
    start = peft_bridge.start(model, recipe.run.seed)
    initial = peft_bridge.load_adapter(model, recipe.model.adapter) if recipe.model.adapter else None
    config = recipe.data
    if recipe.run.evaluate_every and not config.validation:
        config = replace(config, validation=HELD_OUT)  # the best round must not be chosen on what was trained on
    clients, tests, skipped = encode_all(load(config, recipe.run.seed), base.tokenizer, config)
    monitor = tests if config.split == "validation" else {}
    if recipe.run.evaluate_every and not monitor:
        config = replace(config, split="validation")
        monitor = encode_all(load(config, recipe.run.seed), base.tokenizer, config)[1]
    return Session(recipe, base, model, start, initial, clients, tests, monitor, skipped)


def set_threads(recipe: Recipe) -> None:
    """Fix the number of threads: sums in another order end in other bits."""
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)


def device(name: str) -> str:
    """A device that exists. Raises: ConfigError."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"run.device = {name!r}: allowed is auto, cpu, cuda or cuda:N") from None
    count = torch.cuda.device_count()
    if wanted.type == "cuda" and (wanted.index or 0) >= count:
        raise ConfigError(f"run.device = {name!r}: this machine has {count} CUDA devices; allowed is auto or cpu")
    return name
