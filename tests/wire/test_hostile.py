"""Bytes that are not a payload, or not the one expected, end in WireError that says what and where."""

from __future__ import annotations

import dataclasses
import io
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
import zstandard

from thinwire.payload import All, Codes, Floats, Leaf, Listed, Payload, Seeded, same
from thinwire.wire import Expect, WireError, open_payload, pack, unpack
from thinwire.wire.cursor import put_plain, put_varint, varint

from .fuzz import LIMIT, run, seal
from .samples import KEY, expect, floats, gaussian, kept, one, positions


@pytest.fixture(scope="module")
def payload():
    rng = np.random.default_rng(0)
    shape = (20, 30)
    listed = positions(rng, shape, 0.3, "even")
    return Payload(
        "change",
        4,
        9,
        {
            ("q", "a"): Leaf(shape, All(), Floats(gaussian(rng, 600).bfloat16())),
            ("q", "b"): Leaf(shape, listed, Floats(gaussian(rng, kept(shape, listed)))),
        },
    )


ONE_LEAF = b"\1\0\1"
"""Kind, version and number of leaves of a directory."""


def build(entries: bytes, bodies: bytes = b"", head: bytes = ONE_LEAF, magic: bytes = b"thw\2" + bytes(8)) -> bytes:
    """A payload with this directory: kind, version and number of leaves, then the leaves' lines."""
    out = io.BytesIO()
    put_varint(out, len(head + entries))
    put_plain(out, head + entries)
    directory = out.getvalue()
    return seal(magic + bodies + directory + len(directory).to_bytes(4, "little") + b"....")


def line(
    name: bytes = b"q", part: bytes = b"a", shape: bytes = b"\1\4", kinds: int = 0, kept: bytes = b"\4", length: int = 0
) -> bytes:
    return bytes([len(name)]) + name + bytes([len(part)]) + part + shape + bytes([kinds]) + kept + varint(length)


def test_every_prefix_and_every_longer_payload(payload):
    blob = pack(payload)
    for size in range(len(blob)):
        with pytest.raises(WireError):
            unpack(blob[:size])
    for more in (b"\0", blob, b"\0" * 100):
        with pytest.raises(WireError):
            unpack(blob + more)
        with pytest.raises(WireError):
            unpack(seal(blob + more))


def test_every_flipped_bit(payload):
    blob = pack(payload)
    for at in range(len(blob)):
        for bit in range(8):
            with pytest.raises(WireError):
                unpack(blob[:at] + bytes([blob[at] ^ 1 << bit]) + blob[at + 1 :])


def test_another_version_is_named(payload):
    for version in (0, 1, 3):
        with pytest.raises(WireError, match=f"format version {version}: this release reads 2"):
            unpack(seal(b"thw" + bytes([version]) + pack(payload)[4:]))


def test_the_smallest_payload_of_format_1_is_refused_by_its_number():
    with pytest.raises(WireError, match="format version 1: this release reads 2"):
        unpack(bytes.fromhex("7468770104000000000006000000b70454cb"))


@pytest.mark.parametrize(("field", "value"), [("run", 8), ("kind", "state"), ("version", 5), ("limit", 100)])
def test_another_run_kind_version_or_size(payload, field, value):
    with pytest.raises(WireError, match=field if field != "limit" else "at most 100"):
        unpack(pack(payload), dataclasses.replace(expect(payload), **{field: value}))


def test_unknown_leaf_and_other_shape(payload):
    with pytest.raises(WireError, match=r"leaf 'q' \(b\): not among"):
        unpack(pack(payload), Expect({("q", "a"): (20, 30)}))
    with pytest.raises(WireError, match=r"leaf 'q' \(b\): shape \(20, 30\), expected \(30, 20\)"):
        unpack(pack(payload), Expect({("q", "a"): (20, 30), ("q", "b"): (30, 20)}))


def test_leaves_may_be_a_subset(payload):
    more = Expect({("q", "a"): (20, 30), ("q", "b"): (20, 30), ("z", "a"): (1,)})
    assert len(unpack(pack(payload), more).leaves) == 2


@pytest.mark.parametrize("rank", [0, 1, 20, 32])
def test_a_dimension_may_be_open(rank):
    leaves = {("q", "a"): Leaf((rank, 3), All(), Floats(torch.ones(3 * rank)))}
    leaves["q", "b"] = Leaf((5, rank), Listed(torch.arange(rank)), Floats(torch.ones(rank)))
    sent = Payload("change", 0, 0, leaves)
    wanted = Expect({("q", "a"): (None, 3), ("q", "b"): (5, None)}, open_limit=32)
    assert same(unpack(pack(sent), wanted), sent)


def test_an_open_dimension_has_a_limit():
    blob = pack(floats((33, 3), All(), torch.ones(99)))
    with pytest.raises(WireError, match=r"shape \(33, 3\), expected \(None, 3\) \(None: 0 to 32\)"):
        unpack(blob, Expect({KEY: (None, 3)}, open_limit=32))
    with pytest.raises(WireError, match=r"expected \(None, 3\) \(None: 0 to 0\)"):
        unpack(blob, Expect({KEY: (None, 3)}))
    for other in ((None, 4), (33, None, 3), (None,)):
        with pytest.raises(WireError, match=r"shape \(33, 3\), expected"):
            unpack(blob, Expect({KEY: other}, open_limit=64))


@pytest.mark.parametrize("places", [Seeded(1, 0.0), Listed(torch.arange(0))])
def test_values_of_open_leaves_are_limited_together_although_none_are_kept(places):
    leaf = Leaf((3 << 8, 1 << 10), places, Floats(torch.ones(0)))
    blob = pack(Payload("change", 0, 0, {("q", "a"): leaf, ("q", "b"): leaf}))
    shapes = {("q", "a"): (None, 1 << 10), ("q", "b"): (3 << 8, None)}
    for wanted in (Expect(limit=1 << 20), Expect(shapes, limit=1 << 20, open_limit=1 << 20)):
        with pytest.raises(WireError, match=r"leaf 'q' \(b\): leaves of 1572864 values, at most 1048576 allowed"):
            open_payload(blob, wanted)
    fixed = Expect({("q", "a"): leaf.shape, ("q", "b"): leaf.shape}, limit=1 << 20)
    assert open_payload(blob, fixed).keys == (("q", "a"), ("q", "b"))


def test_decoded_size_is_limited_before_decoding():
    blob = pack(floats((1 << 22,), All(), torch.zeros(1 << 22)))
    assert len(blob) < 1000
    tracemalloc.start()
    with pytest.raises(WireError, match="decoded leaves take 16777216 bytes"):
        open_payload(blob, Expect({KEY: (1 << 22,)}, limit=1 << 20))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (b"", "not a thinwire payload"),
        (b"PK\3\4" + b"\0" * 40, "not a thinwire payload"),
        (
            build(line(kept=b"\x80\x80\x80\x80\x80\x80\x80\x80\x10", kinds=16)),
            "number of values is 1152921504606846976",
        ),
        (build(line(shape=b"\1\x80\x80\x80\x80\x80\x80\x80\x80\x10")), "dimension is 1152921504606846976"),
        (build(line(shape=b"\2\x80\x80\x80\x80\x40\x80\x80\x80\x80\x40")), "more than 2\\^48 values"),
        (build(line(shape=b"\x09" + b"\1" * 9)), "number of dimensions is 9"),
        (build(line(kinds=3 << 4)), "kind of leaf"),
        (build(line(kinds=15)), "kind of values 15"),
        (build(line(shape=b"\1\x80\x80\x80\x80\x20", kinds=16, kept=b"\0")), "more than 2\\^32 values"),
        (build(line(kept=b"\3")), "3 of 4 values in a dense leaf"),
        (build(line(length=9)), "length of a leaf is 9"),
        (build(line() + line(), head=ONE_LEAF[:-1] + b"\2"), "comes twice"),
        (build(line(), head=ONE_LEAF[:-1] + b"\2"), "left"),
        (build(line(), head=ONE_LEAF[:-1] + b"\0"), "bytes too many"),
        (build(line(), bodies=b"x"), "belong to no leaf"),
        (build(line(), head=b"\2" + ONE_LEAF[1:]), "kind is 2"),
        (build(line(), head=ONE_LEAF[:1] + b"\x80\0\1"), "shortest form"),
        (build(line(), head=ONE_LEAF[:1] + b"\xff" * 10 + b"\1\1"), "more than 10 bytes"),
        (build(line(), head=ONE_LEAF[:-1] + b"\xff\xff\xff\xff\1"), "number of leaves is"),
        (build(line(name=b"\xff")), "UTF-8"),
        (build(line()), "1 bytes announced, 0 left"),
        (build(line(length=1), bodies=b"\x40"), "coding of floats is 64"),
    ],
)
def test_claims_are_named(blob, words):
    with pytest.raises(WireError, match=words):
        unpack(blob)


HUGE = b"\x80" * 8 + b"\x10"
"""2^60 as a varint."""
BOMB = zstandard.ZstdCompressor().compress(bytes(1 << 24))
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\2", "coding of positions is 2"),
        (b"\0\x20\0\0", "low bits of gaps is 32"),
        (b"\0\0\0\0" + HUGE, "gaps is 1152921504606846976, at most 6"),
        (b"\0\0\0\0\2" + HUGE, "words is 1152921504606846976"),
        (b"\0\0\0\0\2\1\0\0\0\0", "zero word"),
        (b"\0\0\0\0\2\1\1\0\0\0", "do not end where they should"),
        (b"\0\0\0\0\1\0", "1 positions, 2 announced"),
        (b"\0\x1f\0\0\2\0" + b"\xff" * 31, r"position \d+ of 4096"),
        (b"\1" + b"\0\xff\xff" * 4, "position 8589934591 of 4096"),
        (b"\1\1" + HUGE, "length of gaps is 1152921504606846976"),
        (b"\1\1" + varint(len(BOMB)) + BOMB, "gaps: 16777216 bytes announced, 2 expected"),
    ],
)
def test_claims_of_a_body_are_named_before_anything_is_allocated(body, words):
    blob = build(line(shape=b"\1\x80\x20", kinds=16, kept=b"\2", length=len(body)), body)
    with pytest.raises(WireError, match=words):
        unpack(blob, Expect({("q", "a"): (4096,)}, limit=1 << 20))
    tracemalloc.start()
    with pytest.raises(WireError):
        unpack(blob, Expect({("q", "a"): (4096,)}, limit=1 << 20))
    assert tracemalloc.get_traced_memory()[1] < 1 << 18
    tracemalloc.stop()


def test_positions_cannot_leave_the_leaf_or_repeat():
    body = pack(floats((8, 8), Listed(torch.tensor([3, 60])), torch.ones(2)))
    small = body.replace(b"\2\x08\x08", b"\2\x07\x08")
    assert small != body
    with pytest.raises(WireError):
        unpack(seal(small))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_scales_must_be_finite(value):
    values = Codes(torch.zeros(4, dtype=torch.uint8), 4, torch.tensor([value]))
    with pytest.raises(WireError, match="scale"):
        unpack(pack(one(Leaf((4,), All(), values))))


def test_scale_and_zero_point_must_stay_finite():
    values = Codes(
        torch.zeros(4, dtype=torch.uint8), 4, torch.tensor([1e30]), torch.tensor([2**31 - 1], dtype=torch.int32)
    )
    with pytest.raises(WireError, match="beyond float32"):
        unpack(pack(one(Leaf((4,), All(), values))))


def test_values_may_be_any_floats():
    odd = torch.tensor([float("nan"), float("inf"), -0.0])
    assert unpack(pack(floats((3,), All(), odd))).leaves[KEY].values.tensor.isnan()[0]


@pytest.mark.parametrize(
    "leaf",
    [
        Leaf((4,), All(), Floats(torch.ones(3))),
        Leaf((4,), All(), Floats(torch.ones(4, dtype=torch.float64))),
        Leaf((4,), Listed(torch.tensor([1, 1])), Floats(torch.ones(2))),
        Leaf((4,), Listed(torch.tensor([2, 1])), Floats(torch.ones(2))),
        Leaf((4,), Listed(torch.tensor([1, 4])), Floats(torch.ones(2))),
        Leaf((1 << 33,), Listed(torch.tensor([1, 4])), Floats(torch.ones(2))),
        Leaf((4,), Seeded(-1, 0.5), Floats(torch.ones(2))),
        Leaf((4,), Seeded(1, 1.5), Floats(torch.ones(4))),
        Leaf((1,) * 9, All(), Floats(torch.ones(1))),
        Leaf((4,), All(), Codes(torch.full((4,), 4, dtype=torch.uint8), 2, torch.ones(1))),
        Leaf((4,), All(), Codes(torch.zeros(4, dtype=torch.uint8), 2, torch.ones(2))),
    ],
)
def test_unsound_leaves_are_not_packed(leaf):
    with pytest.raises(WireError, match="leaf 'layers"):
        pack(one(leaf))


def test_a_mask_must_keep_as_many_values_as_are_sent():
    with pytest.raises(WireError, match="does not keep 2 values"):
        unpack(pack(floats((100,), Seeded(1, 0.5), torch.ones(2))))


def test_checksum_covers_everything_before_it(payload):
    blob = pack(payload)
    assert int.from_bytes(blob[-4:], "little") == zlib.crc32(blob[:-4])


def test_mutants():
    figures = run(150, seed=11)
    assert figures["sealed"] > 75
    assert figures["peak_bytes"] <= 2 * LIMIT


@pytest.mark.slow
@pytest.mark.long
def test_many_mutants():
    assert run(4_000, seed=12, traced=4)["decoded"] > 100
