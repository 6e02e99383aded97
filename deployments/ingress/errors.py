"""Errors as the OpenAI API shapes them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
import math
from contextvars import ContextVar
from typing import Any

from starlette.responses import JSONResponse

logger = logging.getLogger("outrider.ingress")
current_request_id: ContextVar[str] = ContextVar("current_request_id", default="-")


class ApiError(Exception):
    """A request that ends with an HTTP error; the message tells the caller how to fix it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """What the client reads, in a response or in an event of a stream."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole HTTP response."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        return JSONResponse(self.body(), status_code=self.status, headers=headers)


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    """A 400 that names the parameter."""
    return ApiError(400, message, param=param, code=code)


def context_length_exceeded(param: str, message: str) -> ApiError:
    """A 400 for a prompt, or a prompt and its wanted output, that do not fit the model."""
    return invalid(param, message, "context_length_exceeded")


def overloaded(detail: str, retry_after_s: float) -> ApiError:
    """A 429: everything runs, and is full."""
    message = f"The service is at capacity ({detail}); send the request again after the time in Retry-After."
    return ApiError(429, message, kind="rate_limit_error", code="overloaded", retry_after_s=retry_after_s)


def unavailable(detail: str, retry_after_s: float) -> ApiError:
    """A 503: nothing is there to serve the request at the moment."""
    message = f"The service cannot take requests at the moment ({detail}); send the request again shortly."
    return ApiError(503, message, kind="service_unavailable_error", code="unavailable", retry_after_s=retry_after_s)


def internal() -> ApiError:
    """A 500 that tells nothing of the inside; the log has it, under the same request id."""
    message = "The server failed on this request; the x-request-id header finds it in the server's log."
    return ApiError(500, message, kind="server_error", code="internal_error")


def as_api_error(error: Exception) -> ApiError:
    """The error a client may see; what it may not see is logged here."""
    if isinstance(error, ApiError):
        return error
    logger.error("request %s failed unexpectedly", current_request_id.get(), exc_info=error)
    return internal()
