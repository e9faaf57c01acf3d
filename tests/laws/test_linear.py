"""A method says that it is linear exactly where its aggregate adds."""

from __future__ import annotations

import torch

from tests.laws.synthetic import start_adapters
from thinwire.adapters import EXTRA
from thinwire.method import Context, Parts, Uploads


def aggregated(method, module, change: Parts) -> Parts:
    return method.rule(module, Uploads(1, lambda _: (1.0, change)), Context(2, 3))


def test_only_a_linear_method_may_be_sent_two_changes_as_one(travelling):
    module = next(iter(start_adapters().modules.values()))
    torch.manual_seed(0)
    parts = sorted(travelling.sends(Context(2, 3)) - {EXTRA})
    one, two = ({part: torch.randn_like(getattr(module, part)) for part in parts} for _ in range(2))
    both = aggregated(travelling, module, {part: one[part] + two[part] for part in parts})
    first, second = aggregated(travelling, module, one), aggregated(travelling, module, two)
    adds = both.keys() == first.keys() and all(
        both[part].shape == first[part].shape and torch.allclose(both[part], first[part] + second[part], atol=1e-5)
        for part in both
    )
    assert adds or not travelling.rule.linear
