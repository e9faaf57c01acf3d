"""FLASC: Federated LoRA with Sparse Communication. Kuo et al., TMLR, arXiv:2406.05233, doi:10.1145/3786335.3813151."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from thinwire.adapters import EXTRA, Adapters, first_rows
from thinwire.compress import Step, StepContext, decode
from thinwire.compress.top_k import TopK
from thinwire.lowrank import LowRank
from thinwire.method import (
    Changes,
    Client,
    ConfigError,
    Context,
    Memory,
    Method,
    Parts,
    Plan,
    Rule,
    States,
    Uploads,
    setting,
    weighted_sum,
)
from thinwire.payload import dense


@dataclass(frozen=True)
class PlacedMean(Rule):
    """The mean of changes, those of lower ranks at the rows that they were cut from: "first" or "largest"."""

    rows: str

    @property
    def linear(self) -> bool:
        return self.rows == "first"

    def __call__(self, module: LowRank, uploads: Uploads, ctx: Context) -> Parts:
        return weighted_sum(uploads.map(lambda upload: (upload[0], self._placed(module, upload[1]))))

    def cut(self, adapters: Adapters, rank: int | None) -> Adapters:
        if rank is None or self.rows == "first":
            return first_rows(adapters, rank)
        modules = {name: _rows(module, _largest(module, rank)) for name, module in adapters.modules.items()}
        return replace(adapters, modules=modules)

    def _placed(self, module: LowRank, change: Parts) -> Parts:
        """A lower rank's change at the rows it was cut from, zero elsewhere."""
        rank = change["b"].shape[1]
        if rank == module.rank:
            return change
        rows = _largest(module, rank) if self.rows == "largest" else torch.arange(rank)
        dims = {"a": 0, "b": 1}
        return {
            part: torch.zeros_like(getattr(module, part)).index_copy_(dims[part], rows.to(tensor.device), tensor)
            for part, tensor in change.items()
        }


@dataclass(frozen=True)
class Sparse(States):
    """Clients are sent the largest entries; the model is evaluated as they would be sent it next."""

    method: FLASC

    def steps(self, client: Client, ctx: Context) -> tuple[Step, ...]:
        return (TopK(self.method.density(self.method.down_density, client, ctx)),)

    def settle(self, adapters: Adapters, ctx: Context) -> Adapters:
        fixed = self.method.local == "fixed" and ctx.round == 0
        return self._masked(adapters, self.method.down_density) if fixed else adapters

    def result(self, adapters: Adapters, ctx: Context) -> Adapters:
        return self._masked(adapters, self.method.decayed(self.method.down_density, ctx))

    def _masked(self, adapters: Adapters, density: float) -> Adapters:
        leaves = {key: dense(adapters[key]) for key in adapters.trained(self.method.trains(Context(0, 0)))}
        return adapters.put(decode(TopK(density)(leaves, StepContext(adapters, adapters, 0))))


@dataclass(frozen=True, kw_only=True)
class FLASC(Method):
    """Download the largest entries of all trainables, train all of them, upload the largest entries of the change.

    The server keeps every entry; a server optimizer is the recipe's [server]. No error feedback.
    Differs: density also counts as a client's tier in both directions; values travel in bfloat16 by default.
    """

    name: ClassVar[str] = "flasc"
    title: ClassVar[str] = "FLASC (top-k both ways)"
    paper: ClassVar[str] = "doi:10.1145/3786335.3813151"

    down_density: float = setting(0.25, "share of entries that a client is sent", above=0, high=1)
    up_density: float = setting(0.25, "share of entries that a client sends", above=0, high=1)
    decay: float = setting(1.0, "factor on both densities from round to round", above=0, high=1)
    floor: float = setting(0.01, "smallest density that decay leads to", above=0, high=1)
    freeze_a: bool = setting(False, "train B and extras only")
    local: str = setting(
        "dense",
        "local training; sparse: only entries that were sent; fixed: only those of one mask, chosen after round 1; "
        "with both, round 1 is dense but for clients with a density of their own",
        choices=("dense", "sparse", "fixed"),
    )
    rows: str = setting("first", "which rows a client of lower rank holds", choices=("first", "largest"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze_a and self.rows == "largest":
            raise ConfigError(
                "method flasc.rows = 'largest': not with freeze_a: A never travels, so all hold its first rows; "
                "allowed is first"
            )

    def trains(self, ctx: Context) -> frozenset[str]:
        return frozenset({"b", EXTRA}) if self.freeze_a else super().trains(ctx)

    def plan(self, view: Adapters, client: Client, memory: Memory, ctx: Context) -> Plan:
        parts = self.trains(ctx)
        return Plan(view, parts, {key: view[key] != 0 for key in view.trained(parts)} if self._sparse(ctx) else {})

    def up(self, client: Client, ctx: Context) -> tuple[Step, ...]:
        return (TopK(self.density(self.up_density, client, ctx)),)

    @property
    def rule(self) -> Rule:
        return PlacedMean(self.rows)

    @property
    def exchange(self) -> Changes:
        return Sparse(self)

    def density(self, given: float, client: Client, ctx: Context) -> float:
        """A client's own density, or the method's; round 1 is dense where local training is sparse later."""
        if client.density is not None:
            return self.decayed(client.density, ctx)
        return 1.0 if self.local != "dense" and ctx.round == 0 else self.decayed(given, ctx)

    def decayed(self, density: float, ctx: Context) -> float:
        return max(density * self.decay**ctx.round, min(density, self.floor))

    def _sparse(self, ctx: Context) -> bool:
        return self.local != "dense" and ctx.round > 0


def _largest(module: LowRank, rank: int) -> Tensor:
    """The components of largest norm `|b column| |a row|`, in their order; all while b is zero: the first ones."""
    norms = module.b.norm(dim=0) * module.a.norm(dim=1)
    return norms.argsort(descending=True, stable=True)[:rank].sort().values


def _rows(module: LowRank, rows: Tensor) -> LowRank:
    return replace(module, b=module.b[:, rows], a=module.a[rows])
