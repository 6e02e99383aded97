"""Kernels run where there is a GPU for them; else interpreted (tests/conftest.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _on_the_gpu() -> Iterator[None]:
    """Tensors are made there unless a test says otherwise."""
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        yield
