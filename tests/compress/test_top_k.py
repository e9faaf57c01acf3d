"""Top-k over all tensors together, against sorting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.adapters import Adapters
from thinwire.compress import StepContext
from thinwire.compress.top_k import TopK, largest
from thinwire.payload import dense

NOWHERE = StepContext(Adapters({}), Adapters({}), 0)


def kept(tensors, density):
    leaves = {key: dense(tensor) for key, tensor in tensors.items()}
    return {key: leaf.dense() for key, leaf in TopK(density)(leaves, NOWHERE).items()}


def sorted_out(tensors, density):
    """The same by a stable sort of Python numbers: the largest, of equal ones the first."""
    flat = [(abs(value), key, place) for key, t in tensors.items() for place, value in enumerate(t.flatten().tolist())]
    order = sorted(range(len(flat)), key=lambda at: -flat[at][0])
    chosen = {flat[at][1:] for at in order[: max(1, int(density * len(flat) + 1e-6))]}
    return {
        key: torch.tensor(
            [value if (key, at) in chosen else 0.0 for at, value in enumerate(t.flatten().tolist())]
        ).reshape(t.shape)
        for key, t in tensors.items()
    }


def test_one_threshold_over_all_tensors_by_hand():
    tensors = {
        ("s", "a"): torch.tensor([[5.0, -1.0], [0.5, 0.0]]),
        ("s", "b"): torch.tensor([[-4.0], [1.0]]),
        ("head", "extra"): torch.tensor([3.0, -1.0]),
    }
    got = kept(tensors, 0.5)  # 4 of 8: 5, 4, 3 and the first of the three ones
    assert got["s", "a"].tolist() == [[5.0, -1.0], [0.0, 0.0]]
    assert got["s", "b"].tolist() == [[-4.0], [0.0]]
    assert got["head", "extra"].tolist() == [3.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=12), min_size=1, max_size=4),
    st.floats(0.01, 1.0),
)
def test_as_a_stable_sort_would(rows, density):
    tensors = {(f"t{at}", "extra"): torch.tensor(row, dtype=torch.float32) for at, row in enumerate(rows)}
    got, want = kept(tensors, density), sorted_out(tensors, density)
    assert all(torch.equal(got[key], want[key]) for key in tensors)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.floats(0.001, 1.0))
def test_never_more_than_the_density_and_at_least_one(count, density):
    mask = TopK(density)({("t", "extra"): dense(torch.arange(1.0, count + 1))}, NOWHERE)["t", "extra"]
    assert 1 <= mask.kept <= max(1, density * count + 1e-6)


@pytest.mark.parametrize(("density", "count"), [(0.29, 29), (0.1, 10), (1 / 3, 33), (0.07, 7)])
def test_a_density_that_floats_miss_by_a_hair_counts_in_full(density, count):
    assert TopK(density)({("t", "extra"): dense(torch.arange(1.0, 101))}, NOWHERE)["t", "extra"].kept == count


def test_zeros_never_travel_unless_all_do():
    zeros = {("t", "extra"): dense(torch.zeros(10))}
    assert TopK(0.5)(zeros, NOWHERE)["t", "extra"].kept == 0
    assert TopK(1.0)(zeros, NOWHERE)["t", "extra"].kept == 10
    assert largest(torch.zeros(4), 2).tolist() == [False] * 4
