"""FedSRD: Sparsify-Reconstruct-Decompose for Communication-Efficient Federated LLM Fine-Tuning.

Yan et al., WWW 2026, doi:10.1145/3774904.3792144, arXiv:2510.04601.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar

from torch import Tensor

from thinwire.compress import Step
from thinwire.compress.cast import Cast
from thinwire.compress.importance import ImportanceDrop
from thinwire.compress.random_drop import RandomDrop
from thinwire.lowrank import LowRank, best_of_mean, cross, project
from thinwire.method import Context, Limit, Method, Parts, Uploads, setting

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FedSRDe(Method):
    """Upload the important entries of dA and dB; project the exact mean product on A or B in turn; broadcast a thin change.

    Server: `D = sum_k p_k (B + dB_k)(A + dA_k) - B A`, then `DA = pinv(B) D` or `DB = D pinv(A)`, by round.
    Differs, unless `faithful`: starts with B (B = 0 makes the official first round a loss), a drop rate that really
    adapts to the kurtosis, a solve whose step is bounded, no rescaling, a download that keeps the important entries,
    and error feedback. Nothing of size (O, I) is formed.
    """

    name: ClassVar[str] = "fedsrd-e"
    title: ClassVar[str] = "FedSRD-e (no SVD)"
    paper: ClassVar[str] = "doi:10.1145/3774904.3792144"
    up_words: ClassVar[str] = "sparse dA and dB, by importance"
    down_words: ClassVar[str] = "sparse dA or dB, in turn"
    limits: ClassVar[tuple[Limit, ...]] = (Limit({}, "fedsrd", {}, 1e-5, clients=1),)

    faithful: bool = setting(False, "the official code's behaviour for every field below that is not given")
    first: str | None = setting(None, "factor updated in round 0; official a, ours b", choices=("a", "b"))
    base_rate: float = setting(0.85, "upload: smallest drop rate", low=0, below=1)
    rise: float | None = setting(None, "upload: rate added per unit of log kurtosis; official .1, ours .03", low=0)
    cap: float = setting(0.11, "upload: largest rate added; 1: uncapped", low=0, high=1)
    download_rate: float = setting(0.8, "download: drop rate", low=0, below=1)
    download: str | None = setting(None, "download mask; official random, ours importance", choices=("random", "importance"))
    rescale: bool | None = setting(None, "rescale what a mask keeps; official true, ours false")
    solve: str | None = setting(
        None, "how D is realised on the fixed factor; official pinv, ours bounded", choices=("pinv", "damped", "bounded")
    )
    damping: float = setting(0.05, "solve damped: lambda as a share of the largest eigenvalue", above=0)
    error_feedback: float | None = setting(None, "share of what masks drop that is kept; official 0, ours 1", low=0, high=1)

    @property
    def feedback(self) -> float:
        return self._official(self.error_feedback, 0.0, 1.0)

    def up(self, ctx: Context) -> tuple[Step, ...]:
        rise, rescale = self._official(self.rise, 0.1, 0.03), self._official(self.rescale, True, False)
        return (ImportanceDrop(self.base_rate, self.cap, rise, 1.0 if self.faithful else 3.0, rescale), Cast(self.precision))

    def down(self, ctx: Context) -> tuple[Step, ...]:
        rescale = self._official(self.rescale, True, False)
        if self._official(self.download, "random", "importance") == "random":
            return (RandomDrop(self.download_rate, rescale), Cast(self.precision))
        return (ImportanceDrop(self.download_rate, rescale=rescale), Cast(self.precision))

    def contribute(self, site: LowRank, change: Parts, ctx: Context) -> Parts:
        site, mean, other = self._turn(site, change, ctx)
        return {"mean": mean, "beyond": cross(site, mean, other)}

    def finish(self, site: LowRank, sums: Parts, ctx: Context) -> Parts:
        damping = {"pinv": 0.0, "damped": self.damping, "bounded": None}[self._official(self.solve, "pinv", "bounded")]
        if self._updates_a(ctx):
            return {"a": project(site.b, sums["mean"], sums["beyond"], damping)}
        return {"b": project(site.a.T, sums["mean"], sums["beyond"], damping).T}

    def _updates_a(self, ctx: Context) -> bool:
        return (ctx.round % 2 == 0) == (self._official(self.first, "a", "b") == "a")

    def _turn(self, site: LowRank, change: Parts, ctx: Context) -> tuple[LowRank, Tensor, Tensor]:
        """Site and change as if A were updated and B fixed: transposed when it is the other way round."""
        if self._updates_a(ctx):
            return site, change["a"], change["b"]
        return site.T, change["b"].T, change["a"].T

    def _official(self, given: T | None, official: T, ours: T) -> T:
        if given is not None:
            return given
        return official if self.faithful else ours


@dataclass(frozen=True, kw_only=True)
class FedSRD(FedSRDe):
    """FedSRD-e with the mean product first reduced to its best rank-r approximation (SVD of the small core)."""

    name: ClassVar[str] = "fedsrd"
    title: ClassVar[str] = "FedSRD"
    limits: ClassVar[tuple[Limit, ...]] = (Limit({}, "fedsrd-e", {}, 1e-5, clients=1),)

    def aggregate(self, site: LowRank, uploads: Uploads, ctx: Context) -> Parts:
        turned = uploads.map(lambda upload: (upload[0], *self._turn(site, upload[1], ctx)[1:]))
        mean, beyond = best_of_mean(site if self._updates_a(ctx) else site.T, turned)
        return self.finish(site, {"mean": mean, "beyond": beyond}, ctx)
