"""What a device's memory and its matrix units do at best: what a step is measured against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from evaluation.load.samples import Spread, spread
from evaluation.load.stopwatch import timed_ms

_CUDA_BYTES, _CPU_BYTES = 4 << 30, 64 << 20
_CUDA_SIZE, _CPU_SIZE = 8192, 512
_COLUMNS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Rates of a device: bytes read and written by a copy, bytes read, operations of a matrix product."""

    copy_gb_s: Spread
    read_gb_s: Spread
    matrix_tflop_s: Spread

    def read_ms(self, num_bytes: float) -> float:
        """The least time in which so many bytes are read."""
        return num_bytes / self.read_gb_s.high / 1e6


@torch.inference_mode()
def measure_hardware(device: str, dtype: torch.dtype, repeats: int) -> Hardware:
    """Time a large copy, two large reductions (the better one counts) and a large square product."""
    num_bytes = _CUDA_BYTES if device == "cuda" else _CPU_BYTES
    size = _CUDA_SIZE if device == "cuda" else _CPU_SIZE
    source = torch.randn(num_bytes // dtype.itemsize // _COLUMNS, _COLUMNS, device=device, dtype=dtype)
    copied, vector, floats = torch.empty_like(source), source[0].clone(), source.view(torch.float32)
    copy_gb_s = _rates(lambda: copied.copy_(source), 2 * num_bytes / 1e6, repeats)
    reductions = (lambda: torch.mv(source, vector), lambda: floats.sum())
    read_gb_s = max((_rates(work, num_bytes / 1e6, repeats) for work in reductions), key=lambda rate: rate.median)
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    matrix_tflop_s = _rates(lambda: one @ other, 2 * size**3 / 1e9, repeats)
    return Hardware(copy_gb_s=copy_gb_s, read_gb_s=read_gb_s, matrix_tflop_s=matrix_tflop_s)


def _rates(work: Callable[[], object], amount_per_ms: float, repeats: int) -> Spread:
    """`amount_per_ms` over the milliseconds that the work takes."""
    for _ in range(3):
        timed_ms(work)
    return spread([amount_per_ms / timed_ms(work) for _ in range(repeats)])
