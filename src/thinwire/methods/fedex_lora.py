"""FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation Models. Singhal et al.

arXiv:2410.09432.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from thinwire.adapters import compact
from thinwire.lowrank import LowRank, split
from thinwire.lowrank.few import differences
from thinwire.method import Context, Limit, Method, Parts, Uploads, setting

EXACT = {"precision": "float32"}


@dataclass(frozen=True, kw_only=True)
class FedExLoRA(Method):
    """Average the factors; merge what that leaves out, `mean(B_k A_k) - mean(B_k) mean(A_k)`, into the base.

    Differs: the residual is formed from differences between clients, of rank (K - 1) r, and travels as factors.
    """

    name: ClassVar[str] = "fedex-lora"
    title: ClassVar[str] = "FedEx-LoRA (residual merged)"
    paper: ClassVar[str] = "arXiv:2410.09432"
    up_words: ClassVar[str] = "dense dA and dB"
    down_words: ClassVar[str] = "dense dA and dB, and the residual's factors"
    merges: ClassVar[bool] = True
    no_server_optimizer: ClassVar[str] = "the residual belongs to the mean of the factors and to no other step"
    limits: ClassVar[tuple[Limit, ...]] = (Limit(EXACT, "fedit", EXACT, 1e-6, clients=1),)

    residual_rank: int | None = setting(None, "largest rank of the residual that is sent; none: exact", low=1)

    @property
    def linear(self) -> bool:
        return False

    def aggregate(self, site: LowRank, uploads: Uploads, ctx: Context) -> Parts:
        (mean_a, mean_b), rest = differences((p, change["a"], change["b"]) for p, change in uploads)
        if not rest:
            return {"a": mean_a, "b": mean_b}
        merged = compact(
            LowRank(
                torch.cat([db for _, _, db in rest], dim=1),
                torch.cat([site.scale * share * da for share, da, _ in rest]),
            )
        )
        if self.residual_rank is not None and merged.rank > self.residual_rank:
            merged, _ = split(merged, self.residual_rank)
        return {"a": mean_a, "b": mean_b, "merged_a": merged.a.to(mean_a), "merged_b": merged.b.to(mean_b)}
