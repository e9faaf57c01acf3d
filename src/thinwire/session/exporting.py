"""A run's adapters written anew from its last checkpoint: as a PEFT adapter, or merged into the base as a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from thinwire import peft_bridge
from thinwire.compatibility import refuse
from thinwire.config import Recipe
from thinwire.data.classify import label_set
from thinwire.models.base import load_base
from thinwire.models.config import RESNETS
from thinwire.models.heads import Head
from thinwire.models.merging import bake
from thinwire.session.opened import method_of, open_base
from thinwire.settings import ConfigError
from thinwire.storage import checkpoint
from thinwire.storage.directory import RunDirectory
from thinwire.storage.state import result_of


def export_run(directory: RunDirectory, to: Path, rank: int | None = None, merged: bool = False) -> dict[str, Any]:
    """Write the global adapters of the last checkpoint to a new folder; rounds played, an adapter's rank and error.

    merged: the base with the adapters in its weights, and the tokenizer, for transformers. Raises: ConfigError.
    """
    recipe = directory.recipe()
    method = method_of(recipe)
    refuse(method, "one adapter", str(directory.path))
    if merged and recipe.model.name in RESNETS:
        name = recipe.model.name
        raise ConfigError(f"--merged: transformers has no {name} of this kind; allowed is the adapter alone")
    if to.exists() and any(to.iterdir()):
        raise ConfigError(f"--to {to}: the folder exists and is not empty; allowed is a new folder")
    head = head_of(recipe, directory)
    opened = open_base(recipe.model, recipe.lora, recipe.run, head)
    try:
        state, _ = checkpoint.load(directory.checkpoints, opened.start, recipe.run.seed)
    except checkpoint.CheckpointError as reason:
        raise ConfigError(f"{directory.path}: no checkpoint can be used: {reason}") from None
    adapters = result_of(method, state)
    if merged:
        bare = load_base(recipe.model, "cpu", head)
        bake(bare.model, adapters)
        bare.model.save_pretrained(to)
        if bare.tokenizer is not None:
            bare.tokenizer.save_pretrained(to)
        return {"to": str(to), "rounds": state.round}
    return {"to": str(to), "rounds": state.round, **peft_bridge.export(opened.model, adapters, to, rank)._asdict()}


def head_of(recipe: Recipe, directory: RunDirectory) -> Head | None:
    """The classifier's head, with the recipe's classes or those that the run found. Raises: ConfigError."""
    if recipe.data.task == "text":
        return None
    if recipe.data.labels:
        return Head(recipe.data.task, label_set((), recipe.data), recipe.run.seed)
    if known := checkpoint.identity(directory.checkpoints):
        return Head(recipe.data.task, tuple(known["classes"]), recipe.run.seed)
    path = directory.path / "summary.json"  # a run of an earlier version
    if not path.is_file():
        raise ConfigError(f"{directory.path}: the run is not finished: summary.json, which has the classes, is missing")
    classes = json.loads(path.read_text(encoding="utf-8"))["classes"]
    return Head(recipe.data.task, tuple(classes), recipe.run.seed)
