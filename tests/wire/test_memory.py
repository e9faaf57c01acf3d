"""Memory: at most input, output and 64 MB, whatever the size."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch

from thinwire.payload import All, Codes, Floats, Leaf, Listed, Payload
from thinwire.wire import Expect, open_payload, pack, unpack

from .samples import KEY, gaussian, one

WORKING = 64 << 20


def peak(work) -> tuple[int, object]:
    """Bytes that `work` takes at its worst, and its result. NumPy's and Python's: torch takes little here."""
    tracemalloc.start()
    result = work()
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return taken, result


def leaves() -> dict[str, Leaf]:
    rng = np.random.default_rng(0)
    many = 6_000_000
    spread = torch.from_numpy(np.flatnonzero(rng.random((3000, 5000)) < 0.4 * rng.random((3000, 1))))
    return {
        "dense": Leaf((3000, 2000), All(), Floats(gaussian(rng, many))),
        "rows": Leaf((3000, 5000), Listed(spread), Floats(gaussian(rng, len(spread)).bfloat16())),
        "codes": Leaf((3000, 2000), All(), Codes(torch.zeros(many, dtype=torch.uint8), 4, torch.ones(1))),
        "long": Leaf((1 << 32,), Listed(torch.arange(0, 1 << 32, 1 << 12)), Floats(torch.ones(1 << 20))),
    }


@pytest.mark.parametrize("name", ["dense", "rows", "codes", "long"])
def test_packing_and_unpacking_stream(name):
    leaf = leaves()[name]
    payload = one(leaf)
    taken, blob = peak(lambda: pack(payload))
    assert taken < 1.25 * len(blob) + WORKING
    expect = Expect({KEY: leaf.shape})
    taken, _ = peak(lambda: unpack(blob, expect))
    assert taken < open_payload(blob, expect).entry(KEY).decoded + WORKING


def test_reading_a_leaf_takes_no_more_than_that_leaf():
    rng = np.random.default_rng(1)
    large = Leaf((3000, 1000), All(), Floats(gaussian(rng, 3_000_000)))
    small = Leaf((10, 10), All(), Floats(gaussian(rng, 100)))
    blob = pack(Payload("change", 0, 0, {("large", "a"): large, ("small", "a"): small}))
    taken, reader = peak(lambda: open_payload(blob))
    assert taken < 100_000
    taken, _ = peak(lambda: reader.leaf(("small", "a")))
    assert taken < 100_000


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize("density", [0.5, 0.04, 1.0])
def test_resident_memory_of_a_large_leaf(density, tmp_path):
    rng, shape = np.random.default_rng(2), (16_000, 5000)
    chance = density * np.exp(0.5 * rng.standard_normal((shape[0], 1)))
    count = shape[0] * shape[1]
    if density < 1:
        indices = np.concatenate(
            [np.flatnonzero(rng.random(shape[1]) < p) + shape[1] * at for at, p in enumerate(chance)]
        )
        indices.tofile(tmp_path / "positions")
        count = len(indices)
    (gaussian(rng, count).view(torch.int32).numpy() >> 16).astype(np.int16).tofile(tmp_path / "values")
    (tmp_path / "shape").write_text(json.dumps(shape))
    for action, output in (("pack", "packed"), ("unpack", "decoded")):
        command = [sys.executable, "-m", "tests.wire.resident", action, str(tmp_path)]
        figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(density, action, figures)
        assert figures["grown"] < figures[output] + WORKING
