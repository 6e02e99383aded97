"""Reads the endpoint's /metrics, in Prometheus' text format."""

from __future__ import annotations

import re
from collections.abc import Mapping

ROUND_SECONDS = "outrider_round_seconds_sum"
ROUND_COUNT = "outrider_round_seconds_count"
VERIFY_SECONDS = "outrider_round_verify_seconds_total"
RESIDENT_BYTES = "outrider_resident_memory_bytes"
DRAFT_SECONDS = "outrider_round_draft_seconds_total"


def parse_sums(text: str) -> dict[str, float]:
    """Add up every series over its labels; histogram buckets are left out.

    prometheus_client's own parser renames counters after its taste, so that a name asked for is not found again.
    """
    sums: dict[str, float] = {}
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name and not name.startswith("#") and not name.endswith("_bucket"):
            after_labels = line.rpartition("}")[2] if "{" in line else line[len(name) :]
            sums[name] = sums.get(name, 0.0) + float(after_labels.split()[0])
    return sums


def round_overhead_ms(before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    """Mean time per round in which neither verifier nor drafter computed, in ms, between two scrapes.

    A round lasts from verdict to verdict at the router. The figure means something at one session only: with more,
    a model's step serves several rounds at once. None when no round is counted, or the sums are not exported.
    """

    def grown(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    num_rounds = grown(ROUND_COUNT)
    if num_rounds <= 0:
        return None
    return 1000 * (grown(ROUND_SECONDS) - grown(VERIFY_SECONDS) - grown(DRAFT_SECONDS)) / num_rounds


def by_label(text: str, name: str, label: str) -> dict[str, float]:
    """One metric's values added up by one of its labels; empty where it is not exported."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        series, _, value = line.rpartition("}")
        head, _, labels = series.partition("{")
        if head == name and (match := re.search(rf'(?:^|,){label}="([^"]*)"', labels)):
            found[match[1]] = found.get(match[1], 0.0) + float(value.split()[0])
    return found
