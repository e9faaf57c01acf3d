"""Adapters' arithmetic: canonical order, copies instead of changes, and errors for what they do not have."""

from __future__ import annotations

import pytest
import torch

from thinwire.adapters import Adapters, same, subtract
from thinwire.clock import clock, span
from thinwire.lowrank import LowRank


def adapters() -> Adapters:
    modules = {name: LowRank(torch.ones(3, 2), torch.full((2, 4), 2.0), 0.5) for name in ("z", "a")}
    return Adapters(modules, {"n": torch.zeros(5), "m": torch.zeros(1)})


def test_order_does_not_depend_on_how_they_were_made():
    keys = [("a", "a"), ("a", "b"), ("z", "a"), ("z", "b"), ("m", "extra"), ("n", "extra")]
    assert [key for key, _ in adapters().items()] == keys
    assert adapters().trained({"b", "extra"}) == [("a", "b"), ("z", "b"), ("m", "extra"), ("n", "extra")]
    assert adapters().parameters == 2 * (6 + 8) + 6
    assert ("a", "extra") not in adapters()
    assert ("q", "a") not in adapters()


def test_arithmetic_makes_copies():
    before = adapters()
    after = before.add({("a", "b"): torch.ones(3, 2), ("n", "extra"): torch.ones(5)})
    assert same(before, adapters())
    assert after["a", "b"].tolist() == [[2.0, 2.0]] * 3
    assert after.modules["a"].scale == 0.5
    change = subtract(after, before, after.trained({"b"}))
    assert change["a", "b"].tolist() == [[1.0, 1.0]] * 3
    assert not change["z", "b"].any()
    assert same(before.put({("z", "a"): before["z", "a"]}), before)
    assert not same(after, before)


@pytest.mark.parametrize("key", [("q", "a"), ("a", "extra"), ("n", "b")])
def test_a_tensor_they_do_not_have_is_an_error(key):
    with pytest.raises(KeyError, match=key[0]):
        adapters().add({key: torch.zeros(1)})


def test_seconds_are_added_up_by_purpose():
    with span("outside"):
        pass
    with clock() as seconds:
        for _ in range(3):
            with span("a"), span("b"):
                pass
    assert set(seconds) == {"a", "b"}
    assert seconds["a"] >= seconds["b"] > 0
