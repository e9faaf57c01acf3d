"""Classifier heads: which modules of a base are new, and their start, the same on all sides."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thinwire.randomness import derive, uniform
from thinwire.settings import ConfigError

HEAD_CLASSES = {
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "image": "AutoModelForImageClassification",
}
"""The transformers class of each task with classes."""

PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class Head:
    """A classifier to put on a base: the task (a data.task but text), its classes in order, and the run's seed."""

    task: str
    classes: tuple[str, ...]
    seed: int


def new_modules(model: Any, missing: Iterable[str]) -> list[str]:
    """Paths of what a classifier has beside its backbone, and of a pooler whose weights are `missing`.

    Raises: ValueError for anything else that is missing.
    """
    backbone = model.base_model_prefix
    beside = [(name, child) for name, child in model.named_children() if name != backbone]
    heads = [name for name, child in beside if any(True for _ in child.parameters())]
    rest = [name for name in missing if name.partition(".")[0] not in heads]
    poolers = {name.rpartition(".")[0] for name in rest if "pooler" in name.split(".")}
    lacking = sorted(name for name in rest if name.rpartition(".")[0] not in poolers)
    if lacking:
        raise ValueError(f"its weights lack {', '.join(lacking[:3])}")
    return [*heads, *sorted(poolers)]


@torch.no_grad()
def draw(model: nn.Module, modules: Iterable[str], seed: int) -> None:
    """Set new modules to their start, in place: matrices uniform in +-1/sqrt(fan_in), biases 0, scales 1."""
    for path in modules:
        for name, parameter in model.get_submodule(path).named_parameters(prefix=path):
            if parameter.dim() > 1:
                bound = parameter[0].numel() ** -0.5
                parameter.copy_((uniform(derive(seed, "head", name), *parameter.shape) * 2 - 1) * bound)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)


def hold_statistics(model: nn.Module) -> None:
    """Make batch normalisation that is not trained use the base's statistics in training too: they never change."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(_evaluating)


def _evaluating(module: nn.Module, _: Any) -> None:
    if not any(parameter.requires_grad for parameter in module.parameters()):
        module.eval()


def agree_on_padding(model: Any, tokenizer: Any, where: str) -> None:
    """Make model and tokenizer mean the same token by padding, in place: by it a causal classifier finds a text's end.

    The model's own where it has one; else the tokenizer's, or its end; else a row that no text has, or what is unknown.
    Raises: ConfigError where there is none of these. `where` begins the message.
    """
    try:
        table = model.get_input_embeddings().weight
    except (AttributeError, NotImplementedError):
        raise ConfigError(f"{where}: its input embeddings are not a table with a row for each token") from None
    config, rows = model.config.get_text_config(), len(table)
    spare = rows - 1 if rows > len(tokenizer) else None
    choices = (config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, spare, tokenizer.unk_token_id)
    padding = next((choice for choice in choices if choice is not None and 0 <= choice < rows), None)
    if padding is None:
        raise ConfigError(f"{where}: neither it nor its tokenizer has a token for padding, end or what is unknown")
    config.pad_token_id = padding
    token = tokenizer.convert_ids_to_tokens(padding)
    if token is not None and padding != tokenizer.pad_token_id:
        tokenizer.pad_token = token


def preprocessor(source: str, local: bool) -> dict[str, Any]:
    """What a folder or a model on the hub says of the images it wants; empty where it says nothing."""
    path: Path | str = Path(source) / PREPROCESSOR
    if not local:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            path = hf_hub_download(source, PREPROCESSOR)
        except EntryNotFoundError:
            return {}
    return json.loads(Path(path).read_text(encoding="utf-8")) if Path(path).is_file() else {}


def set_scaling(config: Any, wanted: dict[str, Any]) -> None:
    """Note in a model's configuration how pixels are scaled: by the preprocessor's words, else to -1..1."""
    config.image_mean = wanted.get("image_mean") or [0.5, 0.5, 0.5]
    config.image_std = wanted.get("image_std") or [0.5, 0.5, 0.5]
