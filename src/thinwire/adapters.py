"""What is trained: one low-rank pair per adapted module, and extras trained in full; their arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from thinwire.lowrank import LowRank

Key = tuple[str, str]
"""(site, "a" | "b") for a factor, (name, "extra") for a tensor trained in full."""

Change = dict[Key, Tensor]
"""New minus old, float32, by key; keys that were not trained are absent."""

EXTRA = "extra"
FACTORS = ("a", "b")


@dataclass(frozen=True)
class Adapters:
    """All trainables of a model: `sites` {module name: LowRank}, `extras` {parameter name: tensor}. Never mutated."""

    sites: Mapping[str, LowRank]
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def items(self) -> Iterator[tuple[Key, Tensor]]:
        """Every tensor with its key, in the canonical order: sites by name (a, then b), then extras by name."""
        for name in sorted(self.sites):
            yield (name, "a"), self.sites[name].a
            yield (name, "b"), self.sites[name].b
        for name in sorted(self.extras):
            yield (name, EXTRA), self.extras[name]

    def __getitem__(self, key: Key) -> Tensor:
        name, part = key
        return self.extras[name] if part == EXTRA else getattr(self.sites[name], part)

    def __contains__(self, key: Key) -> bool:
        name, part = key
        return name in self.extras if part == EXTRA else part in FACTORS and name in self.sites

    @property
    def parameters(self) -> int:
        """Number of trainable values."""
        return sum(tensor.numel() for _, tensor in self.items())

    def put(self, tensors: Mapping[Key, Tensor]) -> Adapters:
        """A copy with the given tensors in place of its own. Raises: KeyError for a key it does not have."""
        for key in tensors:
            if key not in self:
                raise KeyError(f"no tensor {key[0]!r} ({key[1]}) among the adapters")
        sites = {
            name: replace(site, a=tensors.get((name, "a"), site.a), b=tensors.get((name, "b"), site.b))
            for name, site in self.sites.items()
        }
        return Adapters(sites, {name: tensors.get((name, EXTRA), own) for name, own in self.extras.items()})

    def add(self, change: Mapping[Key, Tensor]) -> Adapters:
        """The adapters after a change. Raises: KeyError for a key it does not have."""
        return self.put({key: self[key] + delta if key in self else delta for key, delta in change.items()})

    def trained(self, parts: Iterable[str]) -> list[Key]:
        """Keys whose part ("a", "b", "extra") is in `parts`, in canonical order."""
        parts = frozenset(parts)
        return [key for key, _ in self.items() if key[1] in parts]


def subtract(new: Adapters, old: Adapters, keys: Iterable[Key]) -> Change:
    """The change `new - old` of the given keys."""
    return {key: new[key] - old[key] for key in keys}


def same(one: Adapters, other: Adapters) -> bool:
    """Equal to the last bit."""
    mine, yours = dict(one.items()), dict(other.items())
    return mine.keys() == yours.keys() and all(torch.equal(mine[key], yours[key]) for key in mine)
