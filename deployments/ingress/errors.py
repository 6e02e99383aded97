"""Errors as the OpenAI API shapes them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
import math
import traceback
from contextvars import ContextVar
from typing import Any

from starlette.responses import JSONResponse

_UNREAD = (401, 408, 413, 431)
"""The rest of such a request is not waited for: whoever sends it may never stop."""
_MAX_MESSAGE_CHARS = 4000
_MAX_PARAM_CHARS = 256
logger = logging.getLogger("outrider.ingress")
current_request_id: ContextVar[str] = ContextVar("current_request_id", default="-")


class ApiError(Exception):
    """A request that ends with an HTTP error; the message tells the caller how to fix it.

    What it quotes of the request may be long, and goes to the log as well: both texts are cut.
    """

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
        self.message = _clipped(message, _MAX_MESSAGE_CHARS)
        self.kind = kind
        self.param = None if param is None else _clipped(param, _MAX_PARAM_CHARS)
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """What the client reads, in a response or in an event of a stream."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole HTTP response."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.status in _UNREAD:
            headers["Connection"] = "close"
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        return JSONResponse(self.body(), status_code=self.status, headers=headers)


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    """A 400 that names the parameter."""
    return ApiError(400, message, param=param, code=code)


def context_length_exceeded(param: str, message: str) -> ApiError:
    """A 400 for a prompt, or a prompt and its wanted output, that do not fit the model."""
    return invalid(param, message, "context_length_exceeded")


def not_authenticated(message: str) -> ApiError:
    """A 401: nobody knows who asks."""
    return ApiError(401, message, kind="authentication_error", code="invalid_api_key")


def not_allowed(param: str, message: str) -> ApiError:
    """A 403 that names what this tenant may not have."""
    code = "model_not_allowed" if param == "model" else "parameter_not_allowed"
    return ApiError(403, message, kind="permission_error", param=param, code=code)


def rate_limited(detail: str, retry_after_s: float) -> ApiError:
    """A 429: this tenant has what it may have; others are served."""
    message = f"A limit of this API key is reached ({detail}); send the request again after the time in Retry-After."
    return ApiError(429, message, kind="rate_limit_error", code="rate_limit_exceeded", retry_after_s=retry_after_s)


def overloaded(detail: str, retry_after_s: float) -> ApiError:
    """A 503: everything runs, and is full."""
    message = f"The service is at capacity ({detail}); send the request again after the time in Retry-After."
    return ApiError(503, message, kind="service_unavailable_error", code="overloaded", retry_after_s=retry_after_s)


def unavailable(detail: str, retry_after_s: float) -> ApiError:
    """A 503: nothing is there to serve the request at the moment."""
    message = f"The service cannot take requests at the moment ({detail}); send the request again shortly."
    return ApiError(503, message, kind="service_unavailable_error", code="unavailable", retry_after_s=retry_after_s)


def internal() -> ApiError:
    """A 500 that tells nothing of the inside; the log has it, under the same request id."""
    message = "The server failed on this request; the x-request-id header finds it in the server's log."
    return ApiError(500, message, kind="server_error", code="internal_error")


def as_api_error(error: Exception) -> ApiError:
    """The error a client may see; where the others came from is logged here."""
    if isinstance(error, ApiError):
        return error
    logger.error("request %s failed unexpectedly: %s", current_request_id.get(), _origin(error))
    return internal()


def _origin(error: BaseException) -> str:
    """Kinds of error and lines of code, without what the error says: that may quote a prompt or an output."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" for frame in frames]
    text = "\n".join([type(error).__qualname__, *lines])
    earlier = error.__cause__ or error.__context__
    return text if earlier is None else f"{text}\nwhile handling {_origin(earlier)}"
