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
from thinwire.method import Client, ConfigError, Context, Limit, Memory, Method, Parts, Plan, Uploads, setting

WARM = {"warm_start": True, "precision": "float32"}


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
    up_words: ClassVar[str] = "A and B of own rank"
    down_words: ClassVar[str] = "the stack of all A and B"
    unequal_ranks: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    no_server_optimizer: ClassVar[str] = "the stack is merged into the base, there is no adapter to step on with"
    no_kept_optimizer: ClassVar[str] = "each round starts from another adapter"
    limits: ClassVar[tuple[Limit, ...]] = (Limit(WARM, "local", {}, 1e-5, clients=1, rounds=1, products=True),)

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

    def cut(self, adapters: Adapters, rank: int | None) -> Adapters:
        return first_rows(adapters, rank)

    def plan(self, view: Adapters, client: Client, memory: Memory, ctx: Context) -> Plan:
        own = self.cut(view, client.rank)
        rest = {n: tail(site, own.sites[n].rank if self.warm_start else 0) for n, site in view.sites.items()}
        merged = {name: sum_of(view.merged, name, more) for name, more in rest.items() if bool(more.b.any())}
        start = replace(own, merged={**view.merged, **merged})
        if not self.warm_start:
            fresh = {n: self._fresh(n, site, own.sites[n].rank, client, ctx) for n, site in view.sites.items()}
            start = replace(start, sites=fresh)
        return Plan(start, self.trains(ctx))

    def encode(self, plan: Plan, trained: Adapters, ctx: Context) -> Change:
        change = super().encode(plan, trained, ctx)
        return change if self.warm_start else {key: c if key[1] == EXTRA else trained[key] for key, c in change.items()}

    @property
    def linear(self) -> bool:
        return False

    def aggregate(self, site: LowRank, uploads: Uploads, ctx: Context) -> Parts:
        terms: list[LowRank] = []
        weights: list[float] = []
        for p, sent in uploads:
            rank = sent["b"].shape[1]
            if self.warm_start:
                terms += [LowRank(site.b[:, :rank] + sent["b"], site.a[:rank] + sent["a"], site.scale)]
                terms += [tail(site, rank)]
            else:
                terms += [LowRank(sent["b"], sent["a"], self._scale(site, rank))]
            weights += [p] * (len(terms) - len(weights))
        total = stack(terms, weights)
        if not self.warm_start:
            total = compact(total)
            return {"merged_a": total.a, "merged_b": total.b}
        kept = principal(replace(total, a=total.a / site.scale), site)
        _, rest = split(total, site.rank)
        return {
            "a": kept.a - site.a,
            "b": kept.b - site.b,
            "merged_a": rest.a.to(site.a),
            "merged_b": rest.b.to(site.b),
        }

    def _fresh(self, name: str, site: LowRank, rank: int, client: Client, ctx: Context) -> LowRank:
        """A (rank, I) uniform in +-1/sqrt(I), another in every round and at every client; B zero."""
        columns = site.a.shape[1]
        a = (ctx.uniform((rank, columns), "fresh", client.name, name) * 2 - 1) * columns**-0.5
        return LowRank(torch.zeros_like(site.b[:, :rank]), a.to(site.a), self._scale(site, rank))

    def _scale(self, site: LowRank, rank: int) -> float:
        return site.scale * site.rank / rank if self.fixed_alpha else site.scale


def tail(site: LowRank, rank: int) -> LowRank:
    """The site's components from `rank` on, scale 1."""
    return LowRank(site.b[:, rank:], site.scale * site.a[rank:])


def sum_of(merged: Mapping[str, LowRank], name: str, more: LowRank) -> LowRank:
    return stack([merged[name], more], [1.0, 1.0]) if name in merged else more
