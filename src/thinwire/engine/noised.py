"""The global change as a noised sum: each client's terms clipped together, summed, noised and divided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import torch

from thinwire.adapters import Adapters, Change
from thinwire.engine.workers import submit
from thinwire.method import Context, Method, Parts, Reread, Uploads
from thinwire.privacy.noise import Sum, clipped_sum, squares

Read = Callable[[str, Sequence[str]], Uploads]
"""(module, its parts) -> its uploads in client order; their weights are not used."""


def noised_changes(method: Method, adapters: Adapters, read: Read, ctx: Context, pool: Executor, noised: Sum) -> Change:
    """`(sum_k share_k term_k + noise) / cohort`, float32, `share_k` clipping client k's terms over the whole model.

    Uploads are read twice, for the norms and for the sum; memory of one upload of one module a thread. There is noise
    in every entry, and without any upload too.
    """
    parts: dict[str, list[str]] = {}
    for name, part in sorted(adapters.trained(method.sends(ctx))):
        parts.setdefault(name, []).append(part)

    def term(name: str, change: Parts) -> Parts:
        return change if name in adapters.extras else method.rule.term(adapters.modules[name], change, ctx)

    def terms(name: str) -> Reread[Parts]:
        return read(name, parts[name]).map(lambda upload: term(name, upload[1]))

    def total(name: str, shares: Sequence[float]) -> Change:
        shape = term(name, {part: torch.zeros_like(adapters[name, part]) for part in parts[name]})
        sums = clipped_sum(terms(name), shares, {part: torch.zeros_like(tensor) for part, tensor in shape.items()})
        noisy = {part: noised.noise.onto(sums[part], "sum", ctx.round, name, part) for part in sums}
        return {(name, part): (tensor / noised.cohort).float() for part, tensor in noisy.items()}

    norms = [submit(pool, squares, terms(name)) for name in parts]
    shares = [noised.noise.share(sum(by_module)) for by_module in zip(*(task.result() for task in norms), strict=True)]
    sums = [submit(pool, total, name, shares) for name in parts]
    return {key: tensor for task in sums for key, tensor in task.result().items()}
