"""What `outrider top` shows: figures of two readings of the endpoint's /metrics, and of what grew between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from deployments import measures as m
from deployments.measures import PREFIX, Metric

ROLES = ("ingress", "router", "verifier", "drafter")
UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of /metrics, by name and labels, at a time in seconds."""

    values: dict[tuple[str, tuple[tuple[str, str], ...]], float]
    at_s: float

    @classmethod
    def parse(cls, text: str, at_s: float) -> Reading:
        """Read Prometheus' text format; ValueError if it is none, or not an Outrider's."""
        values = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith(PREFIX)
        }
        if not values:
            raise ValueError("no outrider_ metrics in it")
        return cls(values, at_s)

    def sum(self, metric: Metric, suffix: str = "", **labels: str) -> float:
        """A metric's value, added up over the series that have these labels."""
        name = PREFIX + metric.name + ("_total" if metric.kind == "counter" else suffix)
        wanted = set(labels.items())
        return sum(value for (found, has), value in self.values.items() if found == name and wanted <= set(has))

    @property
    def variants(self) -> list[str]:
        """The variants that requests are split among; none where there is no split."""
        found = {value for _, has in self.values for label, value in has if label == "variant"}
        return sorted(found) if found - {m.NO_VARIANT} else []


class Line(NamedTuple):
    """A figure and its name; the text has its unit."""

    name: str
    text: str


class Growth:
    """What lies between two readings. A ratio of nothing to nothing is None."""

    def __init__(self, before: Reading, after: Reading) -> None:
        self._before = before
        self._after = after

    def of(self, metric: Metric, suffix: str = "", **labels: str) -> float:
        """How much a sum has grown; one that shrank has begun anew."""
        now, before = self._after.sum(metric, suffix, **labels), self._before.sum(metric, suffix, **labels)
        return now - before if now >= before else now

    def per_s(self, metric: Metric, suffix: str = "", **labels: str) -> float:
        """The same per second."""
        return self.of(metric, suffix, **labels) / max(1e-3, self._after.at_s - self._before.at_s)

    def mean(self, metric: Metric, **labels: str) -> float | None:
        """Mean of a histogram's observations in between."""
        return _ratio(self.of(metric, "_sum", **labels), self.of(metric, "_count", **labels))

    def ratio(self, part: Metric, whole: Metric, **labels: str) -> float | None:
        """One counter's growth over another's."""
        return _ratio(self.of(part, **labels), self.of(whole, **labels))


def sections(before: Reading, after: Reading) -> dict[str, list[Line]]:
    """The figures of each role, and of speculation."""
    growth = Growth(before, after)
    made = {
        "speculation": _speculation(growth),
        "ingress": _ingress(growth, after),
        "router": _router(growth, after),
        "verifier": _verifier(growth, after),
        "drafter": _drafter(growth, after),
    }
    for role in ROLES:
        made[role].insert(0, Line("replicas", _count(after.sum(m.REPLICAS, role=role))))
    return made | {f"variant {name}": _variant(growth, name) for name in after.variants}


def _variant(growth: Growth, name: str) -> list[Line]:
    """What one variant's requests saw, beside the others'."""
    accepted = growth.ratio(m.ACCEPTED_TOKENS, m.DRAFTS, variant=name)
    return [
        Line("requests/s", _number(growth.per_s(m.FIRST_TOKEN_SECONDS, "_count", variant=name))),
        Line("acceptance", _share(growth.ratio(m.ACCEPTED_TOKENS, m.DRAFT_TOKENS, variant=name))),
        Line("acceptance length", _number(None if accepted is None else 1 + accepted)),
        Line("first token", _ms(growth.mean(m.FIRST_TOKEN_SECONDS, variant=name))),
        Line("per token", _ms(growth.mean(m.PER_TOKEN_SECONDS, variant=name))),
    ]


def _speculation(growth: Growth) -> list[Line]:
    accepted = growth.ratio(m.ACCEPTED_TOKENS, m.DRAFTS)
    return [
        Line("acceptance", _share(growth.ratio(m.ACCEPTED_TOKENS, m.DRAFT_TOKENS))),
        Line("acceptance length", _number(None if accepted is None else 1 + accepted)),
        Line("lookahead", _number(growth.mean(m.LOOKAHEAD))),
        Line("exposed draft", _ms(growth.mean(m.EXPOSED_DRAFT_SECONDS))),
    ]


def _ingress(growth: Growth, now: Reading) -> list[Line]:
    return [
        Line("running", _count(now.sum(m.RUNNING))),
        Line("waiting", _count(now.sum(m.WAITING))),
        Line("tokens/s", _number(growth.per_s(m.GENERATION_TOKENS))),
        Line("first token", _ms(growth.mean(m.FIRST_TOKEN_SECONDS))),
        Line("per token", _ms(growth.mean(m.PER_TOKEN_SECONDS))),
        Line("errors/s", _number(growth.per_s(m.REQUEST_FAILURE))),
    ]


def _router(growth: Growth, now: Reading) -> list[Line]:
    return [
        Line("sessions", _count(now.sum(m.ROUTER_SESSIONS))),
        Line("waiting", _count(now.sum(m.ROUTER_SESSIONS, phase="waiting"))),
        Line("round", _ms(growth.mean(m.ROUND_SECONDS))),
        Line("misses/s", _number(growth.per_s(m.PROPOSAL_MISSES))),
        Line("moves/s", _number(growth.per_s(m.EPOCH_CHANGES))),
    ]


def _verifier(growth: Growth, now: Reading) -> list[Line]:
    return [
        Line("sessions", _count(now.sum(m.VERIFIER_SESSIONS))),
        Line("waiting", _count(now.sum(m.VERIFIER_WAITING))),
        Line("step", _ms(growth.mean(m.STEP_SECONDS))),
        Line("tokens/step", _number(growth.mean(m.STEP_TOKENS))),
        Line("sessions/step", _number(growth.mean(m.STEP_SESSIONS))),
        Line("busy", _share(_ratio(growth.per_s(m.STEP_SECONDS, "_sum"), now.sum(m.REPLICAS, role="verifier")))),
        Line("KV cache", _share(now.sum(m.KV_USAGE))),
    ]


def _drafter(growth: Growth, now: Reading) -> list[Line]:
    return [
        Line("sessions", _count(now.sum(m.DRAFTER_SESSIONS))),
        Line("batch", _ms(growth.mean(m.BATCH_SECONDS))),
        Line("sessions/batch", _number(growth.mean(m.BATCH_SESSIONS))),
        Line("queue", _ms(growth.mean(m.QUEUE_SECONDS))),
        Line("busy", _share(_ratio(growth.per_s(m.BATCH_SECONDS, "_sum"), now.sum(m.REPLICAS, role="drafter")))),
        Line("tokens/s", _number(growth.per_s(m.DRAFTED_TOKENS))),
    ]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _count(value: float) -> str:
    return f"{value:.0f}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f}"


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{100 * value:.0f} %"


def _ms(value_s: float | None) -> str:
    return UNKNOWN if value_s is None else f"{1e3 * value_s:.1f} ms"
