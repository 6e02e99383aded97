"""How long something takes on the device that it runs on."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def timed_ms(work: Callable[[], object]) -> float:
    """What the work takes; a GPU has finished what was there before it begins, and the work before it ends."""
    wait_for_gpu()
    started_s = time.perf_counter()
    work()
    wait_for_gpu()
    return (time.perf_counter() - started_s) * 1e3


def wait_for_gpu() -> None:
    """Return once a GPU, where there is one, has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
