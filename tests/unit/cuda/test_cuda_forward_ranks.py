"""Fused layers of a target in shares, interpreted, against the library's own shares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch.multiprocessing

from tests.support.fused_ranks import compare
from tests.support.shapes import GEMMA_4, save_pair

NUM_RANKS = 2
DIVISIBLE = {"num_global_key_value_heads": 2}


@pytest.mark.system  # processes that load torch, and interpreted kernels
@pytest.mark.parametrize("name", ["26B-A4B", "31B"])
def test_every_rank_has_the_logits_of_the_librarys_shares(name: str, tmp_path: Path) -> None:
    shape = GEMMA_4[name]
    shape = replace(shape, target=shape.target | DIVISIBLE, assistant=shape.assistant | DIVISIBLE)
    folder = save_pair(tmp_path / "pair", shape)
    arguments = (NUM_RANKS, str(folder), str(tmp_path / "meeting"), str(tmp_path / "worst"))
    torch.multiprocessing.spawn(compare, args=arguments, nprocs=NUM_RANKS)
    worst = [float((tmp_path / f"worst-{rank}").read_text()) for rank in range(NUM_RANKS)]
    assert all(0 < one < 2e-4 for one in worst), worst
