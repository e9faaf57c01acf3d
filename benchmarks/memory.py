"""How much memory work takes beyond what was held before it."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Callable, Sequence

import torch

PAGE = os.sysconf("SC_PAGE_SIZE")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def peaks_extra_mb(works: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Peak memory of each work beyond what was held before it, in 10^6 bytes, after one unmeasured call of the first.

    Anonymous memory, read every 2 ms (Linux; glibc is told to hand every larger block back), or what CUDA allocated.
    """
    if device.type == "cuda":
        return [_peak_on_cuda(work, device) for work in works]
    _return_memory_from(1 << 16)
    works[0]()
    found = [_peak(work) for work in works]
    _return_memory_from(1 << 25)
    return found


def _peak_on_cuda(work: Callable[[], object], device: torch.device) -> float:
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def _peak(work: Callable[[], object]) -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
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
    return (max(peak[0], before) - before) / 1e6


def _return_memory_from(size: int) -> None:
    """glibc: blocks of this size on go back to the system when freed."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, size)
    libc.mallopt(M_TRIM_THRESHOLD, 4 * size)


def anonymous() -> int:
    """Resident bytes that belong to no file."""
    with open("/proc/self/statm") as statm:
        _, resident, shared = statm.read().split()[:3]
    return (int(resident) - int(shared)) * PAGE
