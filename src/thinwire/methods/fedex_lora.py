"""FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation Models. Singhal et al.

arXiv:2410.09432.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from thinwire.adapters import compact
from thinwire.lowrank import LowRank, split
from thinwire.lowrank.few import differences
from thinwire.method import Context, Method, Parts, Rule, Uploads, setting


@dataclass(frozen=True)
class Residual(Rule):
    """The mean of the factors, and merged into the base what it leaves out of the mean product.

    rank: the residual's largest; None: exact.
    """

    rank: int | None

    merges = True
    cannot: ClassVar[Mapping[str, str]] = {
        "server optimizer": "the residual belongs to the mean of the factors and to no other step",
    }

    def __call__(self, module: LowRank, uploads: Uploads, ctx: Context) -> Parts:
        (mean_a, mean_b), rest = differences((p, change["a"], change["b"]) for p, change in uploads)
        if not rest:
            return {"a": mean_a, "b": mean_b}
        merged = compact(
            LowRank(
                torch.cat([db for _, _, db in rest], dim=1),
                torch.cat([module.scale * share * da for share, da, _ in rest]),
            )
        )
        if self.rank is not None and merged.rank > self.rank:
            merged, _ = split(merged, self.rank)
        return {"a": mean_a, "b": mean_b, "merged_a": merged.a.to(mean_a), "merged_b": merged.b.to(mean_b)}


@dataclass(frozen=True, kw_only=True)
class FedExLoRA(Method):
    """Average the factors; merge what that leaves out, `mean(B_k A_k) - mean(B_k) mean(A_k)`, into the base.

    Differs: the residual is formed from differences between clients, of rank (K - 1) r, and travels as factors.
    """

    name: ClassVar[str] = "fedex-lora"
    title: ClassVar[str] = "FedEx-LoRA (residual merged)"
    paper: ClassVar[str] = "arXiv:2410.09432"

    residual_rank: int | None = setting(None, "largest rank of the residual that is sent; none: exact", low=1)

    @property
    def rule(self) -> Rule:
        return Residual(self.residual_rank)
