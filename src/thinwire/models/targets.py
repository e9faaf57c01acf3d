"""Which modules of a base model a `LoraConfig` means: adapted ones, and extras trained in full."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from torch import nn

from thinwire.models.config import LoraConfig
from thinwire.models.coverage import obstacles
from thinwire.settings import ConfigError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
ALL_LINEAR, ALL_CONV, ALL_NORM, ALL = "all-linear", "all-conv", "all-norm", "all"


def adapted(network: nn.Module, lora: LoraConfig) -> list[str]:
    """Paths of the modules to adapt, in the model's order; none of them inside an extra. No targets, no modules.

    What LoRA cannot adapt, and a gate of one output, is left out of `all-linear` and `all-conv`. Raises: ConfigError
    for a target that matches nothing or such a module by its name, or a rank above what a module allows.
    """
    if not lora.targets:
        return []
    limits = {name: limit for name, module in network.named_modules() if (limit := _limit(module)) is not None}
    chosen: set[str] = set()
    blocked = obstacles(network, limits)
    for target in lora.targets:
        if target in (ALL_LINEAR, ALL_CONV):
            layers = _linear(network) if target == ALL_LINEAR else _convolutions(network)
            chosen |= {name for name in layers if name not in blocked and limits[name] > 1}
        else:
            found = _match("lora.targets", target, limits)
            for name in sorted(found & blocked.keys()):
                raise ConfigError(f"lora.targets = {target!r}: {name} cannot be adapted: {blocked[name]}; leave it out")
            chosen |= found
    inside = tuple(f"{extra}." for extra in extras(network, lora))
    names = [name for name in limits if name in chosen and not f"{name}.".startswith(inside)]
    if not names:
        raise ConfigError(
            f"lora.targets = {list(lora.targets)!r} matches no module outside lora.extras = {list(lora.extras)!r}"
        )
    own = ranks(names, lora)
    for name in names:
        if own.get(name, lora.rank) > limits[name]:
            field = "lora.ranks" if name in own else "lora.rank"
            raise ConfigError(
                f"{field} = {own.get(name, lora.rank)}: module {name} allows at most {limits[name]}; "
                "lora.ranks gives modules ranks of their own"
            )
    return names


def ranks(names: Iterable[str], lora: LoraConfig) -> dict[str, int]:
    """The ranks of adapted modules that have one of their own; a longer name in `lora.ranks` goes before a shorter one.

    Raises: ConfigError for a name that matches none.
    """
    names = list(names)
    found: dict[str, int] = {}
    for wanted in sorted(lora.ranks, key=len):
        found |= dict.fromkeys(_match("lora.ranks", wanted, names), lora.ranks[wanted])
    return found


def extras(network: nn.Module, lora: LoraConfig) -> list[str]:
    """Paths of the modules trained in full, none inside another. Raises: ConfigError if a name matches nothing."""
    owners = [name for name, module in network.named_modules() if name and any(True for _ in module.parameters())]
    found = sorted(set().union(*(_extra(network, extra, owners) for extra in lora.extras)))
    return [name for name in found if not name.startswith(tuple(f"{other}." for other in found))]


def _extra(network: nn.Module, wanted: str, owners: list[str]) -> set[str]:
    if wanted == ALL:
        return {name for name in owners if any(True for _ in network.get_submodule(name).parameters(recurse=False))}
    if wanted == ALL_NORM:
        return {name for name in owners if type(network.get_submodule(name)).__name__.endswith(("Norm", "Norm2d"))}
    return _match("lora.extras", wanted, owners)


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear layer, whose weight is (in, out)."""
    return type(module).__name__ == "Conv1D"


def _limit(module: nn.Module) -> int | None:
    """The largest rank of a module that can be adapted: the smaller side of its weight as a matrix."""
    if is_conv1d(module):
        return min(module.weight.shape)  # type: ignore[arg-type]
    if isinstance(module, nn.Linear):
        return min(module.in_features, module.out_features)
    if isinstance(module, CONVOLUTIONS):
        return min(module.weight.shape[0], module.weight[0].numel())
    return None


def _convolutions(network: nn.Module) -> set[str]:
    return {name for name, module in network.named_modules() if isinstance(module, CONVOLUTIONS)}


def _linear(network: Any) -> set[str]:
    """All linear layers of the backbone: not the output embeddings, nor any head that sits outside the backbone."""
    backbone = getattr(network, "base_model", network)
    inside = {id(module) for module in backbone.modules()}
    if hasattr(network, "get_output_embeddings"):
        inside.discard(id(network.get_output_embeddings()))
    return {
        name
        for name, module in network.named_modules()
        if id(module) in inside and (isinstance(module, nn.Linear) or is_conv1d(module))
    }


def _match(setting: str, wanted: str, names: Iterable[str]) -> set[str]:
    """Names that are `wanted` or end in it after a dot."""
    names = list(names)
    found = {name for name in names if name == wanted or name.endswith(f".{wanted}")}
    if not found:
        raise ConfigError(f"{setting} = {wanted!r} matches no module of the model. Allowed: {_nearest(wanted, names)}")
    return found


def _nearest(wanted: str, names: Iterable[str]) -> str:
    """Last names of modules that exist, the most similar first."""
    short = {name.rsplit(".", 1)[-1] for name in names}
    words = sorted(word for word in short if not word.isdigit())
    return ", ".join(difflib.get_close_matches(wanted, words, n=8, cutoff=0.0))
