"""What adapters add to the base: merged into its weights and taken out again, for good, or as one pair a module."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from thinwire.adapters import Adapters, compact
from thinwire.lowrank import LowRank, norm, split, stack
from thinwire.models.targets import is_conv1d
from thinwire.settings import ConfigError

_pristine: WeakKeyDictionary[nn.Module, tuple[nn.Parameter, LowRank | None]] = WeakKeyDictionary()
"""The weights that modules were loaded with, where something has been merged into them, and what is merged now."""


@torch.no_grad()
def put(modules: Mapping[str, nn.Module], merged: Mapping[str, LowRank]) -> None:
    """Make every module's weight `W0 + b @ a` with its entry in `merged`, or W0 where it has none.

    W0 is never written to, so that sums do not drift (one rounding to the base's dtype, whatever came before) and a
    module that shares it, as embeddings share a tied head's, keeps it. Raises: ConfigError for a quantised base, whose
    weights cannot take a sum.
    """
    for name, module in modules.items():
        wanted, (pristine, now) = merged.get(name), _pristine.get(module, (None, None))
        if wanted is now:
            continue
        pristine = _floating(module) if pristine is None else pristine
        _pristine[module] = pristine, wanted
        module.weight = pristine if wanted is None else _frozen(sum_of(module, pristine, wanted).to(pristine.dtype))


@torch.no_grad()
def bake(network: nn.Module, adapters: Adapters) -> None:
    """Make the adapters part of a base model that has no LoRA layers: weights plus products, and extras; for good.

    In float32, rounded once to the base's dtype. Where one of them shares its tensor with another module, as a tied
    head does, all tensors that the model ties become several, and its configuration says so. Raises: ConfigError for
    a quantised base.
    """
    pairs = one_adapter(adapters)[0]
    if _shared(network) & {*(f"{name}.weight" for name in pairs), *adapters.extras}:
        untie(network)
    for name, pair in pairs.items():
        module = network.get_submodule(name)
        weight = _floating(module)
        weight.copy_(sum_of(module, weight, pair))
    for name, value in adapters.extras.items():
        network.get_parameter(name).copy_(value)


def untie(network: nn.Module) -> None:
    """Give every module that shares a tensor one of its own, in place, and say so in the model's configuration."""
    taken: set[nn.Parameter] = set()
    for _, module, name, parameter in _own_parameters(network):
        if parameter in taken:
            setattr(module, name, _frozen(parameter.detach().clone()))
        taken.add(parameter)
    for part in network.modules():
        model: Any = part
        if hasattr(model, "all_tied_weights_keys"):
            model.all_tied_weights_keys = {}
            model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False


def _shared(network: nn.Module) -> set[str]:
    """Names of the parameters that several modules share."""
    names: dict[nn.Parameter, list[str]] = {}
    for path, _, name, parameter in _own_parameters(network):
        names.setdefault(parameter, []).append(f"{path}.{name}")
    return {name for same in names.values() if len(same) > 1 for name in same}


def _own_parameters(network: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """(path, module, name, parameter) of every module's own parameters; each module once."""
    for path, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield path, module, name, parameter


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def one_adapter(adapters: Adapters, rank: int | None = None) -> tuple[dict[str, LowRank], float]:
    """Merged and current product of every module as one pair, and the relative error of all of them together.

    Exact, unless `rank` bounds the pairs' rank: then the best approximation, module by module, and the Frobenius norm
    of what is left out over that of the whole.
    """
    pairs: dict[str, LowRank] = {}
    lost = total = 0.0
    for name, module in adapters.modules.items():
        pair = module
        if name in adapters.merged:
            terms = [adapters.merged[name], module] if bool(module.b.any()) else [adapters.merged[name]]
            pair = stack(terms, [1.0] * len(terms))
        if rank is not None and pair.rank > rank:
            best, rest = split(pair, rank)
            lost, total = lost + float(norm(rest)) ** 2, total + float(norm(pair)) ** 2
            pairs[name] = LowRank(best.b.to(module.b), best.a.to(module.a))
        else:
            total += float(norm(pair)) ** 2 if rank is not None else 0.0
            pairs[name] = compact(pair) if name in adapters.merged else pair
    return pairs, math.sqrt(lost / total) if total else 0.0


def sum_of(module: nn.Module, weight: Tensor, merged: LowRank) -> Tensor:
    """`W0 + scale * b @ a` in float32, in the layout of the module's weight."""
    product = merged.scale * merged.b.to(weight.device) @ merged.a.to(weight.device)
    return weight.float() + (product.T if is_conv1d(module) else product.reshape(weight.shape))


def _floating(module: nn.Module) -> Any:
    """The module's weight. Raises: ConfigError if it holds codes."""
    weight: Any = module.weight
    if not weight.is_floating_point():
        raise ConfigError("model.bits: what is merged into the base needs one that is not quantised")
    return weight
