"""Proposals that are right, wrong, or right up to a point, for an engine that `driving.py` drives."""

from __future__ import annotations

import random
from collections.abc import Sequence

from deployments.messages import SessionId, Token
from tests.support.driving import Drafter


def oracle(expected: Sequence[Sequence[Token]], prompts: Sequence[Sequence[Token]], lookahead: int) -> Drafter:
    """The next tokens of what is known to come."""

    def draft(session: SessionId, tokens: Sequence[Token]) -> Sequence[Token]:
        done = len(tokens) - len(prompts[session])
        return expected[session][done : done + lookahead]

    return draft


def garbage(vocab_size: int, lookahead: int) -> Drafter:
    """Random tokens."""
    rng = random.Random(5)
    return lambda _session, _tokens: [rng.randrange(vocab_size) for _ in range(lookahead)]


def mixed(one: Drafter, other: Drafter) -> Drafter:
    """A proposal that begins like the first drafter's and goes on like the second's, of any length."""
    rng = random.Random(6)

    def draft(session: SessionId, tokens: Sequence[Token]) -> Sequence[Token]:
        good, bad = one(session, tokens), other(session, tokens)
        cut = rng.randrange(len(good) + 1)
        return [*good[:cut], *bad[: rng.randrange(len(bad) + 1)]][:8]

    return draft
