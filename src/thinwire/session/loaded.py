"""What a run loads once: base model, adapters at the start, examples, method and trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from thinwire.adapters import Adapters
from thinwire.config import FEW, Recipe
from thinwire.data import Example
from thinwire.data.divide import HELD_OUT
from thinwire.data.encode import encode_all
from thinwire.data.load import load
from thinwire.evaluation import Outcomes, Scores, predict, unheard
from thinwire.evaluation.figures import HeldOut, metrics_of
from thinwire.identity import Identity, of_base, of_data, of_recipe
from thinwire.method import Method
from thinwire.models.heads import Head
from thinwire.privacy.noise import Noise, noise_of
from thinwire.session.opened import AdaptedBase, method_of, open_base
from thinwire.settings import ConfigError
from thinwire.training.trainer import Trainer
from thinwire.training.trial import try_out


@dataclass(frozen=True, kw_only=True)
class Session(AdaptedBase):
    """A recipe, opened, with its examples. secret: the seed of privacy's noise and samples, unless it is the run's."""

    recipe: Recipe
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

    @property
    def noise(self) -> Noise | None:
        """Privacy's noise, wherever it is put; None without."""
        return noise_of(self.recipe.privacy, self.recipe.run.seed if self.secret is None else self.secret)

    def trainer(self) -> Trainer:
        """Who trains as the recipe says. Raises: ConfigError for a model that noise on gradients does not cover."""
        gradient = self.noise if self.noise and self.noise.place == "gradient" else None
        trainer = Trainer(self.base, self.model, self.recipe.train, self.recipe.federation.rounds, gradient)
        if gradient:
            trainer.check_apart(next(iter(self.clients.values())))
        return trainer

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
        return metrics_of(self.recipe.data.task)

    @property
    def whole(self) -> bool:
        """Whether test domains are the clients', so that every client's adapters are evaluated on all of them."""
        return self.recipe.data.partition == "file"

    @property
    def references(self) -> bool:
        """Whether each client is also trained alone."""
        wanted = self.recipe.run.references
        return len(self.clients) <= FEW if wanted is None else wanted

    def evaluate(
        self,
        adapters: Adapters | None,
        held: HeldOut,
        owner: str | None = None,
        progress: Callable[[int], None] = unheard,
    ) -> dict[str, Outcomes]:
        """Outcomes by domain, on all examples or on those that belong to `owner`; None: the base as it is.

        `progress` hears after every forward pass how many examples it has evaluated.
        """
        found = {}
        for domain, examples in held.examples.items():
            places = [at for at, name in enumerate(held.owners[domain]) if owner in (None, name)]
            if places:
                outcomes = predict(self.base, self.model, adapters, [examples[at] for at in places], progress=progress)
                found[domain] = replace(outcomes, rows=np.array(places)[outcomes.rows])
        return found

    def score(self, adapters: Adapters | None, held: HeldOut) -> dict[str, Scores]:
        """Scores by domain; None: the base as it is."""
        return {domain: outcomes.scores() for domain, outcomes in self.evaluate(adapters, held).items()}


def open_session(recipe: Recipe) -> Session:
    """Load all that a recipe names. Raises: ConfigError."""
    method_of(recipe)
    config, seed = recipe.data, recipe.run.seed
    if recipe.run.evaluate_every and not config.validation:
        config = replace(config, validation=HELD_OUT)  # the best round must not be chosen on what was trained on
    dataset = load(config, seed, validation=recipe.run.evaluate_every > 0)
    head = None if config.task == "text" else Head(config.task, dataset.classes, seed)
    opened = open_base(recipe.model, recipe.lora, recipe.run, head)
    base = opened.base
    if base.longest is not None and config.max_length > base.longest:
        raise ConfigError(f"data.max_length = {config.max_length}: the model takes at most {base.longest} tokens")
    if config.task != "image":
        try_out(base, opened.model, config.task)
    found = encode_all(dataset, base.tokenizer, config, base.image_size)
    for examples in (*found.clients.values(), *found.tests.values()):
        base.check(example.tokens for example in examples)
    tests, validation = HeldOut(found.tests, found.owners), HeldOut(found.validation, found.validation_owners)
    return Session(
        **vars(opened),
        recipe=recipe,
        clients=found.clients,
        tests=tests,
        monitor=tests if config.split == "validation" else validation,
        skipped=found.skipped,
        classes=dataset.classes,
        fingerprints={**of_base(base, config), **of_data(dataset)},
        left_out=dataset.left_out,
    )
