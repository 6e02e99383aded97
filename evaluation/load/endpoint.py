"""The system under test: an OpenAI endpoint, as its clients see it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from evaluation.client import EndpointError
from evaluation.load.metrics import parse_sums, round_overhead_ms
from evaluation.load.samples import Sample
from evaluation.pocket.records import Example

REQUEST_TIMEOUT_S = 300.0
_SALTED = ("outrider", "vllm")
"""Owners of models, as /v1/models names them, whose endpoints know `cache_salt`; another might refuse it."""
SETTLE_S = 1.5
"""Routers report their sums to the ingress once a second: wait this long before reading them."""


@dataclass(frozen=True, slots=True)
class Served:
    """What an endpoint lists first, and whether it knows `cache_salt`."""

    model: str
    has_salts: bool = False

    def fields(self) -> dict[str, str]:
        """What every request names: the model, and a salt of its own, so that none finds its prompt read by another.

        The same prompts come once for every setting; whoever came first would have read them for the rest.
        """
        salt = {"cache_salt": secrets.token_hex(8)} if self.has_salts else {}
        return {"model": self.model, **salt}


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion: its text, and what the usage and the speculation metrics say about it."""

    text: str
    num_tokens: int
    num_rounds: int
    num_accepted_tokens: int


@dataclass(frozen=True, slots=True)
class EndpointSystem:
    """An endpoint at `url`, with the lookahead asked for per request (None leaves it to the endpoint).

    `scrapes` says whether single-stream runs read /metrics for the time per round outside the models.
    """

    name: str
    url: str
    served: Served
    num_speculative_tokens: int | None = None
    scrapes: bool = False
    max_streams: int = 1 << 20

    def measure(self, examples: Sequence[Example], num_streams: int, max_tokens: int) -> Sample:
        """Keep `num_streams` requests in flight until all examples are answered."""
        return asyncio.run(self._measure(examples, num_streams, max_tokens))

    async def _measure(self, examples: Sequence[Example], num_streams: int, max_tokens: int) -> Sample:
        limits = httpx.Limits(max_connections=num_streams + 1)
        async with httpx.AsyncClient(base_url=self.url, timeout=REQUEST_TIMEOUT_S, limits=limits) as client:
            has_overhead = self.scrapes and num_streams == 1
            before = await self._settled_sums(client) if has_overhead else {}
            started = time.perf_counter()
            answers = await self._answer_all(client, examples, num_streams, max_tokens)
            wall_s = time.perf_counter() - started
            after = await self._settled_sums(client) if has_overhead else {}
        return Sample(
            num_tokens=sum(answer.num_tokens for answer in answers),
            wall_s=wall_s,
            num_rounds=sum(answer.num_rounds for answer in answers),
            num_accepted_tokens=sum(answer.num_accepted_tokens for answer in answers),
            overhead_ms=round_overhead_ms(before, after) if has_overhead else None,
            texts=tuple(answer.text for answer in answers),
        )

    async def _answer_all(
        self, client: httpx.AsyncClient, examples: Sequence[Example], num_streams: int, max_tokens: int
    ) -> list[Answer]:
        answers: dict[int, Answer] = {}
        queue = iter(enumerate(examples))

        async def stream() -> None:
            for index, example in queue:
                answers[index] = await self._answer(client, example, max_tokens)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(num_streams):
                    group.create_task(stream())
        except ExceptionGroup as errors:
            # One stream's error stops the others; several at once have one cause.
            raise errors.exceptions[0] from None
        return [answers[index] for index in range(len(examples))]

    async def _answer(self, client: httpx.AsyncClient, example: Example, max_tokens: int) -> Answer:
        path, body = request_of(example, self.served, max_tokens)
        if self.num_speculative_tokens is not None:
            body["speculation"] = {"num_speculative_tokens": self.num_speculative_tokens}
        try:
            response = await client.post(path, json=body)
        except httpx.TransportError as error:
            raise EndpointError(f"{self.url}: {error!r}") from error
        if response.status_code != httpx.codes.OK:
            raise EndpointError(f"{self.url} answered {response.status_code}: {response.text[:500]}")
        return read_answer(response.json())

    async def _settled_sums(self, client: httpx.AsyncClient) -> dict[str, float]:
        await asyncio.sleep(SETTLE_S)
        response = await client.get("/metrics")
        return parse_sums(response.text) if response.status_code == httpx.codes.OK else {}


def request_of(example: Example, served: Served, max_tokens: int) -> tuple[str, dict[str, Any]]:
    """The path and the body that ask for a greedy answer to an example."""
    body: dict[str, Any] = {**served.fields(), "max_tokens": max_tokens, "temperature": 0}
    if example.prompt_messages:
        return "/v1/chat/completions", {**body, "messages": example.prompt_messages}
    return "/v1/completions", {**body, "prompt": example.raw_prompt}


def read_answer(body: dict[str, Any]) -> Answer:
    """Take from a completion or chat completion what the bench counts."""
    try:
        choice = body["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        num_tokens = body["usage"]["completion_tokens"]
    except (KeyError, IndexError, TypeError) as error:
        raise EndpointError(f"not a completion: {str(body)[:500]}") from error
    num_rounds, num_accepted_tokens = speculation_of(body)
    return Answer(text or "", num_tokens, num_rounds, num_accepted_tokens)


def speculation_of(body: dict[str, Any]) -> tuple[int, int]:
    """Rounds with a proposal and accepted tokens, as a response or the last chunk of one tells them."""
    speculation = (body.get("metrics") or {}).get("speculative_decoding") or {}
    # A round without a proposal is a plain decoding step, and no measure of the drafter.
    if not speculation.get("num_draft_tokens", 0):
        return 0, 0
    return speculation.get("num_spec_steps", 0), speculation.get("num_accepted_draft_tokens", 0)


def tells_speculation(body: dict[str, Any]) -> bool:
    """Whether a response, or one chunk of one, says what speculation did, be it nothing."""
    return bool((body.get("metrics") or {}).get("speculative_decoding"))


def histogram_of(body: dict[str, Any]) -> list[int]:
    """How many rounds accepted so many drafted tokens, by that number; empty where the endpoint does not tell."""
    return ((body.get("metrics") or {}).get("speculative_decoding") or {}).get("acceptance_histogram") or []


def served_model(url: str, headers: Mapping[str, str] | None = None) -> Served:
    """The first model that the endpoint lists."""
    try:
        response = httpx.get(f"{url}/v1/models", timeout=30, headers=headers)
        response.raise_for_status()
        first = response.json()["data"][0]
        return Served(str(first["id"]), has_salts=first.get("owned_by") in _SALTED)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, AttributeError, LookupError) as error:
        raise EndpointError(f"{url}/v1/models names no model: {error!r}") from error
