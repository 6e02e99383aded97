"""Two roles on one GPU: neither can allocate what the other was promised."""

from __future__ import annotations

import multiprocessing

import pytest
import torch

MIB = 1 << 20


def allocate(bound_bytes: int, asked_bytes: int) -> bool:
    """Whether a process with the bound gets the memory."""
    from deployments.models.devices import bound_gpu_memory

    bound_gpu_memory(bound_bytes)
    try:
        torch.empty(asked_bytes, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        return False
    return True


@pytest.mark.gpu
@pytest.mark.parametrize(("asked_bytes", "is_granted"), [(128 * MIB, True), (512 * MIB, False)])
def test_a_process_gets_its_bound_and_no_more(device: str, asked_bytes: int, is_granted: bool) -> None:
    if device != "cuda":
        pytest.skip("a bound is of a GPU's memory")
    # A process of its own: the bound stays for a process's life.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(allocate, (256 * MIB, asked_bytes)) is is_granted
