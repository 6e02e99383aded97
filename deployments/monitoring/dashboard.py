"""Grafana's JSON of the dashboard: schema version 39, which Grafana 11 to 13 take (newer ones migrate it)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deployments.monitoring.expressions import RAY_PREFIX
from deployments.monitoring.panels import ROWS, Panel

UID = "outrider"
TITLE = "Outrider"
_SCHEMA_VERSION = 39
_COLUMNS, _WIDTH, _HEIGHT = 24, 6, 7
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def build() -> dict[str, Any]:
    """The dashboard; without `id` and `version`, which belong to the server that keeps it."""
    return {
        "uid": UID,
        "title": TITLE,
        "description": "Disaggregated speculative decoding: what every role does, from Ray's metrics agents.",
        "tags": ["outrider", "ray"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "schemaVersion": _SCHEMA_VERSION,
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_datasource_variable(), _application_variable()]},
        "annotations": {"list": []},
        "panels": list(_panels()),
    }


def _datasource_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}


def _application_variable() -> dict[str, Any]:
    query = f"label_values({RAY_PREFIX}replicas, application)"
    return {
        "name": "application",
        "label": "Application",
        "type": "query",
        "datasource": _DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "application"},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": False,
        "current": {"text": "All", "value": "$__all"},
        "hide": 0,
    }


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for row in ROWS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": _COLUMNS, "h": 1},
            "panels": [],
        }
        top += 1
        per_line = _COLUMNS // _WIDTH
        for index, panel in enumerate(row.panels):
            number += 1
            place = {"x": index % per_line * _WIDTH, "y": top + index // per_line * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            yield _graph(number, panel, place)
        top += -(-len(row.panels) // per_line) * _HEIGHT


def _graph(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "gridPos": place,
        "datasource": _DATASOURCE,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {"fillOpacity": 8, "lineWidth": 1, "showPoints": "never"},
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "editorMode": "code",
                "expr": query.expression,
                "legendFormat": query.legend,
                "range": True,
            }
            for index, query in enumerate(panel.queries)
        ],
    }
