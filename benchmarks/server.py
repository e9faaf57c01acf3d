"""The server's aggregation at the shapes of real models, against the dense formulas, in one run on the same threads.

`python benchmarks/server.py` prints JSON lines and writes them with a plot to benchmarks/results/; `--quick`: 45 s.
Uploads are windows into one pool of random float32 values, so that 256 clients need no memory of their own. Times of
layers and of dense modules that were not run are extrapolated; every line says how many were.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from memory import peaks_extra_mb
from server_plot import plot
from torch import Tensor

from thinwire.engine.workers import submit, workers
from thinwire.lowrank import LowRank, stack
from thinwire.method import Context, Method, Uploads, weighted_sum
from thinwire.methods.fedit import FedIT
from thinwire.methods.fedsrd import FedSRD, FedSRDe
from thinwire.presets import OFFICIAL

POOL, CHANGE = 1 << 26, 5e-4
LAYERS = 28
METHODS: dict[str, Method | None] = {
    "fedit": FedIT(),
    "flora": None,
    "fedsrd-e": FedSRDe(**OFFICIAL),
    "fedsrd": FedSRD(**OFFICIAL),
}


@dataclass(frozen=True)
class Model:
    """shapes: (O, I) of the adapted modules of one layer."""

    name: str
    rank: int
    shapes: tuple[tuple[int, int], ...]


def model(name: str, rank: int, hidden: int, keys: int, inner: int) -> Model:
    square, narrow, wide = (hidden, hidden), (keys, hidden), (inner, hidden)
    return Model(name, rank, (square, narrow, narrow, square, wide, wide, (hidden, inner)))


MODELS = (model("llama-3.2-3b", 64, 3072, 1024, 8192), model("qwen2-7b", 32, 3584, 512, 18944))


class Clients:
    """Adapters and uploads of one model: A as PEFT starts it, B with singular values 1 to 1/100 of the largest."""

    def __init__(self, model: Model, count: int, pool: Tensor) -> None:
        self.model, self.count, self.pool = model, count, pool

    @cache  # noqa: B019
    def module(self, shape: tuple[int, int]) -> LowRank:
        rank, (rows, columns) = self.model.rank, shape
        generator = torch.Generator().manual_seed(rows + columns)
        a = (torch.rand(rank, columns, generator=generator) * 2 - 1) / columns**0.5
        left, _ = torch.linalg.qr(torch.randn(rows, rank, generator=generator))
        right, _ = torch.linalg.qr(torch.randn(rank, rank, generator=generator))
        return LowRank((left * torch.logspace(0, -2, rank) @ right).to(self.pool.device), a.to(self.pool.device), 2.0)

    def uploads(self, shape: tuple[int, int], number: int) -> Uploads:
        rank, (rows, columns) = self.model.rank, shape

        def read(client: int) -> tuple[float, dict[str, Tensor]]:
            start = (number * self.count + client) * 99_991 * 16 % (len(self.pool) - rank * (rows + columns))
            values = self.pool[start // 16 * 16 :]
            b, a = values[: rows * rank], values[rows * rank : (rows + columns) * rank]
            return 1 / self.count, {"a": a.view(rank, columns), "b": b.view(rows, rank)}

        return Uploads(self.count, read)


def aggregate(name: str, module: LowRank, uploads: Uploads, ctx: Context) -> dict[str, Tensor]:
    """What the server computes at one module; FLoRA's is the stack of the clients' own factors."""
    method = METHODS[name]
    if method is not None:
        return dict(method.rule(module, uploads, ctx))
    whole = stack([LowRank(change["b"], change["a"], module.scale) for _, change in uploads], [p for p, _ in uploads])
    return {"a": whole.a, "b": whole.b}


def dense(name: str, module: LowRank, uploads: Uploads, ctx: Context) -> dict[str, Tensor]:
    """The dense formula in the dtype of the module: reconstruct, full SVD (wide matrices transposed), pinv."""
    if name in ("fedit", "flora"):
        return sums(name, module, uploads)
    d = difference(name, module, uploads)
    return {"a": torch.linalg.pinv(module.b) @ d} if ctx.round % 2 == 0 else {"b": d @ torch.linalg.pinv(module.a)}


def sums(name: str, module: LowRank, uploads: Uploads) -> dict[str, Tensor]:
    """FedIT's means, and FLoRA's mean product."""
    if name == "fedit":
        return weighted_sum((p, {part: held.to(module.a) for part, held in change.items()}) for p, change in uploads)
    whole = torch.zeros(module.b.shape[0], module.a.shape[1], dtype=module.a.dtype, device=module.a.device)
    for p, change in uploads:
        whole.addmm_(change["b"].to(module.a), change["a"].to(module.a), alpha=p * module.scale)
    return {"w": whole}


def difference(name: str, module: LowRank, uploads: Uploads) -> Tensor:
    """D (O, I) as the formula is written: the mean product, for FedSRD its best rank-r approximation, minus B A."""
    a, b = module.a, module.b
    whole = sum(p * ((b + change["b"].to(b)) @ (a + change["a"].to(a))) for p, change in uploads)
    assert isinstance(whole, Tensor)
    if name == "fedsrd":
        wide = whole.shape[0] < whole.shape[1]
        u, s, vt = torch.linalg.svd(whole.T if wide else whole, full_matrices=False)
        best = (u[:, : module.rank] * s[: module.rank]) @ vt[: module.rank]
        whole = best.T if wide else best
    return whole - b @ a


def tuned(module: LowRank, uploads: Uploads) -> Tensor:
    """FedSRD-e's dense formula with every product added in place: a harder rival than the formula as written."""
    whole = torch.zeros(module.b.shape[0], module.a.shape[1], device=module.a.device)
    for p, change in uploads:
        whole.addmm_(module.b + change["b"], module.a + change["a"], alpha=p)
    return torch.linalg.pinv(module.b) @ whole.addmm_(module.b, module.a, alpha=-1)


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """Best of `times`."""
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best


def whole_model(name: str, clients: Clients, layers: int, ctx: Context) -> None:
    """Every module of `layers` layers, side by side as the engine does."""
    shapes = clients.model.shapes * layers
    with workers() as pool:
        modules = [(clients.module(shape), clients.uploads(shape, number)) for number, shape in enumerate(shapes)]
        tasks = [submit(pool, aggregate, name, module, uploads, ctx) for module, uploads in modules]
        while tasks:
            tasks.pop(0).result()


def dense_layer(rival: Callable[[LowRank, Uploads], object], clients: Clients, quick: bool) -> tuple[float, float]:
    """Seconds of one layer by a dense formula, from one module of each shape (a wide one counts as its transpose).

    With all threads on one module after the other; and with one thread on each of as many modules, unless `quick`.
    """
    threads, found = torch.get_num_threads(), {}
    for shape in {(max(shape), min(shape)): shape for shape in clients.model.shapes}.values():
        module, uploads = clients.module(shape), clients.uploads(shape, 0)

        def together(module: LowRank = module, uploads: Uploads = uploads) -> None:
            with workers() as pool:
                for task in [submit(pool, rival, module, uploads) for _ in range(threads)]:
                    task.result()

        alone = seconds(lambda s=module, u=uploads: rival(s, u), 1 if quick else 2)  # type: ignore[misc]
        side = math.nan if quick or threads == 1 else seconds(together) / threads
        found[max(shape), min(shape)] = alone, side
    both = [found[max(shape), min(shape)] for shape in clients.model.shapes]
    return sum(alone for alone, _ in both), sum(side for _, side in both)


def error(name: str, clients: Clients, shapes: Sequence[tuple[int, int]]) -> float:
    """Largest relative error of DA and DB (for FLoRA, of the product) against the dense formula in float64."""
    errors = []
    for shape in shapes:
        module, uploads = clients.module(shape), clients.uploads(shape, 0)
        mine = aggregate(name, module, uploads, Context(0, 0)) | aggregate(name, module, uploads, Context(1, 0))
        if name.startswith("fedsrd"):
            d = difference(name, module.double(), uploads)
            exact = {"a": torch.linalg.pinv(module.b.double()) @ d, "b": d @ torch.linalg.pinv(module.a.double())}
        else:
            exact = sums(name, module.double(), uploads)
        if name == "flora":
            mine = {"w": mine["b"].double() @ mine["a"].double()}
        errors += [float((mine[part].double() - exact[part]).norm() / exact[part].norm()) for part in exact]
    return max(errors)


def measure(name: str, clients: Clients, layers: int, quick: bool, peak: float) -> dict[str, object]:
    """One line."""
    few = clients.count == 4
    smallest = sorted(set(clients.model.shapes), key=lambda shape: shape[0] * shape[1])[: 2 if few and not quick else 1]
    run = [
        lambda r=r: whole_model(name, clients, layers, Context(r, 0))  # type: ignore[misc]
        for r in ((0, 1) if name.startswith("fedsrd") else (0,))
    ]
    took = sum(seconds(one, 5 if few else 1) for one in run) / len(run) * LAYERS / layers
    rivals: dict[str, float | None] = {"dense_seconds": None, "dense_side_by_side_seconds": None}
    if few and name != "fedit":
        layer, side = dense_layer(lambda module, uploads: dense(name, module, uploads, Context(0, 0)), clients, quick)
        rivals = {"dense_seconds": layer * LAYERS, "dense_side_by_side_seconds": side * LAYERS}
    if few and name == "fedsrd-e":
        rivals["dense_tuned_seconds"] = dense_layer(tuned, clients, quick)[0] * LAYERS
    return {
        "model": clients.model.name,
        "rank": clients.model.rank,
        "clients": clients.count,
        "method": name,
        "seconds": round(took, 4),
        **{key: None if value is None or math.isnan(value) else round(value, 2) for key, value in rivals.items()},
        "speedup": None if rivals["dense_seconds"] is None else round(rivals["dense_seconds"] / took, 1),
        "peak_extra_mb": round(peak, 1),
        "max_relative_error": error(name, clients, smallest),
        "error_shapes": [list(shape) for shape in smallest],
        "extrapolated": {"layers_run": layers, "of": LAYERS, "dense": "one module of each shape"},
        "threads": torch.get_num_threads(),
        "device": str(clients.pool.device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="K = 4 and 16, four layers; 45 s on 4 idle cores")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--layers", type=int, default=LAYERS, help="layers that are run, of 28")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pool = (torch.randn(POOL, generator=torch.Generator().manual_seed(1)) * CHANGE).to(given.device)
    counts = (4, 16) if given.quick else (4, 16, 64, 256)
    cases = [(Clients(model, count, pool), name) for model in MODELS for count in counts for name in METHODS]
    peaks = peaks_extra_mb([lambda n=n, c=c: whole_model(n, c, 1, Context(0, 0)) for c, n in cases], pool.device)
    lines = []
    for (clients, name), peak in zip(cases, peaks, strict=True):
        layers = 4 if given.quick else given.layers
        lines.append(measure(name, clients, layers, given.quick, peak))
        print(json.dumps(lines[-1]), flush=True)
    stem = f"server{'_quick' if given.quick else ''}_{given.device}_{given.threads}"
    (given.out / f"{stem}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot(lines, given.out / f"{stem}.png")


if __name__ == "__main__":
    main()
