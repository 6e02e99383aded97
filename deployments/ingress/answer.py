"""One choice from request to text: commits in, pieces of text out, until a stop string, token or limit."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import NamedTuple

from deployments import measures
from deployments.ingress.detokenizer import Decoder, Detokenizer, StopFilter
from deployments.ingress.errors import current_request_id
from deployments.ingress.generation import GenerateRequest, GenerationClient
from deployments.ingress.metrics import IngressMetrics, RequestTimer
from deployments.ingress.speculation import SpeculationStats, TokenKind, kinds_of
from deployments.logs import about
from deployments.messages import Commit, FinishReason, Token, TokenLogprobs

logger = logging.getLogger("outrider.ingress")


class Segment(NamedTuple):
    """Text that came from tokens of one kind."""

    text: str
    kind: TokenKind


@dataclass(frozen=True, slots=True)
class Piece:
    """What one commit added to the output; the segments' texts add up to `text`.

    `tokens` are those that count as output, `logprobs` what is reported of each, if that is asked for.
    The first `num_prompt_tokens` of a piece that repeats the prompt are the prompt's; it has no segments, and its first
    token has None for its log-probability. `stop_reason` is what of the request ended the output: a stop string or a
    stop token.
    """

    text: str
    segments: tuple[Segment, ...]
    finish_reason: FinishReason | None
    tokens: tuple[Token, ...] = ()
    logprobs: tuple[TokenLogprobs | None, ...] = ()
    num_prompt_tokens: int = 0
    stop_reason: Token | str | None = None


@dataclass(slots=True)
class Answer:
    """The output of one request so far: text in the making, and what the usage reports.

    The text is that of the tokens received; from a stop string or stop token onwards nothing is.
    `num_tokens` counts up to and including the token that ended the output, so it does not depend
    on how the tokens were bunched. `named_stop_token_ids` are those that the request itself names. With
    `includes_stop` what ended the output is part of the text; stop strings are not looked for before
    `min_tokens` tokens. An answer with `prompt_text` repeats the prompt first, with its log-probabilities
    if it `scores_echo`, and one that is `prompt_only` has no output. `waited_s` is how long its request
    had to wait to be admitted.
    """

    request: GenerateRequest
    decoder: Decoder
    stops: list[str]
    named_stop_token_ids: Collection[Token] = ()
    min_tokens: int = 0
    includes_stop: bool = False
    prompt_text: str | None = None
    scores_echo: bool = False
    prompt_only: bool = False
    waited_s: float = 0.0
    num_tokens: int = 0
    num_cached_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    speculation: SpeculationStats = field(default_factory=SpeculationStats)
    _detokenizer: Detokenizer = field(init=False)
    _filter: StopFilter = field(init=False)
    _held: deque[Segment] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._detokenizer = Detokenizer(self.decoder)
        self._filter = StopFilter(self.stops, includes_stop=self.includes_stop)

    def repeat_prompt(self, commit: Commit) -> Piece:
        """The prompt as a piece; its log-probabilities came with the first commit."""
        assert self.prompt_text is not None
        prompt, scores = self.request.prompt, commit.prompt_logprobs
        entries = (None, *scores) if self.scores_echo else ()
        return Piece(self.prompt_text, (), None, prompt, entries, num_prompt_tokens=len(prompt))

    def take(self, commit: Commit) -> Piece:
        """Add one commit."""
        if commit.context_len == len(self.request.prompt):  # the first one
            self.prompt_logprobs = commit.prompt_logprobs
        if self.prompt_only:
            return Piece("", (), "length")
        self.speculation.add(commit)
        if commit.context_len == len(self.request.prompt):  # later, after a move, what is cached may be output
            self.num_cached_tokens = commit.num_cached
        released, num_before = "", self.num_tokens
        stop_reason: Token | None = None
        for i, (token, kind) in enumerate(zip(commit.tokens, kinds_of(commit), strict=True)):
            self.num_tokens += 1
            is_last = commit.finish_reason == "stop" and i == len(commit.tokens) - 1
            if is_last and token in self.request.stop_token_ids:
                stop_reason = token if token in self.named_stop_token_ids else None
                if not self.includes_stop:
                    break  # the token that says the output is over is no part of it
            released += self._push(self._detokenizer.push(token), kind)
            if self._filter.is_stopped:
                break
        finish_reason = "stop" if self._filter.is_stopped else commit.finish_reason
        if finish_reason is not None and not self._filter.is_stopped:
            released += self._push(self._detokenizer.finish(), kinds_of(commit)[-1] if commit.tokens else "plain")
            finish_reason = "stop" if self._filter.is_stopped else finish_reason
            released += self._filter.finish()
        num_taken = self.num_tokens - num_before
        segments = self._release(released)
        return Piece(
            released,
            segments,
            finish_reason,
            commit.tokens[:num_taken],
            commit.logprobs[:num_taken],
            stop_reason=self._filter.met or stop_reason,
        )

    def _push(self, text: str, kind: TokenKind) -> str:
        if text:
            self._held.append(Segment(text, kind))
        return self._filter.push(text, can_stop=self.num_tokens > self.min_tokens)

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
    """The answer's pieces: the prompt if it is to be repeated, then one for each commit.

    The last one, and no other, has a finish reason.

    Closing it, and a stop string, cancel the request at its router at once.
    """
    request = answer.request
    timer = RequestTimer(
        metrics,
        len(request.prompt),
        request.request_class or measures.UNKNOWN_CLASS,
        waited_s=answer.waited_s,
        variant=request.variant,
    )
    whose = {"request_id": current_request_id.get(), "request": request.id}
    logger.info("request begins", extra=about(**whose, num_prompt_tokens=len(request.prompt)))
    finish_reason: FinishReason | None = None
    is_first = True
    try:
        async with aclosing(client.generate(request)) as commits:
            async for commit in commits:
                timer.commit(commit)
                if is_first and answer.prompt_text is not None:
                    yield answer.repeat_prompt(commit)
                is_first = False
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
