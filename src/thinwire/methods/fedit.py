"""FedIT: Towards Building the Federated GPT: Federated Instruction Tuning. Zhang et al. arXiv:2305.05644."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thinwire.method import Method


@dataclass(frozen=True, kw_only=True)
class FedIT(Method):
    """Train A and B, average each of them: `A += mean dA`, `B += mean dB`.

    Biased: mean(B) mean(A) is not mean(B A). Differs: changes travel rather than factors, which bfloat16 rounds less.
    """

    name: ClassVar[str] = "fedit"
    title: ClassVar[str] = "FedIT (FedAvg of LoRA factors)"
    paper: ClassVar[str] = "arXiv:2305.05644"
