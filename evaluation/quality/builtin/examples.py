"""Turns the pocket recipe's held-out examples into the input of cases."""

from __future__ import annotations

from typing import Literal

from evaluation.pocket.records import Example
from evaluation.quality.suite import ChatMessage

ROLES: dict[str, Literal["system", "user"]] = {"system": "system", "user": "user"}


def input_of(example: Example) -> str | tuple[ChatMessage, ...]:
    """Return the user's text, or all messages where there is a system turn."""
    messages = example.prompt_messages
    if len(messages) == 1:
        return messages[0]["content"]
    return tuple(ChatMessage(role=ROLES[message["role"]], content=message["content"]) for message in messages)
