"""The microbenchmark of a step prints a step, its products, its attention and their ratios."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evaluation.load.engine_step import main
from tests.support.tiny_models import save_tiny_target

LINE = re.compile(
    r"context +(\d+) +rows +(\d+) +step +([\d.]+) ms, best +([\d.]+) +products +([\d.]+) ms, best +([\d.]+) +"
    r"attention +([\d.]+) ms, best +([\d.]+) +ratio to products ([\d.]+), to both ([\d.]+) +"
    r"of the best to products ([\d.]+), to both ([\d.]+)"
)


@pytest.mark.parametrize("options", [[], ["--library"]])
def test_one_line_per_cell(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny_target(tmp_path / "target", head_dim=16, global_head_dim=32, max_position_embeddings=4096)
    main(["--model", str(folder), "--rows", "1", "5", "--contexts", "20", "--repeats", "2", *options])
    cells = [LINE.fullmatch(line) for line in capsys.readouterr().out.splitlines()]
    assert [(cell[1], cell[2]) for cell in cells if cell] == [("20", "1"), ("20", "5")]
