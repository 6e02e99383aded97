"""What settings made of the same prompts, one after another: geometric means of paired ratios, as a table.

Where a machine's speed wanders within seconds, medians of long runs have its error. Of ratios of short ones side by
side each has it anew, so that their mean has little of it, and the standard error says how much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median, stdev

AUTO, OFF = "auto", "0"


@dataclass(frozen=True, slots=True)
class Burst:
    """One setting's answers to the prompts of a turn."""

    num_tokens: int
    num_rounds: int
    num_drafted: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens over wall time."""
        return self.num_tokens / self.seconds


Turn = Mapping[str, Burst]
"""The same prompts, answered by each setting, in the order in which they did."""
Cell = tuple[str, int]
"""(task, streams)."""
Cells = Mapping[Cell, Sequence[Turn]]
"""At least one turn each, and in all turns the same settings: auto, and one fixed lookahead or more."""


@dataclass(frozen=True, slots=True)
class GeometricMean:
    """Of ratios, by the mean of their logarithms and its standard error; None where one ratio tells of no spread."""

    log: float
    log_error: float | None

    def __str__(self) -> str:
        return f"{self.ratio:.3f}" + ("" if self.error is None else f" ± {self.error:.3f}")

    @property
    def ratio(self) -> float:
        """The mean itself."""
        return math.exp(self.log)

    @property
    def error(self) -> float | None:
        """The mean's standard error, in the ratio's own unit."""
        return None if self.log_error is None else self.ratio * self.log_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One cell. Where off was not measured it has no speed, and nobody a ratio to it.

    The best fixed lookahead is chosen with hindsight, by the same bursts: where two are about as good that favours it.
    """

    num_bursts: int
    off_tokens_per_s: float | None
    over_off: Mapping[str, GeometricMean]
    drafted_per_round: Mapping[str, float]
    best_fixed: str
    over_best: GeometricMean


def paired(turns: Sequence[Turn], one: str, other: str) -> GeometricMean:
    """The speed of one setting over another's, turn by turn."""
    logs = [math.log(turn[one].tokens_per_s / turn[other].tokens_per_s) for turn in turns]
    return GeometricMean(fmean(logs), stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else None)


def over_cells(means: Sequence[GeometricMean]) -> GeometricMean:
    """Each cell counts as much as any other; their errors are taken to have nothing to do with each other."""
    errors = [mean.log_error for mean in means if mean.log_error is not None]
    error = math.hypot(*errors) / len(means) if len(errors) == len(means) else None
    return GeometricMean(fmean(mean.log for mean in means), error)


def summarise(turns: Sequence[Turn]) -> Summary:
    """Of equally good fixed lookaheads the smallest is the best."""
    fixed = sorted((setting for setting in turns[0] if setting != AUTO), key=int)
    settings = [AUTO, *fixed]
    has_off = OFF in fixed
    # Over off or over any other one: the order of the means is the same.
    reference = OFF if has_off else fixed[0]
    best = max(fixed, key=lambda setting: paired(turns, setting, reference).log)
    return Summary(
        num_bursts=len(turns),
        off_tokens_per_s=median(turn[OFF].tokens_per_s for turn in turns) if has_off else None,
        over_off={setting: paired(turns, setting, OFF) for setting in settings if has_off and setting != OFF},
        drafted_per_round={setting: _drafted_per_round([turn[setting] for turn in turns]) for setting in settings},
        best_fixed=best,
        over_best=paired(turns, AUTO, best),
    )


def table(cells: Cells) -> str:
    """Markdown: a line per cell, and one of geometric means over them where there are several."""
    found = {cell: summarise(turns) for cell, turns in cells.items()}
    compared = [setting for setting in next(iter(found.values())).drafted_per_round if setting != OFF]
    columns = ["class", "streams", "bursts", "off, tokens/s", *(f"{setting} / off" for setting in compared)]
    lines = [_line([*columns, "best k", "auto / best k"]), "|---" * (len(columns) + 2) + "|"]
    for (task, num_streams), cell in found.items():
        off = "-" if cell.off_tokens_per_s is None else f"{cell.off_tokens_per_s:.0f}"
        ratios = [f"{cell.over_off.get(one, '-')} ({cell.drafted_per_round[one]:.2f})" for one in compared]
        row = [task, str(num_streams), str(cell.num_bursts), off, *ratios, cell.best_fixed, str(cell.over_best)]
        lines.append(_line(row))
    if len(found) > 1:
        means = [[cell.over_off[one] for cell in found.values() if one in cell.over_off] for one in compared]
        over_off = [str(over_cells(each)) if each else "-" for each in means]
        over_best = over_cells([cell.over_best for cell in found.values()])
        lines.append(_line(["geometric mean", "", "", "", *over_off, "", str(over_best)]))
    return "\n".join([*lines, "", "Geometric means ± their standard errors (drafted tokens per round)."])


def rows(cells: Cells) -> list[dict[str, str | int | float]]:
    """Every burst for a file: by cell, within it by turn, within that in the order in which the settings answered."""
    return [
        {"task": task, "streams": num_streams, "turn": number, "setting": setting, **asdict(burst)}
        for (task, num_streams), turns in cells.items()
        for number, turn in enumerate(turns)
        for setting, burst in turn.items()
    ]


def _drafted_per_round(bursts: Sequence[Burst]) -> float:
    return sum(burst.num_drafted for burst in bursts) / max(1, sum(burst.num_rounds for burst in bursts))


def _line(fields: Sequence[str]) -> str:
    return "| " + " | ".join(fields) + " |"
