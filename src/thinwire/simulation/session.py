"""What a run loads once: base model, adapters at the start, examples, method and trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from thinwire import peft_bridge
from thinwire.adapters import Adapters
from thinwire.compatibility import check_together
from thinwire.config import FEW, Recipe
from thinwire.data import Example
from thinwire.data.divide import HELD_OUT
from thinwire.data.encode import encode_all
from thinwire.data.load import load
from thinwire.evaluation import Outcomes, Scores, predict, unheard
from thinwire.identity import Identity, of_base, of_data, of_recipe
from thinwire.method import Method
from thinwire.methods import create
from thinwire.models import Base, load_base
from thinwire.models.heads import Head
from thinwire.privacy.noise import noise_of
from thinwire.settings import ConfigError
from thinwire.simulation.clients import clients_of
from thinwire.simulation.figures import CLASSIFIED, WRITTEN, HeldOut
from thinwire.simulation.reference import shares
from thinwire.simulation.rounds import Federation
from thinwire.training import Trainer
from thinwire.training.shares import local_device
from thinwire.training.trial import try_out


@dataclass(frozen=True)
class Session:
    """A recipe, loaded. start: the adapters the seed gives; initial: those of `model.adapter`, if any.

    secret: the seed of privacy's noise and samples, unless that is the run's.
    """

    recipe: Recipe
    base: Base
    model: Any
    start: Adapters
    initial: Adapters | None
    clients: Mapping[str, Sequence[Example]]
    tests: HeldOut
    monitor: HeldOut
    skipped: Mapping[str, Mapping[str, int]]
    classes: tuple[str, ...] = ()
    secret: int | None = None
    fingerprints: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()  # files of the source that are not read, with the reasons

    def method(self) -> Method:
        """The recipe's method."""
        return method_of(self.recipe)

    def federation(self, method: Method) -> Federation:
        """The clients as this method sees them: each by itself, or pooled into one."""
        recipe = self.recipe
        share = shares(method, self.clients, recipe.federation)
        sizes = {name: len(own) for name, own in share.examples.items()}
        clients = clients_of(share.config, sizes, recipe.lora.rank)
        noise = noise_of(recipe.privacy, recipe.run.seed if self.secret is None else self.secret)
        gradient = noise if noise and noise.place == "gradient" else None
        trainer = Trainer(self.base, self.model, recipe.train, recipe.federation.rounds, gradient)
        seed, train = recipe.run.seed, trainer.train
        rest = recipe.server, noise
        return Federation(method, share.config, clients, share.examples, train, seed, share.steps_factor, *rest)

    @property
    def records(self) -> Identity:
        """The fingerprints of the records alone, and the classes."""
        return {kind: self.fingerprints[kind] for kind in ("clients", "tests", "classes")}

    @property
    def identity(self) -> Identity:
        """What the run is computed from."""
        return {**self.fingerprints, **of_recipe(self.recipe)}

    @property
    def metrics(self) -> Mapping[str, str]:
        """The metrics of the recipe's task: the summary's name -> the field of Scores."""
        return WRITTEN if self.recipe.data.task == "text" else CLASSIFIED

    @property
    def whole(self) -> bool:
        """Whether test domains are the clients', so that every client's adapters are judged on all of them."""
        return self.recipe.data.partition == "file"

    @property
    def references(self) -> bool:
        """Whether each client is also trained alone."""
        wanted = self.recipe.run.references
        return len(self.clients) <= FEW if wanted is None else wanted

    def judge(
        self,
        adapters: Adapters | None,
        held: HeldOut,
        owner: str | None = None,
        tell: Callable[[int], None] = unheard,
    ) -> dict[str, Outcomes]:
        """Outcomes by domain, on all examples or on those that belong to `owner`; None: the base as it is.

        `tell` hears after every forward pass how many examples it scored.
        """
        judged = {}
        for domain, examples in held.examples.items():
            places = [at for at, name in enumerate(held.owners[domain]) if owner in (None, name)]
            if places:
                found = predict(self.base, self.model, adapters, [examples[at] for at in places], tell=tell)
                judged[domain] = replace(found, rows=np.array(places)[found.rows])
        return judged

    def score(self, adapters: Adapters | None, held: HeldOut) -> dict[str, Scores]:
        """Scores by domain; None: the base as it is."""
        return {domain: outcomes.scores() for domain, outcomes in self.judge(adapters, held).items()}

    @cached_property
    def dense_bytes(self) -> int:
        """Bytes of all factors and extras as a bfloat16 safetensors file: one of FedIT's messages."""
        tensors = {f"{name}/{part}": t.to(torch.bfloat16).contiguous() for (name, part), t in self.start.items()}
        return len(save(tensors))


def method_of(recipe: Recipe) -> Method:
    """The method that a recipe names, with its fields. Raises: ConfigError."""
    fields = {key: value for key, value in recipe.method.items() if key != "name"}
    method = create(recipe.method["name"], fields, asdict(recipe.values))
    check_together(method, recipe.federation, recipe.server, recipe.privacy, recipe.train)
    return method


def open_session(recipe: Recipe) -> Session:
    """Load all that a recipe names. Raises: ConfigError."""
    method_of(recipe)
    set_threads(recipe)
    config = recipe.data
    if recipe.run.evaluate_every and not config.validation:
        config = replace(config, validation=HELD_OUT)  # the best round must not be chosen on what was trained on
    dataset = load(config, recipe.run.seed)
    head = None if config.task == "text" else Head(config.task, dataset.classes, recipe.run.seed)
    base = load_base(recipe.model, device(recipe.run.device), head)
    if base.longest is not None and config.max_length > base.longest:
        raise ConfigError(f"data.max_length = {config.max_length}: the model takes at most {base.longest} tokens")
    model = peft_bridge.attach(base, recipe.lora)
    if config.task == "text":
        try_out(base, model)
    start = peft_bridge.start(model, recipe.run.seed)
    initial = peft_bridge.load_adapter(model, recipe.model.adapter) if recipe.model.adapter else None
    found = encode_all(dataset, base.tokenizer, config, base.image_size)
    for examples in (*found.clients.values(), *found.tests.values()):
        base.check(example.tokens for example in examples)
    tests = HeldOut(found.tests, found.owners)
    monitor = tests if config.split == "validation" else HeldOut()
    if recipe.run.evaluate_every and not monitor.examples:
        config = replace(config, split="validation")
        held = replace(load(config, recipe.run.seed), clients={})
        other = encode_all(held, base.tokenizer, config, base.image_size)
        monitor = HeldOut(other.tests, other.owners)
    seen = {**of_base(base, recipe.data), **of_data(dataset)}
    return Session(
        recipe,
        base,
        model,
        start,
        initial,
        found.clients,
        tests,
        monitor,
        found.skipped,
        dataset.classes,
        fingerprints=seen,
        left_out=dataset.left_out,
    )


def set_threads(recipe: Recipe) -> None:
    """Fix the number of threads: sums in another order end in other bits."""
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)


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
