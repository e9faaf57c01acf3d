"""FLoRA: Federated Fine-Tuning LLMs with Heterogeneous Low-Rank Adaptations. Wang et al., NeurIPS 2024.

arXiv:2409.05976.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from thinwire.adapters import EXTRA, Adapters, Change, compact, first_rows
from thinwire.lowrank import LowRank, principal, split, stack
from thinwire.method import Client, ConfigError, Context, Memory, Method, Parts, Plan, Rule, Uploads, setting


@dataclass(frozen=True, kw_only=True)
class FLoRA(Method):
    """Stack the clients' factors, exactly `sum_k p_k s_k B_k A_k`; all merge the stack and start a fresh LoRA.

    warm_start (ours): the stack's best approximation of the full rank stays the adapter that goes on, the rest is
    merged; a client of lower rank trains its first components and merges the others for the round. Equal broadcasts.
    Differs: merging starts from the pristine base each time, so roundings never add up; a sum of rank above min(O, I)
    becomes a matrix beside an identity, so what a late joiner is sent does not grow for ever.
    """

    name: ClassVar[str] = "flora"
    title: ClassVar[str] = "FLoRA (stacking)"
    paper: ClassVar[str] = "arXiv:2409.05976"

    warm_start: bool = setting(False, "go on with the stack's leading components instead of a fresh start")
    fixed_alpha: bool = setting(
        False, "a fresh client's scale is alpha / r_k; else alpha / r for all: alpha_k follows r_k"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warm_start and self.fixed_alpha:
            raise ConfigError(
                "method flora.fixed_alpha = True: not with warm_start: components of one adapter have one scale"
            )

    @property
    def rule(self) -> Stack:
        return KeepBest() if self.warm_start else Stack(self.fixed_alpha)

    def plan(self, view: Adapters, client: Client, memory: Memory, ctx: Context) -> Plan:
        return Plan(self.rule.start(view, client, ctx), self.trains(ctx))

    def encode(self, plan: Plan, trained: Adapters, ctx: Context) -> Change:
        return self.rule.offered(super().encode(plan, trained, ctx), trained)


@dataclass(frozen=True)
class Stack(Rule):
    """The stack of all factors, merged into the base; a client starts from a fresh A of its rank, and sends factors."""

    fixed_alpha: bool = False

    merges = True
    cannot: ClassVar[Mapping[str, str]] = {
        "server optimizer": "the stack is merged into the base, there is no adapter to step on with",
        "kept optimizer": "each round starts from another adapter",
    }

    def __call__(self, module: LowRank, uploads: Uploads, ctx: Context) -> Parts:
        terms = [LowRank(sent["b"], sent["a"], self._scale(module, sent["b"].shape[1])) for _, sent in uploads]
        total = compact(stack(terms, [p for p, _ in uploads]))
        return {"merged_a": total.a, "merged_b": total.b}

    def cut(self, adapters: Adapters, rank: int | None) -> Adapters:
        return first_rows(adapters, rank)

    def start(self, view: Adapters, client: Client, ctx: Context) -> Adapters:
        """What the client trains: fresh factors, on a base that holds all that it was sent."""
        fresh = {name: self._fresh(name, module, client, ctx) for name, module in view.modules.items()}
        return replace(merged_from(view, dict.fromkeys(view.modules, 0)), modules=fresh)

    def offered(self, change: Change, trained: Adapters) -> Change:
        """What it sends: its factors themselves."""
        return {key: delta if key[1] == EXTRA else trained[key] for key, delta in change.items()}

    def _fresh(self, name: str, module: LowRank, client: Client, ctx: Context) -> LowRank:
        """A (rank, I) uniform in +-1/sqrt(I), another in every round and at every client; B zero."""
        b, columns = module.b[:, : client.rank], module.a.shape[1]
        a = (ctx.uniform((b.shape[1], columns), "fresh", client.name, name) * 2 - 1) * columns**-0.5
        return LowRank(torch.zeros_like(b), a.to(module.a), self._scale(module, b.shape[1]))

    def _scale(self, module: LowRank, rank: int) -> float:
        return module.scale * module.rank / rank if self.fixed_alpha else module.scale


class KeepBest(Stack):
    """The stack's best approximation of the full rank goes on as the adapter, the rest is merged."""

    def __call__(self, module: LowRank, uploads: Uploads, ctx: Context) -> Parts:
        terms: list[LowRank] = []
        weights: list[float] = []
        for p, sent in uploads:
            rank = sent["b"].shape[1]
            trained = LowRank(module.b[:, :rank] + sent["b"], module.a[:rank] + sent["a"], module.scale)
            terms += [trained, tail(module, rank)]
            weights += [p, p]
        total = stack(terms, weights)
        kept = principal(replace(total, a=total.a / module.scale), module)
        _, rest = split(total, module.rank)
        merged = {"merged_a": rest.a.to(module.a), "merged_b": rest.b.to(module.b)}
        return {"a": kept.a - module.a, "b": kept.b - module.b, **merged}

    def start(self, view: Adapters, client: Client, ctx: Context) -> Adapters:
        own = self.cut(view, client.rank)
        held = merged_from(view, {name: module.rank for name, module in own.modules.items()})
        return replace(held, modules=own.modules)

    def offered(self, change: Change, trained: Adapters) -> Change:
        return change


def merged_from(view: Adapters, ranks: Mapping[str, int]) -> Adapters:
    """The adapters with each module's components from its rank on merged into the base."""
    rest = {name: tail(module, ranks[name]) for name, module in view.modules.items()}
    more = {name: sum_of(view.merged, name, pair) for name, pair in rest.items() if bool(pair.b.any())}
    return replace(view, merged={**view.merged, **more})


def tail(module: LowRank, rank: int) -> LowRank:
    """The module's components from `rank` on, scale 1."""
    return LowRank(module.b[:, rank:], module.scale * module.a[rank:])


def sum_of(merged: Mapping[str, LowRank], name: str, more: LowRank) -> LowRank:
    return stack([merged[name], more], [1.0, 1.0]) if name in merged else more
