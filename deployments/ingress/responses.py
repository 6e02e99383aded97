"""Response objects of both endpoints, whole and in chunks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deployments.ingress.answer import Answer, Piece
from deployments.ingress.context import IngressContext
from deployments.ingress.logprobs import LogprobsWriter, prompt_logprobs
from deployments.ingress.speculation import SpeculationStats
from deployments.messages import FinishReason, Token


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterOptions:
    """What a response carries besides the text. A stream `with_usage` has it at its end, and null before.

    `num_logprobs` likeliest tokens are reported with each of the answer's, `num_prompt_logprobs` with each of the
    prompt's; None for no report.
    """

    with_kinds: bool = False
    with_usage: bool = False
    with_usage_so_far: bool = False
    with_token_ids: bool = False
    num_logprobs: int | None = None
    num_prompt_logprobs: int | None = None
    tokens_as_ids: bool = False


@dataclass(slots=True)
class ResponseWriter:
    """Writes one response, `num_per_prompt` choices for each prompt; subclasses know where an endpoint keeps what."""

    context: IngressContext
    id: str
    answers: Sequence[Answer]
    num_per_prompt: int
    options: WriterOptions
    created: int = field(default_factory=lambda: int(time.time()))
    _logprobs: list[LogprobsWriter] = field(init=False)
    _begun: set[int] = field(default_factory=set)
    _num_said_tokens: int = 0

    object_name = ""
    chunk_name = ""

    def __post_init__(self) -> None:
        self._logprobs = [
            LogprobsWriter(
                self.context.tokenizer.token_texts,
                as_ids=self.options.tokens_as_ids,
                num_top=self.options.num_logprobs or 0,
                special=self.context.tokenizer.special_ids,
                hidden=answer.decoder.special_ids,
                prompt_text=answer.prompt_text,
            )
            for answer in self.answers
        ]

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The response of a request that does not stream: one piece for each choice."""
        return {
            **self._head(self.object_name),
            "choices": [self._choice(index, piece) for index, piece in enumerate(pieces)],
            "usage": self._usage(self._num_output_tokens),
            **self._of_prompt(),
            **self._metrics(),
        }

    def opening(self, index: int) -> dict[str, Any] | None:
        """The chunk before any text of a choice, for endpoints that have one."""
        return None

    def chunk(self, index: int, piece: Piece) -> dict[str, Any] | None:
        """The chunk of one piece; None if it would say nothing."""
        self._num_said_tokens += len(piece.tokens) - piece.num_prompt_tokens
        says_tokens = self._is_scored(piece) or (self.options.with_token_ids and bool(piece.tokens))
        if not piece.text and piece.finish_reason is None and not says_tokens:
            return None
        chunk = self._chunk(self._delta(index, piece))
        if self.options.with_kinds:
            chunk["outrider"] = {"segments": [{"text": text, "kind": kind} for text, kind in piece.segments]}
        return chunk

    def closing(self) -> dict[str, Any]:
        """The chunk after the last text: no choices, but the usage."""
        usage = self._usage(self._num_output_tokens)
        return {**self._head(self.chunk_name), "choices": [], "usage": usage, **self._metrics()}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk = {**self._head(self.chunk_name), "choices": [choice]}
        if self.options.with_usage_so_far:
            chunk["usage"] = self._usage(self._num_said_tokens)
        elif self.options.with_usage:
            chunk["usage"] = None
        return chunk

    def _head(self, object_name: str) -> dict[str, Any]:
        model = self.context.model
        return {
            "id": self.id,
            "object": object_name,
            "created": self.created,
            "model": model.id,
            "system_fingerprint": model.system_fingerprint,
        }

    @property
    def _num_output_tokens(self) -> int:
        return sum(answer.num_tokens for answer in self.answers)

    def _usage(self, num_output: int) -> dict[str, Any]:
        of_prompts = self.answers[:: self.num_per_prompt]  # the first choice of each
        num_prompt = sum(len(answer.request.prompt) for answer in of_prompts)
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_output,
            "total_tokens": num_prompt + num_output,
            "prompt_tokens_details": {"cached_tokens": sum(answer.num_cached_tokens for answer in of_prompts)},
        }

    def _metrics(self) -> dict[str, Any]:
        if not self.context.limits.reports_speculation:
            return {}
        total = SpeculationStats.total(answer.speculation for answer in self.answers)
        return {"metrics": {"speculative_decoding": total.as_json()}}

    def _of_prompt(self) -> dict[str, Any]:
        """What a whole response says of its prompt beside the choices."""
        return {}

    def _choice(self, index: int, piece: Piece) -> dict[str, Any]:
        raise NotImplementedError

    def _delta(self, index: int, piece: Piece) -> dict[str, Any]:
        raise NotImplementedError

    def _token_ids(self, piece: Piece) -> list[Token] | None:
        return list(piece.tokens[piece.num_prompt_tokens :]) if self.options.with_token_ids else None

    def _prompt_logprobs(self, index: int) -> list[dict[str, Any] | None] | None:
        if self.options.num_prompt_logprobs is None:
            return None
        first = self.answers[index - index % self.num_per_prompt]  # scored for all choices of its prompt
        texts = self.context.tokenizer.token_texts
        return prompt_logprobs(first.prompt_logprobs, texts, self.options.num_prompt_logprobs)

    def _is_scored(self, piece: Piece) -> bool:
        return self.options.num_logprobs is not None and bool(piece.logprobs)

    def _prompt_token_ids(self, index: int) -> list[Token] | None:
        return list(self.answers[index].request.prompt) if self.options.with_token_ids else None


class CompletionWriter(ResponseWriter):
    """/v1/completions: `text` in every choice, streamed or not."""

    object_name = "text_completion"
    chunk_name = "text_completion"

    def _choice(self, index: int, piece: Piece) -> dict[str, Any]:
        return {
            **self._text(index, piece),
            "stop_reason": piece.stop_reason,
            "token_ids": self._token_ids(piece),
            "prompt_token_ids": self._prompt_token_ids(index),
            "prompt_logprobs": self._prompt_logprobs(index),
        }

    def _delta(self, index: int, piece: Piece) -> dict[str, Any]:
        delta = {**self._text(index, piece), **_end_of(piece)}
        if self.options.with_token_ids:
            delta["token_ids"] = self._token_ids(piece)
            if index not in self._begun:
                delta["prompt_token_ids"] = self._prompt_token_ids(index)
        self._begun.add(index)
        return delta

    def _text(self, index: int, piece: Piece) -> dict[str, Any]:
        logprobs = None
        if self._is_scored(piece):
            logprobs = self._logprobs[index].completion(piece.tokens, piece.logprobs, piece.num_prompt_tokens)
        return {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish_reason}


class ChatWriter(ResponseWriter):
    """/v1/chat/completions: a `message`, or `delta`s of it, the first of which has the role."""

    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    def opening(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        chunk = self._chunk({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})
        if self.options.with_token_ids:
            chunk["prompt_token_ids"] = self._prompt_token_ids(index)
        return chunk

    def _of_prompt(self) -> dict[str, Any]:
        return {"prompt_token_ids": self._prompt_token_ids(0), "prompt_logprobs": self._prompt_logprobs(0)}

    def _choice(self, index: int, piece: Piece) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        more = {"stop_reason": piece.stop_reason, "token_ids": self._token_ids(piece)}
        return {"index": index, "message": message, **self._rest(index, piece), **more}

    def _delta(self, index: int, piece: Piece) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        ids = {"token_ids": self._token_ids(piece)} if self.options.with_token_ids else {}
        return {"index": index, "delta": delta, **self._rest(index, piece), **_end_of(piece), **ids}

    def _rest(self, index: int, piece: Piece) -> dict[str, Any]:
        logprobs = self._logprobs[index].chat(piece.logprobs) if self._is_scored(piece) else None
        return {"logprobs": logprobs, "finish_reason": piece.finish_reason}


def _end_of(piece: Piece) -> dict[str, Any]:
    """What the last chunk of a choice says besides its finish reason."""
    return {} if piece.finish_reason is None else {"stop_reason": piece.stop_reason}


def joined(pieces: Sequence[Piece]) -> Piece:
    """All of a choice's pieces as one."""
    finish_reason: FinishReason | None = pieces[-1].finish_reason
    return Piece(
        text="".join(piece.text for piece in pieces),
        segments=tuple(segment for piece in pieces for segment in piece.segments),
        finish_reason=finish_reason,
        tokens=tuple(token for piece in pieces for token in piece.tokens),
        logprobs=tuple(entry for piece in pieces for entry in piece.logprobs),
        num_prompt_tokens=pieces[0].num_prompt_tokens,
        stop_reason=pieces[-1].stop_reason,
    )
