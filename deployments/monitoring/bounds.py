"""Other bounds of alerts than our defaults: a YAML file by alert, for `outrider dashboards export --bounds`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
import yaml

from deployments.monitoring.rules import ALERTS, Alert


class BoundsError(ValueError):
    """A file of bounds cannot be used; the text names the alert and the field."""


class _Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"lasting": "for"}):
    """What a file may say of one alert; None leaves it as it is."""

    bound: float | None = None
    lasting: Annotated[str, msgspec.Meta(pattern=r"^([0-9]+(ms|[smhdwy]))+$")] | None = None


def read_bounds(file: Path) -> tuple[Alert, ...]:
    """All alerts, with what the file changes: `Name: 0.5`, or `Name: {bound: 0.5, for: 20m}`. Raises BoundsError."""
    try:
        changes = msgspec.convert(yaml.safe_load(file.read_text("utf-8")) or {}, dict[str, float | _Change])
    except (UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise BoundsError(f"{file}: {error}") from error
    names = {alert.name for alert in ALERTS}
    for name in changes:
        if name not in names:
            raise BoundsError(f"{file}: {name}: there is no such alert; there are {', '.join(sorted(names))}")
    return tuple(_changed(file, alert, changes[alert.name]) if alert.name in changes else alert for alert in ALERTS)


def _changed(file: Path, alert: Alert, change: float | _Change) -> Alert:
    change = change if isinstance(change, _Change) else _Change(bound=change)
    bound = alert.bound if change.bound is None else change.bound
    if not math.isfinite(bound):
        raise BoundsError(f"{file}: {alert.name}: bound: {bound} is no bound")
    if alert.operator == "==" and bound != alert.bound:
        raise BoundsError(f"{file}: {alert.name}: bound: it has none to be changed, only `for`")
    return replace(alert, bound=bound, lasting=change.lasting or alert.lasting)
