"""What a method is made of: its rule (uploads -> one change), its exchange (who is sent what), what clients keep.

A part says itself what it cannot be combined with, and why, by the names in `ASKED`; `thinwire.compatibility` reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from thinwire.adapters import Adapters
from thinwire.compress import Step
from thinwire.lowrank import LowRank
from thinwire.randomness import derive, uniform

T = TypeVar("T")
S = TypeVar("S")

Parts = Mapping[str, Tensor]
"""One module's tensors by part: {"a": dA (r, I), "b": dB (O, r)}; parts that were not trained are absent."""

Memory = dict[str, Adapters]
"""What a client keeps between rounds besides the engine's own: named adapters."""

Score = Callable[[Adapters, int], float]
"""Mean loss of adapters on so many of the client's own training examples."""

ASKED = {
    "server optimizer": "a server optimizer in place of adding the mean change",
    "kept optimizer": "a client's optimizer state kept from round to round",
    "proximal": "training that is pulled towards the global model (FedProx)",
    "client privacy": "noise on what a client sends",
    "central noise": "noise on the server's sum of what clients sent",
    "sites": "a run across sites",
    "one adapter": "one adapter in the end, to be exported anew",
    "state dict": "a state dict, which a Flower user passes in and gets back",
}
"""What a run may ask of a method's parts, in words."""


@dataclass(frozen=True)
class Client:
    """A data owner as methods see it: a name, its place in the order of clients, and its number of examples.

    rank, density: what it can hold and send where the recipe gives clients unequal means; None: as the method says.
    """

    name: str
    index: int
    examples: int
    rank: int | None = None
    density: float | None = None


@dataclass(frozen=True)
class Context:
    """The round (0-based) and the run's seed; `seed_for` derives every random choice of a purpose from them."""

    round: int
    seed: int

    def seed_for(self, purpose: str, *names: str | int) -> int:
        return derive(self.seed, self.round, purpose, *names)

    def uniform(self, shape: Sequence[int], purpose: str, *names: str | int) -> Tensor:
        """Values in [0, 1), float32, the same on every platform."""
        return uniform(self.seed_for(purpose, *names), *shape)


class Reread(Sequence[T]):
    """Items that are made anew each time they are asked for, so that any number of them needs the memory of one."""

    def __init__(self, count: int, read: Callable[[int], T]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        """An item, or for a slice some of them, made anew as well."""
        chosen = range(self._count)[index]
        return self._read(chosen) if isinstance(chosen, int) else Reread(len(chosen), lambda at: self._read(chosen[at]))

    def __iter__(self) -> Iterator[T]:
        return map(self._read, range(self._count))

    def groups(self, size: int) -> Iterator[list[T]]:
        """The items in lists of `size`, the last one shorter; memory of one list."""
        items = iter(self)
        while group := list(islice(items, size)):
            yield group

    def map(self, change: Callable[[T], S]) -> Reread[S]:
        """The changed items, made anew as well."""
        return Reread(self._count, lambda index: change(self._read(index)))


Uploads = Reread[tuple[float, Parts]]
"""One module's uploads in client order: (weight, decoded change). Weights sum to 1, none is 0."""


class Rule:
    """One module's global change from its uploads. Rules are frozen dataclasses of the settings that they need.

    linear: it only adds, so that a change which missed its round can be added to the client's next one.
    merges: its change holds `merged_a` and `merged_b`, a pair of any rank that is added to the base for good.
    cannot: what it cannot be combined with (a key of `ASKED`), and why.
    """

    merges: ClassVar[bool] = False
    cannot: ClassVar[Mapping[str, str]] = {}

    @property
    def linear(self) -> bool:
        return False

    def __call__(self, module: LowRank, uploads: Uploads, ctx: Context) -> Parts:
        raise NotImplementedError

    def term(self, module: LowRank, change: Parts, ctx: Context) -> Parts:
        """One client's term of the server's sum, where it is clipped and noised: what its upload alone would give."""
        return self(module, Uploads(1, lambda _: (1.0, change)), ctx)

    def cut(self, adapters: Adapters, rank: int | None) -> Adapters:
        """What a client of this rank holds of the global adapters; left out, all clients have the same rank."""
        return adapters


class Mean(Rule):
    """The weighted mean, part by part: FedAvg."""

    @property
    def linear(self) -> bool:
        return True

    def __call__(self, module: LowRank, uploads: Uploads, ctx: Context) -> Parts:
        return weighted_sum(uploads)


class Changes:
    """One change is broadcast; all who apply it hold the same bits."""

    cannot: ClassVar[Mapping[str, str]] = {}

    def result(self, adapters: Adapters, ctx: Context) -> Adapters:
        """What is evaluated and exported of the server's adapters."""
        return adapters


class States(Changes):
    """Each client is sent a state of its own in each of its rounds: what the rule's `cut` leaves it, compressed."""

    def steps(self, client: Client, ctx: Context) -> tuple[Step, ...]:
        """Lossy steps of a client's state."""
        return ()

    def settle(self, adapters: Adapters, ctx: Context) -> Adapters:
        """The global adapters as the server keeps them after the round."""
        return adapters


class Nothing(Changes):
    """Nothing travels: the references that federation is compared with."""

    cannot: ClassVar[Mapping[str, str]] = {
        "server optimizer": "nothing reaches a server",
        "proximal": "it follows no global model",
        "client privacy": "nothing travels",
        "central noise": "nothing travels",
        "sites": "nothing travels",
        "one adapter": "it has no global adapter; each client's is in its folder",
    }


@dataclass(frozen=True)
class Own:
    """A client's own adapters, and figures on how they came about."""

    adapters: Adapters
    figures: Mapping[str, float] = field(default_factory=dict)


class Personal:
    """What a client keeps for itself, and what it ends with besides the global adapters."""

    def start(self, view: Adapters, memory: Memory, ctx: Context) -> Adapters | None:
        """Where a second training of the round starts, which is the client's alone; None: there is none."""
        return None

    def remember(self, trained: Adapters, own: Adapters | None, memory: Memory, ctx: Context) -> Memory:
        """What it keeps for its next round. own: what came of the second training."""
        raise NotImplementedError

    def ends(self, view: Adapters, memory: Memory, score: Score) -> Mapping[str, Own]:
        """Its own adapters besides the global ones, by name, the one it ends with last."""
        raise NotImplementedError


def weighted_sum(terms: Iterable[tuple[float, Parts]]) -> dict[str, Tensor]:
    """`sum_k p_k x_k` by part, in the order given; memory of two terms."""
    total: dict[str, Tensor] = {}
    for weight, parts in terms:
        for part, tensor in parts.items():
            if part in total:
                total[part].add_(tensor, alpha=weight)
            else:
                total[part] = weight * tensor
    return total
