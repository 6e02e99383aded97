"""What an endpoint's /metrics says: figures of other replicas than the ingress that answers are a second or two old."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import httpx

from tests.support.serve_process import Server

TIMEOUT_S = 120.0
"""How long a figure may take to become what it must: reports are late where other processes have the machine."""


async def metric(server: Server, name: str, **labels: str) -> float:
    """The sum of a metric's series that have these labels; AssertionError if there are none."""
    values = await _values(server, name, labels)
    assert values, f"no {name} with {labels}"
    return sum(values)


async def wait_for_metric(
    server: Server, name: str, is_wanted: Callable[[float], bool] = lambda value: True, **labels: str
) -> float:
    """The metric, once somebody has reported it and it is what is wanted; AssertionError with what it was at last."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + TIMEOUT_S
    while True:
        values = await _values(server, name, labels)
        if values and is_wanted(sum(values)):
            return sum(values)
        assert loop.time() < deadline_s, f"{name} with {labels} is still {values} after {TIMEOUT_S} s"
        await asyncio.sleep(0.2)


async def _values(server: Server, name: str, labels: dict[str, str]) -> list[float]:
    async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S) as http:
        text = (await http.get("/metrics")).text
    found = re.findall(rf"^{name}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
    return [float(value) for said, value in found if all(f'{key}="{want}"' in said for key, want in labels.items())]
