"""A server of a sweep's own: its configuration, and what it tells of the times that it keeps."""

from __future__ import annotations

import httpx
import yaml

from deployments.policy.hardware import pairs
from evaluation.load.metrics import by_label, parse_sums

_PACED_STEPS = "outrider_paced_steps_total"
_PREDICTION_ERROR = "outrider_step_prediction_error"


def config_for(pair: str) -> str:
    """The YAML of a server that is paced as on `pair`."""
    paced = {"paced": pair, "num_threads": 1}
    return yaml.safe_dump({"verifier": paced, "drafter": paced})


def describe_pair(pair: str, *, is_virtual: bool) -> str:
    """What a reader must know of figures that no such hardware made."""
    how = "virtual time on cost tables" if is_virtual else "real tokens, steps drawn out to a cost table's time"
    return f"{pair}, {how} ({pairs()[pair].description})"


def kept_time(url: str) -> dict[str, float]:
    """What an endpoint tells of its own times, and nothing where it does not: `late_paced_steps`, the share of paced
    steps and drafts that took longer here than the table allows, and `step_prediction_error`, the router's median error
    about its latest steps.
    """
    try:
        text = httpx.get(f"{url}/metrics", timeout=30).text
    except httpx.TransportError:
        return {}
    found = {}
    outcomes = by_label(text, _PACED_STEPS, "outcome")
    if total := sum(outcomes.values()):
        found["late_paced_steps"] = outcomes.get("late", 0.0) / total
    if (error := parse_sums(text).get(_PREDICTION_ERROR)) is not None:
        found["step_prediction_error"] = error
    return found
