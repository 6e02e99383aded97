"""Server-sent events, and work that ends when its client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from deployments.ingress.errors import ApiError

CLIENT_CLOSED_REQUEST = 499
"""nginx's number; nobody reads it."""
T = TypeVar("T")
Event = dict[str, Any]

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies shall pass events on as they come
]


class ClientGone(Exception):
    """The client has closed the connection; nobody will read an answer."""


def to_event(data: Event) -> bytes:
    """One event as it goes on the wire."""
    return b"data: " + _encode(data) + b"\n\n"


class EventStream(Response):
    """Sends events as they come, then `[DONE]`; takes the place of Starlette's StreamingResponse.

    The status is decided by the first event: if that fails, the response is an ordinary error. A
    later failure becomes a last event `{"error": …}`, without `[DONE]`. A client that leaves ends
    the generator at once, even while it waits for its next event.
    """

    def __init__(self, events: AsyncGenerator[Event, None], to_api_error: Callable[[Exception], ApiError]) -> None:
        super().__init__()
        self._events = events
        self._to_api_error = to_api_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Nobody is there to be told.
        with suppress(ClientGone):
            await until_disconnect(receive, self._run(scope, receive, send))

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events) as events:
            try:
                first = await anext(events)
            except Exception as error:
                await self._to_api_error(error).response()(scope, receive, send)
                return
            await _send(send, {"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            await _send_body(send, to_event(first))
            last = DONE
            try:
                async for event in events:
                    await _send_body(send, to_event(event))
            except ClientGone:
                raise
            except Exception as error:
                last = to_event(self._to_api_error(error).body())
        await _send_body(send, last)
        await _send(send, {"type": "http.response.body", "body": b"", "more_body": False})


async def _send_body(send: Send, body: bytes) -> None:
    await _send(send, {"type": "http.response.body", "body": body, "more_body": True})


async def _send(send: Send, message: Message) -> None:
    try:
        await send(message)
    except OSError as error:
        raise ClientGone from error


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, or cancel it and raise ClientGone as soon as the client closes the connection.

    The request's body must have been read before. `work` has ended when this returns.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for one in (task, watcher):
            one.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
