"""The one abstraction: what is trained, how a change is compressed, and how changes become the new adapter.

Every part has a neutral default, which together are FedIT; a method's file holds only the part its paper invented. A
method is a frozen dataclass of hyper-parameters; its functions are pure, and it never sees a model, an optimizer, a
data set or a socket. The engine owns versions, bytes, error feedback, order, drop-outs and refusals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from thinwire.adapters import EXTRA, Adapters, Change, Key, subtract
from thinwire.compress import Step
from thinwire.compress.cast import DTYPES, Cast
from thinwire.compress.quantise import Quantise
from thinwire.lowrank import LowRank
from thinwire.payload import PER
from thinwire.randomness import derive, uniform
from thinwire.server_optimizer import PLAIN, ServerConfig
from thinwire.settings import ConfigError, check, setting

__all__ = [
    "Client",
    "ConfigError",
    "Context",
    "Limit",
    "Method",
    "Parts",
    "Personal",
    "Plan",
    "Reread",
    "Uploads",
    "setting",
]

T = TypeVar("T")
S = TypeVar("S")

Parts = Mapping[str, Tensor]
"""One site's tensors by part: {"a": dA (r, I), "b": dB (O, r)}; parts that were not trained are absent."""

Memory = dict[str, Adapters]
"""What a client keeps between rounds besides the engine's own: named adapters."""


@dataclass(frozen=True)
class Personal:
    """A client's own adapters, and figures on how they came about."""

    adapters: Adapters
    figures: Mapping[str, float] = field(default_factory=dict)


Score = Callable[[Adapters, int], float]
"""Mean loss of adapters on so many of the client's own training examples."""


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


@dataclass(frozen=True)
class Plan:
    """What a client is to train, as data: start from `start`, move only the tensors whose part is in `parts`.

    masks: by key, the entries that may move (boolean, of the tensor's shape); keys without one move whole.
    length: in multiples of the recipe's steps.
    """

    start: Adapters
    parts: frozenset[str]
    masks: Mapping[Key, Tensor] = field(default_factory=dict)
    length: int = 1


@dataclass(frozen=True)
class Limit:
    """A declared limit: with these settings, the method equals `equals` (another method's name and settings)."""

    settings: Mapping[str, Any]
    equals: str
    other: Mapping[str, Any]
    tolerance: float
    clients: int = 3
    rounds: int = 4
    products: bool = False
    """Whether the products `b @ a`, merged ones included, are equal, not the factors."""
    parts: tuple[str, ...] = ()
    """Parts that are compared; empty: all."""


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
"""One site's uploads in client order: (weight, decoded change). Weights sum to 1, none is 0."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """FedIT's neutral parts; a method overrides what its paper changes. Fields are checked on creation."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    up_words: ClassVar[str]
    down_words: ClassVar[str]
    limits: ClassVar[tuple[Limit, ...]] = ()
    federates: ClassVar[bool] = True
    """Whether anything travels at all."""
    pooled: ClassVar[bool] = False
    """All clients' examples in one place: the reference that federation is compared with."""

    unequal_ranks: ClassVar[bool] = False
    """Whether clients may have ranks of their own."""
    unequal_densities: ClassVar[bool] = False
    """Whether it keeps to a client's own density."""
    sends_states: ClassVar[bool] = False
    """Whether a client is sent a state of its own in each of its rounds; else changes keep everyone up to date."""
    merges: ClassVar[bool] = False
    """Whether broadcasts add to what is merged into the base."""
    no_server_optimizer: ClassVar[str] = ""
    """Why a server optimizer makes no sense; empty where it does."""
    no_kept_optimizer: ClassVar[str] = ""
    """Why the state of a client's optimizer is worth nothing in its next round; empty where it is."""
    no_central_noise: ClassVar[str] = ""
    """Why what the server makes of uploads is no sum of bounded terms, which noise could cover; empty where it is."""

    precision: str = setting("bfloat16", "dtype in which values travel that are not quantised", choices=DTYPES)
    bits_up: int = setting(0, "upload: values as codes of so many bits; 0: not quantised", low=0, high=8)
    bits_down: int = setting(0, "what the server sends, likewise", low=0, high=8)
    scale_per: str = setting("tensor", "quantised: what shares a scale", choices=PER)
    symmetric: bool = setting(False, "quantised: no zero point")
    stochastic: bool = setting(False, "quantised: round up with the probability of the fraction")

    def __post_init__(self) -> None:
        check(self, f"method {self.name}")

    def trains(self, ctx: Context) -> frozenset[str]:
        """Parts trained in this round; extras always are."""
        return frozenset({"a", "b", EXTRA})

    def sends(self, ctx: Context) -> frozenset[str]:
        """Parts that travel: those trained unless the method keeps some to the client."""
        return self.trains(ctx)

    def plan(self, view: Adapters, client: Client, memory: Memory, ctx: Context) -> Plan:
        """What this client trains, from the global adapters it holds."""
        return Plan(view, self.trains(ctx))

    def length(self, ctx: Context) -> int:
        """How long a client trains for what it sends, in multiples of the recipe's steps: its plan's length."""
        return 1

    def own_plan(self, view: Adapters, client: Client, memory: Memory, ctx: Context) -> Plan | None:
        """What it trains besides, for itself; None: nothing."""
        return None

    def encode(self, plan: Plan, trained: Adapters, ctx: Context) -> Change:
        """What it offers for upload, before `up` compresses it."""
        return subtract(trained, plan.start, trained.trained(self.sends(ctx)))

    def remember(self, trained: Adapters, own: Adapters | None, memory: Memory, ctx: Context) -> Memory:
        """What it keeps for its next round. own: what came of `own_plan`."""
        return memory

    def up(self, client: Client, ctx: Context) -> tuple[Step, ...]:
        """Lossy steps of the upload."""
        return self.values_up

    def down(self, ctx: Context) -> tuple[Step, ...]:
        """Lossy steps of the broadcast change."""
        return self.values_down

    def state(self, client: Client, ctx: Context) -> tuple[Step, ...]:
        """Lossy steps of a client's own state, where states are sent."""
        return self.values_down

    @property
    def values_up(self) -> tuple[Step, ...]:
        """The last steps of every upload: how values travel."""
        return self._values(self.bits_up)

    @property
    def values_down(self) -> tuple[Step, ...]:
        """The last steps of what the server sends."""
        return self._values(self.bits_down)

    def _values(self, bits: int) -> tuple[Step, ...]:
        cast = Cast(self.precision)
        return (Quantise(bits, self.scale_per, self.symmetric, self.stochastic), cast) if bits else (cast,)

    def cut(self, adapters: Adapters, rank: int | None) -> Adapters:
        """What a client of this rank holds of the global adapters; shapes follow from shapes."""
        return adapters

    @property
    def feedback(self) -> float:
        """Share of what compression left out that is added to the sender's next change (error feedback); 0: none."""
        return 0.0

    @property
    def linear(self) -> bool:
        """Whether `aggregate` only adds, so that a change which missed its round can be added to the client's next."""
        return True

    def aggregate(self, site: LowRank, uploads: Uploads, ctx: Context) -> Parts:
        """One site's global change from its uploads, in any named parts: their weighted mean."""
        return weighted_sum(uploads)

    def term(self, site: LowRank, change: Parts, ctx: Context) -> Parts:
        """One client's term of the server's sum, where it is clipped and noised: what its upload alone would give."""
        return self.aggregate(site, Uploads(1, lambda _: (1.0, change)), ctx)

    def outer(self, ctx: Context) -> ServerConfig:
        """The method's own server optimizer, used where the recipe names none."""
        return PLAIN

    def settle(self, adapters: Adapters, ctx: Context) -> Adapters:
        """The global adapters as the server keeps them after the round; where states are sent, not changes."""
        return adapters

    def result(self, adapters: Adapters, ctx: Context) -> Adapters:
        """What is evaluated and exported of the server's adapters."""
        return adapters

    def personal(self, view: Adapters, memory: Memory, score: Score) -> Mapping[str, Personal]:
        """A client's own adapters besides the global ones, by name, the one it ends with last; empty: none."""
        return {}


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
