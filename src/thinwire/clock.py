"""Seconds by purpose: spans are added up in the clock that is running in this context, if any."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_running: ContextVar[dict[str, float] | None] = ContextVar("clock", default=None)


@contextmanager
def clock() -> Iterator[dict[str, float]]:
    """Collect the spans measured inside: purpose -> seconds."""
    seconds: dict[str, float] = {}
    token = _running.set(seconds)
    try:
        yield seconds
    finally:
        _running.reset(token)


@contextmanager
def span(purpose: str) -> Iterator[None]:
    """Measure what runs inside for the purpose."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds = _running.get()
        if seconds is not None:
            seconds[purpose] = seconds.get(purpose, 0.0) + time.perf_counter() - began
