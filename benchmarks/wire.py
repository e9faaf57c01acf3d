"""Bytes and speed of packed payloads against what else is used to send updates; prints JSON lines.

`python benchmarks/wire.py [--quick] [--payloads DIR] [--output FILE]`. Real updates come first: what four clients, one
domain each, sent and were sent in the last round of short runs on the embedded base, and their trained changes by
other compressors; one payload a case, with the leaves of all four. They are made once and kept in the folder given by
`--payloads` as packed payloads (*.tw); any other payload there is a case too, named by its file. Speeds are gigabytes
of dense float32 a second of one core's time, the best of a few repetitions; peak_mb is what NumPy and Python allocate
while encoding or decoding, input apart. "flower ArrayRecord" is Flower's own message of the tensors; without Flower it
is "flower array (numpy.save)", the bytes of the arrays in such a message.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import zstandard
from bound import bound_bits
from safetensors.torch import load, save

from thinwire.adapters import Adapters
from thinwire.compress import Step, StepContext
from thinwire.compress.cast import Cast
from thinwire.compress.importance import ImportanceDrop, KurtosisRate
from thinwire.compress.quantise import Quantise
from thinwire.compress.random_drop import RandomDrop
from thinwire.config import load_recipe
from thinwire.engine import begin
from thinwire.lowrank import LowRank
from thinwire.payload import Leaves, Payload, dense, sparse
from thinwire.session.loaded import open_session
from thinwire.simulation import rounds
from thinwire.simulation.federated import federated
from thinwire.storage.state import start as start_of
from thinwire.wire import pack, unpack

DENSITIES = (0.5, 0.1, 0.04, 0.01, 0.001)
Tensors = dict[str, torch.Tensor]
SETTINGS = ("run.threads=1", "run.evaluate_every=0", "data.train_limit=400", "data.test_limit=4")
RUNS: dict[str, tuple[str, ...]] = {
    "fedsrd": ("method.name=fedsrd",),
    "fedsrd faithful": ("method.name=fedsrd-official"),
    "fedsrd faithful, rank 64": ("method.name=fedsrd-official", "lora.rank=64", "lora.alpha=64"),
    "ffa-lora": ("method.name=ffa-lora",),
    "fedit": ("method.name=fedit", "values.precision=float32"),
}


@dataclass(frozen=True)
class Codec:
    """How a payload becomes bytes, and bytes its tensors again."""

    encode: Callable[[Payload], bytes]
    decode: Callable[[bytes], Any]


def tensors(payload: Payload) -> Tensors:
    """Dense float32 tensors by name, laid out before the clock starts."""
    return {f"{name}.{part}": leaf.dense() for (name, part), leaf in payload.leaves.items()}


def rivals(payload: Payload) -> dict[str, Codec]:
    """The codecs compared, the rivals on dense tensors that are there already."""
    whole = tensors(payload)
    halves = {name: tensor.bfloat16() for name, tensor in whole.items()}
    shapes = {name: tensor.shape for name, tensor in whole.items()}
    zstd, unzstd = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()

    def archive(arrays: dict[str, np.ndarray], save_with: Callable[..., None]) -> bytes:
        out = io.BytesIO()
        save_with(out, **arrays)
        return out.getvalue()

    def coordinates(_: Payload) -> bytes:
        parts = []
        for tensor in whole.values():
            where = np.flatnonzero(tensor.numpy())
            parts += [
                len(where).to_bytes(8, "little"),
                where.astype("<i4").tobytes(),
                tensor.numpy().reshape(-1)[where].tobytes(),
            ]
        return b"".join(parts)

    def from_coordinates(blob: bytes) -> Tensors:
        out, at = {}, 0
        for name, shape in shapes.items():
            count = int.from_bytes(blob[at : at + 8], "little")
            flat = np.zeros(math.prod(shape), np.float32)
            flat[np.frombuffer(blob, "<i4", count, at + 8)] = np.frombuffer(blob, "<f4", count, at + 8 + 4 * count)
            out[name], at = torch.from_numpy(flat.reshape(shape)), at + 8 + 8 * count
        return out

    def bitmap(_: Payload) -> bytes:
        parts = []
        for tensor in halves.values():
            words = tensor.view(torch.int16).numpy().reshape(-1)
            kept = words != 0
            parts += [np.packbits(kept).tobytes(), words[kept].tobytes()]
        return zstd.compress(b"".join(parts))

    def from_bitmap(blob: bytes) -> Tensors:
        data, out, at = unzstd.decompress(blob), {}, 0
        for name, shape in shapes.items():
            size = math.prod(shape)
            kept = np.unpackbits(np.frombuffer(data, np.uint8, (size + 7) // 8, at), count=size).view(bool)
            at += (size + 7) // 8
            words = np.zeros(size, np.int16)
            count = int(kept.sum())
            words[kept] = np.frombuffer(data, "<i2", count, at)
            out[name], at = torch.from_numpy(words).view(torch.bfloat16), at + 2 * count
        return out

    arrays = {name: tensor.numpy() for name, tensor in whole.items()}
    return {
        "thinwire": Codec(pack, unpack),
        "safetensors bfloat16": Codec(lambda _: save(halves), load),
        "safetensors bfloat16 + zstd": Codec(
            lambda _: zstd.compress(save(halves)), lambda b: load(unzstd.decompress(b))
        ),
        "savez_compressed float32": Codec(
            lambda _: archive(arrays, np.savez_compressed), lambda b: dict(np.load(io.BytesIO(b)).items())
        ),
        "coo int32 + float32": Codec(coordinates, from_coordinates),
        "bitmap + bfloat16 + zstd": Codec(bitmap, from_bitmap),
        **flower(arrays),
    }


def flower(arrays: dict[str, np.ndarray]) -> dict[str, Codec]:
    """What Flower sends for the arrays, by Flower if it is installed."""

    def save_all(_: Payload) -> bytes:
        out = io.BytesIO()
        for array in arrays.values():
            np.save(out, array, allow_pickle=False)
        return out.getvalue()

    def load_all(blob: bytes) -> list[np.ndarray]:
        source = io.BytesIO(blob)
        return [np.load(source, allow_pickle=False) for _ in arrays]

    try:
        from flwr.app import Array, ArrayRecord
        from flwr.common import serde
        from flwr.proto.recorddict_pb2 import ArrayRecord as Message
    except ImportError:
        return {"flower array (numpy.save) float32": Codec(save_all, load_all)}

    def send(_: Payload) -> bytes:
        record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
        return serde.array_record_to_proto(record).SerializeToString()

    def receive(blob: bytes) -> list[np.ndarray]:
        return [array.numpy() for array in serde.array_record_from_proto(Message.FromString(blob)).values()]

    return {"flower ArrayRecord float32": Codec(send, receive)}


def factors(rank: int, inner: int, outer: int, modules: int, seed: int) -> tuple[Adapters, Adapters]:
    """Adapters before and after a round: rows and columns of unequal size, changes of unequal rows."""
    rng = torch.Generator().manual_seed(seed)

    def spread(*shape: int) -> torch.Tensor:
        rows = torch.exp(0.5 * torch.randn(shape[0], 1, generator=rng))
        return rows * torch.exp(0.5 * torch.randn(1, shape[1], generator=rng)) * torch.randn(*shape, generator=rng)

    before = {
        f"layers.{at}.q_proj": LowRank(spread(outer, rank) / 100, spread(rank, inner) / 10) for at in range(modules)
    }
    after = {
        name: LowRank(module.b + spread(outer, rank) / 1000, module.a + spread(rank, inner) / 1000)
        for name, module in before.items()
    }
    return Adapters(before), Adapters(after)


def update_cases() -> Iterator[tuple[str, Payload]]:
    """Updates of synthetic factors of a real model's size, 3072 x 64 unless said, through the compressors compared."""
    before, after = factors(64, 3072, 3072, 7, 0)
    change = {key: after[key] - before[key] for key, _ in before.items()}
    only_b = {key: tensor for key, tensor in change.items() if key[1] == "b"}
    everything: Leaves = {key: dense(tensor) for key, tensor in change.items()}
    context, cast = StepContext(before, after, 3), Cast("bfloat16")
    chains: dict[str, tuple[Leaves, tuple[Step, ...]]] = {
        "fedsrd up": (everything, (ImportanceDrop(KurtosisRate(0.96, 0.0, 0.0), rescale=True), cast)),
        "fedsrd down": ({key: dense(tensor) for key, tensor in only_b.items()}, (RandomDrop(0.8), cast)),
        "top-k .1": (largest(everything, 0.1), ()),
        "top-k .04": (largest(everything, 0.04), ()),
        "ffa-lora": ({key: dense(tensor) for key, tensor in only_b.items()}, (cast,)),
        "int8": (everything, (Quantise(8, "channel"),)),
        "int4": (everything, (Quantise(4, "channel"),)),
        "top-k .04 int4": (largest(everything, 0.04), (Quantise(4, symmetric=True),)),
    }
    for name, (leaves, steps) in chains.items():
        for step in steps:
            leaves = step(leaves, context)
        yield f"factors {name}", Payload("change", 0, 0, leaves)
    before, after = factors(128, 3072, 3072, 4, 1)
    wide = {key: dense(after[key] - before[key]) for key, _ in before.items()}
    for name, density in (("top-k .1", 0.1), ("top-k .04", 0.04)):
        yield f"factors rank 128 {name}", Payload("change", 0, 0, largest(wide, density))


def synthetic_cases(quick: bool) -> Iterator[tuple[str, Payload]]:
    """One large bfloat16 leaf, positions drawn evenly, or with row and column densities spread like a log-normal."""
    rng = np.random.default_rng(0)
    shape = (1024, 1024) if quick else (4096, 2560)
    values = torch.from_numpy(rng.standard_normal(shape, np.float32)) / 1000
    for density in DENSITIES:
        for name, rows, columns in (("even", 0, 0), ("unequal rows", 1, 0), ("unequal rows and columns", 0.7, 0.7)):
            chance = np.exp(rows * rng.standard_normal((shape[0], 1)) + columns * rng.standard_normal((1, shape[1])))
            keep = rng.random(shape) < density * chance / chance.mean()
            yield f"synthetic {name}", one(sparse(values.bfloat16(), torch.from_numpy(keep)), density)


def one(leaf: Any, density: float) -> Payload:
    return Payload("change", 0, 0, {(f"density {density}", "b"): leaf})


def played(changes: tuple[str, ...], number: int, steps: int) -> tuple[list[Payload], Payload, Adapters]:
    """Uploads and broadcast of the last round of a default run, so changed, and the adapters before that round."""
    recipe = load_recipe(None, [*SETTINGS, f"federation.rounds={number}", f"train.steps={steps}", *changes])
    session = open_session(recipe)
    federation = federated(session, session.method())
    state = start_of(begin(session.start, recipe.run.seed, session.initial), (c.name for c in federation.clients))
    sent: list[bytes] = []

    def collect(side: Any, server: Any, blobs: Any, number: int) -> Any:
        sent[:] = blobs.values()
        return kept(side, server, blobs, number)

    kept = rounds.collect
    with patch.object(rounds, "collect", collect):
        for _ in range(number):
            start = state.server.adapters
            state = rounds.play(federation, state, lambda line: None)
    return [unpack(blob) for blob in sent], unpack(state.server.log[state.server.version]), start


def largest(leaves: Leaves, share: float) -> Leaves:
    """The entries of largest magnitude of all the model, bfloat16: FLASC's top-k."""
    flat = torch.cat([leaf.dense().reshape(-1) for leaf in leaves.values()]).abs()
    least = flat.kthvalue(int((1 - share) * len(flat))).values
    return {key: sparse(leaf.dense().bfloat16(), leaf.dense().abs() > least) for key, leaf in leaves.items()}


def make_updates(folder: Path, quick: bool) -> None:
    """Plays the runs and writes their payloads to the folder."""
    runs = {name: played(changes, *((1, 2) if quick else (3, 8))) for name, changes in RUNS.items()}
    whole = [upload.leaves for upload in runs["fedit"][0]]
    nothing = StepContext(None, None, 0)  # type: ignore[arg-type]
    cases: dict[str, list[Leaves]] = {
        "top-k 1-4": [largest(leaves, 1 / 4) for leaves in whole],
        "top-k 1-16": [largest(leaves, 1 / 16) for leaves in whole],
        "int8": [Quantise(8, "channel")(leaves, nothing) for leaves in whole],
        "int4": [Quantise(4, "channel")(leaves, nothing) for leaves in whole],
    }
    for name in (name for name in RUNS if name != "fedit"):
        cases[f"{name} up"] = [upload.leaves for upload in runs[name][0]]
        cases[f"{name} down"] = [runs[name][1].leaves]
    folder.mkdir(parents=True, exist_ok=True)
    for case, messages in cases.items():
        leaves = {(f"{at}.{key[0]}", key[1]): leaf for at, these in enumerate(messages) for key, leaf in these.items()}
        (folder / f"{case}.tw").write_bytes(pack(Payload("change", 0, 0, leaves)))


def real_cases(folder: Path, quick: bool) -> Iterator[tuple[str, Payload]]:
    """The packed payloads of the folder, made first if there are none."""
    if not any(folder.glob("*.tw")):
        make_updates(folder, quick)
    for path in sorted(folder.glob("*.tw")):
        yield f"real {path.stem}", unpack(path.read_bytes())


def best(work: Callable[[], Any], seconds: float, most: int) -> float:
    """Seconds of the fastest of at most `most` repetitions within the time given (one at least)."""
    times: list[float] = []
    while not times or (len(times) < most and sum(times) < seconds):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return min(times)


def peak(work: Callable[[], Any]) -> int:
    tracemalloc.start()
    work()
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return taken


def measure(case: str, payload: Payload, quick: bool) -> Iterator[dict[str, Any]]:
    """A line for each codec."""
    size = sum(leaf.size for leaf in payload.leaves.values())
    bound = sum(bound_bits(leaf) for leaf in payload.leaves.values())
    seconds, most = (0.04, 3) if quick else (0.3, 40)
    for name, codec in rivals(payload).items():
        blob = codec.encode(payload)
        encode, decode = partial(codec.encode, payload), partial(codec.decode, blob)
        yield {
            "case": case,
            "density": round(payload.density, 6),
            "codec": name,
            "bits_per_parameter": round(8 * len(blob) / size, 5),
            "ratio_to_entropy": round(8 * len(blob) / bound, 4) if bound else None,
            "encode_gb_s": round(4e-9 * size / best(encode, seconds, most), 3),
            "decode_gb_s": round(4e-9 * size / best(decode, seconds, most), 3),
            "peak_mb": round(max(peak(encode), peak(decode)) / 2**20, 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small tensors, less than 45 s")
    parser.add_argument("--payloads", type=Path, help="folder of packed payloads (*.tw), made there if it has none")
    parser.add_argument("--output", type=Path, help="also write the lines here, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            *real_cases(options.payloads or Path(folder), options.quick),
            *(() if options.quick else update_cases()),
            *synthetic_cases(options.quick),
        ]
    lines = []
    for case, payload in cases:
        for line in measure(case, payload, options.quick):
            print(json.dumps(line), flush=True)
            lines.append(line)
    if options.output:
        rows = ",\n".join(json.dumps(line) for line in lines)
        options.output.write_text(f'{{"lines": [\n{rows}\n]}}\n')


if __name__ == "__main__":
    main()
