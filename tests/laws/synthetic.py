"""A federation without a model: what a client trains is a fixed function of its plan, its data and the round."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from thinwire import engine
from thinwire.adapters import EXTRA, Adapters, Key
from thinwire.config import FederationConfig
from thinwire.data import Example
from thinwire.engine import ClientSide, ClientState, Sending, Work, begin
from thinwire.engine.jobs import Job, TrainingResult
from thinwire.lowrank import LowRank
from thinwire.method import Client, Context, Method, Plan, States
from thinwire.methods import METHODS, REFERENCES, create
from thinwire.presets import PRESETS
from thinwire.privacy.noise import Noise
from thinwire.randomness import derive, uniform
from thinwire.simulation.rounds import Federation, play
from thinwire.storage.metrics import Line
from thinwire.storage.state import State, start
from thinwire.values import ValuesConfig

RUN = 1234
"""The id of every run here, which is not a seed."""

MODULES = {  # name: (O, r, I)
    "layer.0.query": (12, 4, 10),
    "layer.0.up": (20, 2, 8),  # a rank of its own
    "stem.conv": (8, 4, 3 * 3 * 3),  # a 3 x 3 convolution of three channels, flattened
}
EXTRAS = {"head.weight": (5, 12), "norm.weight": (7,)}


def made(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """The method with these settings: fields of its own, and how values travel."""
    known = {spec.name for spec in fields(ValuesConfig)}
    own = {key: value for key, value in (settings or {}).items() if key not in known}
    return create(name, own, {key: value for key, value in (settings or {}).items() if key in known})


CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in (*METHODS, *PRESETS, *REFERENCES)]
CASES += [("flasc", {"local": local}) for local in ("sparse", "fixed")]
CASES += [("fedsrd", {"bits_up": 4, "bits_down": 6}), ("flasc", {"bits_up": 4, "bits_down": 8, "symmetric": True})]
CASES += [("flasc", {"freeze_a": True, "decay": 0.5}), ("flora", {"warm_start": True})]
CASES += [("fedsrd", {"solve": "damped", "precision": "float16", "cap": 1.0}), ("fedit", {"precision": "float32"})]
TRAVELLING = [(name, fields) for name, fields in CASES if name not in REFERENCES]
STATING = [case for case in TRAVELLING if isinstance(made(*case).exchange, States)]
BROADCASTING = [case for case in TRAVELLING if case not in STATING]

Train = Callable[[Sequence[Job]], list[TrainingResult]]


def label(case: tuple[str, dict[str, Any]]) -> str:
    """A test id: flora-warm_start=True."""
    return "-".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


def seeded(seed: int, *shape: int) -> Tensor:
    """Values in -1/2..1/2."""
    return uniform(seed, *shape) - 0.5


def start_adapters() -> Adapters:
    """What a seed gives: A random, B zero, extras as in the base."""
    modules = {
        name: LowRank(torch.zeros(height, rank), seeded(derive(1, name), rank, width), scale=2.0)
        for name, (height, rank, width) in MODULES.items()
    }
    return Adapters(modules, {name: seeded(derive(1, name), *shape) for name, shape in EXTRAS.items()})


def examples(data: int, count: int = 2) -> list[Example]:
    """A data set that is one number."""
    return [Example((data,), (data,))] * count


def learn(jobs: Sequence[Job]) -> list[TrainingResult]:
    """Each tensor of the plan's parts shrinks a little and moves by what data, round and optimizer state say."""
    return [_learn(job) for job in jobs]


def _learn(job: Job) -> TrainingResult:
    data, before = job.examples[0].tokens[0], job.optimizer or {"moment": torch.zeros(3)}
    moment = before["moment"] * 0.9 + seeded(derive(data, job.round), 3)

    def move(key: Key, tensor: Tensor) -> Tensor:
        return tensor * 0.97 + 0.1 * seeded(derive(data, job.round, *key), *tensor.shape) + 1e-3 * moment[0]

    start = job.plan.start
    trained = start.put({key: move(key, start[key]) for key in start.trained(job.plan.parts)})
    for _ in range(job.plan.length - 1):
        trained = trained.put({key: move(key, trained[key]) for key in trained.trained(job.plan.parts)})
    loss = 1.0 + float(moment.abs().sum())
    return TrainingResult(trained, loss, (loss,), 1, 1, 0.0, {"moment": moment})


def spoiled(victims: set[int], value: float = math.nan, loss: float = 1.0) -> Train:
    """`learn`, but clients with this data end with a value in every trained tensor that is not usable."""

    def train(jobs: Sequence[Job]) -> list[TrainingResult]:
        pairs = zip(jobs, learn(jobs), strict=True)
        return [_spoil(job, done) if job.examples[0].tokens[0] in victims else done for job, done in pairs]

    def _spoil(job: Job, done: TrainingResult) -> TrainingResult:
        keys = done.adapters.trained(job.plan.parts)
        changed = {key: done.adapters[key].clone() for key in keys}
        for tensor in changed.values():
            tensor.view(-1)[0] = value
        return TrainingResult(done.adapters.put(changed), loss, (loss,), 1, 1, 0.0, done.optimizer)

    return train


def federation(
    method: Method | tuple[str, dict[str, Any]],
    clients: int = 3,
    *,
    data: Sequence[int] | None = None,
    train: Train = learn,
    seed: int = 7,
    **config: Any,
) -> Federation:
    """Clients client-0, client-1, ... with the data 0, 1, ... (or `data`) and 2, 3, ... examples."""
    method = method if isinstance(method, Method) else made(*method)
    owners = [Client(f"client-{index}", index, index + 2) for index in range(clients)]
    held = {owner.name: examples(data[owner.index] if data else owner.index, owner.examples) for owner in owners}
    return Federation(
        method=method,
        config=FederationConfig(**config),
        clients=owners,
        seed=seed,
        run=RUN,
        examples=held,
        train=train,
    )


def send(
    method: Method,
    client: Client,
    state: ClientState,
    plan: Plan,
    trained: Adapters,
    ctx: Context,
    noise: Noise | None = None,
) -> Sending:
    """What a client sends that trained these adapters."""
    side = ClientSide(method=method, client=client, examples=(), train=learn, seed=ctx.seed, run=RUN, noise=noise)
    return engine.send(side, state, Work(plan, TrainingResult(trained, 0.0, (), 0, 0, 0.0, {})), ctx)


def first(federated: Federation, initial: Adapters | None = None) -> State:
    """The state before the first round."""
    clients = (client.name for client in federated.clients)
    return start(begin(start_adapters(), federated.seed, federated.run, initial), clients)


def rounds(federated: Federation, count: int, state: State | None = None) -> tuple[State, list[Line]]:
    """The state after `count` more rounds, and the lines told."""
    lines: list[Line] = []
    state = first(federated) if state is None else state
    for _ in range(count):
        state = play(federated, state, lines.append)
    return state, lines


def bits(tensors: Any) -> Any:
    """A nested value with every tensor as its dtype, shape and bytes: equal if and only if equal to the last bit."""
    if isinstance(tensors, Tensor):
        flat = tensors.detach().contiguous().reshape(-1)
        return str(tensors.dtype), tuple(tensors.shape), flat.view(torch.uint8).numpy().tobytes()
    if isinstance(tensors, Adapters):
        return {key: bits(tensor) for key, tensor in tensors.items()}
    if isinstance(tensors, Mapping):
        return {key: bits(value) for key, value in tensors.items()}
    if isinstance(tensors, list | tuple):
        return [bits(value) for value in tensors]
    if is_dataclass(tensors):
        return {spec.name: bits(getattr(tensors, spec.name)) for spec in fields(tensors)}
    return tensors


def everything(state: State) -> Any:
    """All of a state but the seconds it took."""
    content = bits(state)
    del content["totals"]["seconds"]
    return content


def distance(one: Adapters, other: Adapters) -> float:
    """Largest difference of two adapters' values relative to the largest value."""
    largest = max(1e-30, *(float(tensor.abs().max()) for _, tensor in other.items()))
    return max(float((tensor - other[key]).abs().max()) for key, tensor in one.items()) / largest


def is_extra(key: Key) -> bool:
    return key[1] == EXTRA
