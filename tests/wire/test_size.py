"""Packed sizes against the entropy: 1.01 times it, 8 bytes the run, 64 bytes a leaf, 2 bytes a symbol in use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.bound import bound_bits, symbols_in_use
from thinwire.compress import StepContext
from thinwire.compress.quantise import Quantise
from thinwire.payload import All, Floats, Leaf, Listed, Payload
from thinwire.wire import pack

from .samples import DTYPES, KEY, floats, gaussian, kept, one, positions, random_bits

DENSITIES = (0.5, 0.1, 0.04, 0.01)
KINDS = ("even", "both")
PLACES = ("even", "rows", "all", "seeded")


def within_target(leaf: Leaf) -> None:
    size = len(pack(one(leaf)))
    assert size <= 1.01 * bound_bits(leaf) / 8 + 8 + 64 + 2 * symbols_in_use(leaf), size * 8 / bound_bits(leaf)


def a_leaf(rng: np.random.Generator, kind: str, density: float, dtype: torch.dtype) -> Leaf:
    shape = (2048, 512) if density < 0.04 else (512, 600)
    places = positions(rng, shape, density, kind)
    return Leaf(shape, places, Floats(gaussian(rng, kept(shape, places)).to(dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("kind", [*KINDS, "seeded"])
def test_floats_at_the_entropy(kind, density, dtype):
    leaf = a_leaf(np.random.default_rng(1), kind, density, dtype)
    assert leaf.kept >= 8_000
    within_target(leaf)


@pytest.mark.parametrize(("kind", "per"), [(kind, "row") for kind in PLACES] + [("even", "tensor"), ("all", "channel")])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_at_the_entropy(kind, symmetric, bits, per):
    rng = np.random.default_rng(2)
    shape = (512, 600)
    places = positions(rng, shape, 0.1, kind)
    leaf = Leaf(shape, places, Floats(gaussian(rng, kept(shape, places))))
    context = StepContext(None, None, 5)  # type: ignore[arg-type]
    within_target(Quantise(bits, per, symmetric)({KEY: leaf}, context)[KEY])


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_floats_at_the_entropy(dtype):
    rng = np.random.default_rng(3)
    within_target(Leaf((300, 400), All(), Floats(gaussian(rng, 120_000).to(dtype))))
    within_target(Leaf((300, 400), All(), Floats(gaussian(rng, 120_000).abs().to(dtype))))
    within_target(Leaf((300, 400), All(), Floats(torch.full((120_000,), 0.1, dtype=dtype))))


@pytest.mark.parametrize("density", DENSITIES[:3])
def test_several_chunks_at_the_entropy(density):
    rng = np.random.default_rng(4)
    shape = (int(600_000 / density / 1000), 1000)
    places = positions(rng, shape, density, "rows")
    within_target(Leaf(shape, places, Floats(gaussian(rng, kept(shape, places)).bfloat16())))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["all", *KINDS, "striped", "seeded"])
def test_never_worse_than_raw(kind, dtype):
    rng, named = np.random.default_rng(5), 40
    for shape in ((3, 4), (20, 30), (500, 300)):
        places = positions(rng, shape, 0.5, kind)
        count = kept(shape, places)
        place = {"all": 0, "seeded": 16}.get(kind, min(shape[0] * shape[1] // 8 + 1, 4 * count))
        size = len(pack(floats(shape, places, random_bits(rng, count, dtype))))
        assert size <= named + place + count * dtype.itemsize + 48


@pytest.mark.parametrize("shape", [(3072, 64), (64, 3072)])
@pytest.mark.parametrize("kind", KINDS)
def test_thin_factors_at_the_entropy(kind, shape):
    rng = np.random.default_rng(7)
    places = positions(rng, shape, 0.1, kind)
    leaf = Leaf(shape, places, Floats(gaussian(rng, kept(shape, places)).bfloat16()))
    assert leaf.kept >= 10_000
    within_target(leaf)


def test_repeated_positions_and_values_cost_little():
    indices = torch.arange(0, 200_000, 10)
    payload = floats((1000, 200), Listed(indices), (torch.arange(20_000) % 100).float())
    assert len(pack(payload)) < 1500


def test_names_cost_little():
    tensor = torch.ones(4)
    leaves = {
        (f"base_model.model.model.layers.{layer}.self_attn.{module}_proj", part): Leaf((4,), All(), Floats(tensor))
        for layer in range(28)
        for module in "qkvo"
        for part in "ab"
    }
    assert len(pack(Payload("change", 0, 0, leaves))) < 24 * len(leaves)
