"""One choice from request to text: commits in, pieces of text out, until a stop string, token or limit."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import NamedTuple

from deployments.ingress.detokenizer import Decoder, Detokenizer, StopFilter
from deployments.ingress.errors import current_request_id
from deployments.ingress.generation import GenerateRequest, GenerationClient
from deployments.ingress.metrics import IngressMetrics, RequestTimer
from deployments.ingress.speculation import SpeculationStats, TokenKind, kinds_of
from deployments.logs import about
from deployments.messages import Commit, FinishReason

logger = logging.getLogger("outrider.ingress")


class Segment(NamedTuple):
    """Text that came from tokens of one kind."""

    text: str
    kind: TokenKind


@dataclass(frozen=True, slots=True)
class Piece:
    """What one commit added to the output; the segments' texts add up to `text`."""

    text: str
    segments: tuple[Segment, ...]
    finish_reason: FinishReason | None


@dataclass(slots=True)
class Answer:
    """The output of one request so far: text in the making, and what the usage reports.

    The text is that of the tokens received; from a stop string or stop token onwards nothing is.
    `num_tokens` counts up to and including the token that ended the output, so it does not depend
    on how the tokens were bunched.
    """

    request: GenerateRequest
    decoder: Decoder
    stops: list[str]
    num_tokens: int = 0
    num_cached_tokens: int = 0
    speculation: SpeculationStats = field(default_factory=SpeculationStats)
    _detokenizer: Detokenizer = field(init=False)
    _filter: StopFilter = field(init=False)
    _held: deque[Segment] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._detokenizer = Detokenizer(self.decoder)
        self._filter = StopFilter(self.stops)

    def take(self, commit: Commit) -> Piece:
        """Add one commit."""
        self.speculation.add(commit)
        if commit.context_len == len(self.request.prompt):  # later, after a move, what is cached may be output
            self.num_cached_tokens = commit.num_cached
        released = ""
        for i, (token, kind) in enumerate(zip(commit.tokens, kinds_of(commit), strict=True)):
            self.num_tokens += 1
            is_last = commit.finish_reason == "stop" and i == len(commit.tokens) - 1
            if is_last and token in self.request.stop_token_ids:
                break  # the token that says the output is over is no part of it
            released += self._push(self._detokenizer.push(token), kind)
            if self._filter.is_stopped:
                return Piece(released, self._release(released), "stop")
        if commit.finish_reason is None:
            return Piece(released, self._release(released), None)
        released += self._push(self._detokenizer.finish(), kinds_of(commit)[-1] if commit.tokens else "plain")
        is_stopped = self._filter.is_stopped
        released += self._filter.finish()
        return Piece(released, self._release(released), "stop" if is_stopped else commit.finish_reason)

    def _push(self, text: str, kind: TokenKind) -> str:
        if text:
            self._held.append(Segment(text, kind))
        return self._filter.push(text)

    def _release(self, text: str) -> tuple[Segment, ...]:
        """The segments of the next characters; neighbours of one kind become one."""
        released: list[Segment] = []
        num_left = len(text)
        while num_left > 0:
            segment = self._held.popleft()
            if len(segment.text) > num_left:
                self._held.appendleft(Segment(segment.text[num_left:], segment.kind))
                segment = Segment(segment.text[:num_left], segment.kind)
            num_left -= len(segment.text)
            if released and released[-1].kind == segment.kind:
                segment = Segment(released.pop().text + segment.text, segment.kind)
            released.append(segment)
        return tuple(released)


async def pieces(client: GenerationClient, answer: Answer, metrics: IngressMetrics) -> AsyncGenerator[Piece, None]:
    """The answer's pieces, one for each commit; the last one, and no other, has a finish reason.

    Closing it, and a stop string, cancel the request at its router at once.
    """
    request = answer.request
    timer = RequestTimer(metrics, len(request.prompt))
    whose = {"request_id": current_request_id.get(), "request": request.id}
    logger.info("request begins", extra=about(**whose, num_prompt_tokens=len(request.prompt)))
    finish_reason: FinishReason | None = None
    try:
        async with aclosing(client.generate(request)) as commits:
            async for commit in commits:
                timer.commit(commit)
                piece = answer.take(commit)
                finish_reason = piece.finish_reason
                if finish_reason is not None:
                    break
                yield piece
        if finish_reason is not None:
            yield piece
    finally:
        timer.end(finish_reason)
        reason = finish_reason or "failed or left"
        logger.info("request ends", extra=about(**whose, reason=reason, num_tokens=timer.num_tokens))
