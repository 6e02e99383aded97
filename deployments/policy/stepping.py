"""What a verifier decides when it knows its batch: to step or to wait, and how much of each proposal to verify."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from deployments.messages import SessionId
from deployments.policy.costs import StepCosts
from deployments.policy.lookahead import Candidate, better, choose, choose_alone
from deployments.policy.regression import Regression
from deployments.policy.waiting import LATE, Group, StepTimes, is_worth_splitting, is_worth_waiting, joined
from deployments.timing import StepShape, StepTiming

_MAX_WAIT_STEPS = 2.0
"""Nobody who is ready waits longer than this many steps take."""

_LATEST = 0.3
"""What a session's latest draft counts in what is expected of the next."""
_SOON, _SOON_STEP = 0.1, 0.05
"""The share of drafts that end sooner than `_soonest_share` of the usual time, and how fast that follows. Where drafts
end early, one is over in a tenth of the time that another takes: who is not back by then is not for long.
"""
_TOGETHER = 0.05
"""Sessions that are due within such a share of a step of each other come together: whoever waits for the first of them
has to reckon with the last.
"""
_FEW = 4
"""One in so many sessions away from the others does not make two groups."""


class Ready(NamedTuple):
    """A session that is ready to be verified: its context and proposal, and how likely each position holds.

    With `survival` () the proposal is verified whole: the request asked for just that. One that still reads its
    prompt has `num_prompt_tokens` to go (as many as one step takes) and no proposal.
    """

    session: SessionId
    context_len: int
    num_drafted: int
    survival: Sequence[float] = ()
    num_prompt_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        """What it adds to a step."""
        return self.num_prompt_tokens or 1 + self.num_drafted


@dataclass(slots=True)
class _Away:
    """A session between its verdict and its next Verify. As drafts may end early, it brings a `share` of its lookahead,
    and takes `pace` times as long as others with that: who drafts with it makes the difference.
    """

    left_ms: float
    lookahead: int
    is_away: bool = True
    commits: float = 1.5
    share: float = 1.0
    pace: float = 1.0

    @property
    def key(self) -> tuple[float, int]:
        return (self.left_ms, self.lookahead)


class StepPolicy:
    """The state of one verifier's decisions. Times are in milliseconds on any clock that goes forward."""

    def __init__(self, timings: Iterable[StepTiming] = (), *, can_split: bool = True) -> None:
        self._can_split = can_split
        self.costs = StepCosts()
        self.costs.seed(timings)
        self._away: dict[SessionId, _Away] = {}
        self._turnaround = Regression((1.0, 1.0), (20.0, 5.0), memory=64)
        self._soonest_share = 1.0
        self._bare_turnaround = Regression((1.0,), (20.0,), memory=64)
        self._kept_share = 1.0  # of drafted tokens, those that are verified
        self.num_trimmed_tokens = 0

    # -- observations -------------------------------------------------------------------------

    def left(self, session: SessionId, lookahead: int, num_committed: int, now_ms: float) -> None:
        """A verdict is on its way; the session comes back with up to `lookahead` drafted tokens."""
        away = self._away.get(session)
        commits = float(num_committed) if away is None else away.commits + 0.2 * (num_committed - away.commits)
        share, pace = (1.0, 1.0) if away is None else (away.share, away.pace)
        self._away[session] = _Away(now_ms, lookahead, True, commits, share, pace)

    def came_back(self, session: SessionId, num_drafted: int, now_ms: float, since_ms: float | None = None) -> None:
        """The session's next Verify is here; its draft may have ended before its lookahead.

        If nothing was received since `since_ms`, as a step ran, it may have come at any time from then on.
        """
        if (away := self._away.get(session)) is None or not away.is_away:
            return
        away.is_away = False
        is_drafted = num_drafted > 0 and away.lookahead > 0
        if is_drafted:
            away.share += _LATEST * (min(1.0, num_drafted / away.lookahead) - away.share)
        expected_ms, latest_ms = self._away_ms(away), now_ms - away.left_ms
        soonest_ms = latest_ms if since_ms is None else since_ms - away.left_ms
        if soonest_ms < expected_ms < latest_ms:  # as was to be expected, for all that is known
            return
        away_ms = max(1e-3, min(latest_ms, max(soonest_ms, expected_ms)))
        if not away.lookahead:
            self._bare_turnaround.observe((1.0,), away_ms)
            return
        features = (1.0, away.lookahead)
        usual_ms = self._turnaround.predict(features)
        if is_drafted:
            away.pace += _LATEST * (min(LATE, away_ms / usual_ms) - away.pace)
        is_soon = away_ms < self._soonest_share * usual_ms
        self._soonest_share *= 1.0 - _SOON_STEP * (1.0 - _SOON) if is_soon else 1.0 + _SOON_STEP * _SOON
        self._turnaround.observe_spread(features, away_ms)

    def forget(self, session: SessionId) -> None:
        """The session has ended or moved."""
        self._away.pop(session, None)

    # -- decisions ----------------------------------------------------------------------------

    def wait_until_ms(self, ready: Sequence[Ready], waited_since_ms: float, now_ms: float) -> float | None:
        """Until when to wait for proposals that are about to arrive; None to step now."""
        clusters = self._expected(now_ms)
        if not clusters or not ready:
            return None
        present, step_ms = self._group(ready), self._step_times(ready)
        one_step_ms = step_ms(present.num_sequences, present.num_tokens)
        rest_ms = waited_since_ms + _MAX_WAIT_STEPS * one_step_ms - now_ms
        expected: list[Group] = []
        next_dues_ms = [*(due_ms for due_ms, _ in clusters[1:]), math.inf]
        for (due_ms, group), next_ms in zip(clusters, next_dues_ms, strict=True):
            expected.append(group)
            if next_ms - due_ms <= _TOGETHER * one_step_ms:
                continue
            wait_ms = due_ms - now_ms
            if wait_ms <= rest_ms and is_worth_waiting(present, joined(expected), wait_ms, step_ms):
                return now_ms + min(rest_ms, max(1.0, wait_ms))
        return None

    def num_to_step(self, ready: Sequence[Ready]) -> int:
        """How many of those that are ready, the first to come first, share the next step: all, or half of them."""
        verifying = [one for one in ready if not one.num_prompt_tokens]
        num_away = sum(one.is_away for one in self._away.values())
        if not self._can_split or len(verifying) < 2 or num_away * _FEW > len(verifying):
            return len(ready)
        if not is_worth_splitting(self._group(verifying), self._step_times(verifying)):
            return len(ready)
        return len(ready) // 2

    def trim(self, ready: Sequence[Ready], max_tokens: int, spent_ms: float) -> list[int]:
        """How many tokens of each proposal to verify; `spent_ms` is what this round has cost before its step.

        The drafts are there already, so only the step itself has a price.
        """
        kept = [one.num_drafted for one in ready]
        if any(one.survival for one in ready):
            chosen = self._worth_their_place(ready, max_tokens, spent_ms)
            kept = [worth if one.survival else one.num_drafted for one, worth in zip(ready, chosen, strict=True)]
        if num_drafted := sum(one.num_drafted for one in ready):
            self.num_trimmed_tokens += num_drafted - sum(kept)
            self._kept_share += _LATEST * (sum(kept) / num_drafted - self._kept_share)
        return kept

    def _worth_their_place(self, ready: Sequence[Ready], max_tokens: int, spent_ms: float) -> Sequence[int]:
        candidates = [
            Candidate(one.survival, 1.0 if one.survival else self._commits(one.session), is_free=True) for one in ready
        ]
        num_tokens = sum(one.num_tokens - len(one.survival) for one in ready)
        shape = StepShape(
            num_sequences=len(ready),
            num_tokens=num_tokens,
            num_prompt_tokens=sum(one.num_prompt_tokens for one in ready),
            num_context_tokens=sum(one.context_len for one in ready),
        )
        room, num_pairs = max(0, max_tokens - num_tokens), sum(len(one.survival) for one in ready)
        times_ms = max(0.0, spent_ms) + self.costs.curve(shape, min(room, num_pairs))
        if len(ready) == 1:
            return better(*choose_alone(candidates[0], times_ms.tolist())).lookaheads
        return choose(candidates, times_ms[None]).lookaheads

    # -- the batch that may come --------------------------------------------------------------

    def _expected(self, now_ms: float) -> list[tuple[float, Group]]:
        """Sessions that are away and not late, those that left together as one group, the next to come first."""
        clusters: dict[tuple[float, int], list[_Away]] = {}
        for away in self._away.values():
            if away.is_away:
                clusters.setdefault(away.key, []).append(away)
        expected = []
        for (left_ms, lookahead), group in clusters.items():
            away_ms = max(self._away_ms(away) for away in group)
            if now_ms - left_ms < LATE * away_ms:
                gain = sum(away.commits for away in group)
                num_drafted = self._kept_share * sum(away.share * away.lookahead for away in group)
                one = Group(len(group), len(group) + round(num_drafted), gain, away_ms)
                soonest_ms = self._soonest_share * self._turnaround.predict((1.0, lookahead)) if lookahead else away_ms
                due_ms = soonest_ms if now_ms - left_ms < soonest_ms < away_ms else away_ms
                expected.append((max(now_ms, left_ms + due_ms), one))
        return sorted(expected)

    def _group(self, ready: Sequence[Ready]) -> Group:
        gain, away_ms = 0.0, self._bare_turnaround.predict((1.0,))
        for one in ready:
            gain += self._commits(one.session)
            if (away := self._away.get(one.session)) is not None:
                away_ms = max(away_ms, self._away_ms(away))
        num_tokens = sum(one.num_prompt_tokens or 1 + self._kept_share * one.num_drafted for one in ready)
        return Group(len(ready), round(num_tokens), gain, away_ms)

    def _away_ms(self, away: _Away) -> float:
        """How long the session is likely to be away."""
        if not away.lookahead:
            return self._bare_turnaround.predict((1.0,))
        return away.pace * self._turnaround.predict((1.0, away.lookahead))

    def _commits(self, session: SessionId) -> float:
        away = self._away.get(session)
        return away.commits if away is not None else 1.0

    def _step_times(self, ready: Sequence[Ready]) -> StepTimes:
        """A step's time by sequences and tokens, at the mean context of those that are ready."""
        context = sum(one.context_len for one in ready) / len(ready)

        def step_ms(num_sequences: int, num_tokens: int, /) -> float:
            num_context_tokens = round(context * num_sequences)
            return self.costs.predict(
                StepShape(num_sequences=num_sequences, num_tokens=num_tokens, num_context_tokens=num_context_tokens)
            )

        return step_ms
