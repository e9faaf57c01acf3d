"""Lossy steps: what they keep, what they leave for the next round, and that they change nothing in place."""

from __future__ import annotations

import math

import pytest
import torch

from thinwire.adapters import Adapters
from thinwire.compress import StepContext, compress, decode, owed
from thinwire.compress.cast import Cast
from thinwire.compress.importance import (
    ImportanceBudget,
    ImportanceDrop,
    KurtosisRate,
    pearson_kurtosis,
    quantile,
)
from thinwire.compress.random_drop import RandomDrop
from thinwire.lowrank import LowRank
from thinwire.payload import All, Listed, Seeded
from thinwire.randomness import uniform

A, B, E = ("s", "a"), ("s", "b"), ("e", "extra")


def values(seed: int, *shape: int) -> torch.Tensor:
    return uniform(seed, *shape) - 0.5


def adapters(scale: float = 1.0) -> Adapters:
    return Adapters({"s": LowRank(scale * values(1, 30, 4), values(2, 4, 20))}, {"e": values(3, 50)})


CHANGE = {A: values(4, 4, 20), B: values(5, 30, 4), E: values(6, 50)}
LINK = StepContext(adapters(), adapters(), seed=9)
STEPS = [
    Cast("bfloat16"),
    ImportanceDrop(KurtosisRate(0.85, 0.1, 0.11), True),
    ImportanceDrop(KurtosisRate(0.5, 0.0, 0.0), False),
    ImportanceBudget(0.9),
    RandomDrop(0.8),
    RandomDrop(0.5, rescale=False),
]


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_steps_are_pure_and_repeatable(step):
    before = {key: tensor.clone() for key, tensor in CHANGE.items()}
    one, other = (compress(CHANGE, [step, Cast("float32")], LINK, {})[0] for _ in range(2))
    assert all(torch.equal(CHANGE[key], before[key]) for key in CHANGE)
    assert list(one) == list(CHANGE)
    assert all(torch.equal(one[key].dense(), other[key].dense()) for key in one)


@pytest.mark.parametrize("step", STEPS, ids=repr)
@pytest.mark.parametrize("feedback", [1.0, 0.5])
def test_nothing_is_lost_between_what_is_sent_and_what_is_kept(step, feedback):
    residual = {A: values(7, 4, 20), ("gone", "b"): values(8, 3, 3)}
    leaves, kept = compress(CHANGE, [step], LINK, residual, feedback)
    sent = decode(leaves)
    for key, change in CHANGE.items():
        total = change + feedback * residual[key] if key in residual else change
        torch.testing.assert_close(sent[key] + kept[key], total, rtol=0, atol=1e-5)
        assert torch.equal(owed(CHANGE, residual, feedback)[key], total)
    assert torch.equal(kept["gone", "b"], residual["gone", "b"]), "what is not trained now is kept for later"


@pytest.mark.parametrize("last", STEPS, ids=repr)
@pytest.mark.parametrize("early", STEPS, ids=repr)
def test_steps_chain_in_any_order(early, last):
    once, twice = (decode(compress(CHANGE, steps, LINK, {})[0]) for steps in ([early], [early, last]))
    for key, tensor in twice.items():
        assert tensor.shape == CHANGE[key].shape
        assert not tensor[once[key] == 0].any(), "what was dropped stays dropped"


def test_without_feedback_nothing_is_kept():
    assert compress(CHANGE, [ImportanceBudget(0.9)], LINK, {})[1] == {}


@pytest.mark.parametrize(("dtype", "digits"), [("float32", 0.0), ("bfloat16", 2**-8), ("float16", 2**-11)])
def test_cast_rounds_to_the_dtype(dtype, digits):
    leaves, _ = compress(CHANGE, [Cast(dtype)], LINK, {})
    for key, leaf in leaves.items():
        assert isinstance(leaf.positions, All)
        assert str(leaf.values.tensor.dtype) == f"torch.{dtype}"
        assert ((leaf.dense() - CHANGE[key]).abs() <= digits * CHANGE[key].abs() + 1e-7 * (digits > 0)).all()


def test_a_random_mask_is_a_seed_and_keeps_the_mean():
    change = {A: torch.ones(400, 500)}
    (leaf,) = compress(change, [RandomDrop(0.8)], LINK, {})[0].values()
    assert isinstance(leaf.positions, Seeded)
    assert leaf.kept / leaf.size == pytest.approx(0.2, abs=0.005)
    assert float(leaf.dense().mean()) == pytest.approx(1, abs=0.025)
    (plain,) = compress(change, [RandomDrop(0.8, rescale=False)], LINK, {})[0].values()
    assert set(plain.dense().unique().tolist()) == {0.0, 1.0}
    (other,) = compress(change, [RandomDrop(0.8)], StepContext(adapters(), adapters(), seed=10), {})[0].values()
    assert not torch.equal(other.dense(), leaf.dense())


def test_masks_of_two_tensors_of_one_shape_differ():
    change = {("one", "b"): torch.ones(40, 5), ("two", "b"): torch.ones(40, 5)}
    one, two = compress(change, [RandomDrop(0.5)], LINK, {})[0].values()
    assert not torch.equal(one.dense(), two.dense())


def test_rate_0_drops_nothing():
    leaves, _ = compress(CHANGE, [RandomDrop(0.0), ImportanceBudget(0.0)], LINK, {})
    assert all(torch.equal(leaf.dense(), CHANGE[key]) for key, leaf in leaves.items())


@pytest.mark.parametrize(
    ("scores", "kurtosis"),
    [([0, 0, 0, 4], 7 / 3), ([1, 1, 3, 3], 1.0), ([2, 2, 2, 2], 1.0), ([0, 0, 0, 0], 1.0), ([1, 2, 3, 4], 1.64)],
)
def test_kurtosis_by_hand(scores, kurtosis):
    assert pearson_kurtosis(torch.tensor(scores, dtype=torch.float32)) == pytest.approx(kurtosis)


def test_the_official_rate_by_hand():
    official = KurtosisRate(0.85, 0.1, 0.11)
    assert official(torch.tensor([0.0, 0.0, 0.0, 4.0])) == pytest.approx(0.85 + 0.1 * math.log(7 / 3))
    assert official(torch.tensor([1.0, 1.0, 3.0, 3.0])) == 0.85
    assert official(torch.zeros(9)) == 0.85
    assert official(torch.full((9,), 0.3)) == 0.85


def test_the_official_rate_is_inert_on_real_scores():
    """|x| of a Gaussian has kurtosis 3.87, above the 3.004 from which the cap binds: .96 always."""
    gaussian = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).abs()
    official = KurtosisRate(0.85, 0.1, 0.11)
    assert pearson_kurtosis(gaussian) == pytest.approx(3.87, abs=0.1)
    assert official(gaussian) == pytest.approx(0.96)
    assert official(gaussian**3) == pytest.approx(0.96)
    assert official(torch.linspace(0, 1, 1000)) == pytest.approx(0.85 + 0.1 * math.log(1.8), abs=1e-4)
    assert KurtosisRate(0.85, 0.1, 1.0)(gaussian**3) > 0.99
    assert KurtosisRate(0.85, 9.0, 1.0)(gaussian**3) == 1.0


@pytest.mark.parametrize(
    ("scores", "rate", "kept"),
    [
        ([1, 2, 3, 4], 0.5, [3, 4]),  # the quantile is 2.5
        ([1, 2, 3, 4], 0.85, [4]),  # 3.55
        ([1, 2, 3, 4], 1.0, [4]),
        ([1, 2, 3, 4], 0.0, [1, 2, 3, 4]),
        ([1, 1, 1, 2], 0.5, [1, 1, 1, 2]),  # ties at the quantile stay
        ([3, 3, 3, 3], 0.9, [3, 3, 3, 3]),
        ([1, 2, 2, 9], 0.5, [2, 2, 9]),
        ([5], 0.9, [5]),
        ([0, 0, 0, 7], 0.5, [7]),  # zeros say nothing and never travel
        ([0, 0, 0, 0], 0.5, []),
    ],
)
def test_quantiles_and_ties_by_hand(scores, rate, kept):
    change = {E: torch.tensor(scores, dtype=torch.float32)}
    for step in (ImportanceDrop(KurtosisRate(rate, 0.0, 0.0), False), ImportanceBudget(rate)):
        (leaf,) = compress(change, [step], LINK, {})[0].values()
        assert isinstance(leaf.positions, Listed)
        assert leaf.values.tensor.tolist() == kept


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.85, 0.96, 1.0])
def test_quantile_is_torch_quantile(rate):
    scores = values(11, 37, 13).abs()
    assert quantile(scores, rate) == pytest.approx(float(torch.quantile(scores.double(), rate)), rel=1e-6)


@pytest.mark.parametrize("scores", [[3.0], [0.0, 0.0, 0.0, 7.0], [5.0, 1.0, 4.0, 2.0, 3.0]])
def test_quantile_lies_between_sorted_scores(scores):
    ordered = sorted(scores)
    for rate in (0.0, 0.25, 0.5, 0.6, 1.0):
        place = rate * (len(scores) - 1)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        assert quantile(torch.tensor(scores), rate) == low + (high - low) * (place - math.floor(place))


def test_rescaling_keeps_the_sum_of_sizes():
    leaves, _ = compress(CHANGE, [ImportanceDrop(KurtosisRate(0.9, 0.0, 0.0), True)], LINK, {})
    for key, leaf in leaves.items():
        torch.testing.assert_close(leaf.dense().abs().sum(), CHANGE[key].abs().sum())
    zero = {E: torch.zeros(5)}
    (leaf,) = compress(zero, [ImportanceDrop(KurtosisRate(0.9, 0.0, 0.0), True)], LINK, {})[0].values()
    assert leaf.kept == 0


def test_a_budget_is_shared_where_it_matters():
    """A module whose factors are ten times larger moves its product ten times as much, and gets nearly all."""
    modules = {
        "small": LowRank(values(1, 30, 4), values(2, 4, 20)),
        "large": LowRank(values(1, 30, 4), 10 * values(2, 4, 20)),
    }
    change = {(name, "b"): values(seed, 30, 4) for seed, name in enumerate(modules, start=20)}
    context = StepContext(Adapters(modules), Adapters(modules), 0)
    leaves, _ = compress(change, [ImportanceBudget(0.9)], context, {})
    assert sum(leaf.kept for leaf in leaves.values()) == pytest.approx(0.1 * 240, abs=1)
    assert leaves["large", "b"].kept > 20
    each, _ = compress(change, [ImportanceDrop(KurtosisRate(0.9, 0.0, 0.0), False)], context, {})
    assert [leaf.kept for leaf in each.values()] == [12, 12]


def test_extras_have_a_budget_of_their_own():
    huge = {**CHANGE, E: 1e6 * CHANGE[E]}
    leaves, _ = compress(huge, [ImportanceBudget(0.9)], LINK, {})
    assert leaves[E].kept == 5
    assert leaves[A].kept + leaves[B].kept == pytest.approx(0.1 * 200, abs=1)
