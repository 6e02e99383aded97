"""Slots one by one, of the spans that block tables name."""

from __future__ import annotations

from deployments.messages import SessionId
from deployments.paged.kv_cache import BlockTables


def slots(tables: BlockTables, session: SessionId, start: int, stop: int) -> list[int]:
    """The slots of positions [start, stop)."""
    return _each(tables.spans(session, start, stop))


def sliding_slots(tables: BlockTables, session: SessionId, start: int, stop: int) -> list[int]:
    """The same in the pools of sliding layers."""
    return _each(tables.sliding_spans(session, start, stop))


def _each(spans: list[slice]) -> list[int]:
    return [slot for span in spans for slot in range(span.start, span.stop)]
