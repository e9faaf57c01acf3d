"""The server of a recipe: the base for its shapes, hashes and export, and no data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from thinwire import peft_bridge
from thinwire.compatibility import check_across
from thinwire.config import Recipe
from thinwire.data.classify import label_set
from thinwire.federation.coordinator import Coordinator, opened
from thinwire.federation.handshake import identity
from thinwire.federation.settings import Rules
from thinwire.federation.setup import Setup
from thinwire.identity import code_of, of_base, of_recipe
from thinwire.method import Method
from thinwire.models import load_base
from thinwire.models.heads import Head
from thinwire.privacy import accountant
from thinwire.settings import ConfigError
from thinwire.simulation.figures import HeldOut
from thinwire.simulation.session import Session, device, method_of, set_threads
from thinwire.storage.directory import RunDirectory


def method_across(recipe: Recipe) -> Method:
    """The recipe's method. Raises: ConfigError for what makes no sense or is not to be had across sites."""
    method = method_of(recipe)
    check_across(method, recipe.federation, recipe.server, recipe.privacy, recipe.train)
    if recipe.privacy.level is not None:
        accountant.library()
    if recipe.data.task != "text" and not recipe.data.labels:
        task = recipe.data.task
        raise ConfigError(f"data.labels is missing: with data.task = {task!r} nobody sees all records across sites")
    return method


def open_run(recipe: Recipe, directory: RunDirectory, rules: Rules, tell: Callable[[str], None]) -> Coordinator:
    """The coordinator of a new run, or of the one in the directory. Raises: ConfigError."""
    method, task, labels = method_across(recipe), recipe.data.task, label_set((), recipe.data)
    set_threads(recipe)
    head = None if task == "text" else Head(task, labels, recipe.run.seed)
    base = load_base(recipe.model, device(recipe.run.device), head)
    model = peft_bridge.attach(base, recipe.lora)
    tell(peft_bridge.coverage(model))
    start = peft_bridge.start(model, recipe.run.seed)
    initial = peft_bridge.load_adapter(model, recipe.model.adapter) if recipe.model.adapter else None
    session = Session(recipe, base, model, start, initial, {}, HeldOut(), HeldOut(), {})
    if not (directory.path / "config.json").exists():
        directory.begin(recipe)
    setup = Setup(
        method=method,
        federation=recipe.federation,
        seed=recipe.run.seed,
        start=start,
        rank=recipe.lora.rank,
        initial=initial,
        server=recipe.server,
        privacy=recipe.privacy,
        directory=directory,
        export=partial(peft_bridge.export, model),
        rules=rules,
        identity={**identity(session), **code_of(recipe.method["name"])},
        fingerprints={**of_base(base, recipe.data), "classes": list(labels), **of_recipe(recipe)},
        hello=asdict(recipe),
        evaluate_every=recipe.run.evaluate_every,
        metrics=session.metrics,
    )
    return opened(setup, tell)
