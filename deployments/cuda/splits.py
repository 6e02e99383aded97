"""Attention in splits: how many programs fill a device, and putting the splits' results together.

Shapes: N rows (a query head of a token or session each), P splits, D head dimension.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_PROGRAMS_PER_PROCESSOR = 2
_CPU_PROCESSORS = 4
_MERGED_COLUMNS = 128


def wanted_programs(device: torch.device) -> int:
    """Programs of attention that leave no processor of the device idle."""
    num_processors = _CPU_PROCESSORS
    if device.type == "cuda":
        num_processors = torch.cuda.get_device_properties(device).multi_processor_count
    return _PROGRAMS_PER_PROCESSOR * num_processors


def merge_splits(results: torch.Tensor, logsums: torch.Tensor, output: torch.Tensor) -> None:
    """Weigh each split's result by its share of the softmax's sum.

    `results` has N * P * D elements, `logsums`, the logarithms of the splits' sums, N * P, `output` N * D. A row
    without entries, all of whose sums are 0, gets zeros.
    """
    num_splits, dim = results.shape[-2:]
    columns = min(_MERGED_COLUMNS, triton.next_power_of_2(dim))
    _merge_splits[(output.numel() // dim, triton.cdiv(dim, columns))](
        results, logsums, output, DIM=dim, COLUMNS=columns, SPLITS=num_splits
    )


@triton.jit
def _merge_splits(results, logsums, output, DIM: tl.constexpr, COLUMNS: tl.constexpr, SPLITS: tl.constexpr):
    place = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, SPLITS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    logsum = tl.load(logsums + place * SPLITS + split)
    highest = tl.max(logsum, 0)
    # Without entries every weight is 0, and no difference of infinities arises.
    weight = tl.exp(logsum - tl.where(highest == -float("inf"), 0.0, highest))
    total = tl.sum(weight, 0)
    weight = weight / tl.where(total > 0, total, 1.0)
    mask = (weight > 0)[:, None] & (column < DIM)[None, :]
    part = tl.load(results + (place * SPLITS + split)[:, None] * DIM + column[None, :], mask=mask, other=0.0)
    tl.store(output + place * DIM + column, tl.sum(part * weight[:, None], 0), mask=column < DIM)
