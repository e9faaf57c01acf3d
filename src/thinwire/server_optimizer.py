"""The server optimizer: the clients' mean change is a step's direction, not the step itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from thinwire.settings import ConfigError, setting

if TYPE_CHECKING:  # a recipe is read without torch
    from torch import Tensor

    from thinwire.adapters import Adapters, Change

Moments = Mapping[str, "Change"]
"""Running means by name ("first", "second", "count"), by key; keys a round does not train keep theirs."""


@dataclass(frozen=True)
class ServerConfig:
    """What the server does with the mean change."""

    optimizer: str = setting(
        "none", "server optimizer; none: the change is added as it is", choices=("none", "sgd", "adam", "yogi")
    )
    learning_rate: float = setting(1.0, "its learning rate (adam and yogi: 1e-3 to 1e-2)", above=0)
    momentum: float = setting(0.0, "sgd's momentum", low=0, below=1)
    nesterov: bool = setting(False, "sgd: step along the change plus momentum times the mean")
    beta1: float = setting(0.9, "adam, yogi: decay of the mean", low=0, below=1)
    beta2: float = setting(0.99, "adam, yogi: decay of the mean square", low=0, below=1)
    epsilon: float = setting(1e-3, "adam, yogi: added to the root of the mean square", above=0)
    bias_correction: bool = setting(True, "adam, yogi: correct both means for their start at zero")
    weight_decay: float = setting(0.0, "share of the weights taken away in each step, times the learning rate", low=0)


ADAPTIVE = ("adam", "yogi")
USERS = {
    **dict.fromkeys(("momentum", "nesterov"), ("sgd",)),
    **dict.fromkeys(("beta1", "beta2", "epsilon", "bias_correction"), ADAPTIVE),
}
"""Which optimizers use a field, where not all do."""

PLAIN = ServerConfig()
"""No server optimizer: the mean change is added as it is."""


def check(config: ServerConfig) -> None:
    """What no single field can say: a setting that the optimizer would ignore. Raises: ConfigError."""
    for spec in fields(config):
        value, users = getattr(config, spec.name), USERS.get(spec.name, ("sgd", "adam", "yogi"))
        if spec.name != "optimizer" and value != spec.default and config.optimizer not in users:
            allowed = " or ".join(users) if len(users) < 3 else "sgd, adam or yogi"
            raise ConfigError(f"server.{spec.name} = {value!r}: allowed with server.optimizer = {allowed} only")


def step(config: ServerConfig, change: Change, adapters: Adapters, moments: Moments) -> tuple[Change, Moments]:
    """What is added to the global adapters for this mean change, and the running means after it; float32.

    Source: Reddi et al., Adaptive Federated Optimization, arXiv:2003.00295 (FedAvgM, FedAdam, FedYogi); weight decay is
    AdamW's. Differs: running means start without bias unless `bias_correction` is false, as in FLASC's official code.
    """
    if config.optimizer == "none":
        return change, moments
    kept = {name: dict(moments.get(name, {})) for name in ("first", "second", "count")}
    steps: Change = {}
    for key, delta in change.items():
        old = {name: kept[name].get(key, delta.new_zeros(())) for name in kept}
        new = _means(config, delta, old["first"], old["second"], old["count"])
        for name, tensor in new.items():
            kept[name][key] = tensor
        steps[key] = config.learning_rate * (_direction(config, delta, new) - config.weight_decay * adapters[key])
    return steps, {name: tensors for name, tensors in kept.items() if tensors}


def _means(config: ServerConfig, delta: Tensor, first: Tensor, second: Tensor, count: Tensor) -> dict[str, Tensor]:
    if config.optimizer == "sgd":
        return {"first": config.momentum * first + delta}
    square = delta.square()
    if config.optimizer == "adam":
        second = config.beta2 * second + (1 - config.beta2) * square
    else:
        second = second - (1 - config.beta2) * square * (second - square).sign()
    return {"first": config.beta1 * first + (1 - config.beta1) * delta, "second": second, "count": count + 1}


def _direction(config: ServerConfig, delta: Tensor, means: Mapping[str, Tensor]) -> Tensor:
    if config.optimizer == "sgd":
        return delta + config.momentum * means["first"] if config.nesterov else means["first"]
    first, second = means["first"], means["second"]
    if config.bias_correction:
        first = first / (1 - config.beta1 ** means["count"])
        second = second / (1 - config.beta2 ** means["count"])
    return first / (second.sqrt() + config.epsilon)
