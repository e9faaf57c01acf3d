"""Writes a format's frozen vectors; run once a format, never again: `python -m tests.wire.make_vectors`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from thinwire.payload import All, Codes, Floats, Leaf, Listed, Payload, Seeded
from thinwire.wire import pack

from . import reference
from .samples import DTYPES, codes, gaussian, kept, positions, random_bits

FOLDER = Path(__file__).parent / "vectors"


def vectors() -> dict[str, Payload]:
    """One payload for every way in which something is coded."""
    rng = np.random.default_rng(20261121)
    out: dict[str, Payload] = {"empty": Payload("state", 0, 0, {})}

    def leaf(shape: tuple[int, ...], kind: str, density: float = 0.1, dtype: torch.dtype = torch.bfloat16) -> Leaf:
        places = positions(rng, shape, density, kind)
        return Leaf(shape, places, Floats(gaussian(rng, kept(shape, places)).to(dtype)))

    def add(name: str, *leaves: Leaf) -> None:
        out[name] = Payload("change", 5, 2**64 - 1, {(f"module.{at}", "ab"[at % 2]): x for at, x in enumerate(leaves)})

    add("dense", *(leaf((20, 30), "all", dtype=dtype) for dtype in DTYPES))
    add("any-bits", *(Leaf((7, 9), All(), Floats(random_bits(rng, 63, dtype))) for dtype in DTYPES))
    add("constant", *(Leaf((1000,), All(), Floats(torch.full((1000,), -0.1, dtype=dtype))) for dtype in DTYPES))
    add("positive", *(Leaf((2000,), All(), Floats(gaussian(rng, 2000).abs().to(dtype))) for dtype in DTYPES))
    add("scalar-and-nothing", Leaf((), All(), Floats(torch.ones(1))), Leaf((0, 3), All(), Floats(torch.ones(0))))
    add("listed", leaf((60, 50), "even"), leaf((9000,), "even", 0.01), leaf((3, 2, 2, 2), "even", 0.5))
    add("uneven", leaf((150, 150), "both", 0.08))
    add("striped", leaf((70, 70), "striped"))
    far = torch.tensor([0, 1, 2, 600_000, 1_000_003])
    add("far-apart", Leaf((1_000_004,), Listed(far), Floats(torch.ones(5))))
    add(
        "narrow-exponents",
        Leaf((3000,), All(), Floats(1.5 + torch.rand(3000, generator=torch.Generator().manual_seed(1)) / 8)),
    )
    add("seeded", leaf((50, 60), "seeded", 0.2), Leaf((9,), Seeded(3, 1.0), Floats(torch.arange(9.0))))
    shape = (12, 30)
    quantised = []
    for bits in range(1, 9):
        places = positions(rng, shape, 0.3, ["all", "even", "seeded"][bits % 3])
        values = codes(rng, kept(shape, places), bits, shape, ["tensor", "row", "channel"][bits % 3], bool(bits % 2))
        quantised.append(Leaf(shape, places, values))
    add("codes", *quantised)
    skewed = torch.from_numpy(rng.binomial(15, 0.3, 3000).astype(np.uint8))
    add("codes-skewed", Leaf((50, 60), All(), Codes(skewed, 4, torch.tensor([0.25]), None, "tensor")))
    return out


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, payload in vectors().items():
        blob = pack(payload)
        (FOLDER / f"{name}.tw").write_bytes(blob)
        (FOLDER / f"{name}.json").write_text(json.dumps(reference.read(blob)) + "\n")
