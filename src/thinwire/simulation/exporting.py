"""A run's adapters written anew from its last checkpoint: as a PEFT adapter, or merged into the base as a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from thinwire import peft_bridge
from thinwire.compatibility import refuse
from thinwire.config import RESNETS, Recipe
from thinwire.data.classify import label_set
from thinwire.models import load_base
from thinwire.models.heads import Head
from thinwire.models.merging import bake, one_adapter
from thinwire.settings import ConfigError
from thinwire.simulation.rounds import result_of
from thinwire.simulation.session import device, method_of
from thinwire.storage import checkpoint
from thinwire.storage.directory import RunDirectory


def export_run(directory: RunDirectory, to: Path, rank: int | None = None, merged: bool = False) -> dict[str, Any]:
    """Write the global adapters of the last checkpoint to a new folder; largest rank, relative error, rounds played.

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
    base = load_base(recipe.model, device(recipe.run.device), head_of(recipe, directory))
    model = peft_bridge.attach(base, recipe.lora)
    start = peft_bridge.start(model, recipe.run.seed)
    try:
        state, _ = checkpoint.load(directory.checkpoints, start, recipe.run.seed)
    except checkpoint.CheckpointError as reason:
        raise ConfigError(f"{directory.path}: no checkpoint can be used: {reason}") from None
    adapters, error = result_of(method, state), 0.0
    if merged:
        bare = load_base(recipe.model, "cpu", head_of(recipe, directory))
        bake(bare.model, adapters)
        bare.model.save_pretrained(to)
        if bare.tokenizer is not None:
            bare.tokenizer.save_pretrained(to)
    else:
        error = peft_bridge.export(model, adapters, to, rank)
    ranks = [site.rank for site in one_adapter(adapters)[0].values()]
    kept = max(ranks) if rank is None or merged else min(rank, max(ranks))
    return {"to": str(to), "rounds": state.round, "rank": kept, "relative_error": error}


def head_of(recipe: Recipe, directory: RunDirectory) -> Head | None:
    """The classifier's head, with the recipe's classes or those that the finished run found. Raises: ConfigError."""
    if recipe.data.task == "text":
        return None
    if recipe.data.labels:
        return Head(recipe.data.task, label_set((), recipe.data), recipe.run.seed)
    path = directory.path / "summary.json"
    if not path.is_file():
        raise ConfigError(f"{directory.path}: the run is not finished: summary.json, which has the classes, is missing")
    classes = json.loads(path.read_text(encoding="utf-8"))["classes"]
    return Head(recipe.data.task, tuple(classes), recipe.run.seed)
