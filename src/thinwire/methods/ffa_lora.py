"""FFA-LoRA: Improving LoRA in Privacy-preserving Federated Learning. Sun et al., ICLR 2024. arXiv:2403.12313."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thinwire.adapters import EXTRA
from thinwire.method import Context, Method


@dataclass(frozen=True, kw_only=True)
class FFALoRA(Method):
    """Train only B; A stays at its random start on all sides and never travels. Exact: mean(B) A = mean(B A)."""

    name: ClassVar[str] = "ffa-lora"
    title: ClassVar[str] = "FFA-LoRA (A frozen)"
    paper: ClassVar[str] = "arXiv:2403.12313"

    def trains(self, ctx: Context) -> frozenset[str]:
        return frozenset({"b", EXTRA})
