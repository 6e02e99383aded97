"""Whether a drafter drafts now or waits for sessions that are about to come back from their verifier.

    drafts longer than steps, groups that take turns:   A drafts | B drafts | A drafts ..    2 drafts a round
    the same in one batch:                              A and B draft | verified | ..        1 draft and 1 step

Groups part as sessions come and go. Where steps take longer than drafts, turns hide the drafts and are left alone;
where drafts take longer, turns only queue up at the drafter, and the group with less to lose waits for the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from deployments.messages import SessionId
from deployments.policy.costs import DraftCosts
from deployments.policy.regression import Regression
from deployments.policy.waiting import LATE, MARGIN


class _Batch(NamedTuple):
    """Sessions that were drafted for together, or would be: how many, the longest lookahead, and all their tokens."""

    num_sessions: int = 0
    longest: int = 0
    num_tokens: int = 0

    def and_one(self, lookahead: int) -> _Batch:
        """With one session more."""
        return _Batch(self.num_sessions + 1, max(self.longest, lookahead), self.num_tokens + lookahead)

    def joined(self, other: _Batch) -> _Batch:
        """Both in one."""
        longest = max(self.longest, other.longest)
        return _Batch(self.num_sessions + other.num_sessions, longest, self.num_tokens + other.num_tokens)


_MINORITY = 2
"""A group that is so many times smaller than the one that it could join waits for that, for as long as their common
draft takes. Apart, a verifier's step is as dear for it as for all.
"""
_MOST_SKIPPED = 64
"""Batches that nobody waits for after waits in vain: 1, 2, 4 .. up to so many."""


_SHARE_MEMORY = 0.05
"""What a batch counts in how much of a lookahead is drafted, as drafts may end early."""


class _Away(NamedTuple):
    """A session between its proposal and its next go-ahead; `num_sessions` left with it, in `batch`, with `length`
    drafted tokens for this one.
    """

    left_ms: float
    num_sessions: int
    length: int
    batch: int


class DraftPolicy:
    """The state of one drafter's decisions. Times are in milliseconds on any clock that goes forward."""

    def __init__(self) -> None:
        self._costs = DraftCosts()
        self._turnaround = Regression((2.0, 0.1), (20.0, 1.0), memory=64)
        self._away: dict[SessionId, _Away] = {}
        self._num_batches = 0
        self._share = 1.0
        self._is_waiting = False
        self._num_in_vain = 0
        self._num_to_skip = 0

    # -- observations -------------------------------------------------------------------------

    def left(
        self,
        sessions: Sequence[SessionId],
        lookaheads: Sequence[int],
        lengths: Sequence[int],
        draft_ms: float,
        now_ms: float,
    ) -> None:
        """The proposals of a batch are on their way, some shorter than was asked for; it has taken `draft_ms`."""
        self._costs.observe(max(lengths), sum(lengths), draft_ms)
        self._share += _SHARE_MEMORY * (sum(lengths) / sum(lookaheads) - self._share)
        for away in self._away.values():
            if away.batch == self._num_batches:  # it had not come back by then
                self._observe_turnaround(away, now_ms - draft_ms, is_over=False)
        self._num_to_skip = max(0, self._num_to_skip - 1)
        if self._is_waiting:  # and nobody came
            self._is_waiting = False
            self._num_to_skip = min(_MOST_SKIPPED, 1 << self._num_in_vain)
            self._num_in_vain += 1
        self._num_batches += 1
        for session, length in zip(sessions, lengths, strict=True):
            self._away[session] = _Away(now_ms, len(sessions), length, self._num_batches)

    def came_back(self, session: SessionId, now_ms: float) -> None:
        """The session's next go-ahead is here."""
        away = self._away.pop(session, None)
        if self._is_waiting:
            self._is_waiting, self._num_in_vain = False, 0
        # While a batch is computed nothing is received, so that those who came back meanwhile tell no time.
        if away is not None and away.batch == self._num_batches:
            self._observe_turnaround(away, now_ms, is_over=True)

    def forget(self, session: SessionId) -> None:
        """The session has ended, goes on without drafts, or another drafter has it."""
        self._away.pop(session, None)

    def _observe_turnaround(self, away: _Away, now_ms: float, *, is_over: bool) -> None:
        features, away_ms = (1.0, away.num_sessions), max(1e-3, now_ms - away.left_ms)
        if is_over or away_ms > self._turnaround.predict(features):
            self._turnaround.observe_spread(features, away_ms)

    # -- decisions ----------------------------------------------------------------------------

    def wait_until_ms(self, lookaheads: Iterable[int], waited_since_ms: float, now_ms: float) -> float | None:
        """Until when to wait for sessions that are about to come back; None to draft at once for these lookaheads."""
        if not self._away or self._num_to_skip:
            return None
        ready = _Batch()
        for lookahead in lookaheads:
            ready = ready.and_one(max(1, round(self._share * lookahead)))
        expected = _Batch()
        for due_ms, batch in self._expected(now_ms):
            expected = expected.joined(batch)
            wait_ms = due_ms - now_ms
            is_minority = _MINORITY * ready.num_sessions <= expected.num_sessions
            most_ms = self._draft_ms(ready.joined(expected) if is_minority else ready)
            rest_ms = waited_since_ms + most_ms - now_ms
            if wait_ms > rest_ms:
                continue
            if is_minority or self._is_worth_waiting(ready, expected, wait_ms):
                self._is_waiting = True
                return now_ms + min(rest_ms, max(1.0, LATE * wait_ms))
        return None

    def _is_worth_waiting(self, ready: _Batch, expected: _Batch, wait_ms: float) -> bool:
        """Whether one batch a round is sooner done than turns, and whether those that are ready have less to lose."""
        both = ready.joined(expected)
        ready_ms, expected_ms = self._draft_ms(ready), self._draft_ms(expected)
        in_turns_ms = max(
            ready_ms + expected_ms, self._step_ms(ready) + ready_ms, self._step_ms(expected) + expected_ms
        )
        if MARGIN * (self._step_ms(both) + self._draft_ms(both)) > in_turns_ms:
            return False
        others_wait_ms = ready_ms - wait_ms
        is_smaller = ready.num_sessions <= expected.num_sessions
        return is_smaller or ready.num_sessions * wait_ms <= expected.num_sessions * others_wait_ms

    def _expected(self, now_ms: float) -> list[tuple[float, _Batch]]:
        """Sessions that are away and not late, those that left together as one batch, the next to come first."""
        batches: dict[tuple[float, int], _Batch] = {}
        for away in self._away.values():
            key = (away.left_ms, away.num_sessions)
            batches[key] = batches.get(key, _Batch()).and_one(away.length)
        expected = []
        for (left_ms, num_sessions), batch in batches.items():
            away_ms = self._turnaround.predict((1.0, num_sessions))
            if now_ms - left_ms < LATE * away_ms:
                expected.append((max(now_ms, left_ms + away_ms), batch))
        return sorted(expected)

    def _draft_ms(self, batch: _Batch) -> float:
        return self._costs.predict(batch.longest, batch.num_tokens)

    def _step_ms(self, batch: _Batch) -> float:
        """The time between a proposal and the next go-ahead, if so many have it together."""
        return self._turnaround.predict((1.0, batch.num_sessions))
