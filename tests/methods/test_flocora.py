"""FLoCoRA: what travels is quantised, both ways, in effect; quantisation chains with every other step."""

from __future__ import annotations

import pytest
import torch

from tests.laws.conftest import packed  # noqa: F401
from tests.laws.synthetic import federation, made, rounds
from thinwire.compress.values import steps_down, steps_up
from thinwire.payload import Codes, Floats, Listed
from thinwire.wire import unpack


def test_both_directions_carry_codes_and_vectors_stay_float32(packed):  # noqa: F811
    state, _ = rounds(federation(("flocora", {"bits_up": 4, "bits_down": 8}), 3), 2)
    ups = [payload for payload, _ in packed if payload.kind == "change" and payload.version == 1 and payload.leaves]
    downs = [unpack(blob) for version, blob in state.server.broadcasts.items() if version]
    assert len(ups) > 3
    assert downs
    for payload in ups + downs:
        for leaf in payload.leaves.values():
            if len(leaf.shape) == 1:
                assert isinstance(leaf.values, Floats)
                assert leaf.values.tensor.dtype == torch.float32
            else:
                assert isinstance(leaf.values, Codes)
                assert leaf.values.per == "channel"
                assert len(leaf.values.scale) == leaf.shape[0]
    assert {leaf.values.bits for p in downs for leaf in p.leaves.values() if isinstance(leaf.values, Codes)} == {8}


def test_the_server_moves_by_what_it_broadcast():
    """The defect of the official code: a quantised downlink that changes nothing."""
    state, _ = rounds(federation(("flocora", {"bits_up": 0, "bits_down": 2}), 3), 1)
    exact, _ = rounds(federation(("flocora", {"bits_up": 0, "bits_down": 0}), 3), 1)
    key = "layer.0.up", "b"
    sent = unpack(state.server.broadcasts[1]).leaves[key].dense()
    torch.testing.assert_close(state.server.adapters[key], state.server.start[key] + sent)
    assert not torch.allclose(state.server.adapters[key], exact.server.adapters[key], rtol=1e-3)
    assert all(len(row.unique()) <= 4 for row in sent)


@pytest.mark.parametrize("name", ["flocora", "fedit", "fedsrd", "flasc", "fed-dare", "flora"])
def test_fewer_bits_are_fewer_bytes_both_ways(name):
    totals = {}
    for bits in (0, 8, 4, 2):
        fields = {"precision": "float32", "bits_up": bits, "bits_down": bits, "scale_per": "tensor"}
        totals[bits] = rounds(federation((name, fields), 3), 3)[0].totals
    ups, downs = ([getattr(totals[bits], way) for bits in (0, 8, 4, 2)] for way in ("bytes_up", "bytes_down"))
    for sent in (ups, downs):
        assert sent[1] < sent[0]
        assert sent[3] < sent[1]


def test_sparse_leaves_quantise_what_they_keep(packed):  # noqa: F811
    rounds(federation(("fedsrd", {"bits_up": 4, "bits_down": 4}), 3), 3)
    leaves = [leaf for payload, _ in packed for leaf in payload.leaves.values() if payload.kind == "change"]
    sparse = [leaf for leaf in leaves if isinstance(leaf.positions, Listed) and len(leaf.shape) > 1]
    assert sparse
    for leaf in sparse:
        assert isinstance(leaf.values, Codes)
        assert leaf.kept < leaf.size


def test_stochastic_rounding_keeps_the_mean_and_the_seed():
    fields = {"bits_up": 3, "bits_down": 0, "scale_per": "tensor", "stochastic": True}
    one, two = (rounds(federation(("flocora", fields), 3, seed=seed), 1)[0].server.adapters for seed in (1, 1))
    other = rounds(federation(("flocora", fields), 3, seed=2), 1)[0].server.adapters
    key = "layer.0.up", "b"
    assert torch.equal(one[key], two[key])
    assert not torch.equal(one[key], other[key])
    exact = rounds(federation(("flocora", {"bits_up": 0, "bits_down": 0}), 3), 1)[0].server.adapters[key]
    many = [rounds(federation(("flocora", fields), 3, seed=seed), 1)[0].server.adapters[key] for seed in range(40)]
    nearest = rounds(federation(("flocora", {**fields, "stochastic": False}), 3), 1)[0].server.adapters[key]
    mean = torch.stack(many).mean(0)
    assert float((mean - exact).norm()) < 0.5 * float((nearest - exact).norm())


def test_quantised_in_every_method_by_the_same_fields():
    for name in ("fedit", "ffa-lora", "fedsrd-e", "flasc", "hetlora", "fdlora"):
        values = made(name, {"bits_up": 3}).values
        assert [type(step).__name__ for step in steps_up(values)] == ["Quantise", "Cast"]
        assert [type(step).__name__ for step in steps_down(values)] == ["Cast"]
