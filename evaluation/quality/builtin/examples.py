"""Turns the pocket recipe's held-out examples into the input of cases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Literal

from evaluation.pocket.records import Example
from evaluation.quality.suite import Case, ChatMessage

ROLES: dict[str, Literal["system", "user"]] = {"system": "system", "user": "user"}


def input_of(example: Example) -> str | tuple[ChatMessage, ...]:
    """Return the user's text, or all messages where there is a system turn."""
    messages = example.prompt_messages
    if len(messages) == 1:
        return messages[0]["content"]
    return tuple(ChatMessage(role=ROLES[message["role"]], content=message["content"]) for message in messages)


def interleaved(*groups: Sequence[Case]) -> list[Case]:
    """Return all cases, the groups in turn, so that the first cases of a suite are of every kind."""
    return [case for case in chain.from_iterable(zip_longest(*groups)) if case is not None]
