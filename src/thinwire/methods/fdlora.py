"""FDLoRA: Personalized Federated Learning of Large Language Model via Dual LoRA Tuning. Qi et al., 2024.

arXiv:2406.07925.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from thinwire.adapters import EXTRA, Adapters, Key
from thinwire.method import Context, Memory, Method, Own, Personal, Score, setting
from thinwire.nelder_mead import minimise
from thinwire.server_optimizer import PLAIN, ServerConfig


@dataclass(frozen=True, kw_only=True)
class FDLoRA(Method):
    """Two adapters a client: a personal one, which never leaves it, and the global one; fused for use in the end.

    Both are trained in every round, each by itself. Round 0 (stage 1) averages the changes of the global one; later
    (stage 2) their mean goes through Nesterov momentum, and in every `period`-th round the personal adapter starts from
    the global one. At the end (stage 3): `(w1 B_p + w2 B_s)(w1 A_p + w2 A_s)` with the weights of least loss on a few
    of the client's examples, found without gradients.
    Differs: written from secondary sources (no official code). There the first global adapter is the mean of the
    personal ones; here these never leave, a second adapter is trained in stage 1 too. Extras are fused in the shares
    |w1| : |w2|.
    """

    name: ClassVar[str] = "fdlora"
    title: ClassVar[str] = "FDLoRA (personal and global)"
    paper: ClassVar[str] = "arXiv:2406.07925"

    outer_rate: float = setting(0.7, "learning rate of the server's momentum step", above=0)
    outer_momentum: float = setting(0.5, "the server's Nesterov momentum", low=0, below=1)
    period: int = setting(5, "rounds after which the personal adapter starts from the global one", low=1)
    stage_one: int = setting(1, "length of stage 1 (the first round), in multiples of a round's steps", low=1)
    evaluations: int = setting(24, "fusion: evaluations of the loss", low=1)
    examples: int = setting(16, "fusion: examples on which the loss is taken", low=1)
    penalty: float = setting(0.05, "fusion: added per unit of |w1| + |w2|", low=0)

    def length(self, ctx: Context) -> int:
        return self.stage_one if ctx.round == 0 else 1

    @property
    def personal(self) -> Personal:
        return Dual(self.period, self.evaluations, self.examples, self.penalty)

    def outer(self, ctx: Context) -> ServerConfig:
        if ctx.round == 0:
            return PLAIN
        return ServerConfig("sgd", learning_rate=self.outer_rate, momentum=self.outer_momentum, nesterov=True)


@dataclass(frozen=True)
class Dual(Personal):
    """A second adapter, which starts from the global one in every `period`-th round; fused with it in the end."""

    period: int
    evaluations: int
    examples: int
    penalty: float

    def start(self, view: Adapters, memory: Memory, ctx: Context) -> Adapters:
        return view if ctx.round % self.period == 0 else memory.get("own", view)

    def remember(self, trained: Adapters, own: Adapters | None, memory: Memory, ctx: Context) -> Memory:
        return {} if own is None else {"own": own}

    def ends(self, view: Adapters, memory: Memory, score: Score) -> Mapping[str, Own]:
        own = memory.get("own", view)

        def objective(weights: Sequence[float]) -> float:
            loss = score(fused(own, view, weights[0], weights[1]), self.examples)
            return loss + self.penalty * sum(map(abs, weights))

        w1, w2 = minimise(objective, (0.5, 0.5), self.evaluations)
        return {"personal": Own(own), "fused": Own(fused(own, view, w1, w2), {"w1": w1, "w2": w2})}


def fused(own: Adapters, shared: Adapters, w1: float, w2: float) -> Adapters:
    """Factor by factor `w1 own + w2 shared`; extras by the shares of |w1| and |w2|."""
    total = abs(w1) + abs(w2)
    share = abs(w1) / total if total else 0.5

    def mix(key: Key) -> Tensor:
        if key[1] == EXTRA:
            return share * own[key] + (1 - share) * shared[key]
        return w1 * own[key] + w2 * shared[key]

    return shared.put({key: mix(key) for key, _ in shared.items()})
