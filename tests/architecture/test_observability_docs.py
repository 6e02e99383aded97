"""docs/observability.md has every metric, and every metric that the documents name exists."""

from __future__ import annotations

import re
from pathlib import Path

from deployments.measures import CATALOGUE, Metric
from deployments.monitoring import rules
from deployments.monitoring.panels import ROWS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "observability.md"


def row(metric: Metric) -> tuple[str, str, tuple[str, ...], str]:
    name = metric.name + ("_total" if metric.kind == "counter" else "")
    return name, metric.kind, metric.labels, metric.text


def rows(text: str) -> list[tuple[str, str, tuple[str, ...], str]]:
    table = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?)\| (.*) \|$", text, flags=re.MULTILINE)
    return [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in table]


def test_the_table_is_the_catalogue() -> None:
    assert rows(DOCUMENT.read_text("utf-8")) == [row(metric) for metric in CATALOGUE.values()]


def test_every_metric_is_used_somewhere_in_the_code() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "deployments").rglob("*.py"))
    constants = re.findall(r"^([A-Z_]+) = _(?:counter|gauge|histogram)\(", source, flags=re.MULTILINE)
    assert len(constants) == len(CATALOGUE)
    assert [name for name in constants if f"measures.{name}" not in source] == []


def test_every_alert_is_explained_and_no_other() -> None:
    explained = re.findall(r"^### (Outrider\w+)$", DOCUMENT.read_text("utf-8"), flags=re.MULTILINE)
    assert explained == [alert.name for alert in rules.ALERTS]


def test_every_bound_is_in_the_table() -> None:
    text = DOCUMENT.read_text("utf-8")
    found = re.findall(r"^\| (Outrider\w+) \| `(\S+) (\S+)` \| (\w+) \| (\w+) \|$", text, flags=re.MULTILINE)
    alerts = [(a.name, a.operator, f"{a.bound:g}", a.lasting, a.severity) for a in rules.ALERTS]
    assert found == alerts


def test_every_metric_is_shown_somewhere() -> None:
    """A metric that no panel and no alert reads had better not be counted."""
    expressions = [query.expression for row in ROWS for panel in row.panels for query in panel.queries]
    expressions += [alert.expression for alert in rules.ALERTS]
    used = " ".join(expressions)
    assert [name for name in CATALOGUE if f"ray_outrider_{name}" not in used] == []
