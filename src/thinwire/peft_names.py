"""Names of modules as PEFT takes them: it reads some for tensors that older checkpoints of an architecture had.

Since transformers 5 the experts of a MoE model are fused tensors. For the sake of older adapters, PEFT takes the names
`gate_proj`, `up_proj` and `down_proj` in many such models for the experts, even where a dense or a shared MLP has
modules of these names, and renames tensors of files that it loads. Here what was asked for is adapted, and what is
exported says it in words that PEFT understands.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from thinwire.peft_config import WEIGHT
from thinwire.settings import ConfigError

PREFIX = "base_model.model."


@contextmanager
def unconverted() -> Iterator[None]:
    """While open, PEFT adapts the modules that a configuration names, and no experts in their place."""
    try:
        from peft.utils import transformers_weight_conversion as conversion
    except ImportError:  # a PEFT that converts nothing
        yield
        return
    convert: Callable[..., None] = conversion.convert_peft_config_for_transformers
    conversion.convert_peft_config_for_transformers = _nothing
    try:
        yield
    finally:
        conversion.convert_peft_config_for_transformers = convert


def _nothing(*_: Any, **__: Any) -> None:
    """Converts nothing."""


def portable(network: Any, config: Any, targets: Sequence[str]) -> Any:
    """The configuration with which plain PEFT adapts these modules of the model and loads their factors.

    Modules that PEFT would take for experts are named by their parameter; PEFT then allows no dropout.
    Raises: ConfigError for modules that PEFT would not load.
    """
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    kind = getattr(getattr(network, "config", None), "model_type", None)
    if not targets or kind is None or get_checkpoint_conversion_mapping(kind) is None:
        return config
    taken = _adapted(_trial(network, config))
    if taken != set(targets):
        config = copy.deepcopy(config)
        config.target_modules = [name for name in targets if name in taken]
        config.target_parameters = [name + WEIGHT for name in targets if name not in taken]
        config.rank_pattern = {as_target(config, name): rank for name, rank in config.rank_pattern.items()}
        config.alpha_pattern = {as_target(config, name): alpha for name, alpha in config.alpha_pattern.items()}
        config.lora_dropout = 0.0
    lost = sorted(set(targets) - _filled(_trial(network, config), targets))
    if lost:
        good = {_last(name) for name in targets} - {_last(name) for name in lost}
        words = f"{', '.join(lost[:3])}{' ...' * (len(lost) > 3)}"
        raise ConfigError(
            f"lora.targets: PEFT renames the factors of {words} when it loads them into a {kind} model, so they would "
            f"be lost; allowed are {', '.join(sorted(good))}"
        )
    return config


def as_target(config: Any, name: str) -> str:
    """A module's name as a pattern of the configuration must have it."""
    return name + WEIGHT if name + WEIGHT in (config.target_parameters or ()) else name


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _trial(network: Any, config: Any) -> Any:
    """What PEFT makes of a model of this architecture without weights; modules trained in full do not matter."""
    import peft

    config = copy.deepcopy(config)
    config.modules_to_save = None
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(type(network)(copy.deepcopy(network.config)), config)


def _adapted(model: Any) -> set[str]:
    from peft.tuners.lora import LoraLayer

    return {name for name, module in model.get_base_model().named_modules() if isinstance(module, LoraLayer)}


def _filled(model: Any, targets: Sequence[str]) -> set[str]:
    """The targets whose factors arrive where they belong, loaded from a file."""
    import peft

    held = {}
    for name in _adapted(model) & set(targets):
        layer = model.get_base_model().get_submodule(name)
        for part in "AB":
            (factor,) = getattr(layer, f"lora_{part}").values()
            held[f"{PREFIX}{name}.lora_{part}{WEIGHT}"] = torch.empty_like(factor.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        missing = set(peft.set_peft_model_state_dict(model, held).missing_keys)
    return {name for name in _adapted(model) if not any(key.startswith(f"{PREFIX}{name}.lora_") for key in missing)}
