"""What noise costs, against closed forms and the library's own worked figures; calibration."""

from __future__ import annotations

import math
import sys
from statistics import NormalDist

import dp_accounting
import dp_accounting.rdp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.privacy import accountant
from thinwire.privacy.accountant import ADD_OR_REMOVE, LOOSE, REPLACE, calibrated, epsilon
from thinwire.settings import ConfigError

below = NormalDist().cdf


def gaussian_delta(multiplier: float, eps: float) -> float:
    """delta of one Gaussian release. Source: Balle and Wang, ICML 2018, Theorem 8."""
    half, shift = 1 / (2 * multiplier), eps * multiplier
    return below(half - shift) - math.exp(eps) * below(-half - shift)


def sampled_delta(rate: float, multiplier: float, eps: float) -> float:
    """delta of one Poisson-sampled Gaussian release: the hockey stick of the mixture and N(0), both ways."""

    def beyond(mean: float, limit: float) -> float:
        return below((mean - limit) / multiplier)

    def ratio_reaches(value: float) -> float:  # where 1 - q + q exp((2x - 1) / 2z^2) = value
        inner = (value - 1 + rate) / rate
        return -math.inf if inner <= 0 else multiplier**2 * math.log(inner) + 0.5

    at = ratio_reaches(math.exp(eps))
    remove = (1 - rate) * beyond(0, at) + rate * beyond(1, at) - math.exp(eps) * beyond(0, at)
    at = ratio_reaches(math.exp(-eps))
    add = (1 - beyond(0, at)) - math.exp(eps) * ((1 - rate) * (1 - beyond(0, at)) + rate * (1 - beyond(1, at)))
    return max(remove, add)


@pytest.mark.parametrize(("multiplier", "count"), [(1.0, 1), (2.0, 10), (5.0, 100), (0.7, 1)])
def test_gaussian_releases_of_everyone(multiplier, count):
    eps = epsilon({(8, 8): count}, multiplier, 1e-5, ADD_OR_REMOVE)
    assert gaussian_delta(multiplier / math.sqrt(count), eps) == pytest.approx(1e-5, rel=0.02)


@pytest.mark.parametrize(("rate", "multiplier"), [((10, 350), 1.0), ((1, 10), 0.6), ((1, 2), 3.0)])
def test_one_sampled_release(rate, multiplier):
    eps = epsilon({rate: 1}, multiplier, 1e-5, ADD_OR_REMOVE)
    assert sampled_delta(rate[0] / rate[1], multiplier, eps) <= 1e-5 * 1.001
    assert sampled_delta(rate[0] / rate[1], multiplier, eps - 0.01) > 1e-5


def test_the_library_s_worked_figures():
    """dp-accounting's own: three releases at rate .2 and multiplier .5 are (1, .15594); 3 at sqrt(3), (1, .126936)."""
    assert epsilon({(1, 5): 3}, 0.5, 0.15594, ADD_OR_REMOVE) == pytest.approx(1, abs=2e-3)
    assert epsilon({(5, 5): 3}, math.sqrt(3), 0.126936, ADD_OR_REMOVE) == pytest.approx(1, abs=2e-3)


def test_replacing_moves_a_sum_by_twice_the_clip():
    library = dp_accounting.rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    half = dp_accounting.GaussianDpEvent(2.0)
    library.compose(dp_accounting.SampledWithoutReplacementDpEvent(350, 10, half), 200)
    assert epsilon({(10, 350): 200}, 4.0, 1e-5, REPLACE) == library.get_epsilon(1e-5)
    assert epsilon({(1, 1): 9}, 4.0, 1e-5, REPLACE) == epsilon({(1, 1): 9}, 2.0, 1e-5, ADD_OR_REMOVE)


def test_samples_of_fixed_size_cost_more_than_poisson_samples():
    assert epsilon({(10, 350): 200}, 1.0, 1e-5, ADD_OR_REMOVE) == pytest.approx(2.668, abs=2e-3)
    assert epsilon({(10, 350): 200}, 1.0, 1e-5, REPLACE) > 20


def test_nothing_released_and_no_noise():
    assert epsilon({}, 1.0, 1e-5, ADD_OR_REMOVE) == 0
    assert epsilon({(3, 9): 0, (0, 9): 5}, 1.0, 1e-5, ADD_OR_REMOVE) == 0
    assert epsilon({(3, 9): 1}, 0.0, 1e-5, ADD_OR_REMOVE) == math.inf


RATES = st.sampled_from([(1, 50), (1, 10), (1, 1)])


@settings(max_examples=6, deadline=None)
@given(RATES, st.floats(0.8, 6), st.integers(1, 40), st.sampled_from([ADD_OR_REMOVE, REPLACE]))
def test_more_noise_and_fewer_releases_cost_less(rate, multiplier, count, relation):
    cost = epsilon({rate: count}, multiplier, 1e-5, relation)
    assert epsilon({rate: count}, multiplier * 1.1, 1e-5, relation) <= cost
    assert epsilon({rate: count + 1}, multiplier, 1e-5, relation) >= cost


def test_where_the_accountants_change_over_epsilon_still_grows():
    costs = [epsilon({(1, 1): count}, 1.0, 1e-5, ADD_OR_REMOVE) for count in range(1, 15)]
    assert costs == sorted(costs)
    assert costs[0] < LOOSE < costs[-1]


@pytest.mark.long
@pytest.mark.parametrize(
    ("relation", "target"), [(ADD_OR_REMOVE, 0.5), (ADD_OR_REMOVE, 8.0), (REPLACE, 2.0)]
)
def test_calibrated_noise_is_enough_and_hardly_more(relation, target):
    def cost(multiplier):
        return epsilon({(10, 100): 20}, multiplier, 1e-5, relation)

    multiplier = calibrated(cost, target)
    assert cost(multiplier) <= target
    assert cost(multiplier * 0.995) > target


def test_an_epsilon_that_no_noise_reaches():
    with pytest.raises(ConfigError, match=r"privacy\.epsilon = 0\.1: no noise"):
        calibrated(lambda multiplier: 1.0, 0.1)


def test_without_the_library_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    accountant._epsilon.cache_clear()
    with pytest.raises(ConfigError, match=r"thinwire\[privacy\]"):
        epsilon({(1, 2): 1}, 1.0, 1e-5, ADD_OR_REMOVE)
