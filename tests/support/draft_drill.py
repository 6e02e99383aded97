"""Two MTP engines through the same rounds: growing contexts, rollbacks, sessions of every kind of parameters."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from deployments.drafter.engine import Draft, DrafterEngine
from deployments.messages import SamplingParams
from tests.support.tiny_drafters import TinyPair, draft_request, kv_ranges

GREEDY = SamplingParams()
KINDS = (
    GREEDY,
    SamplingParams(temperature=0.9, seed=3),
    SamplingParams(temperature=1.0, top_k=20, top_p=0.95, seed=4),
    SamplingParams(temperature=0.8, top_p=0.9, seed=5),
    SamplingParams(temperature=0.7, min_p=0.05, seed=6),
)
ADJUSTED = SamplingParams(temperature=0.9, frequency_penalty=0.7, seed=7)


@dataclass(frozen=True)
class Rounds:
    """How many, and how far they look ahead."""

    number: int = 6
    lookaheads: Sequence[int] = (1, 3, 5, 8)


class Drill:
    """Sessions with these parameters; their contexts grow, and now and then take back what was there."""

    def __init__(
        self, pair: TinyPair, engines: Sequence[DrafterEngine], params: Sequence[SamplingParams], rounds: Rounds
    ) -> None:
        self._pair = pair
        self._rounds = rounds
        self._engines = engines
        self._random = random.Random(len(params))
        self._tokens = [self._some(self._random.choice((3, 9, 14, 40))) for _ in params]
        self._have = [0] * len(params)
        for session, each in enumerate(params):
            for engine in engines:
                engine.attach(session, each)

    def rounds(self) -> list[list[list[Draft]]]:
        """What each engine drafts in every round, session by session."""
        return [self._round(number) for number in range(self._rounds.number)]

    def _round(self, number: int) -> list[list[Draft]]:
        requests = []
        for session, tokens in enumerate(self._tokens):
            if number:
                kept = len(tokens) - self._random.choice((0, 0, 1, 2))
                tokens[kept:] = self._some(self._random.choice((1, 3, 6)))
                if kept < self._have[session]:  # a whole window anew, as one ahead of it may have been let go
                    self._have[session] = max(0, kept - self._pair.spec.sliding_window)
            start, stop = self._have[session], len(tokens) - 1
            ranges = kv_ranges(self._pair, tokens, start, stop)
            for engine in self._engines:
                engine.extend(session, ranges, tokens[start:stop])
            self._have[session] = stop
            requests.append(draft_request(self._pair, session, tokens, self._random.choice(self._rounds.lookaheads)))
        return [engine.draft(requests) for engine in self._engines]

    def _some(self, num: int) -> list[int]:
        return [self._random.randrange(3, 90) for _ in range(num)]


def assert_same_drafts(
    pair: TinyPair, engines: Sequence[DrafterEngine], params: Sequence[SamplingParams], rounds: Rounds | None = None
) -> None:
    """In every round the engines draft the same tokens, about equally sure of them."""
    for found, expected in Drill(pair, engines, params, rounds or Rounds()).rounds():
        assert [draft.tokens for draft in found] == [draft.tokens for draft in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.tokens
            assert one.confidences == pytest.approx(other.confidences, abs=1e-4)
