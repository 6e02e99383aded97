"""A server of a sweep's own: its configuration, and how well it kept the time of the hardware that it stands in for."""

from __future__ import annotations

import httpx
import yaml

from deployments.policy.hardware import pairs
from evaluation.load.metrics import by_label

_PACED_STEPS = "outrider_paced_steps_total"


def config_for(pair: str | None) -> str:
    """The YAML of a server to be measured, paced as on `pair` if there is one.

    It has no prefix reuse: a prompt that comes again must cost what it cost at first.
    """
    paced = {} if pair is None else {"paced": pair, "num_threads": 1}
    return yaml.safe_dump({"verifier": {"prefix_reuse": False, **paced}, **({"drafter": paced} if paced else {})})


def describe_pair(pair: str, *, is_virtual: bool) -> str:
    """What a reader must know of figures that no such hardware made."""
    how = "virtual time on cost tables" if is_virtual else "real tokens, steps drawn out to a cost table's time"
    return f"{pair}, {how} ({pairs()[pair].description})"


def late_share(url: str) -> float | None:
    """The share of paced steps and drafts that took longer here than the table allows; None if nothing tells."""
    try:
        outcomes = by_label(httpx.get(f"{url}/metrics", timeout=30).text, _PACED_STEPS, "outcome")
    except httpx.TransportError:
        return None
    total = sum(outcomes.values())
    return outcomes.get("late", 0.0) / total if total else None
