"""What LoRA can reach in a model, and what a run adapts of it, in one line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

SHOWN = 10
"""Names that a line lists of each kind at most."""

_READ = re.compile(r"self\.(\w+)\.weight\b(?!\s*=[^=]|\.(?:dtype|device|shape|data)\b|,\s*torch\.Tensor\b|\[)")
"""A child's weight used in an expression: not set, not asked for its kind, not cut in slices, as BLOOM does it only to
imitate tensor parallelism."""


def obstacles(network: nn.Module, layers: Iterable[str]) -> dict[str, str]:
    """Of these layers the ones that LoRA cannot adapt, each with the reason.

    PEFT adds to what a layer returns. That is the product's place only if the layer is a linear map, and if the model
    calls it: Mamba's mixers, among others, use the weight of a layer without calling it.
    """
    found: dict[str, str] = {}
    for name in layers:
        path, _, child = name.rpartition(".")
        layer: Any = network.get_submodule(name)
        parent: Any = type(network.get_submodule(path))
        if child in _read_by(parent):
            found[name] = f"{parent.__name__} uses its weight without calling it"
        elif isinstance(layer, nn.Linear) and not _is_linear(layer):
            found[name] = f"{type(layer).__name__} computes more than a linear layer does"
    return found


def covered(network: nn.Module, adapted: Collection[str], extras: Collection[str]) -> str:
    """What is adapted, what is trained in full and what stays frozen (norms and embeddings go without saying)."""
    done = tuple(f"{name}." for name in (*adapted, *extras))
    frozen = {n: m for n, m in _matrices(network) if not f"{n}.".startswith(done)}
    experts = [name for name, module in frozen.items() if "Expert" in type(module).__name__]
    layers = {match[0] for name in experts if (match := re.match(r".*?\.\d+(?=\.)", name))}
    what = [f"experts of {len(layers) or 1} MoE layer{'s' * (len(layers) > 1)}"] if experts else []
    mine, others = _counts(adapted), _counts(name for name in frozen if name not in experts)
    what += [f"{name} ({n} of {n + mine[name]})" if name in mine else name for name, n in others.items()]
    parts = [f"adapts {len(adapted)} module{'s' * (len(adapted) != 1)}"]
    parts[0] += f" ({_some(list(mine))})" if adapted else ""
    parts += [f"trains in full: {_some(list(extras))}"] if extras else []
    return "; ".join([*parts, f"frozen: {_some(what)}"] if what else parts)


@cache
def _read_by(kind: Any) -> frozenset[str]:
    """Names of children whose weight the methods of a class use themselves."""
    found: set[str] = set()
    for owner in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        for name, function in vars(owner).items():
            if name != "__init__" and inspect.isfunction(function):
                try:
                    found |= set(_READ.findall(inspect.getsource(inspect.unwrap(function))))
                except OSError:  # written in no file
                    continue
    return frozenset(found)


@torch.no_grad()
def _is_linear(layer: nn.Linear) -> bool:
    """Whether a layer of a class of its own still returns `x W + b`; one in 8 or 4 bits does."""
    if type(layer).forward is nn.Linear.forward or not layer.weight.is_floating_point():
        return True
    inputs = torch.ones(2, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device)
    try:
        found = layer(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    wanted = nn.functional.linear(inputs, layer.weight, layer.bias)
    return isinstance(found, Tensor) and found.shape == wanted.shape and torch.allclose(found, wanted, rtol=0.02)


def _matrices(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules with a matrix of their own, but embeddings."""
    for name, module in network.named_modules():
        if not isinstance(module, nn.Embedding) and any(p.dim() > 1 for p in module.parameters(recurse=False)):
            yield name, module


def _counts(names: Iterable[str]) -> dict[str, int]:
    """How many modules have each last name, in the model's order; a number takes the name before it along."""
    found: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        short = ".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:])
        found[short] = found.get(short, 0) + 1
    return found


def _some(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:SHOWN])} and {rest} more kinds"
