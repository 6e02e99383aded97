"""Packing loses nothing: panels hold the weight, in half the bytes where a bfloat16 checkpoint allows it."""

from __future__ import annotations

import pytest
import torch

from deployments.kernels.packing import PANEL, Weights, fits_brain, interleaved, packed


@pytest.mark.parametrize("shape", [(64, 16), (1, 3), (200, 5)])
@pytest.mark.parametrize("is_rounded", [True, False])
def test_panels_hold_the_weight(shape: tuple[int, int], is_rounded: bool) -> None:
    weight_NK = torch.randn(shape)
    if is_rounded:
        weight_NK = weight_NK.bfloat16().float()
    panels_PKC = packed(weight_NK)
    assert panels_PKC.dtype == (torch.bfloat16 if is_rounded else torch.float32)
    columns_CK = panels_PKC.float().transpose(1, 2).flatten(0, 1)
    assert torch.equal(columns_CK[: shape[0]], weight_NK)
    assert not columns_CK[shape[0] :].any()
    assert len(columns_CK) % PANEL == 0


@pytest.mark.parametrize("num_rows", [32, 48, 70])
def test_gate_and_up_take_turns(num_rows: int) -> None:
    gate, up = torch.randn(num_rows, 4), torch.randn(num_rows, 4)
    rows = interleaved(gate, up).view(-1, 2, 32, 4)
    assert torch.equal(rows[:, 0].flatten(0, 1)[:num_rows], gate)
    assert torch.equal(rows[:, 1].flatten(0, 1)[:num_rows], up)
    assert not rows[:, :].flatten(0, 2)[:, 0].isnan().any()
    assert rows[-1, :, num_rows - 32 * (len(rows) - 1) :].abs().sum() == 0


def test_one_number_that_is_no_bfloat16_keeps_the_weight_whole() -> None:
    weight = torch.ones(5000, 2)
    assert fits_brain(weight)
    weight[4999, 1] = 1.001
    assert not fits_brain(weight)


def test_what_is_kept_stays_at_its_address() -> None:
    weights = Weights()
    address = weights.keep(torch.arange(8.0)[::2])
    assert address == weights._tensors[0].data_ptr()
    assert weights._tensors[0].tolist() == [0.0, 2.0, 4.0, 6.0]
