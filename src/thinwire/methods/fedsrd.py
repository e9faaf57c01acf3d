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
from thinwire.lowrank import Fixed, LowRank, best_of_mean
from thinwire.method import Context, Limit, Method, Parts, Uploads, setting

T = TypeVar("T")


@dataclass(frozen=True)
class Turned:
    """A site as if A were updated and B fixed: the fixed factor (O, r), and the other, a (r, I)."""

    fixed: Fixed
    a: Tensor


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

    def prepare(self, site: LowRank, ctx: Context) -> Turned:
        turned = site if self._updates_a(ctx) else site.T
        return Turned(Fixed.of(turned.b), turned.a)

    def contribute(self, site: Turned, change: Parts, ctx: Context) -> Parts:
        mean, other = self._turn(change, ctx)
        first = site.fixed.see(other)
        return {"mean": mean, "first": first, "second": first.to(mean) @ mean}

    def finish(self, site: Turned, sums: Parts, ctx: Context) -> Parts:
        return self._solve(site, sums["mean"], sums["first"].to(site.a) @ site.a + sums["second"], ctx)

    def _solve(self, site: Turned, mean: Tensor, seen: Tensor, ctx: Context) -> Parts:
        damping = {"pinv": 0.0, "damped": self.damping, "bounded": None}[self._official(self.solve, "pinv", "bounded")]
        change = site.fixed.solve(mean, seen, damping)
        return {"a": change} if self._updates_a(ctx) else {"b": change.T}

    def _updates_a(self, ctx: Context) -> bool:
        return (ctx.round % 2 == 0) == (self._official(self.first, "a", "b") == "a")

    def _turn(self, change: Parts, ctx: Context) -> tuple[Tensor, Tensor]:
        """dA and dB as if A were updated and B fixed: transposed when it is the other way round."""
        return (change["a"], change["b"]) if self._updates_a(ctx) else (change["b"].T, change["a"].T)

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
        ready = self.prepare(site, ctx)
        terms = uploads.map(lambda upload: (upload[0], *self._turn(upload[1], ctx)))
        return self._solve(ready, *best_of_mean(ready.fixed, ready.a, terms), ctx)
