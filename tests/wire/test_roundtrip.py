"""Whatever is packed comes back to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.payload import PER, All, Floats, Leaf, Listed, Payload, same, same_leaf
from thinwire.wire import open_payload, pack, unpack

from .samples import DTYPES, codes, expect, floats, gaussian, kept, one, positions, random_bits

KINDS = ("all", "seeded", "even", "rows", "columns", "both", "striped")
shapes = st.one_of(
    st.just(()),
    st.lists(st.integers(0, 40), min_size=1, max_size=3).map(tuple),
    st.tuples(st.integers(1, 3000)),
    st.tuples(st.integers(1, 400), st.integers(1, 70)),
)


@settings(max_examples=300, deadline=None)
@given(
    shapes,
    st.sampled_from(KINDS),
    st.sampled_from([0.0, 0.001, 0.04, 0.5, 0.97, 1.0]),
    st.sampled_from(["any bits", "gaussian", "constant", "positive"]),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32),
)
def test_floats_to_the_bit(shape, kind, density, content, dtype, seed):
    rng = np.random.default_rng(seed)
    places = positions(rng, shape, density, kind)
    count = kept(shape, places)
    values = {
        "any bits": random_bits(rng, count, dtype),
        "gaussian": gaussian(rng, count).to(dtype),
        "constant": torch.full((count,), float(rng.standard_normal()), dtype=dtype),
        "positive": gaussian(rng, count).abs().to(dtype),
    }[content]
    payload = floats(shape, places, values)
    assert same(unpack(pack(payload), expect(payload)), payload)


@settings(max_examples=200, deadline=None)
@given(
    shapes,
    st.sampled_from(KINDS),
    st.integers(1, 8),
    st.sampled_from(PER),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_codes_to_the_bit(shape, kind, bits, per, affine, seed):
    rng = np.random.default_rng(seed)
    places = positions(rng, shape, 0.2, kind)
    payload = one(Leaf(shape, places, codes(rng, kept(shape, places), bits, shape, per, affine)))
    assert same(unpack(pack(payload), expect(payload)), payload)


@pytest.mark.parametrize("kind", KINDS)
def test_several_chunks(kind):
    rng = np.random.default_rng(1)
    shape = (1200, 700)
    places = positions(rng, shape, 0.6, kind)
    payload = floats(shape, places, gaussian(rng, kept(shape, places)).bfloat16())
    assert same(unpack(pack(payload), expect(payload)), payload)


@pytest.mark.parametrize("shape", [(600_000,), (2, 300_000), (300_000, 2), (1, 1, 600_000), (700_000, 1)])
def test_odd_grids(shape):
    rng = np.random.default_rng(2)
    size = int(np.prod(shape))
    for count in (1, 3, 400, 5000):
        indices = torch.from_numpy(np.sort(rng.choice(size, count, replace=False)))
        payload = floats(shape, Listed(indices), gaussian(rng, count))
        assert same(unpack(pack(payload), expect(payload)), payload)


def test_far_apart_and_clustered_positions():
    size = 1 << 26
    for indices in (
        [0],
        [size - 1],
        [0, size - 1],
        [*range(5), *range(size - 5, size)],
        [*range(0, size, size // 300)],
    ):
        payload = floats((size,), Listed(torch.tensor(indices)), torch.ones(len(indices)))
        assert same(unpack(pack(payload)), payload)


def test_float_bits_exhaustively():
    for dtype in (torch.bfloat16, torch.float16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
        payload = floats((2**16,), All(), every)
        assert same(unpack(pack(payload)), payload)


def test_leaves_one_by_one_in_any_order():
    rng = np.random.default_rng(3)
    leaves = {}
    for number, kind in enumerate(KINDS):
        places = positions(rng, (30, 50), 0.1, kind)
        leaves[(f"module.{number}", "a")] = Leaf((30, 50), places, Floats(gaussian(rng, kept((30, 50), places))))
    payload = Payload("state", 2**64 - 1, 2**64 - 1, leaves)
    reader = open_payload(pack(payload), expect(payload))
    assert reader.keys == tuple(leaves)
    assert (reader.kind, reader.version, reader.run) == ("state", 2**64 - 1, 2**64 - 1)
    for key in reversed(reader.keys):
        assert reader.shape(key) == (30, 50)
        assert same_leaf(reader.leaf(key), leaves[key])
        assert same_leaf(reader.leaf(key), leaves[key])
    assert same(reader.payload(), payload)


def test_empty_payload():
    payload = Payload("change", 0, 0, {})
    assert same(unpack(pack(payload)), payload)


def test_same_payload_same_bytes():
    rng = np.random.default_rng(4)
    payload = floats((64, 64), positions(rng, (64, 64), 0.1, "rows"), gaussian(rng, 0))
    places = payload.leaves[("layers.0.q", "b")].positions
    payload = floats((64, 64), places, gaussian(rng, kept((64, 64), places)))
    assert pack(payload) == pack(payload)


def test_inputs_may_be_views():
    values = torch.randn(200, requires_grad=True)[::2]
    payload = floats((100,), All(), values)
    assert torch.equal(unpack(pack(payload)).leaves[("layers.0.q", "b")].dense(), values.detach())
