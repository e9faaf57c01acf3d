"""What travels: exact through pack and unpack, in the declared dtype, of the counted length."""

from __future__ import annotations

import pytest

from tests.laws.synthetic import STATING, TRAVELLING, bits, federation, label, rounds
from thinwire.methods import METHODS, create
from thinwire.payload import Codes, same
from thinwire.wire import pack, unpack


def test_every_payload_survives_pack_and_unpack(travelling, packed):
    rounds(federation(travelling, 4, weights="examples", first_round={"client-3": 2}), 3)
    assert len(packed) > 10
    for payload, blob in packed:
        back = unpack(blob)
        assert same(back, payload)
        assert pack(back) == blob


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", METHODS)
def test_values_travel_in_the_declared_dtype(name, precision, packed):
    rounds(federation((name, {"precision": precision}), 2), 2)
    sends_states = (name, {}) in STATING
    changes = [payload for payload, _ in packed if payload.kind == "change"]
    states = [payload for payload, _ in packed if payload.kind == "state"]
    assert len(changes) == 2 * 2 + (0 if sends_states else 2)
    for payload in changes + (states if sends_states else []):
        for leaf in payload.leaves.values():
            assert isinstance(leaf.values, Codes) or str(leaf.values.tensor.dtype) == f"torch.{precision}"
    if not sends_states:
        assert {str(leaf.values.tensor.dtype) for p in states for leaf in p.leaves.values()} <= {"torch.float32"}


def test_bytes_are_the_length_of_what_was_packed(travelling, packed):
    state, lines = rounds(federation(travelling, 3), 3)
    uploads = [blob for payload, blob in packed if payload.kind == "change" and payload.version < 3 and payload.leaves]
    assert sum(line["bytes_up"] for line in lines) == state.totals.bytes_up
    assert {line["bytes_up"] for line in lines} <= {len(blob) for blob in uploads}
    assert sum(line["bytes_down"] for line in lines) == state.totals.bytes_down > 0
    assert state.totals.uploads == 9
    assert state.totals.deliveries == 6  # in round 0 only the seed travels


def test_references_send_nothing():
    for name in ("local", "centralised"):
        state, lines = rounds(federation((name, {})), 2)
        assert state.totals.bytes_up == state.totals.bytes_down == 0
        assert all(line["bytes_up"] == line["bytes_down"] == 0 for line in lines)


@pytest.mark.parametrize("case", [case for case in TRAVELLING if case[0].startswith("fedsrd")], ids=label)
def test_fedsrd_sends_less_than_a_quarter_of_fedit(case):
    thin, dense = (rounds(federation(used), 4)[0].totals for used in (case, ("fedit", {"precision": "float32"})))
    assert thin.bytes_up < dense.bytes_up
    assert thin.bytes_down < dense.bytes_down


def test_the_uploads_may_be_read_more_than_once(monkeypatch):
    readings = []
    method = create("fedsrd-e")
    rule, once = type(method.rule), type(method.rule).__call__

    def twice(self, module, uploads, ctx):
        readings.append(
            (bits([dict(parts) for _, parts in uploads]), bits([dict(uploads[k][1]) for k in range(len(uploads))]))
        )
        return once(self, module, uploads, ctx)

    monkeypatch.setattr(rule, "__call__", twice)
    rounds(federation(method), 2)
    assert len(readings) == 2 * 3
    assert all(first == second for first, second in readings)
