"""FedSRD: Sparsify-Reconstruct-Decompose for Communication-Efficient Federated LLM Fine-Tuning.

Yan et al., WWW 2026, doi:10.1145/3774904.3792144, arXiv:2510.04601.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thinwire.compress import Step
from thinwire.compress.importance import ImportanceBudget, ImportanceDrop, KurtosisRate
from thinwire.compress.random_drop import RandomDrop
from thinwire.lowrank import FixedFactor, LowRank, best_of_mean
from thinwire.method import Client, Context, Method, Parts, Rule, Uploads, setting

GROUP = 4
"""Uploads whose view from the fixed factor is one product: a third faster than one each."""


@dataclass(frozen=True)
class OrientedModule:
    """A module as if A were updated and B fixed: the fixed factor (O, r), and the other, a (r, I)."""

    fixed: FixedFactor
    a: Tensor


@dataclass(frozen=True)
class ProjectedMean(Rule):
    """The change of the mean product, projected on one factor while the other is fixed, in turn.

    first: the factor updated in the first round. damping: of the solve, 0: none; None: as much as bounds its step.
    """

    first: str
    damping: float | None

    def __call__(self, module: LowRank, uploads: Uploads, ctx: Context) -> Parts:
        """`M = sum_k p_k dA_k` and `U'(D - B M) = sum_k p_k U'dB_k (A + dA_k)`, summed in place."""
        oriented = self._oriented(module, ctx)
        mean, seen = torch.zeros_like(oriented.a), torch.zeros_like(oriented.a)
        others = torch.zeros_like(oriented.fixed.v)
        for group in uploads.groups(GROUP):
            views = oriented.fixed.see(self._others([change for _, change in group], ctx)).chunk(len(group), dim=1)
            for (p, change), view in zip(group, views, strict=True):
                own, _ = self._turn(change, ctx)
                view = p * view
                mean.add_(own, alpha=p)
                seen.addmm_(view.to(own), own)
                others.add_(view)
        return self._solve(oriented, mean, seen.addmm_(others.to(seen), oriented.a), ctx)

    def term(self, module: LowRank, change: Parts, ctx: Context) -> Parts:
        """The upload's own solve; also of the truncated mean: one upload's product has rank r, so nothing is cut."""
        return ProjectedMean.__call__(self, module, Uploads(1, lambda _: (1.0, change)), ctx)

    def _others(self, changes: Sequence[Parts], ctx: Context) -> Tensor:
        """The changes of the fixed factor side by side, (O, K r), as `_turn` gives them."""
        if self._updates_a(ctx):
            return torch.cat([change["b"] for change in changes], dim=1)
        return torch.cat([change["a"] for change in changes]).T

    def _oriented(self, module: LowRank, ctx: Context) -> OrientedModule:
        oriented = module if self._updates_a(ctx) else module.T
        return OrientedModule(FixedFactor.of(oriented.b), oriented.a)

    def _solve(self, oriented: OrientedModule, mean: Tensor, seen: Tensor, ctx: Context) -> Parts:
        change = oriented.fixed.solve(mean, seen, self.damping)
        return {"a": change} if self._updates_a(ctx) else {"b": change.T}

    def _updates_a(self, ctx: Context) -> bool:
        return (ctx.round % 2 == 0) == (self.first == "a")

    def _turn(self, change: Parts, ctx: Context) -> tuple[Tensor, Tensor]:
        """dA and dB as if A were updated and B fixed: transposed when it is the other way round."""
        return (change["a"], change["b"]) if self._updates_a(ctx) else (change["b"].T, change["a"].T)


class TruncatedMean(ProjectedMean):
    """The same, of the mean product's best rank-r approximation."""

    def __call__(self, module: LowRank, uploads: Uploads, ctx: Context) -> Parts:
        oriented = self._oriented(module, ctx)
        terms = uploads.map(lambda upload: (upload[0], *self._turn(upload[1], ctx)))
        return self._solve(oriented, *best_of_mean(oriented.fixed, oriented.a, terms), ctx)


@dataclass(frozen=True, kw_only=True)
class FedSRDe(Method):
    """Upload the important entries of dA and dB; project the mean product on A or B in turn; broadcast a thin change.

    Server: `D = sum_k p_k (B + dB_k)(A + dA_k) - B A`, then `DA = pinv(B) D` or `DB = D pinv(A)`, by round.
    Differs from the official code, which the preset fedsrd-e-official follows: starts with B (B = 0 makes the official
    first round a loss); one budget of kept entries shared over the model by importance, both ways, in place of a drop
    rate that never adapts and a random mask; a solve whose step is bounded; error feedback in place of rescaling.
    Nothing of size (O, I) is formed.
    """

    name: ClassVar[str] = "fedsrd-e"
    title: ClassVar[str] = "FedSRD-e (no SVD)"
    paper: ClassVar[str] = "doi:10.1145/3774904.3792144"

    first: str = setting("b", "factor updated in the first round", choices=("a", "b"))
    base_rate: float = setting(0.85, "upload: drop rate, the smallest one under upload kurtosis", low=0, below=1)
    upload: str = setting("budget", "upload mask; kurtosis: of each tensor by itself", choices=("kurtosis", "budget"))
    rise: float = setting(0.1, "upload kurtosis: rate added per unit of log kurtosis", low=0)
    cap: float = setting(0.11, "upload kurtosis: largest rate added; 1: uncapped", low=0, high=1)
    download_rate: float = setting(0.8, "download: drop rate", low=0, below=1)
    download: str = setting("budget", "download mask", choices=("random", "budget"))
    rescale: bool = setting(False, "rescale what kurtosis or random masks keep")
    solve: str = setting("bounded", "how D is put on the fixed factor", choices=("pinv", "damped", "bounded"))
    damping: float = setting(0.05, "solve damped: lambda as a share of the largest eigenvalue", above=0)
    error_feedback: float = setting(1.0, "share kept of what masks drop", low=0, high=1)

    @property
    def feedback(self) -> float:
        return self.error_feedback

    def up(self, client: Client, ctx: Context) -> tuple[Step, ...]:
        if self.upload == "budget":
            return (ImportanceBudget(self.base_rate),)
        return (ImportanceDrop(KurtosisRate(self.base_rate, self.rise, self.cap), self.rescale),)

    def down(self, ctx: Context) -> tuple[Step, ...]:
        if self.download == "budget":
            return (ImportanceBudget(self.download_rate),)
        return (RandomDrop(self.download_rate, self.rescale),)

    @property
    def rule(self) -> Rule:
        return ProjectedMean(self.first, self._damping)

    @property
    def _damping(self) -> float | None:
        return {"pinv": 0.0, "damped": self.damping, "bounded": None}[self.solve]


@dataclass(frozen=True, kw_only=True)
class FedSRD(FedSRDe):
    """FedSRD-e with the mean product first reduced to its best rank-r approximation (SVD of the small core)."""

    name: ClassVar[str] = "fedsrd"
    title: ClassVar[str] = "FedSRD"

    @property
    def rule(self) -> Rule:
        return TruncatedMean(self.first, self._damping)
