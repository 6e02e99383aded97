"""The longest that a request may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from deployments.ingress.errors import ApiError

T = TypeVar("T")


async def within(max_request_s: float, parts: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same parts; ApiError (504) once they have taken longer than this in all, the reader's own time included."""
    deadline_s = asyncio.get_running_loop().time() + max_request_s
    async with aclosing(parts):
        while True:
            timeout = asyncio.timeout_at(deadline_s)
            try:
                async with timeout:
                    part = await anext(parts)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if not timeout.expired():
                    raise
                message = f"The answer took longer than {max_request_s:g} s; ask for fewer tokens."
                raise ApiError(504, message, kind="timeout_error", param="max_tokens", code="request_timeout") from None
            yield part
