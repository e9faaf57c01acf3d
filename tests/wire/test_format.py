"""The format is what docs/wire.md says: a second reader agrees, and frozen payloads are read for ever."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from thinwire import randomness
from thinwire.payload import All, Codes, Floats, Leaf, Listed, Payload, Positions, Seeded, same
from thinwire.wire import pack, unpack
from thinwire.wire.entropy import geometric

from . import reference
from .make_vectors import vectors

FOLDER = Path(__file__).parent / "vectors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def as_floats(bits: list[int], dtype: str) -> torch.Tensor:
    kind = DTYPES[dtype]
    return torch.from_numpy(np.array(bits, f"<u{kind.itemsize}").view(f"<i{kind.itemsize}")).view(kind)


def as_leaf(content: dict) -> Leaf:
    """A leaf from the expected content."""
    places: Positions = All()
    if isinstance(content["positions"], list):
        places = Listed(torch.tensor(content["positions"], dtype=torch.int64))
    elif isinstance(content["positions"], dict):
        places = Seeded(**content["positions"])
    values = content["values"]
    if "dtype" in values:
        return Leaf(tuple(content["shape"]), places, Floats(as_floats(values["bits"], values["dtype"])))
    zero = None if values["zero"] is None else torch.tensor(values["zero"], dtype=torch.int32)
    codes = torch.tensor(values["codes"], dtype=torch.uint8)
    scale = as_floats(values["scale_bits"], "float32")
    return Leaf(tuple(content["shape"]), places, Codes(codes, values["width"], scale, zero, values["per"]))


def as_payload(content: dict) -> Payload:
    leaves = {(leaf["name"], leaf["part"]): as_leaf(leaf) for leaf in content["leaves"]}
    return Payload(content["kind"], content["version"], content["run"], leaves)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.tw")), ids=lambda path: path.stem)
def test_frozen_vectors_are_read(path):
    expected = as_payload(json.loads(path.with_suffix(".json").read_text()))
    assert same(unpack(path.read_bytes()), expected)


def test_there_are_vectors():
    assert {path.stem for path in FOLDER.glob("*.tw")} == set(vectors())


@pytest.mark.parametrize("name", list(vectors()))
def test_second_reader_agrees(name):
    payload = vectors()[name]
    assert same(as_payload(reference.read(pack(payload))), payload)


@pytest.mark.slow
@pytest.mark.long
def test_second_reader_agrees_on_several_chunks():
    rng = np.random.default_rng(1)
    keep = np.sort(rng.choice(3_000_000, 300_000, replace=False))
    leaf = Leaf((3000, 1000), Listed(torch.from_numpy(keep)), Floats(torch.ones(300_000, dtype=torch.bfloat16)))
    payload = Payload("change", 1, 1, {("q", "a"): leaf})
    assert same(as_payload(reference.read(pack(payload))), payload)


@pytest.mark.parametrize("ratio", [0, 1, 100, 32768, 60000, 65000, 65535])
def test_models_of_gaps(ratio):
    weights = reference.geometric(ratio)
    assert sum(weights) == 1 << 24
    assert min(weights) >= 1
    assert geometric(ratio)[1] == len(weights)


@pytest.mark.parametrize("key", [0, 1, 2**63 + 11, 2**64 - 1])
def test_generator_is_the_one_specified(key):
    expected = reference.words(key, 100)
    assert randomness.words(key, 100).tolist() == expected
    for start in (0, 1, 7, 8, 9, 63):
        assert randomness.words(key, 20, start).tolist() == expected[start : start + 20]


@pytest.mark.parametrize("density", [0.0, 1e-9, 0.04, 0.5, 1.0])
def test_masks_are_the_ones_specified(density):
    threshold = math.floor(density * 2**32)
    expected = [at for at, word in enumerate(reference.words(77, 3000)) if word < threshold]
    assert randomness.seeded_mask(77, 3000, density).tolist() == expected
