"""Every combination of target shape, drafter, placement and acceptance mode: tested, or refused with a reason.

docs/models.md shows them as a table, tests/integration/test_shapes*.py run them, and
tests/architecture/test_models_docs.py holds the two together.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, get_args

from deployments.messages import Acceptance, DrafterName

Place = Literal["remote", "colocated", "router", "nowhere"]

GEMMA_SHAPES = ("E2B", "E4B", "12B", "26B-A4B", "31B")
OTHER_SHAPES = ("Llama", "Qwen 3")
SHAPES = (*GEMMA_SHAPES, *OTHER_SHAPES)
DRAFTING: tuple[tuple[DrafterName, Place], ...] = (
    ("mtp", "remote"),
    ("mtp", "colocated"),
    ("draft_model", "remote"),
    ("draft_model", "colocated"),
    ("prompt_lookup", "router"),
    ("none", "nowhere"),
)
NO_ASSISTANT = "there is no assistant"


@dataclass(frozen=True)
class Cell:
    """One combination."""

    shape: str
    drafter: DrafterName
    place: Place
    acceptance: Acceptance

    def __str__(self) -> str:
        return f"{self.shape} {self.drafter} {self.place}"

    @property
    def refusal(self) -> str | None:
        """Why it cannot be; None where it is served."""
        return NO_ASSISTANT if self.drafter == "mtp" and self.shape in OTHER_SHAPES else None


CELLS = tuple(
    Cell(shape, drafter, place, acceptance)
    for shape, (drafter, place), acceptance in itertools.product(SHAPES, DRAFTING, get_args(Acceptance))
)
SERVED = tuple(cell for cell in CELLS if cell.refusal is None)
REFUSED = tuple(cell for cell in CELLS if cell.refusal is not None)


def as_table() -> list[str]:
    """The lines of the table in docs/models.md."""
    heads = [
        f"`{drafter}`" + (f", {place}" if drafter in ("mtp", "draft_model") else "") for drafter, place in DRAFTING
    ]
    lines = [f"| shape | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for shape in SHAPES:
        entries = []
        for drafter, place in DRAFTING:
            cells = [cell for cell in CELLS if (cell.shape, cell.drafter, cell.place) == (shape, drafter, place)]
            reasons = {cell.refusal for cell in cells if cell.refusal}
            served = ", ".join(cell.acceptance for cell in cells if cell.refusal is None)
            entries.append(served or f"refused: {', '.join(reasons)}")
        lines.append(f"| {shape} | {' | '.join(entries)} |")
    return lines


if __name__ == "__main__":
    print("\n".join(as_table()))
