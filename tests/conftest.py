"""For all tests."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Triton's kernels run interpreted, on a CPU's tensors, but where the tests of a GPU are asked for."""
    if config.option.markexpr != "gpu":
        os.environ["TRITON_INTERPRET"] = "1"  # triton reads it when it is imported
