"""Response objects of both endpoints, whole and in chunks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from deployments.ingress.answer import Answer, Piece
from deployments.ingress.context import IngressContext
from deployments.messages import FinishReason


@dataclass(slots=True)
class ResponseWriter:
    """Writes one request's answer; the subclasses differ in where an endpoint keeps its text."""

    context: IngressContext
    answer: Answer
    created: int = field(default_factory=lambda: int(time.time()))

    object_name = ""
    chunk_name = ""

    def whole(self, text: str, finish_reason: FinishReason) -> dict[str, Any]:
        """The response of a request that does not stream."""
        return {
            **self._head(self.object_name),
            "choices": [self._choice(text, finish_reason)],
            "usage": self._usage(),
            **self._metrics(),
        }

    def opening(self) -> dict[str, Any] | None:
        """The chunk before any text, for endpoints that have one."""
        return None

    def chunk(self, piece: Piece, *, with_kinds: bool) -> dict[str, Any] | None:
        """The chunk of one piece; None if it would say nothing."""
        if not piece.text and piece.finish_reason is None:
            return None
        chunk = {**self._head(self.chunk_name), "choices": [self._delta(piece.text, piece.finish_reason)]}
        if with_kinds:
            chunk["outrider"] = {"segments": [{"text": text, "kind": kind} for text, kind in piece.segments]}
        return chunk

    def closing(self) -> dict[str, Any]:
        """The chunk after the last text: no choices, but the usage."""
        return {**self._head(self.chunk_name), "choices": [], "usage": self._usage(), **self._metrics()}

    def _head(self, object_name: str) -> dict[str, Any]:
        model = self.context.model
        return {
            "id": self.answer.request.id,
            "object": object_name,
            "created": self.created,
            "model": model.id,
            "system_fingerprint": model.system_fingerprint,
        }

    def _usage(self) -> dict[str, Any]:
        num_prompt, num_output = len(self.answer.request.prompt), self.answer.num_tokens
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_output,
            "total_tokens": num_prompt + num_output,
            "prompt_tokens_details": {"cached_tokens": self.answer.num_cached_tokens},
        }

    def _metrics(self) -> dict[str, Any]:
        if not self.context.limits.reports_speculation:
            return {}
        return {"metrics": {"speculative_decoding": self.answer.speculation.as_json()}}

    def _choice(self, text: str, finish_reason: FinishReason | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def _delta(self, text: str, finish_reason: FinishReason | None) -> dict[str, Any]:
        return self._choice(text, finish_reason)


class CompletionWriter(ResponseWriter):
    """/v1/completions: `text` in every choice, streamed or not."""

    object_name = "text_completion"
    chunk_name = "text_completion"


class ChatWriter(ResponseWriter):
    """/v1/chat/completions: a `message`, or `delta`s of it, the first of which has the role."""

    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    def opening(self) -> dict[str, Any] | None:
        return {
            **self._head(self.chunk_name),
            "choices": [
                {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            ],
        }

    def _choice(self, text: str, finish_reason: FinishReason | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}

    def _delta(self, text: str, finish_reason: FinishReason | None) -> dict[str, Any]:
        delta = {"content": text} if text else {}
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
