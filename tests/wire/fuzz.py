"""Mutated payloads: `python -m tests.wire.fuzz --count 1000000 --seed 0` prints one JSON line, progress on stderr.

Mutants start from sound payloads of every kind and from earlier mutants that met an error not seen before. Three of
four get a checksum that fits. Each must end in WireError or in a payload within the receiver's limits that packs again;
in less than a second of the processor's time; and without ever allocating more than twice the receiver's limit, all of
Python's and NumPy's allocations together: measured for one mutant in `traced`, and by how much the process grows.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import resource
import sys
import time
import tracemalloc
import zlib
from typing import TextIO

import numpy as np
import torch

from thinwire.adapters import Key
from thinwire.payload import PER, All, Codes, Floats, Leaf, Listed, Payload, same
from thinwire.wire import Expect, WireError, open_payload, pack, unpack

from .samples import DTYPES, codes, gaussian, kept, positions

LIMIT = 8 << 20
POOL = 2000
"""Most payloads that are mutated further."""
REPACKED = 100_000
"""Payloads that decode to fewer bytes are packed again; mutants of fewer bytes are mutated further."""
BIG: Key = ("big", "extra")
SHAPES: dict[Key, tuple[int, ...]] = {
    ("q", "a"): (8, 120),
    ("q", "b"): (160, 8),
    ("k", "a"): (600,),
    ("k", "b"): (3, 4, 5, 6),
    BIG: (1 << 12, 1 << 10),
}
OPEN: Key = ("q", "b")
"""A leaf that the receiver expects with an open first dimension."""
EXPECT = Expect({**SHAPES, OPEN: (None, *SHAPES[OPEN][1:])}, run=7, limit=LIMIT, open_limit=SHAPES[OPEN][0])
EVERY = 2.0
"""Seconds between two lines of progress."""


def corpus(rng: np.random.Generator) -> list[bytes]:
    """Sound payloads of one to three leaves, of every kind of positions and values."""
    blobs = []
    for number in range(240):
        leaves = {}
        for at in rng.choice(len(SHAPES), int(rng.integers(1, 4)), replace=False):
            key = list(SHAPES)[at]
            shape = SHAPES[key] if key != OPEN or number % 4 else (int(rng.integers(160)), *SHAPES[key][1:])
            kind = str(rng.choice(["all", "seeded", "even", "rows", "columns", "both", "striped"]))
            density = float(rng.choice([0.02, 0.2, 0.7]))
            if key == BIG:
                kind, density = str(rng.choice(["even", "seeded"])), 1e-4
            places = positions(rng, shape, density, kind)
            count = kept(shape, places)
            leaves[key] = Leaf(shape, places, Floats(gaussian(rng, count).to(DTYPES[number % 3])))
            if number % 2:
                per, bits = PER[int(rng.integers(3))], int(rng.integers(1, 9))
                values = codes(rng, count, bits, shape, per, bool(rng.integers(2)))
                skewed = torch.minimum(values.codes, values.codes.flip(0))
                leaves[key] = Leaf(shape, places, Codes(skewed, bits, values.scale, values.zero, per))
        blobs.append(pack(Payload("change", number % 3, 7, leaves)))
    size = math.prod(SHAPES[BIG])
    many = Listed(torch.from_numpy(np.flatnonzero(rng.random(size) < 0.19)))
    for leaf in (
        Leaf(SHAPES[BIG], All(), Floats(torch.ones(size, dtype=torch.bfloat16))),
        Leaf(SHAPES[BIG], many, Floats(gaussian(rng, len(many.indices)).bfloat16())),
    ):
        blobs.append(pack(Payload("change", 0, 7, {BIG: leaf})))
    return blobs


def mutate(blob: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to four edits: bits, bytes, extreme integers, cuts, copies, splices; many near either end."""
    data = bytearray(blob)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        size = len(data)
        if size < 16:
            break
        where = int(
            rng.choice([rng.integers(size), size - 1 - rng.integers(min(size, 80)), rng.integers(min(size, 64))])
        )
        match int(rng.integers(8)):
            case 0 | 1:
                data[where] ^= 1 << int(rng.integers(8))
            case 2 | 3:
                data[where] = int(rng.choice([0, 1, 2, 31, 127, 128, 255, rng.integers(256)]))
            case 4:
                huge = [
                    b"\xff" * 9 + b"\x01",
                    b"\x80\x80\x80\x80\x80\x80\x80\x80\x10",
                    b"\xff\xff\xff\xff",
                    b"\xff\xff\x7f",
                    b"\0" * 8,
                ]
                data[where : where + int(rng.integers(3))] = huge[int(rng.integers(len(huge)))]
            case 5:
                del data[where : where + int(rng.integers(1, 20))]
            case 6:
                start = int(rng.integers(size))
                data[where:where] = data[start : start + int(rng.integers(1, 40))]
            case 7:
                start = int(rng.integers(len(other)))
                data[where : where + int(rng.integers(40))] = other[start : start + int(rng.integers(1, 40))]
    return bytes(data)


def seal(data: bytes) -> bytes:
    """The bytes with a checksum that fits."""
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


def verdict(data: bytes, expect: Expect) -> str:
    """ "" for a payload, else the error's text. Raises: AssertionError for a payload beyond what is expected."""
    try:
        reader = open_payload(data, expect)
        payload = reader.payload()
    except WireError as error:
        return str(error)
    decoded = 0
    for key, leaf in payload.leaves.items():
        assert leaf.shape == SHAPES[key] or (key == OPEN and leaf.shape[0] <= SHAPES[OPEN][0])
        assert leaf.shape[1:] == SHAPES[key][1:]
        assert leaf.kept <= leaf.size
        decoded += leaf.kept * (leaf.values.tensor.itemsize if isinstance(leaf.values, Floats) else 1)
        if isinstance(leaf.positions, Listed):
            indices = leaf.positions.indices
            decoded += 8 * len(indices)
            assert len(indices) == leaf.kept
            assert bool((indices[1:] > indices[:-1]).all())
            assert not len(indices) or (indices[0] >= 0 and indices[-1] < leaf.size)
        if isinstance(leaf.positions, All):
            assert leaf.kept == leaf.size
        if isinstance(leaf.values, Codes):
            assert bool(leaf.values.scale.isfinite().all())
            assert bool((leaf.values.scale >= 0).all())
            assert bool(leaf.floats().isfinite().all())
    assert decoded <= expect.limit
    assert payload.run == 7
    if decoded < REPACKED:
        assert same(unpack(pack(payload), expect), payload)
    return ""


def resident() -> int:
    """Most bytes of memory that the process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(count: int, seed: int, traced: int = 1, progress: TextIO | None = None) -> dict[str, object]:
    """Try `count` mutants; figures of the run. Raises: AssertionError, or whatever escapes the decoder."""
    rng = np.random.default_rng(seed)
    pool = corpus(rng)
    for blob in pool:
        payload = unpack(blob, EXPECT)
        assert same(unpack(pack(payload), EXPECT), payload)
    before = resident()
    seen: set[str] = set()
    sealed = sound = 0
    slowest, peak, begin = 0.0, 0, time.perf_counter()
    told = begin
    for number in range(count):
        if progress and time.perf_counter() - told >= EVERY:
            told = time.perf_counter()
            rate = number / (told - begin)
            print(
                f"{number:,} of {count:,} mutants, {rate:,.0f} a second, {(count - number) / rate:,.0f} s to go; "
                f"{sound:,} decoded, {len(seen)} kinds of errors, slowest {slowest:.3f} s",
                file=progress,
                flush=True,
            )
        blob = pool[int(rng.integers(len(pool)))]
        data = mutate(blob, pool[int(rng.integers(len(pool)))], rng)
        if rng.random() < 0.75:
            data, sealed = seal(data), sealed + 1
        trace = number % traced == 0
        if trace:
            tracemalloc.start()
        start = time.process_time()
        error = verdict(data, EXPECT)
        slowest = max(slowest, time.process_time() - start)
        if trace:
            peak = max(peak, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        sound += not error
        kind = re.sub(r"leaf .* \(.*?\)|'.*'|\d+", "0", error)
        if kind not in seen and len(data) >= 16:
            seen.add(kind)
            if len(data) < REPACKED and len(pool) < POOL:
                pool.append(data)
    assert slowest < 1.0, f"a mutant took {slowest:.2f} s"
    assert peak <= 2 * LIMIT, f"a mutant took {peak} bytes"
    return {
        "mutants": count,
        "seed": seed,
        "sealed": sealed,
        "decoded": sound,
        "errors": len(seen),
        "slowest_s": round(slowest, 4),
        "peak_bytes": peak,
        "limit_bytes": LIMIT,
        "grown_bytes": resident() - before,
        "seconds": round(time.perf_counter() - begin, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--traced", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(run(options.count, options.seed, traced=options.traced, progress=sys.stderr)))
