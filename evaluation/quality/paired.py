"""A variant against the base, case by case: how much better or worse, how sure that is, and where tokens part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from evaluation.quality.aggregates import Interval, bootstrap
from evaluation.quality.answers import AnswerError, Step, steps_of, text_of

Verdict = Literal["same", "better", "worse", "too few cases to tell"]
Kind = Literal["identical", "near-tie", "bug", "sampled", "unexplained"]

MARGIN = 0.02
"""A difference of mean scores up to this counts as none."""
NEAR_TIE_NATS = 1e-4
"""Two best tokens as close as this may change places with the rounding of another batch shape, in float32."""
MIN_DIFFERING = 6
"""The fewest differing cases, all one way, that a sign test calls a difference at 5 % (2 x 0.5**6 = 0.03)."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one variant against the base, over the cases that both have a score for."""

    metric: str
    num_cases: int
    num_differing: int
    difference: Interval
    verdict: Verdict


class Parting(msgspec.Struct, frozen=True, kw_only=True):
    """Where a variant's answer leaves the base's: at this token, or character where tokens are not told."""

    case: str
    kind: Kind
    position: int | None = None
    lead: float | None = None
    """By how much the base's best token leads there, in nats."""


def compare(metric: str, base: Mapping[str, float], other: Mapping[str, float], margin: float = MARGIN) -> Comparison:
    """Paired difference, other minus base; scores are by case id."""
    shared = [case for case in base if case in other]
    differences = [other[case] - base[case] for case in shared]
    num_differing = sum(difference != 0 for difference in differences)
    interval = bootstrap(differences) if differences else Interval(0.0, 0.0, 0.0)
    return Comparison(
        metric=metric,
        num_cases=len(shared),
        num_differing=num_differing,
        difference=interval,
        verdict=verdict(interval, len(shared), num_differing, margin),
    )


def verdict(interval: Interval, num_cases: int, num_differing: int, margin: float) -> Verdict:
    """Same: the interval lies within the margin. Better, worse: it leaves out 0. Otherwise the cases are too few.

    An interval of resampled differences knows nothing of what no case has shown, which with n cases may still befall
    3/n of all (the rule of three): no sameness below 3 / margin cases, no difference from fewer than MIN_DIFFERING.
    """
    is_within = -margin <= interval.low and interval.high <= margin
    if is_within and num_cases >= math.ceil(3 / margin):
        return "same"
    if not is_within and num_differing >= MIN_DIFFERING:
        if interval.low > 0:
            return "better"
        if interval.high < 0:
            return "worse"
    return "too few cases to tell"


def part(case: str, base: dict[str, object], other: dict[str, object], temperature: float, near_tie: float) -> Parting:
    """Compare two answers to one case, by tokens where both tell them, else by characters.

    Greedy answers may part at a near-tie of the base's two best tokens; with a clear lead there it is a bug. Sampled
    ones part where noise decides, which log-probabilities do not show.
    """
    try:
        ours, theirs = steps_of(base), steps_of(other)
        texts = text_of(base), text_of(other)
    except (AnswerError, LookupError, TypeError) as error:
        raise AnswerError(f"case {case}: {error}") from error
    if not ours or not theirs:
        position = first_difference(*texts)
        return Parting(case=case, kind="identical" if position is None else "unexplained", position=position)
    position = first_difference([step.token for step in ours], [step.token for step in theirs])
    if position is None:
        return Parting(case=case, kind="identical")
    lead = _lead_at(ours, theirs, position)
    return Parting(case=case, kind=_kind(lead, temperature, near_tie), position=position, lead=lead)


def first_difference(ours: Sequence[object], theirs: Sequence[object]) -> int | None:
    """The first place at which two sequences differ; the end of the shorter one counts."""
    for i, (our, their) in enumerate(zip(ours, theirs, strict=False)):
        if our != their:
            return i
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


def _lead_at(ours: Sequence[Step], theirs: Sequence[Step], position: int) -> float | None:
    # Up to here both have the same context, so that either answer's lead will do.
    leads = [steps[position].lead for steps in (ours, theirs) if position < len(steps)]
    return min((lead for lead in leads if lead is not None), default=None)


def _kind(lead: float | None, temperature: float, near_tie: float) -> Kind:
    if temperature > 0:
        return "sampled"
    if lead is None:
        return "unexplained"
    return "near-tie" if lead <= near_tie else "bug"
