"""Peak resident memory of packing and unpacking in a process of its own: `python -m tests.wire.resident ACTION FOLDER`.

`pack` reads the folder's positions and values and writes `blob`; `unpack` reads that. Prints, as JSON, the bytes of the
input, those of the output, and by how much the most that the process ever held exceeds what it held with the input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from thinwire.payload import All, Floats, Leaf, Listed, Payload
from thinwire.wire import pack, unpack


def memory(field: str) -> int:
    """Bytes that the process holds now (VmRSS), or held at its worst (VmHWM; `ru_maxrss` counts the parent's too)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def read(folder: Path) -> Payload:
    """The payload whose shape, positions and values the folder holds, with nothing allocated on the way."""
    shape = tuple(json.loads((folder / "shape").read_text()))
    values = torch.from_numpy(np.fromfile(folder / "values", np.int16)).view(torch.bfloat16)
    places = folder / "positions"
    listed = Listed(torch.from_numpy(np.fromfile(places, np.int64))) if places.exists() else All()
    return Payload("change", 0, 0, {("leaf", "b"): Leaf(shape, listed, Floats(values))})


def main(action: str, folder: Path) -> dict[str, int]:
    small = Payload("change", 0, 0, {("leaf", "b"): Leaf((9, 9), Listed(torch.arange(20)), Floats(torch.ones(20)))})
    unpack(pack(small))
    blob = folder / "blob"
    payload = read(folder) if action == "pack" else small
    data = blob.read_bytes() if action == "unpack" else b""
    before = memory("VmRSS")
    if action == "pack":
        data = pack(payload)
    else:
        payload = unpack(data)
    grown = memory("VmHWM") - before
    decoded = sum(
        2 * leaf.kept + 8 * leaf.kept * isinstance(leaf.positions, Listed) for leaf in payload.leaves.values()
    )
    blob.write_bytes(data)
    return {"packed": len(data), "decoded": decoded, "grown": grown}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
