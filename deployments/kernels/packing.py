"""Weights as the kernels read them: panels of 64 columns.

A float32 weight that came from a bfloat16 checkpoint is kept as bfloat16, which is exact and halves what
a step reads; sums are float32 either way.

Shapes: N outputs, K inputs of a product, P panels.
"""

from __future__ import annotations

import torch

from deployments.kernels.structs import Matrix

PANEL = 64
_SLICE_ROWS = 4096


class Weights:
    """Owns the tensors that the records point to; they live as long as this does."""

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []

    def keep(self, tensor: torch.Tensor) -> int:
        """Its address, valid from now on."""
        tensor = tensor.detach().contiguous()
        self._tensors.append(tensor)
        return tensor.data_ptr()

    def keep_exact(self, tensor: torch.Tensor) -> tuple[int, bool]:
        """The address of a copy, and whether that is bfloat16."""
        is_brain = fits_brain(tensor)
        return self.keep(tensor.to(torch.bfloat16) if is_brain else tensor.clone()), is_brain

    def matrix(self, weight_NK: torch.Tensor) -> Matrix:
        """A record of the packed weight."""
        panels_PKC = packed(weight_NK)
        is_brain = panels_PKC.dtype is torch.bfloat16
        return Matrix(self.keep(panels_PKC), weight_NK.shape[1], weight_NK.shape[0], is_brain)


def packed(weight_NK: torch.Tensor) -> torch.Tensor:
    """weight[n, k] at [n // 64, k, n % 64], zeros beyond N; bfloat16 where that is exact."""
    num_columns, depth = weight_NK.shape
    dtype = torch.bfloat16 if fits_brain(weight_NK) else torch.float32
    panels_PKC = torch.zeros(-(-num_columns // PANEL), depth, PANEL, dtype=dtype)
    for panel_KC, rows_CK in zip(panels_PKC, torch.split(weight_NK.detach(), PANEL), strict=True):
        panel_KC[:, : len(rows_CK)] = rows_CK.T
    return panels_PKC


def interleaved(gate_FK: torch.Tensor, up_FK: torch.Tensor) -> torch.Tensor:
    """32 rows of the gate, their 32 of the up projection, and so on; zeros fill the last 64."""
    half = PANEL // 2
    num_blocks = -(-len(gate_FK) // half)
    blocks = gate_FK.new_zeros(num_blocks, 2, half, gate_FK.shape[1])
    for part, weight_FK in enumerate((gate_FK, up_FK)):
        for block, rows in zip(blocks[:, part], torch.split(weight_FK.detach(), half), strict=True):
            block[: len(rows)] = rows
    return blocks.flatten(0, 2)


def fits_brain(tensor: torch.Tensor) -> bool:
    """Whether every element is a bfloat16 number."""
    return all(torch.equal(part.bfloat16().float(), part) for part in torch.split(tensor.detach(), _SLICE_ROWS))
