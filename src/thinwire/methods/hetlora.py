"""HetLoRA: Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models. Cho et al., EMNLP 2024.

arXiv:2401.06432.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thinwire.adapters import Adapters, first_rows
from thinwire.lowrank import LowRank, norm, unit_weights
from thinwire.method import Changes, Context, Method, Parts, Rule, States, Uploads, setting, weighted_sum


@dataclass(frozen=True)
class PaddedMean(Rule):
    """The mean of factors padded with zeros; weights are the clients', times their product's norm if asked for."""

    by_norm: bool

    def cut(self, adapters: Adapters, rank: int | None) -> Adapters:
        return first_rows(adapters, rank)

    def __call__(self, module: LowRank, uploads: Uploads, ctx: Context) -> Parts:
        weights = [p * self._norm(module, change) for p, change in uploads]
        weights = unit_weights(weights) if any(weights) else [p for p, _ in uploads]
        padded = uploads.map(lambda upload: {part: _padded(getattr(module, part), upload[1], part) for part in "ab"})
        return weighted_sum(zip(weights, padded, strict=True))

    def _norm(self, module: LowRank, change: Parts) -> float:
        if not self.by_norm:
            return 1.0
        rank = change["b"].shape[1]
        return float(norm(LowRank(module.b[:, :rank] + change["b"], module.a[:rank] + change["a"])))


@dataclass(frozen=True, kw_only=True)
class HetLoRA(Method):
    """Pad every client's factors with zeros to the full rank, average them, send each client its first rows.

    Weights are those of the clients times the norm of `B_k A_k`, or the clients' own (plain zero padding).
    Differs: ranks stay as given; the paper's pruning of ranks by the clients is left out.
    """

    name: ClassVar[str] = "hetlora"
    title: ClassVar[str] = "HetLoRA (zero padding)"
    paper: ClassVar[str] = "arXiv:2401.06432"

    weighting: str = setting("norm", "norm: by the norm of each client's product; plain", choices=("norm", "plain"))

    @property
    def rule(self) -> Rule:
        return PaddedMean(self.weighting == "norm")

    @property
    def exchange(self) -> Changes:
        return States()


def _padded(own: Tensor, change: Parts, part: str) -> Tensor:
    """The change of a factor to the client's one: of the components it lacks, to zero."""
    rank = change["b"].shape[1]
    if part == "a":
        return torch.cat([change["a"], -own[rank:]])
    return torch.cat([change["b"], -own[:, rank:]], dim=1)
