"""The first thing that sees a request: who asks, and is there room? Only then is anything of its body read."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.ingress.access import Access
from deployments.ingress.admission import Admission, Ticket
from deployments.ingress.body import check_announced
from deployments.ingress.errors import ApiError

MAX_HEAD_BYTES = 32 << 10
_TICKET = "outrider.ticket"


class FrontDoor:
    """Gives every POST a ticket, closed when its response has been sent or its client has left.

    Plain ASGI, so that this holds for streams as well; raises ApiError for who may not come in.
    """

    def __init__(self, app: ASGIApp, access: Access, admission: Admission, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._access = access
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _head_bytes(scope) > MAX_HEAD_BYTES:
            message = f"Path and headers are larger than {MAX_HEAD_BYTES} bytes; send fewer or shorter ones."
            raise ApiError(431, message, code="request_header_fields_too_large")
        headers = Headers(scope=scope)
        tenant = self._access.tenant_of(scope["path"], headers)
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        # Before there is any talk of room: to send such a body again will never help.
        check_announced(headers, self._max_body_bytes)
        ticket = scope[_TICKET] = self._admission.enter(tenant)
        is_refused = False

        async def watch_status(message: Message) -> None:
            nonlocal is_refused
            if message["type"] == "http.response.start":
                is_refused = message["status"] != 200
            await send(message)

        try:
            await self._app(scope, receive, watch_status)
        finally:
            ticket.close(is_refused=is_refused)


def ticket_of(request: Request) -> Ticket:
    """The ticket that the front door gave to a POST."""
    ticket = request.scope[_TICKET]
    assert isinstance(ticket, Ticket)
    return ticket


def _head_bytes(scope: Scope) -> int:
    target = len(scope.get("raw_path") or scope["path"]) + len(scope.get("query_string", b""))
    return target + sum(len(name) + len(value) for name, value in scope["headers"])
