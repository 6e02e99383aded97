"""Where a request's output ends. Router and verifier both ask, and must agree."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from deployments.messages import FinishReason, Token


def room_for_proposal(context_len: int, max_context_tokens: int) -> int:
    """How many drafted tokens are worth verifying: one place is the verifier's own token."""
    return max(0, max_context_tokens - context_len - 1)


def cut_at_end(
    tokens: Sequence[Token], context_len: int, max_context_tokens: int, stop_token_ids: Collection[Token]
) -> tuple[tuple[Token, ...], FinishReason | None]:
    """The tokens that belong to the output if they follow `context_len` others, and why it ends there, if it does.

    The stop token is part of what is kept. A stop token in the last free place counts as a stop.
    """
    room = max_context_tokens - context_len
    for index, token in enumerate(tokens[:room]):
        if token in stop_token_ids:
            return tuple(tokens[: index + 1]), "stop"
    if len(tokens) >= room:
        return tuple(tokens[:room]), "length"
    return tuple(tokens), None
