"""Leaves stand for the tensors they were made from; quantised values for the nearest level."""

from __future__ import annotations

import pytest
import torch

from thinwire.compress import StepContext
from thinwire.compress.quantise import Quantise
from thinwire.payload import All, Codes, Floats, Leaf, Payload, Seeded, dense, groups, same, sparse

KEY = ("q", "b")


def quantised(leaf: Leaf, *settings, seed: int = 5) -> Leaf:
    return Quantise(*settings)({KEY: leaf}, StepContext(None, None, seed))[KEY]  # type: ignore[arg-type]


@pytest.fixture
def tensor():
    return torch.randn(30, 40, generator=torch.Generator().manual_seed(1))


def test_dense_and_sparse(tensor):
    assert torch.equal(dense(tensor).dense(), tensor)
    keep = tensor > 1
    leaf = sparse(tensor, keep)
    assert torch.equal(leaf.dense(), tensor * keep)
    assert leaf.kept == int(keep.sum())


def test_seeded_positions(tensor):
    empty = Leaf((30, 40), Seeded(3, 0.2), Floats(torch.empty(0)))
    values = tensor.reshape(-1)[empty.indices()]
    leaf = Leaf((30, 40), Seeded(3, 0.2), Floats(values))
    assert torch.equal(leaf.dense()[leaf.dense() != 0], values)


@pytest.mark.parametrize(
    ("per", "shape", "number"),
    [
        ("tensor", (4, 5), 1),
        ("row", (4, 5), 4),
        ("channel", (4, 5), 4),
        ("row", (4, 5, 3, 3), 60),
        ("channel", (4, 5, 3, 3), 4),
    ],
)
def test_groups(per, shape, number):
    assert groups(shape, per) == number
    assert len(quantised(dense(torch.randn(shape)), 4, per).values.scale) == number


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("per", ["tensor", "row", "channel"])
def test_affine_error_is_one_step_at_most(tensor, bits, per):
    for leaf in (dense(tensor), sparse(tensor, tensor.abs() > 1)):
        coded = quantised(leaf, bits, per)
        where = torch.arange(1200) if leaf.indices() is None else leaf.indices()
        step = coded.values.scale[0 if per == "tensor" else where // 40]
        assert bool(((coded.floats() - leaf.floats()).abs() <= step * 1.001).all())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_symmetric_error_is_half_a_step_at_most(tensor, bits):
    coded = quantised(dense(tensor), bits, "tensor", True)
    assert coded.values.zero is None
    assert bool(((coded.dense() - tensor).abs() <= coded.values.scale * 0.5001).all())


def test_one_symmetric_bit_is_the_sign(tensor):
    coded = quantised(dense(tensor), 1, "tensor", True)
    assert torch.equal(coded.dense().sign(), tensor.sign())
    assert torch.allclose(coded.dense().abs(), tensor.abs().mean().expand(30, 40))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("constant", [0.0, 0.7, -3.3e-7, 1e30])
def test_constant_channels_are_exact(tensor, symmetric, bits, constant):
    tensor[3] = constant
    assert bool((quantised(dense(tensor), bits, "row", symmetric).dense()[3] == tensor[3]).all())


def test_values_far_from_zero_stay_finite():
    tensor = 1e6 + torch.rand(4, 50)
    assert bool(((quantised(dense(tensor), 8, "row").dense() - tensor).abs() <= 1.01).all())


@pytest.mark.parametrize("settings", [(3, "tensor", False, True), (4, "row", True, True), (1, "tensor", True, True)])
def test_stochastic_rounding_keeps_the_mean(settings):
    tensor = torch.randn(4, 10, generator=torch.Generator().manual_seed(2))
    tensor = tensor - tensor.mean()
    means = torch.stack([quantised(dense(tensor), *settings, seed=seed).dense() for seed in range(2000)]).mean(0)
    inner = (tensor != tensor.amax()) & (tensor != tensor.amin())
    assert bool(((means - tensor).abs()[inner] < 0.15).all())


def test_only_kept_values_are_quantised(tensor):
    leaf = quantised(sparse(tensor, tensor.abs() > 1), 8)
    assert bool((leaf.dense()[tensor.abs() <= 1] == 0).all())
    assert leaf.values.codes.numel() == leaf.kept


def test_vectors_stay_as_they_are():
    leaf = dense(torch.randn(40))
    assert quantised(leaf, 4) is leaf


def test_same_seed_same_codes(tensor):
    one, two = (quantised(dense(tensor), 4, "row", False, True) for _ in range(2))
    assert torch.equal(one.values.codes, two.values.codes)


@pytest.mark.parametrize("settings", [(0,), (9,), (4, "column")])
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match="allowed"):
        Quantise(*settings)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        quantised(dense(torch.tensor([[1.0, float("nan")]])), 4)


def test_same_looks_at_every_bit(tensor):
    def payload(values: torch.Tensor) -> Payload:
        return Payload("change", 0, 0, {KEY: Leaf((2,), All(), Floats(values))})

    assert same(payload(torch.tensor([0.0, float("nan")])), payload(torch.tensor([0.0, float("nan")])))
    assert not same(payload(torch.tensor([0.0, 1.0])), payload(torch.tensor([-0.0, 1.0])))
    assert not same(payload(torch.zeros(2)), payload(torch.zeros(2).half()))
    coded = Payload(
        "change", 0, 0, {KEY: Leaf((2,), All(), Codes(torch.zeros(2, dtype=torch.uint8), 2, torch.ones(1)))}
    )
    assert not same(coded, payload(torch.zeros(2)))
