"""FlexLoRA: Federated Fine-tuning of LLMs under Heterogeneous Tasks and Client Resources. Bai et al., NeurIPS 2024.

arXiv:2402.11505.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thinwire.adapters import Adapters, first_rows
from thinwire.lowrank import LowRank, principal, stack
from thinwire.method import Context, Limit, Method, Parts, Uploads

EXACT = {"precision": "float32"}


@dataclass(frozen=True, kw_only=True)
class FlexLoRA(Method):
    """Average the clients' products, take their best approximation of the full rank, send each its first components.

    Differs: the SVD is that of the stacked factors' small core, never of an (O, I) matrix. A component that the product
    does not have keeps its row of A, with B zero, so that it can be trained.
    """

    name: ClassVar[str] = "flexlora"
    title: ClassVar[str] = "FlexLoRA (SVD of the mean product)"
    paper: ClassVar[str] = "arXiv:2402.11505"
    up_words: ClassVar[str] = "dense dA and dB of own rank"
    down_words: ClassVar[str] = "A and B of own rank"
    sends_states: ClassVar[bool] = True
    unequal_ranks: ClassVar[bool] = True
    no_server_optimizer: ClassVar[str] = "the factors of an SVD take the old ones' place: they are no step from them"
    no_kept_optimizer: ClassVar[str] = "the factors of each round are those of another SVD"
    no_central_noise: ClassVar[str] = "the factors of an SVD are no sum over clients"
    limits: ClassVar[tuple[Limit, ...]] = (Limit(EXACT, "local", {}, 1e-5, clients=1, rounds=1, products=True),)

    def cut(self, adapters: Adapters, rank: int | None) -> Adapters:
        return first_rows(adapters, rank)

    @property
    def linear(self) -> bool:
        return False

    def aggregate(self, site: LowRank, uploads: Uploads, ctx: Context) -> Parts:
        terms, weights = [], []
        for p, change in uploads:
            rank = change["b"].shape[1]
            terms.append(LowRank(site.b[:, :rank] + change["b"], site.a[:rank] + change["a"]))
            weights.append(p)
        new = principal(stack(terms, weights), site)
        return {"a": new.a - site.a, "b": new.b - site.b}
