"""docs/models.md lists the very cells that the tests run, and those that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.integration import test_shapes, test_shapes_rejection
from tests.support.cells import CELLS, GEMMA_SHAPES, REFUSED, SERVED, as_table

DOCS = Path(__file__).parents[2] / "docs" / "models.md"


def cells_of(*tests: Any) -> list[object]:
    """What these tests are parametrised with."""
    return [
        cell
        for test in tests
        for mark in test.pytestmark
        if mark.name == "parametrize" and mark.args[0] == "cell"
        for cell in mark.args[1]
    ]


def test_the_names_of_the_published_pairs_are_in_the_docs() -> None:
    text = (DOCS.parent / "configuration.md").read_text()
    for shape in GEMMA_SHAPES:
        assert f"| `google/gemma-4-{shape}-it` | `google/gemma-4-{shape}-it-assistant` |" in text


def test_the_table_in_the_docs_is_that_of_the_cells() -> None:
    lines = DOCS.read_text().splitlines()
    shown = lines[lines.index("<!-- cells:begin -->") + 1 : lines.index("<!-- cells:end -->")]
    assert [line for line in shown if line.startswith("|")] == as_table(), "python -m tests.support.cells prints it"


def test_every_cell_is_run_by_a_test_or_refused_by_one() -> None:
    run = cells_of(
        test_shapes.test_the_text_is_the_librarys_with_and_without_speculation,
        test_shapes_rejection.test_texts_follow_the_target,
        test_shapes_rejection.test_without_a_draft_the_text_is_that_of_coupled_sampling,
    )
    refused = cells_of(test_shapes.test_what_cannot_draft_for_a_shape_is_refused)
    assert len(run) == len(set(run))
    assert set(run) == set(SERVED)
    assert set(refused) == set(REFUSED)
    assert set(run) | set(refused) == set(CELLS)
