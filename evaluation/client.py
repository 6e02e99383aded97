"""A client of any OpenAI-compatible endpoint: deadlines on every wait, and retries where an endpoint asks for them."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

BUSY = frozenset({429, 500, 502, 503, 504})
"""What another attempt may mend; any other error is the request's own."""
MAX_WAIT_S = 60.0
FIRST_WAIT_S = 0.5


class EndpointError(RuntimeError):
    """The endpoint cannot be reached, stays busy, or does not speak the API."""


class RefusedError(RuntimeError):
    """The endpoint refuses this request: asking again would not help. The text says status and reason."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long one request may take, how often it is made, and how to wait between."""

    timeout_s: float = 300.0
    num_attempts: int = 6
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep)


def base_url(url: str) -> str:
    """The address without the `/v1` that OpenAI's own clients want; raises EndpointError if it is none."""
    plain = url.rstrip("/").removesuffix("/v1")
    try:
        parsed = httpx.URL(plain)
    except httpx.InvalidURL as error:
        raise EndpointError(f"{url!r} is not an address: {error}") from error
    if parsed.port is not None and not 1 <= parsed.port <= 65_535:
        raise EndpointError(f"{url!r} is not an address: no port is {parsed.port}")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise EndpointError(f"{url!r} is not an http address")
    return plain


def headers(api_key: str | None) -> dict[str, str]:
    """The key as a bearer token, if there is one; raises EndpointError if no header can carry it."""
    if api_key and not (api_key.isascii() and api_key.isprintable()):
        raise EndpointError("the API key has characters that no HTTP header carries: is it a key?")
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


async def post(client: httpx.AsyncClient, url: str, body: dict[str, Any], patience: Patience) -> dict[str, Any]:
    """Ask until there is an answer. Raises RefusedError or EndpointError."""
    for attempt in range(1, patience.num_attempts + 1):
        wait_s = min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1))
        try:
            async with asyncio.timeout(patience.timeout_s):
                response = await client.post(url, json=body, timeout=patience.timeout_s)
        except (httpx.TransportError, TimeoutError) as error:
            problem = f"no answer within {patience.timeout_s:g} s" if isinstance(error, TimeoutError) else repr(error)
        else:
            if response.status_code == httpx.codes.OK:
                return read_object(response, url)
            if response.status_code not in BUSY:
                raise RefusedError(response.status_code, error_text(response))
            problem = f"{response.status_code}: {error_text(response)}"
            wait_s = retry_after_s(response, wait_s)
        if attempt < patience.num_attempts:
            await patience.sleep(wait_s)
    raise EndpointError(f"{url}: {problem} (after {patience.num_attempts} attempts)")


def read_object(response: httpx.Response, url: str) -> dict[str, Any]:
    """The body as a JSON object."""
    try:
        body = response.json()
    except ValueError as error:
        raise EndpointError(f"{url}: the answer is not JSON: {response.text[:200]!r}") from error
    if not isinstance(body, dict):
        raise EndpointError(f"{url}: the answer is not an object: {response.text[:200]!r}")
    return body


def retry_after_s(response: httpx.Response, otherwise: float) -> float:
    """The wait that Retry-After asks for, in seconds or as a date; at most MAX_WAIT_S."""
    text = response.headers.get("retry-after", "")
    try:
        wait_s = float(text)
    except ValueError:
        try:
            at = email.utils.parsedate_to_datetime(text)
        except ValueError:
            return otherwise
        wait_s = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    # `not >=` rather than `<`: a NaN is no wait either.
    return otherwise if not wait_s >= 0 else min(MAX_WAIT_S, wait_s)


def error_text(response: httpx.Response) -> str:
    """What the endpoint says is wrong, in OpenAI's shape or another."""
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:500]
    except (ValueError, LookupError, TypeError):
        return response.text[:500]


async def first_model(client: httpx.AsyncClient, url: str, patience: Patience) -> str:
    """The first model that the endpoint lists. Raises EndpointError."""
    deadline_s = time.monotonic() + patience.timeout_s
    try:
        response = await client.get(f"{url}/v1/models", timeout=min(30.0, deadline_s - time.monotonic()))
    except httpx.TransportError as error:
        raise EndpointError(f"nothing answers at {url}: {error!r}") from error
    if response.status_code != httpx.codes.OK:
        raise EndpointError(f"{url}/v1/models: {response.status_code}: {error_text(response)}")
    try:
        return str(read_object(response, url)["data"][0]["id"])
    except (LookupError, TypeError) as error:
        raise EndpointError(f"{url}/v1/models names no model: {response.text[:200]}") from error
