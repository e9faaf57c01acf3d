"""How much memory work takes beyond what was held before it."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Callable

import torch

PAGE = os.sysconf("SC_PAGE_SIZE")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def peak_extra_mb(work: Callable[[], object], device: torch.device) -> float:
    """Peak of anonymous memory (Linux, read every 2 ms) or of allocated memory (CUDA) during work, in 10^6 bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    gc.collect()
    _return_memory_from(1 << 16)
    before, peak, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
        _return_memory_from(1 << 25)
    return (max(peak[0], before) - before) / 1e6


def _return_memory_from(size: int) -> None:
    """glibc: blocks of this size on go back to the system when freed, and all that is free does now."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, size)
    libc.mallopt(M_TRIM_THRESHOLD, 4 * size)
    libc.malloc_trim(0)


def anonymous() -> int:
    """Resident bytes that belong to no file."""
    with open("/proc/self/statm") as statm:
        _, resident, shared = statm.read().split()[:3]
    return (int(resident) - int(shared)) * PAGE
