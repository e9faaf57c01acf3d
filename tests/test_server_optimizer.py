"""Server optimizers against torch.optim with the negative change as the gradient, and a Yogi step by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.laws.synthetic import federation, first, learn, rounds, start_adapters
from thinwire.adapters import Adapters
from thinwire.config import from_dict
from thinwire.lowrank import LowRank
from thinwire.method import Context
from thinwire.randomness import uniform
from thinwire.server_optimizer import ServerConfig, step
from thinwire.settings import ConfigError

A, B = ("s", "a"), ("s", "b")
START = Adapters({"s": LowRank(uniform(1, 5, 2) - 0.5, uniform(2, 2, 4) - 0.5)})


def changes(count):
    """One mean change a round; B is trained in every round, A in every other one."""
    for number in range(count):
        change = {B: uniform(10 + number, 5, 2) - 0.5}
        if number % 2 == 0:
            change[A] = uniform(50 + number, 2, 4) - 0.5
        yield change


def ours(config, count=7):
    adapters, moments = START, {}
    for change in changes(count):
        added, moments = step(config, change, adapters, moments)
        assert added.keys() == change.keys()
        adapters = adapters.add(added)
    return adapters


def torchs(make, count=7):
    """A parameter whose gradient is None keeps its state, as a tensor that was not trained does."""
    live = {key: torch.nn.Parameter(tensor.clone()) for key, tensor in START.items()}
    optimizer = make(list(live.values()))
    for change in changes(count):
        for key, parameter in live.items():
            parameter.grad = -change[key] if key in change else None
        optimizer.step()
    return live


CASES = {
    "sgd": (
        ServerConfig(optimizer="sgd", learning_rate=0.7),
        lambda p: torch.optim.SGD(p, lr=0.7),
    ),
    "momentum": (
        ServerConfig(optimizer="sgd", learning_rate=0.3, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9),
    ),
    "nesterov": (
        ServerConfig(optimizer="sgd", learning_rate=0.3, momentum=0.5, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.5, nesterov=True),
    ),
    "adam": (
        ServerConfig(optimizer="adam", learning_rate=0.01, beta1=0.8, beta2=0.95, epsilon=1e-4),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-4),
    ),
    "adamw": (
        ServerConfig(optimizer="adam", learning_rate=0.02, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.02, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_as_torch_with_the_negative_change_as_gradient(name):
    config, make = CASES[name]
    got = ours(config)
    for key, parameter in torchs(make).items():
        torch.testing.assert_close(got[key], parameter.detach(), rtol=1e-5, atol=1e-6)


def test_two_yogi_steps_by_hand():
    """beta1 .5, beta2 .75, epsilon 1, rate 2, changes 2 and then 1; all running means start at zero.

    1: m = 1, v = 0 + .25 * 4 = 1; corrected 2 and 4; step 2 * 2 / (2 + 1) = 4/3.
    2: m = 1, v = 1 - .25 * 1 * sign(1 - 1) = 1; corrected 4/3 and 16/7; step 2 * (4/3) / (sqrt(16/7) + 1).
    """
    config = ServerConfig(optimizer="yogi", learning_rate=2.0, beta1=0.5, beta2=0.75, epsilon=1.0)
    one, moments = step(config, {("e", "extra"): torch.tensor([2.0])}, Adapters({}, {"e": torch.zeros(1)}), {})
    assert float(one["e", "extra"]) == pytest.approx(4 / 3)
    two, moments = step(config, {("e", "extra"): torch.tensor([1.0])}, Adapters({}, {"e": torch.zeros(1)}), moments)
    assert float(two["e", "extra"]) == pytest.approx(2 * (4 / 3) / ((16 / 7) ** 0.5 + 1))
    assert float(moments["second"]["e", "extra"]) == 1.0
    # where v is larger than the square, Yogi lets it fall by a share of the square, Adam by a share of v
    _, moments = step(config, {("e", "extra"): torch.tensor([0.2])}, Adapters({}, {"e": torch.zeros(1)}), moments)
    assert float(moments["second"]["e", "extra"]) == pytest.approx(1 - 0.25 * 0.04)


def test_without_bias_correction_the_first_step_is_small():
    config = ServerConfig(optimizer="adam", learning_rate=1.0, epsilon=1e-3, bias_correction=False)
    added, _ = step(config, {("e", "extra"): torch.tensor([1.0])}, Adapters({}, {"e": torch.zeros(1)}), {})
    assert float(added["e", "extra"]) == pytest.approx(0.1 / (0.1 + 1e-3))


def test_none_adds_the_change_as_it_is():
    change = {B: torch.ones(5, 2)}
    assert step(ServerConfig(), change, START, {}) == (change, {})


def test_inputs_stay_as_they_were():
    config = ServerConfig(optimizer="adam", learning_rate=0.1)
    (change, *_) = changes(1)
    _, moments = step(config, change, START, {})
    kept = {name: {key: tensor.clone() for key, tensor in own.items()} for name, own in moments.items()}
    step(config, change, START, moments)
    assert all(torch.equal(moments[name][key], tensor) for name, own in kept.items() for key, tensor in own.items())


def test_in_a_round_it_steps_along_the_mean_change():
    """FLASC as published: the mean change is a direction for Adam on the server, which keeps all entries."""
    dense = {"down_density": 1.0, "up_density": 1.0, "precision": "float32"}
    config = ServerConfig(optimizer="adam", learning_rate=0.05, weight_decay=0.01)
    made = federation(("flasc", dense), 3)
    plain, _ = rounds(made, 1)
    made = replace(made, train=learn, server=config)
    state, _ = rounds(made, 1, first(made))
    begun = start_adapters()
    change = {key: plain.server.adapters[key] - tensor for key, tensor in begun.items()}
    want, moments = step(config, change, begun, {})
    for key, tensor in state.server.adapters.items():
        torch.testing.assert_close(tensor, begun[key] + want[key], rtol=1e-3, atol=1e-5)
    assert state.server.moments.keys() == moments.keys() == {"first", "second", "count"}
    assert made.method.trains(Context(0, 0)) == {"a", "b", "extra"}


def test_momentum_is_sgds_only():
    with pytest.raises(ConfigError, match=r"server.momentum.*: allowed with server.optimizer = sgd only"):
        from_dict({"server": {"optimizer": "adam", "momentum": 0.9}})
