"""A whole round of Llama-3.2-3B at the server, packed uploads in, the next version out: seconds by step, one JSON line.

`python benchmarks/server_round.py` packs 4 uploads of 97 million values, 5 % of them kept in bfloat16, and calls
`engine.aggregate`, with a second run for the aggregation alone (modules side by side, decoding included).
"""

from __future__ import annotations

import argparse
import json
import os
import time

import torch
from server import MODELS

from thinwire.adapters import Adapters
from thinwire.clock import clock
from thinwire.engine import Server, Upload, aggregate, begin
from thinwire.engine.server import _changes, _open
from thinwire.engine.workers import workers
from thinwire.lowrank import LowRank
from thinwire.method import Context
from thinwire.methods import create
from thinwire.payload import Payload, sparse
from thinwire.wire import pack


def server(layers: int) -> Server:
    """Llama-3.2-3B's adapters at rank 64 after some rounds, every layer alike."""
    model, generator = MODELS[0], torch.Generator().manual_seed(0)
    modules = {}
    for number, (rows, columns) in enumerate(model.shapes):
        a = (torch.rand(model.rank, columns, generator=generator) * 2 - 1) / columns**0.5
        b = torch.randn(rows, model.rank, generator=generator) * torch.logspace(0, -2, model.rank) * 1e-2
        modules |= {f"layers.{layer}.{number}": LowRank(b, a, 2.0) for layer in range(layers)}
    return begin(Adapters(modules), run=0)


def upload(to: Server, client: int, density: float) -> Upload:
    """Random changes at random places."""
    generator, leaves = torch.Generator().manual_seed(client), {}
    for key, tensor in to.adapters.items():
        values = (torch.randn(tensor.shape, generator=generator) * 5e-4).bfloat16()
        leaves[key] = sparse(values, torch.rand(tensor.shape, generator=generator) < density)
    return Upload(f"client-{client}", 1.0, pack(Payload("change", to.version, to.run, leaves)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--method", default="fedsrd")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    to, method, ctx = server(given.layers), create(given.method), Context(1, 0)
    sent = [upload(to, client, 0.05) for client in range(4)]
    line = {"method": given.method, "parameters": to.adapters.parameters, "clients": 4, "threads": given.threads}
    line["upload_mb"] = round(sum(len(one.blob) for one in sent) / 4e6, 2)
    with workers() as pool:
        began = time.perf_counter()
        readers, _ = _open(to, sent, to.adapters.trained(method.trains(ctx)), pool)
        opened = time.perf_counter()
        _changes(method, to, readers, ctx, pool)
        line["check_seconds"], line["aggregate_seconds"] = opened - began, time.perf_counter() - opened
    with clock() as spans:
        began = time.perf_counter()
        _, outcome = aggregate(method, to, sent, ctx)
        line["round_seconds"], line["wire_seconds_all_threads"] = time.perf_counter() - began, spans["wire"]
    assert len(outcome.accepted) == 4
    print(json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in line.items()}))


if __name__ == "__main__":
    main()
