"""One streamed request of a sweep, with the time of every chunk."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from evaluation.client import EndpointError
from evaluation.load.endpoint import Served, histogram_of, request_of, speculation_of, tells_speculation
from evaluation.load.sweep_records import Lookahead, Trace
from evaluation.pocket.records import Example

_NO_ROOM = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class Target:
    """The endpoint under test, and how every request of the sweep is asked there."""

    url: str
    served: Served
    max_tokens: int
    headers: Mapping[str, str]

    def client(self, max_connections: int) -> httpx.AsyncClient:
        """Connections for one cell; the sweep's own deadlines bound every wait."""
        limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
        return httpx.AsyncClient(base_url=self.url, headers=dict(self.headers), limits=limits, timeout=None)


async def stream(
    client: httpx.AsyncClient, target: Target, example: Example, lookahead: Lookahead, trace: Trace
) -> None:
    """Ask for one answer and write into `trace` what comes, as it comes.

    An endpoint without room (429, 503) is part of the measurement; every other error is an EndpointError.
    """
    path, body = request_of(example, target.served, target.max_tokens)
    if lookahead != "auto":
        body["speculation"] = {"num_speculative_tokens": lookahead}
    await follow(client, target.url, (path, body), trace)


async def follow(client: httpx.AsyncClient, url: str, asked: tuple[str, dict[str, Any]], trace: Trace) -> None:
    """The same for any request, of which `asked` is path and body."""
    path, body = asked
    body = {**body, "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    try:
        async with client.stream("POST", f"{url}{path}", json=body) as response:
            if response.status_code in _NO_ROOM:
                trace.has_failed = True
            elif response.status_code != httpx.codes.OK:
                text = (await response.aread()).decode(errors="replace")
                raise EndpointError(f"{url} answered {response.status_code}: {text[:500]}")
            else:
                async for line in response.aiter_lines():
                    _take(url, line, trace)
    except httpx.TransportError as error:
        raise EndpointError(f"{url}: {error!r}") from error
    if not trace.is_done and not trace.has_failed:
        raise EndpointError(f"{url} ended an answer without [DONE]")


def _take(url: str, line: str, trace: Trace) -> None:
    if not line.startswith("data: "):
        return
    if line == "data: [DONE]":
        trace.is_done = True
        return
    try:
        chunk: dict[str, Any] = json.loads(line[6:])
    except ValueError as error:
        raise EndpointError(f"{url}: an event is no JSON: {line[:200]}") from error
    if "error" in chunk:
        raise EndpointError(f"{url}: {str(chunk['error'])[:500]}")
    usage = chunk.get("usage") or {}
    trace.num_prompt_tokens = usage.get("prompt_tokens", trace.num_prompt_tokens)
    has_text = any(_text_of(choice) for choice in chunk.get("choices", ()))
    trace.take(time.perf_counter(), has_text, usage.get("completion_tokens"))
    trace.is_told = trace.is_told or tells_speculation(chunk)
    num_rounds, num_accepted = speculation_of(chunk)
    trace.num_rounds += num_rounds
    trace.num_accepted_tokens += num_accepted
    for i, count in enumerate(histogram_of(chunk) if num_rounds else ()):
        trace.histogram[i] = trace.histogram.get(i, 0) + count


def _text_of(choice: dict[str, Any]) -> str:
    return (choice.get("delta") or {}).get("content") or choice.get("text") or ""
