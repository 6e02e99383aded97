"""An x-request-id on every response, and a last resort for what no handler expected."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.ingress.errors import current_request_id

_MAX_ID_CHARS = 256


class RequestIdMiddleware:
    """Echoes the client's x-request-id, or makes one; plain ASGI, since a wrapped body would hide disconnects.

    `has_proxy` means that whoever stands in front has put the id into the request and adds it to the response.
    """

    def __init__(self, app: ASGIApp, on_crash: Callable[[Exception], Response], *, has_proxy: bool = False) -> None:
        self._app = app
        self._on_crash = on_crash
        self._has_proxy = has_proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _usable(Headers(scope=scope).get("x-request-id")) or uuid.uuid4().hex
        current_request_id.set(request_id)
        is_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                if not self._has_proxy:
                    MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if is_started:  # too late for a status: the server breaks the connection, which clients notice
                self._on_crash(error)
                raise ConnectionAbortedError("the response could not be finished") from None
            await self._on_crash(error)(scope, receive, send_with_id)


def _usable(request_id: str | None) -> str | None:
    if request_id is None or not request_id.isascii() or not request_id.isprintable():
        return None
    return request_id if 0 < len(request_id) <= _MAX_ID_CHARS else None
