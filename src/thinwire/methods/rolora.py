"""RoLoRA: Robust Federated Finetuning of Foundation Models via Alternating Minimization of LoRA. Chen et al.

arXiv:2409.02346.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thinwire.adapters import EXTRA
from thinwire.method import Context, Method, setting


@dataclass(frozen=True, kw_only=True)
class RoLoRA(Method):
    """Train, send and average only B, then only A, in turn: `mean(dB) A = mean(dB A)`, so the mean is exact.

    B comes first, because A has no gradient while B is zero.
    """

    name: ClassVar[str] = "rolora"
    title: ClassVar[str] = "RoLoRA (B and A in turn)"
    paper: ClassVar[str] = "arXiv:2409.02346"

    turn: int = setting(1, "rounds before it is the other factor's turn", low=1)

    def trains(self, ctx: Context) -> frozenset[str]:
        return frozenset({"a" if ctx.round // self.turn % 2 else "b", EXTRA})
