"""What the REST tests share: a client that generates what it is told, and a context around it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

from deployments.ingress.context import ApiLimits, IngressContext, load_context
from deployments.ingress.generation import GenerateRequest, GenerationClient
from deployments.messages import Commit, FinishReason, Token, TokenLogprobs
from tests.support.tiny_tokenizer import write_model_folder

MODEL = "tiny"
ANSWER = "zebras graze 🙂 behind quartz walls."
HELLO = [{"role": "user", "content": "hello"}]
CHAT = {"model": MODEL, "messages": HELLO}
COMPLETION = {"model": MODEL, "prompt": "the quick"}


def commits_of(
    request: str, start: int, tokens: Sequence[Token], bunches: Sequence[int], finish_reason: FinishReason = "stop"
) -> Iterator[Commit]:
    """The tokens as commits of the given sizes; every commit but the first accepted all but its last token."""
    at = 0
    sizes = list(bunches)
    while at < len(tokens):
        size = sizes.pop(0) if sizes else 1
        taken = tuple(tokens[at : at + size])
        is_last = at + size >= len(tokens)
        yield Commit(
            request=request,
            context_len=start + at,
            tokens=taken,
            num_drafted=0 if at == 0 else 3,
            num_accepted=0 if at == 0 else min(3, len(taken) - 1),
            finish_reason=finish_reason if is_last else None,
        )
        at += size


@dataclass(eq=False)
class ScriptedClient:
    """Generates `tokens` for every request, then raises `error` or waits for ever if it is told to.

    Log-probabilities are made up where they are asked for.
    """

    tokens: list[Token] = field(default_factory=list)
    bunches: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "stop"
    error: Exception | None = None
    num_before_error: int = 0
    hangs_after: int | None = None
    is_ready: bool = True
    requests: list[GenerateRequest] = field(default_factory=list)
    num_open: int = 0
    reached_hang: asyncio.Event = field(default_factory=asyncio.Event)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Commit, None]:
        self.requests.append(request)
        self.num_open += 1
        try:
            room = request.max_context_tokens - len(request.prompt)
            kept, reason = self.tokens[:room], self.finish_reason if room >= len(self.tokens) else "length"
            for i, commit in enumerate(commits_of(request.id, len(request.prompt), kept, self.bunches, reason)):
                if self.error is not None and i == self.num_before_error:
                    raise self.error
                if self.hangs_after == i:
                    self.reached_hang.set()
                    await asyncio.Event().wait()
                yield commit if request.params.num_logprobs is None else _scored(request, commit, is_first=i == 0)
        finally:
            self.num_open -= 1


def _scored(request: GenerateRequest, commit: Commit, *, is_first: bool) -> Commit:
    """The commit with made-up log-probabilities: the chosen tokens' are -1, those of tokens 7, 8, … -2, -3, …"""
    top = tuple((7 + i, -2.0 - i) for i in range(request.params.num_logprobs or 0))

    def scores(tokens: Sequence[Token]) -> tuple[TokenLogprobs, ...]:
        return tuple(TokenLogprobs(token=token, logprob=-1.0, top=top) for token in tokens)

    of_prompt = scores(request.prompt[1:]) if is_first and request.params.scores_prompt else ()
    return msgspec.structs.replace(commit, logprobs=scores(commit.tokens), prompt_logprobs=of_prompt)


def make_context(
    folder: Path, client: GenerationClient, limits: ApiLimits | None = None, **model: object
) -> IngressContext:
    """A context with the tiny tokenizer; `model` goes to write_model_folder."""
    write_model_folder(folder, **model)  # type: ignore[arg-type]
    return load_context(folder, MODEL, client, limits=limits)


def plain_ids(context: IngressContext, text: str) -> list[Token]:
    """The ids of a text without a beginning-of-text token: what a model would generate for it."""
    return context.tokenizer.encode(text)[1:]


def events_of(response: httpx.Response) -> list[Any]:
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [data if data == "[DONE]" else json.loads(data) for data in (block[6:] for block in blocks)]
