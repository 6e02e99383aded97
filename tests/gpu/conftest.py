"""Where these tests run, and the random checkpoints that they run on.

`--on cpu` runs them where there is no GPU, to try the tests themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.support.shapes import GEMMA_4, Shape, save_pair

REAL_HEADS = {"head_dim": 256, "global_head_dim": 512}
"""What a published model's heads are; the miniatures have 8 and 16."""
SHAPES: dict[str, Shape] = {
    **GEMMA_4,
    **{
        f"{name}, real heads": replace(
            GEMMA_4[name],
            target={**GEMMA_4[name].target, **REAL_HEADS},
            assistant={**GEMMA_4[name].assistant, **REAL_HEADS},
        )
        for name in ("12B", "26B-A4B", "31B")
    },
}
Folders = Callable[[str], Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--on", default="cuda", help="device of the tests in tests/gpu")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Where the engines under test are."""
    name: str = request.config.getoption("--on", default="cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return name


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The folder of a shape's target, written when it is first asked for; the assistant lies beside it."""
    return cache(lambda name: save_pair(tmp_path_factory.mktemp("pair"), SHAPES[name]))


@pytest.fixture(scope="module", params=SHAPES)
def folder(request: pytest.FixtureRequest, folders: Folders) -> Path:
    """Every shape's target in turn."""
    return folders(request.param)
