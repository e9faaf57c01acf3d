"""summary.json: what a reader or a program wants to know of a finished run, on one machine or across sites."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save

from thinwire.adapters import Adapters
from thinwire.evaluation.figures import Figures, summary_of
from thinwire.storage.state import State


@dataclass(frozen=True, kw_only=True)
class About:
    """What a summary says of a run besides its figures. metrics: name -> field of Scores; export: what was exported."""

    method: str
    fields: Mapping[str, Any]
    task: str
    classes: Sequence[str]
    clients: int
    seed: int
    start: Adapters
    base: Mapping[str, Any]
    metrics: Mapping[str, str]
    privacy: Mapping[str, Any] | None = None
    export: Mapping[str, Any] | None = None


def summarise(about: About, state: State, found: Figures, last: Sequence[int] = ()) -> dict[str, Any]:
    """The summary. last: bytes that bring each client to the last version, where nobody was sent them."""
    totals = state.totals
    bytes_up, bytes_down = totals.bytes_up, totals.bytes_down + sum(last)
    deliveries = totals.deliveries + sum(1 for size in last if size)
    dense = dense_bytes(about.start) * (totals.uploads + deliveries)
    return {
        "method": about.method,
        "fields": dict(about.fields),
        "rounds": state.round,
        "task": about.task,
        "classes": list(about.classes),
        "clients": about.clients,
        "seed": about.seed,
        "trainable_parameters": about.start.parameters,
        "bytes_up": bytes_up,
        "bytes_down": bytes_down,
        "bytes_dense_bf16": dense,
        "reduction": dense / (bytes_up + bytes_down) if bytes_up + bytes_down else None,
        **summary_of(found, about.metrics),
        "best_round": state.best_round or None,
        "privacy": about.privacy,
        "export": about.export,
        "seconds": {**totals.seconds, "total": 0.0},
        "threads": torch.get_num_threads(),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "base": dict(about.base),
    }


def dense_bytes(start: Adapters) -> int:
    """Bytes of all factors and extras as a bfloat16 safetensors file: one of FedIT's messages."""
    tensors = {f"{name}/{part}": t.to(torch.bfloat16).contiguous() for (name, part), t in start.items()}
    return len(save(tensors))
