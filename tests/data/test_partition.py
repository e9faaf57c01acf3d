"""Laws of the partitions: every index exactly once, no empty part, the same for the same seed."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.data.partition import by_value, dirichlet, iid
from thinwire.settings import ConfigError

LABELS = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=120)
SEEDS = st.integers(0, 2**63 - 1)


def once(parts, total):
    assert sorted(index for part in parts for index in part) == list(range(total))
    assert all(parts)


@given(LABELS)
def test_by_value_keeps_every_index_under_its_value(labels):
    groups = by_value(labels)
    once(groups.values(), len(labels))
    assert list(groups) == sorted(set(labels))
    assert all(labels[index] == value for value, group in groups.items() for index in group)


@given(st.data(), st.integers(1, 300), SEEDS)
def test_iid(data, total, seed):
    count = data.draw(st.integers(1, total))
    parts = iid(total, count, seed)
    once(parts, total)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts == iid(total, count, seed)


@given(st.data(), LABELS, st.floats(1e-300, 1e300), SEEDS)
def test_dirichlet(data, labels, alpha, seed):
    count = data.draw(st.integers(1, len(labels)))
    parts = dirichlet(labels, count, alpha, seed)
    assert len(parts) == count
    once(parts, len(labels))
    assert parts == dirichlet(labels, count, alpha, seed)


def test_alpha_goes_from_one_label_a_client_to_an_even_mix():
    labels = ["a", "b", "c", "d"] * 250

    def largest_share(alpha):
        parts = dirichlet(labels, 4, alpha, seed=3)
        counts = [Counter(labels[index] for index in part) for part in parts]
        return max(max(count.values()) / count.total() for count in counts)

    assert largest_share(1e6) < 0.27
    assert largest_share(0.5) > 0.5
    assert largest_share(0.01) > 0.95


def test_shares_have_the_variance_of_a_dirichlet():
    # a client's share of a label is Beta(alpha, (K - 1) alpha): mean 1 / K, variance (K - 1) / (K^2 (K alpha + 1))
    shares = [len(dirichlet(["a"] * 1000, 4, 0.5, seed)[0]) / 1000 for seed in range(2000)]
    mean = sum(shares) / len(shares)
    variance = sum((share - mean) ** 2 for share in shares) / len(shares)
    assert mean == pytest.approx(1 / 4, abs=0.02)
    assert variance == pytest.approx(3 / (16 * 3), abs=0.005)


def test_seeds_differ():
    assert iid(50, 5, 0) != iid(50, 5, 1)
    assert dirichlet(["a", "b"] * 25, 5, 0.5, 0) != dirichlet(["a", "b"] * 25, 5, 0.5, 1)


def test_more_clients_than_examples_are_refused():
    for divide in (lambda: iid(3, 4, 0), lambda: dirichlet(["a"] * 3, 4, 1.0, 0)):
        with pytest.raises(ConfigError, match=r"data\.count = 4: there are only 3 training examples"):
            divide()
