"""The server of a recipe: the base for its shapes, hashes and export, and no data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from thinwire import peft_bridge
from thinwire.compatibility import check_across
from thinwire.config import Recipe
from thinwire.data.classify import label_set
from thinwire.evaluation.figures import metrics_of
from thinwire.federation.coordinator import Coordinator
from thinwire.federation.coordinator import opened as coordinated
from thinwire.federation.handshake import identity
from thinwire.federation.settings import Rules
from thinwire.federation.setup import RunFacts, Setup
from thinwire.identity import code_of, of_base, of_recipe
from thinwire.method import Method
from thinwire.models.heads import Head
from thinwire.privacy import accountant
from thinwire.session.opened import method_of, open_base
from thinwire.settings import ConfigError
from thinwire.storage.directory import RunDirectory


def method_across(recipe: Recipe) -> Method:
    """The recipe's method. Raises: ConfigError for what makes no sense or is not supported across sites."""
    method = method_of(recipe)
    check_across(method, recipe.federation, recipe.server, recipe.privacy, recipe.train)
    if recipe.privacy.level is not None:
        accountant.library()
    if recipe.data.task != "text" and not recipe.data.labels:
        task = recipe.data.task
        raise ConfigError(f"data.labels is missing: with data.task = {task!r} nobody sees all records across sites")
    return method


def open_run(recipe: Recipe, directory: RunDirectory, rules: Rules, note: Callable[[str], None]) -> Coordinator:
    """The coordinator of a new run, or of the one in the directory. Raises: ConfigError."""
    method, task, labels = method_across(recipe), recipe.data.task, label_set((), recipe.data)
    head = None if task == "text" else Head(task, labels, recipe.run.seed)
    opened = open_base(recipe.model, recipe.lora, recipe.run, head)
    note(peft_bridge.coverage(opened.model))
    if not (directory.path / "config.json").exists():
        directory.begin(recipe)
    fields = {key: value for key, value in recipe.method.items() if key != "name"}
    setup = Setup(
        method=method,
        federation=recipe.federation,
        seed=recipe.run.seed,
        start=opened.start,
        rank=recipe.lora.rank,
        initial=opened.initial,
        server=recipe.server,
        privacy=recipe.privacy,
        directory=directory,
        export=partial(peft_bridge.export, opened.model, rank=recipe.run.export_rank),
        rules=rules,
        identity={**identity(opened, recipe.data), **code_of(recipe.method["name"])},
        fingerprints={**of_base(opened.base, recipe.data), "classes": list(labels), **of_recipe(recipe)},
        hello=asdict(recipe),
        evaluate_every=recipe.run.evaluate_every,
        metrics=metrics_of(task),
        facts=RunFacts(fields, task, labels, opened.base.name),
    )
    return coordinated(setup, note)
