"""Reading a request's body, however it is sent, within bounds of size and time."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from deployments.ingress.context import ApiLimits
from deployments.ingress.errors import ApiError
from deployments.ingress.sse import CLIENT_CLOSED_REQUEST


def check_announced(headers: Headers, max_bytes: int) -> None:
    """ApiError for a body that says itself that it is too large."""
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)


async def read_body(request: Request, limits: ApiLimits) -> bytes:
    """The whole body; ApiError as soon as it is known to be too large, when it does not come in time or is no JSON.

    One that does not say what it is may be JSON.
    """
    most = limits.max_body_bytes
    body = bytearray()
    try:
        async with asyncio.timeout(limits.max_body_s):
            async for part in request.stream():
                body += part
                if len(body) > most:  # a chunked body announces nothing
                    raise _too_large(most)
    except TimeoutError:
        message = f"The body did not arrive within {limits.max_body_s:g} s; send the request again."
        raise ApiError(408, message, code="request_timeout") from None
    except ClientDisconnect:
        raise ApiError(CLIENT_CLOSED_REQUEST, "The client has left before its request was read.") from None
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):  # once it is read: the connection lives on
        message = f"The body's Content-Type is {kind[:64]!r}; send JSON, with Content-Type: application/json."
        raise ApiError(415, message, code="unsupported_media_type")
    return bytes(body)


def _too_large(max_bytes: int) -> ApiError:
    message = f"The body is larger than {max_bytes} bytes; send a shorter prompt."
    return ApiError(413, message, code="request_too_large")
