"""Which kernels a step's time goes into."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

_NUM_ROWS = 30
_NUM_STEPS = 3


def profile_table(work: Callable[[], object]) -> str:
    """The kernels of a few repetitions by their own time, and the host's operations where there is no GPU."""
    is_cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    with profile(activities=activities) as found:
        for _ in range(_NUM_STEPS):
            work()
    order = "self_device_time_total" if is_cuda else "self_cpu_time_total"
    table: str = found.key_averages().table(sort_by=order, row_limit=_NUM_ROWS, max_name_column_width=70)
    return table
