"""FlexLoRA: Federated Fine-tuning of LLMs under Heterogeneous Tasks and Client Resources. Bai et al., NeurIPS 2024.

arXiv:2402.11505.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from thinwire.adapters import Adapters, first_rows
from thinwire.lowrank import LowRank, principal, stack
from thinwire.method import Changes, Context, Method, Parts, Rule, States, Uploads


@dataclass(frozen=True)
class BestRank(Rule):
    """The mean product's best approximation of the full rank; a lower rank has its first components."""

    cannot: ClassVar[Mapping[str, str]] = {
        "server optimizer": "the factors of an SVD take the old ones' place: they are not a step from them",
        "kept optimizer": "the factors of each round are those of another SVD",
        "central noise": "the factors of an SVD are not a sum over clients",
    }

    def cut(self, adapters: Adapters, rank: int | None) -> Adapters:
        return first_rows(adapters, rank)

    def __call__(self, module: LowRank, uploads: Uploads, ctx: Context) -> Parts:
        terms, weights = [], []
        for p, change in uploads:
            rank = change["b"].shape[1]
            terms.append(LowRank(module.b[:, :rank] + change["b"], module.a[:rank] + change["a"]))
            weights.append(p)
        new = principal(stack(terms, weights), module)
        return {"a": new.a - module.a, "b": new.b - module.b}


@dataclass(frozen=True, kw_only=True)
class FlexLoRA(Method):
    """Average the clients' products, take their best approximation of the full rank, send each its first components.

    Differs: the SVD is that of the stacked factors' small core, never of an (O, I) matrix. A component that the product
    does not have keeps its row of A, with B zero, so that it can be trained.
    """

    name: ClassVar[str] = "flexlora"
    title: ClassVar[str] = "FlexLoRA (SVD of the mean product)"
    paper: ClassVar[str] = "arXiv:2402.11505"

    @property
    def rule(self) -> Rule:
        return BestRank()

    @property
    def exchange(self) -> Changes:
        return States()
