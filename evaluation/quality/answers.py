"""Raw answers: one line of JSON each, kept as the endpoint gave them, and what is read out of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer to one case: the response's body, or why the endpoint refused the request."""

    case: str
    variant: str
    body: dict[str, Any] = {}
    refused: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What it answers."""
        return self.case, self.variant


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token: its name (an id where the endpoint gives ids), and by how much the likeliest token leads.

    The lead is the difference of the two highest log-probabilities in nats, None where they were not given.
    """

    token: int | str
    lead: float | None = None


class AnswerError(ValueError):
    """A response is no completion."""


def text_of(body: dict[str, Any]) -> str:
    """The answer's text, of a chat or a plain completion. Raises AnswerError."""
    try:
        choice = body["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    except (LookupError, TypeError) as error:
        raise AnswerError(f"not a completion: {str(body)[:300]}") from error
    return "" if text is None else str(text)


def steps_of(body: dict[str, Any]) -> list[Step]:
    """The generated tokens, as far as the endpoint tells: ids and log-probabilities, one of both, or nothing."""
    choice = body["choices"][0]
    names, leads = _likelihoods(choice.get("logprobs") or {})
    ids = choice.get("token_ids") or []
    tokens: list[int | str] = [*ids] if ids else names
    return [Step(token, leads[i] if i < len(leads) else None) for i, token in enumerate(tokens)]


def _likelihoods(logprobs: dict[str, Any]) -> tuple[list[int | str], list[float | None]]:
    if logprobs.get("content"):
        entries = logprobs["content"]
        tops = [[top["logprob"] for top in entry.get("top_logprobs") or []] for entry in entries]
        return [entry["token"] for entry in entries], [_lead(top) for top in tops]
    tops = [[*(top or {}).values()] for top in logprobs.get("top_logprobs") or []]
    return list(logprobs.get("tokens") or []), [_lead(top) for top in tops]


def _lead(top: list[float]) -> float | None:
    if len(top) < 2:
        return None
    first, second = sorted(top, reverse=True)[:2]
    return first - second


class AnswerFile:
    """The answers of a run, appended as they come; what an interruption left half written is cut off when it opens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[tuple[str, str], Answer] = {}
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                answer = msgspec.json.decode(line, type=Answer)
            except msgspec.DecodeError as error:
                raise AnswerError(f"{path}:{number}: {error}") from error
            self.answers[answer.key] = answer
        if whole != content:
            os.truncate(path, len(whole))

    def append(self, answer: Answer) -> None:
        """Keep an answer; it is on its way to the disk when this returns."""
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(answer) + b"\n")
        self.answers[answer.key] = answer

    def of_variant(self, name: str) -> Iterator[Answer]:
        """The answers of one variant, in the order of their arrival."""
        return (answer for answer in self.answers.values() if answer.variant == name)
