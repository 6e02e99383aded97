"""Which models a GPU's fused layers take over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from deployments.models.loading import load_target
from deployments.paged.build import _can_fuse, runs_fused
from tests.support.shapes import GEMMA_4, save_decoder, save_pair


@pytest.mark.parametrize("name", ["12B", "26B-A4B"])
def test_gemma_4_is_fused_unless_its_weights_are_packed(name: str, tmp_path: Path) -> None:
    target = load_target(str(save_pair(tmp_path, GEMMA_4[name])), dtype=torch.float32, device="cpu")
    assert _can_fuse(target)
    assert not runs_fused(target), "there is no GPU under this target"

    class Quantised(nn.Linear):
        """Stands for a quantiser's layer, whose weight is no matrix."""

    target.model.get_decoder().layers[1].mlp.down_proj = Quantised(48, 32, bias=False)
    assert not _can_fuse(target)


def test_other_decoders_run_as_the_library_has_them(tmp_path: Path) -> None:
    assert not _can_fuse(load_target(str(save_decoder(tmp_path, "Llama")), dtype=torch.float32, device="cpu"))
