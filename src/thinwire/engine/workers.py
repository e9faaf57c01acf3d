"""Threads for the server's work, one torch thread each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@contextmanager
def workers() -> Iterator[Executor]:
    """As many threads as torch has; each computes with one, so that no bit depends on how many there are."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, "thinwire", torch.set_num_threads, (1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def submit(pool: Executor, work: Callable[..., T], *arguments: Any) -> Future[T]:
    """Run `work` in the pool, in this context: its spans count in the clock that is running here."""
    return pool.submit(copy_context().run, work, *arguments)
