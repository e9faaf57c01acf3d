"""What is trained: one low-rank pair per adapted module, and extras trained in full; their arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from thinwire.lowrank import LowRank, stack

Key = tuple[str, str]
"""(module, "a" | "b") for a factor, (name, "extra") for a tensor trained in full, (module, "merged_a" | "merged_b")."""

Change = dict[Key, Tensor]
"""New minus old, float32, by key; keys that were not trained are absent."""

EXTRA = "extra"
FACTORS = ("a", "b")
MERGED = ("merged_a", "merged_b")


@dataclass(frozen=True)
class Adapters:
    """All trainables of a model: `modules` {module name: LowRank}, `extras` {parameter name: tensor}. Never mutated.

    merged: {module name: LowRank of scale 1}, what earlier rounds added to the base for good; empty for most methods.
    """

    modules: Mapping[str, LowRank]
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    merged: Mapping[str, LowRank] = field(default_factory=dict)

    def items(self) -> Iterator[tuple[Key, Tensor]]:
        """Every tensor with its key, in the canonical order: modules by name (a, then b), extras, merged, by name."""
        for name in sorted(self.modules):
            yield (name, "a"), self.modules[name].a
            yield (name, "b"), self.modules[name].b
        for name in sorted(self.extras):
            yield (name, EXTRA), self.extras[name]
        for name in sorted(self.merged):
            yield (name, MERGED[0]), self.merged[name].a
            yield (name, MERGED[1]), self.merged[name].b

    def __getitem__(self, key: Key) -> Tensor:
        name, part = key
        if part == EXTRA:
            return self.extras[name]
        return getattr(self.merged[name] if part in MERGED else self.modules[name], part[-1])

    def __contains__(self, key: Key) -> bool:
        name, part = key
        if part == EXTRA:
            return name in self.extras
        return (part in FACTORS and name in self.modules) or (part in MERGED and name in self.merged)

    @property
    def parameters(self) -> int:
        """Number of trainable values."""
        return sum(tensor.numel() for _, tensor in self.items())

    def put(self, tensors: Mapping[Key, Tensor]) -> Adapters:
        """A copy with the given tensors in place of its own; merged pairs may be new. Raises: KeyError otherwise."""
        for key in tensors:
            if key not in self and not (key[1] in MERGED and key[0] in self.modules):
                raise KeyError(f"no tensor {key[0]!r} ({key[1]}) among the adapters")
        modules = {
            name: replace(module, a=tensors.get((name, "a"), module.a), b=tensors.get((name, "b"), module.b))
            for name, module in self.modules.items()
        }
        pairs = {name: LowRank(tensors[name, "merged_b"], tensors[name, "merged_a"]) for name in _merged_in(tensors)}
        extras = {name: tensors.get((name, EXTRA), own) for name, own in self.extras.items()}
        return Adapters(modules, extras, {**self.merged, **pairs})

    def add(self, change: Mapping[Key, Tensor]) -> Adapters:
        """The adapters after a change; merged pairs are added to the merged product. Raises: KeyError as `put`."""
        deltas = {key: delta for key, delta in change.items() if key[1] not in MERGED}
        sums = {key: self[key] + delta if key in self else delta for key, delta in deltas.items()}
        for name in _merged_in(change):
            total = LowRank(change[name, "merged_b"], change[name, "merged_a"])
            total = joined(self.merged[name], total) if name in self.merged else compact(total)
            sums |= {(name, "merged_a"): total.a, (name, "merged_b"): total.b}
        return self.put(sums)

    def trained(self, parts: Iterable[str]) -> list[Key]:
        """Keys whose part ("a", "b", "extra") is in `parts`, in canonical order."""
        parts = frozenset(parts)
        return [key for key, _ in self.items() if key[1] in parts]


def first_rows(adapters: Adapters, rank: int | None) -> Adapters:
    """The first `rank` components of every module: A's first rows and B's first columns; None: all of them."""
    if rank is None:
        return adapters
    modules = {name: replace(s, b=s.b[:, :rank], a=s.a[:rank]) for name, s in adapters.modules.items()}
    return replace(adapters, modules=modules)


def joined(one: LowRank, other: LowRank) -> LowRank:
    """The sum of two products of scale 1, `compact`."""
    return compact(stack([one, other], [1.0, 1.0]))


def compact(total: LowRank) -> LowRank:
    """A product of scale 1 whose inner rank does not exceed min(O, I): beyond it, itself beside an identity."""
    rows, columns = total.b.shape[0], total.a.shape[1]
    if total.rank <= min(rows, columns):
        return total
    product, own = (total.b.double() @ total.a.double()).to(total.a), torch.eye(min(rows, columns)).to(total.a)
    return LowRank(own, product) if rows <= columns else LowRank(product, own)


def _merged_in(tensors: Mapping[Key, Tensor]) -> list[str]:
    return [name for name, part in tensors if part == MERGED[0]]


def subtract(new: Adapters, old: Adapters, keys: Iterable[Key]) -> Change:
    """The change `new - old` of the given keys."""
    return {key: new[key] - old[key] for key in keys}


def same(one: Adapters, other: Adapters) -> bool:
    """Equal to the last bit."""
    mine, yours = dict(one.items()), dict(other.items())
    return mine.keys() == yours.keys() and all(torch.equal(mine[key], yours[key]) for key in mine)
