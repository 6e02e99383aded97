"""The plot of a ramp: load, replicas, speed and latency over one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_BIN_S = 5.0


def plot(record: dict[str, Any], file: Path) -> None:
    """Write a PNG of a record as `run` returns it; needs matplotlib, which is in the development extra."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (load, replicas, speed, latency) = pyplot.subplots(4, 1, sharex=True, figsize=(9, 10))
    times = [point[0] for point in record["in_flight"]]
    load.step(times, [point[2] for point in record["in_flight"]], where="post", label="streams in flight")
    load.set_ylabel("streams")
    for role, colour in (("verifier", "tab:red"), ("drafter", "tab:blue")):
        moments, running, known = states(record["replicas"], role)
        replicas.step(moments, known, where="post", color=colour, alpha=0.4, linestyle=":")
        replicas.step(moments, running, where="post", color=colour, label=f"{role}s running")
    replicas.set_ylabel("replicas (dotted: with those\nthat start or drain)")
    edges, rates, firsts = binned(record["answers"])
    speed.step(edges, rates, where="post", label="tokens per second")
    speed.set_ylabel("tokens/s")
    latency.plot(edges, firsts, ".-", label="time to first token, median")
    latency.set_ylabel("seconds")
    latency.set_xlabel("seconds")
    for axes in (load, replicas, speed, latency):
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right")
        axes.grid(alpha=0.3)
    options, summary = record["options"], record["summary"]
    load.set_title(
        f"Paced as on {options['hardware']}: real tokens, not real speed. {summary['num_requests']} requests, "
        f"{summary['num_lost']} lost, {summary['num_changed']} changed"
    )
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def states(told: Sequence[dict[str, Any]], role: str) -> tuple[list[float], list[int], list[int]]:
    """When it was told, and how many replicas of a role were running then, and there at all."""
    moments = [one["time_s"] for one in told]
    found = [one["replicas"].get(role, {}) for one in told]
    return moments, [one.get("RUNNING", 0) for one in found], [sum(one.values()) for one in found]


def binned(answers: Sequence[dict[str, Any]]) -> tuple[list[float], list[float], list[float]]:
    """By stretches of time: its beginning, tokens per second, median time to the first token of what began in it."""
    num_bins = int(max((answer["end_s"] for answer in answers), default=0.0) / _BIN_S) + 1
    rates, firsts = [0.0] * num_bins, [float("nan")] * num_bins
    for index in range(num_bins):
        begin_s, end_s = index * _BIN_S, (index + 1) * _BIN_S
        for answer in answers:
            length_s = max(1e-6, answer["end_s"] - answer["first_s"])
            shared_s = max(0.0, min(end_s, answer["end_s"]) - max(begin_s, answer["first_s"]))
            rates[index] += answer["num_tokens"] * shared_s / length_s / _BIN_S
        waits = sorted(a["first_s"] - a["begun_s"] for a in answers if begin_s <= a["begun_s"] < end_s)
        if waits:
            firsts[index] = waits[len(waits) // 2]
    return [index * _BIN_S for index in range(num_bins)], rates, firsts
