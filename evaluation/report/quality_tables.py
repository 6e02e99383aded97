"""The report's tables about quality."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from evaluation.quality.adversarial import FamilyFound
from evaluation.quality.aggregates import Aggregate, Interval
from evaluation.quality.paired import Kind
from evaluation.quality.results import Against, Results, Scored, Summary
from evaluation.quality.variants import Variant
from evaluation.report.page import Table

MAX_TEXT_CHARS = 300


def span(interval: Interval) -> str:
    """`mean (low to high)`."""
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def figures(one: Aggregate) -> tuple[str, ...]:
    """The cells of an aggregate."""
    return span(one.mean), f"{one.p10:.3f}", f"{100 * one.fail_rate:.1f} %", str(one.num_cases)


FIGURES = ("mean (95 % interval)", "p10", "fail rate", "cases")


def quality(summaries: Sequence[Summary]) -> Table:
    """Every metric of every variant; averaged details stand below their metric."""
    rows = []
    for one in summaries:
        rows.append((one.metric, one.variant, *figures(one.all)))
        rows += [
            (f"{one.metric}: {name}", one.variant, f"{value:.3f}", "", "", "") for name, value in one.parts.items()
        ]
    return Table(
        ("metric", "variant", *FIGURES),
        tuple(rows),
        "Fail rate: scores below 0.5. p10: the score that one case in ten does not exceed.",
    )


def by_slice(summaries: Sequence[Summary]) -> Table:
    """The same by metadata."""
    return Table(
        ("metric", "variant", "slice", *FIGURES),
        tuple(
            (one.metric, one.variant, name, *figures(part)) for one in summaries for name, part in one.slices.items()
        ),
    )


def verdicts(against: Sequence[Against], margin: float) -> Table:
    """Every metric of every variant against the base."""
    return Table(
        ("variant", "metric", "difference to base (95 % interval)", "differing cases", "cases", "verdict"),
        tuple(
            (
                one.variant,
                found.metric,
                span(found.difference),
                str(found.num_differing),
                str(found.num_cases),
                found.verdict,
            )
            for one in against
            for found in one.comparisons
        ),
        f"Paired by case. Same: the interval lies within ±{margin:g}, from at least {3 / margin:.0f} cases. Better, "
        "worse: it leaves out 0.",
    )


KINDS: tuple[Kind, ...] = ("identical", "near-tie", "bug", "sampled", "unexplained")


def tokens(against: Sequence[Against]) -> Table:
    """How many answers are the base's, token by token, and why others are not."""
    return Table(
        ("variant", *KINDS, "first differences (case: token, lead in nats)"),
        tuple(
            (
                one.variant,
                *(str(sum(found.kind == kind for found in one.partings)) for kind in KINDS),
                _first_differences(one),
            )
            for one in against
        ),
        "Near-tie: the two best tokens are so close that rounding may turn them. Bug: a clear lead was lost. Sampled: "
        "noise decides there, and log-probabilities do not show it. Unexplained: the endpoint gives none.",
    )


def _first_differences(one: Against) -> str:
    parted = [found for found in one.partings if found.position is not None]
    # Bugs first: they are what a reader looks for.
    parted.sort(key=lambda found: (found.kind != "bug", found.case))
    texts = [
        f"{found.case}: {found.position}" + ("" if found.lead is None else f", {found.lead:.2g}")
        for found in parted[:5]
    ]
    return "; ".join(texts) + ("; …" if len(parted) > 5 else "")


def families(found: Sequence[FamilyFound]) -> Table:
    """What adversarial families show."""
    return Table(
        ("metric", "variant", "family", "pass rate", "variants", "consistency", "lost", "won", "memorised"),
        tuple(
            (
                one.metric,
                one.variant,
                one.found.family,
                f"{100 * one.found.pass_rate:.1f} %",
                str(one.found.num_variants),
                f"{100 * one.found.consistency:.1f} %",
                str(len(one.found.lost)),
                str(len(one.found.won)),
                named(one.found.lost) if one.found.is_memorisation else "",
            )
            for one in found
        ),
        "A variant passes with a score of at least 0.5. Consistency: a case and its variant both pass or both fail. "
        "Lost: the case passes, the variant does not; under paraphrase that is memorisation. Won: the reverse.",
    )


def named(ids: Sequence[str]) -> str:
    """The first few, and that there are more."""
    return ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")


def left_out(reasons: Mapping[str, int]) -> Table:
    """Cases of which a family made no variant."""
    return Table(("left out", "cases"), tuple((reason, str(count)) for reason, count in reasons.items()))


def worst(ones: Iterable[Scored], texts: dict[tuple[str, str], tuple[str, str, str]]) -> Table:
    """Cases with the lowest scores; `texts` are input, expected and answer by (case, variant)."""
    rows = []
    for one in ones:
        asked, expected, given = texts[one.case, one.variant]
        details = "; ".join(
            f"{name}: {value}" for name, value in one.details.items() if isinstance(value, str) and value
        )
        cells = (one.case, one.variant, f"{one.value:.2f}", asked, expected, given, details)
        rows.append(tuple(shortened(cell) for cell in cells))
    return Table(("case", "variant", "score", "input", "expected", "answer", "details"), tuple(rows))


def shortened(text: str) -> str:
    """At most MAX_TEXT_CHARS, the end left out."""
    return text if len(text) <= MAX_TEXT_CHARS else text[: MAX_TEXT_CHARS - 1] + "…"


def configuration(results: Results) -> Table:
    """What was asked of whom, on what, by which command."""
    plan = results.plan
    rows = [
        ("suite", f"{plan.suite} (digest {plan.digest})"),
        ("endpoint", plan.url),
        ("model", plan.model or "the endpoint's first"),
        *variant_rows(plan.variants),
        *results.environment.items(),
    ]
    return Table(("", ""), tuple(rows))


def variant_rows(variants: Iterable[Variant]) -> list[tuple[str, str]]:
    """What each variant asks."""
    return [(f"variant {one.name}", _asked(one.to_body(), one.url, one.model)) for one in variants]


def _asked(body: Mapping[str, object], url: str | None, model: str | None) -> str:
    parts = [f"{name} {value}" for name, value in body.items()] + [one for one in (url, model) if one]
    return ", ".join(parts) or "nothing but the suite's own parameters"
