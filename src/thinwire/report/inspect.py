"""What a packed payload holds: leaves, shapes, densities, and bits a parameter by part; as data and as a table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from thinwire.adapters import Key
from thinwire.payload import Codes, Floats
from thinwire.report.live import terminal
from thinwire.wire import FORMAT, Reader, open_payload

POSITIONS = ("all", "listed", "seeded")
PARTS = ("positions", "scales", "exponents", "signs", "mantissas", "signs and mantissas", "whole floats", "codes")


def describe(blob: bytes) -> dict[str, Any]:
    """Everything about the payload but its values, ready for JSON. Raises: WireError."""
    reader = open_payload(blob)
    leaves = [_leaf(reader, number) for number in range(len(reader.keys))]
    parameters, kept = sum(leaf["parameters"] for leaf in leaves), sum(leaf["kept"] for leaf in leaves)
    bodies = sum(leaf["bytes"] for leaf in leaves)
    parts = {part: sum(leaf["bytes_by_part"].get(part, 0) for leaf in leaves) for part in PARTS}
    return {
        "format": FORMAT,
        "kind": reader.kind,
        "version": reader.version,
        "run": reader.run,
        "bytes": len(blob),
        "parameters": parameters,
        "kept": kept,
        "density": kept / parameters if parameters else 0.0,
        "bits_per_parameter": 8 * len(blob) / parameters if parameters else 0.0,
        "bytes_by_part": {**{part: count for part, count in parts.items() if count}, "directory": len(blob) - bodies},
        "leaves": leaves,
    }


def _leaf(reader: Reader, number: int) -> dict[str, Any]:
    key = reader.keys[number]
    entry = reader.entry(key)
    parts = reader.bytes_by_part(key)
    return {
        "name": key[0],
        "part": key[1],
        "shape": list(entry.shape),
        "positions": POSITIONS[entry.positions],
        "values": _values(reader, key),
        "parameters": math.prod(entry.shape),
        "kept": entry.kept,
        "density": entry.kept / entry.size if entry.size else 0.0,
        "bytes": entry.length,
        "bits_per_parameter": 8 * entry.length / entry.size if entry.size else 0.0,
        "bytes_by_part": parts,
    }


def _values(reader: Reader, key: Key) -> str:
    """Kind of values, as "bfloat16" or "4-bit codes per row"."""
    match reader.leaf(key).values:
        case Codes(bits=bits, per=per):
            return f"{bits}-bit codes per {per}"
        case Floats(tensor):
            return str(tensor.dtype).removeprefix("torch.")


def table(description: dict[str, Any]) -> Table:
    """A row a leaf with bits a parameter by part, and the total."""
    used = [part for part in PARTS if part in description["bytes_by_part"]]
    title = (
        f"{description['kind']} {description['version']} of run {description['run']}: {description['bytes']:,} bytes, "
        f"{description['parameters']:,} parameters, {description['bits_per_parameter']:.3f} bits each"
    )
    out = Table(title=title, caption="parts in bits a parameter")
    for name in ("leaf", "shape", "positions", "values"):
        out.add_column(name)
    for name in ("density", "bytes", "bits", *used):
        out.add_column(name, justify="right")
    for leaf in description["leaves"]:
        shape = " x ".join(map(str, leaf["shape"])) or "scalar"
        label = f"{leaf['name']} ({leaf['part']})"
        out.add_row(label, shape, leaf["positions"], leaf["values"], *_figures(leaf, used))
    out.add_section()
    out.add_row("all, with directory", "", "", "", *_figures(description, used))
    return out


def _figures(item: dict[str, Any], used: list[str]) -> list[str]:
    """Density, bytes, bits a parameter, and bits by part."""
    size = item["parameters"]
    parts = [8 * item["bytes_by_part"].get(part, 0) / size if size else 0.0 for part in used]
    return [f"{item['density']:.4f}", f"{item['bytes']:,}", *(f"{x:.3f}" for x in (item["bits_per_parameter"], *parts))]


def main(path: Path, as_json: bool = False, console: Console | None = None) -> int:
    """Print what the file holds, as a table or as JSON; the exit status 0. Raises: OSError, WireError."""
    description = describe(Path(path).read_bytes())
    if as_json:
        print(json.dumps(description, indent=2))
    else:
        (console or terminal()).print(table(description))
    return 0
