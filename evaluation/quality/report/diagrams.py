"""Diagrams as SVG texts, to stand inside an HTML page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from evaluation.quality.extras import load
from evaluation.quality.results import Summary

COLOURS = ("#1b6ca8", "#d1495b", "#3c8d5a", "#8d5a97", "#c98b1d", "#4d4d4d")
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "outrider", "font.family": "sans-serif", "font.size": 10}


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure that belongs to no window, and its axes; inches."""
    figure = load("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def to_svg(figure: Any) -> str:
    """The drawing alone, without the head of an SVG file; the same figure gives the same text."""
    buffer = io.StringIO()
    with load("matplotlib").rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def quality(summaries: Sequence[Summary]) -> str:
    """Mean and interval of every metric, the variants one below the other."""
    metrics = list(dict.fromkeys(one.metric for one in summaries))
    variants = list(dict.fromkeys(one.variant for one in summaries))
    figure, axes = new_figure(8, 0.8 + 0.28 * len(summaries))
    for i, variant in enumerate(variants):
        ones = [one for one in summaries if one.variant == variant]
        middles = [one.all.mean for one in ones]
        rows = [metrics.index(one.metric) + 0.7 * ((i + 0.5) / len(variants) - 0.5) for one in ones]
        errors = [[one.mean - one.low for one in middles], [one.high - one.mean for one in middles]]
        colour = COLOURS[i % len(COLOURS)]
        means = [one.mean for one in middles]
        axes.errorbar(means, rows, xerr=errors, fmt="o", markersize=5, capsize=3, color=colour, label=variant)
    axes.set_yticks(range(len(metrics)), metrics)
    axes.set_ylim(len(metrics) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("mean score, 95 % interval")
    axes.grid(axis="x", alpha=0.3)
    if len(variants) > 1:
        figure.legend(loc="outside right upper", frameon=False)
    return to_svg(figure)
