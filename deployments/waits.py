"""How a loop that has work to do waits a little for more of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress


async def wait_for_more(arrived: asyncio.Event, wait_ms: float) -> None:
    """Return when something arrives, after `wait_ms` at the latest.

    The event is set then in any case: what was there before is still to be done.
    """
    arrived.clear()
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_ms / 1e3):
            await arrived.wait()
    arrived.set()
