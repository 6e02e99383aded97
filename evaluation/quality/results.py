"""The results of a run: scores and what they say together. Made anew from the kept answers whenever they are wanted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from evaluation.quality.adversarial import FamilyFound, found_in
from evaluation.quality.aggregates import Aggregate, aggregate, slices
from evaluation.quality.answers import Answer, AnswerFile, text_of
from evaluation.quality.paired import Comparison, Parting, compare, part
from evaluation.quality.runner import ANSWERS, RUN, SUITE, Plan
from evaluation.quality.scoring import Score, Scorer, build_scorers
from evaluation.quality.suite import Case, DomainEvalSuite
from evaluation.quality.variants import BASE

RESULTS = "results.json"
NUM_WORST = 5
NUM_SCORING_THREADS = 2


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """One answer's score in one metric."""

    case: str
    variant: str
    metric: str
    value: float
    details: dict[str, Any] = {}


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one variant: all cases, averaged details, slices, and the worst cases with their values."""

    variant: str
    metric: str
    all: Aggregate
    parts: dict[str, float]
    slices: dict[str, Aggregate]
    worst: tuple[Scored, ...]


class Against(msgspec.Struct, frozen=True, kw_only=True):
    """A variant beside the base: every metric, and where answers part."""

    variant: str
    comparisons: tuple[Comparison, ...]
    partings: tuple[Parting, ...]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """All that a report says about quality. Variants of adversarial families are scored, and summarised apart."""

    plan: Plan
    environment: dict[str, str]
    margin: float
    num_refused: dict[str, int]
    summaries: tuple[Summary, ...]
    against: tuple[Against, ...]
    families: tuple[FamilyFound, ...]
    scores: tuple[Scored, ...]

    def values(self, variant: str, metric: str) -> dict[str, float]:
        """Scores by case id."""
        return {one.case: one.value for one in self.scores if (one.variant, one.metric) == (variant, metric)}

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.metric for one in self.scores))

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(variant.name for variant in self.plan.variants)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What counts as no difference: of mean scores, and of the two best tokens in nats."""

    margin: float
    near_tie_nats: float


def kept_results(folder: Path) -> Results | None:
    """The results that a folder holds, if any. Raises ValueError where another version wrote them."""
    file = folder / RESULTS
    return msgspec.json.decode(file.read_bytes(), type=Results) if file.exists() else None


def read_folder(folder: Path) -> tuple[Plan, DomainEvalSuite, AnswerFile]:
    """What a run left. Raises OSError or ValueError."""
    plan = msgspec.json.decode((folder / RUN).read_bytes(), type=Plan)
    suite = msgspec.json.decode((folder / SUITE).read_bytes(), type=DomainEvalSuite)
    return plan, suite, AnswerFile(folder / ANSWERS)


def evaluate(folder: Path, environment: Mapping[str, str], limits: Limits) -> Results:
    """Score a folder's answers, compare its variants, and keep the results beside them."""
    plan, suite, answers = read_folder(folder)
    scores = score_all(suite, list(answers.answers.values()))
    sides = {variant.name: side(suite, scores, answers, variant.name) for variant in plan.variants}
    results = Results(
        plan=plan,
        environment=dict(environment),
        margin=limits.margin,
        num_refused={
            variant.name: sum(answer.refused is not None for answer in answers.of_variant(variant.name))
            for variant in plan.variants
        },
        summaries=tuple(summarise(suite, scores, [variant.name for variant in plan.variants])),
        against=tuple(against(name, suite, sides[BASE], sides[name], limits) for name in sides if name != BASE),
        families=tuple(families(suite, scores, [variant.name for variant in plan.variants])),
        scores=tuple(scores),
    )
    (folder / RESULTS).write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
    return results


def score_all(suite: DomainEvalSuite, answers: Sequence[Answer]) -> list[Scored]:
    """Every answer in every metric, in the suite's order whatever order they came in.

    A refused request is a case not answered: its score is 0.
    """
    scorers = build_scorers(suite)
    cases = {case.id: case for case in suite.cases}
    order = {id: number for number, id in enumerate(cases)}
    answers = sorted(answers, key=lambda answer: (order[answer.case], answer.variant))
    with ThreadPoolExecutor(NUM_SCORING_THREADS) as pool:  # some scorers wait for processes
        scored = pool.map(lambda answer: _score(scorers, cases[answer.case], answer), answers)
        return [one for group in scored for one in group]


def _score(scorers: Mapping[str, Scorer], case: Case, answer: Answer) -> list[Scored]:
    made = []
    for metric, scorer in scorers.items():
        score = Score(0.0, {"refused": answer.refused}) if answer.refused else scorer(case, text_of(answer.body))
        if not 0 <= score.value <= 1:
            raise ValueError(f"the scorer {metric} gave {score.value} for case {case.id}: a score is from 0 to 1")
        made.append(
            Scored(case=case.id, variant=answer.variant, metric=metric, value=score.value, details=score.details)
        )
    return made


def summarise(suite: DomainEvalSuite, scores: Sequence[Scored], variants: Sequence[str]) -> Iterator[Summary]:
    """Each metric of each variant over the suite's own cases."""
    own = {case.id: case for case in suite.cases if case.family is None}
    groups: dict[tuple[str, str], list[Scored]] = defaultdict(list)
    for one in scores:
        if one.case in own:
            groups[one.metric, one.variant].append(one)
    for metric, variant in product((spec.metric for spec in suite.scorers), variants):
        if group := groups[metric, variant]:
            values = {one.case: one.value for one in group}
            worst = sorted((one for one in group if one.value < 1), key=lambda one: (one.value, one.case))
            yield Summary(
                variant=variant,
                metric=metric,
                all=aggregate(list(values.values())),
                parts=_parts(group),
                slices=slices(own.values(), values),
                worst=tuple(worst[:NUM_WORST]),
            )


def families(suite: DomainEvalSuite, scores: Sequence[Scored], variants: Sequence[str]) -> Iterator[FamilyFound]:
    """What the suite's adversarial families show; nothing where it has none."""
    values: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for one in scores:
        values[one.variant, one.metric][one.case] = one.value
    return found_in(suite.cases, values, variants, [spec.metric for spec in suite.scorers])


def _parts(group: Sequence[Scored]) -> dict[str, float]:
    """Means of the details that are numbers, over the answers that have them."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in group:
        for name, value in one.details.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                found[name].append(value)
    return {name: fmean(values) for name, values in found.items()}


@dataclass(frozen=True, slots=True)
class Side:
    """What a comparison needs of one variant: scores by metric and case of the suite, and answers by case."""

    values: dict[str, dict[str, float]]
    answers: dict[str, Answer]


def side(suite: DomainEvalSuite, scores: Sequence[Scored], answers: AnswerFile, variant: str) -> Side:
    """One variant of a run. Scores are those of the suite's own cases.

    A case and its adversarial variants err together, so that counting them as separate cases would feign certainty.
    """
    own = {case.id for case in suite.cases if case.family is None}
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for one in scores:
        if one.variant == variant and one.case in own:
            values[one.metric][one.case] = one.value
    return Side(values, {answer.case: answer for answer in answers.of_variant(variant)})


def against(name: str, suite: DomainEvalSuite, base: Side, other: Side, limits: Limits) -> Against:
    """Two variants side by side: scores, and tokens of all answers, those to adversarial variants included."""
    partings = []
    for case in suite.cases:
        first, second = base.answers.get(case.id), other.answers.get(case.id)
        if first and second and not first.refused and not second.refused:
            temperature = suite.generation.temperature
            partings.append(part(case.id, first.body, second.body, temperature, limits.near_tie_nats))
    return Against(
        variant=name,
        comparisons=tuple(
            compare(spec.metric, base.values.get(spec.metric, {}), other.values.get(spec.metric, {}), limits.margin)
            for spec in suite.scorers
        ),
        partings=tuple(partings),
    )


def compare_runs(first: Path, second: Path, limits: Limits) -> list[Against]:
    """The variants that two runs of one suite share, the second run's against the first's.

    Raises ValueError where the runs asked different things.
    """
    runs = []
    for folder in (first, second):
        plan, suite, answers = read_folder(folder)
        runs.append((plan, suite, answers, score_all(suite, list(answers.answers.values()))))
    (plan, suite, answers, scores), (other_plan, _, other_answers, other_scores) = runs
    if plan.digest != other_plan.digest:
        raise ValueError(f"{first} and {second} asked different things: cases or generation parameters differ")
    names = [one.name for one in plan.variants if one.name in {other.name for other in other_plan.variants}]
    return [
        against(name, suite, side(suite, scores, answers, name), side(suite, other_scores, other_answers, name), limits)
        for name in names
    ]
