"""The time in which every session of a verifier has one round, by the longest lookahead and the tokens drafted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deployments.policy.round_times import AS_MODELLED, Lateness
from deployments.policy.waiting import SPLIT_MARGIN

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_A_FEW = 4
"""Steps over which the price of one is found: a draft may be hidden up to a point."""


class Further(NamedTuple):
    """What one more costs: a token that is drafted, one that is verified, and a step of a batch."""

    drafted: float
    verified: float
    step: float


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """Either all sessions share a step, or two halves take turns: one drafts while the other is verified, which hides
    the drafts and reads the weights twice. The verifier does the better of both.

    `whole_ms` and `half_ms` are the steps of all and of half of the sessions with 0, 1 .. drafted tokens, up to the
    most and to half of that (`half_ms` is empty where groups do not part); `away_ms` the time between two steps, by
    the longest lookahead; a draft takes `draft_ms` by the longest lookahead, `step_ms` for each step that is run, and
    `token_ms` per token. Somebody has
    asked for `floor` tokens in any case. What rounds were seen to take comes on top: `bare` of cycles without drafts,
    `drafted` of the others.
    """

    whole_ms: Floats
    half_ms: Floats
    away_ms: Floats
    draft_ms: Floats
    step_ms: float
    token_ms: float
    floor: int = 0
    bare: Lateness = AS_MODELLED
    drafted: Lateness = AS_MODELLED

    @cached_property
    def times_ms(self) -> Floats:
        """By the longest lookahead, and by the tokens drafted in all: (caps, 1 + tokens)."""
        caps, tokens = np.arange(len(self.away_ms))[:, None], np.arange(len(self.whole_ms))
        is_drafted = np.maximum(caps, self.floor) > 0
        late_ms = np.where(is_drafted, self.drafted.late_ms, self.bare.late_ms)
        factor = np.where(is_drafted, self.drafted.factor, self.bare.factor)
        times_ms: Floats = late_ms + factor * self._modelled(caps, tokens)
        return times_ms

    def seen_ms(self, num_tokens: int, draft_ms: float) -> float:
        """The sum of the parts alone where so many tokens were drafted in all, and a batch of drafts took so long."""
        tokens, hop_ms = min(num_tokens, len(self.whole_ms) - 1), float(self.away_ms[-1] - self.draft_ms[-1])
        together = float(self.whole_ms[tokens]) + hop_ms + draft_ms
        if not len(self.half_ms):
            return together
        return float(_better(together, _in_turns(self.half_ms[tokens >> 1], hop_ms, draft_ms)))

    def marginal_ms(self, cap: int, num_tokens: int) -> Further:
        """What is added to rounds with drafts, in ms."""
        at = np.array([cap]), np.array([num_tokens])
        most = min(len(self.whole_ms) - 1, max(2, num_tokens + num_tokens // 2))
        least = min(num_tokens // 2, most - 1)
        more_ms = _A_FEW * self.step_ms
        later = replace(self, away_ms=self.away_ms + more_ms, draft_ms=self.draft_ms + more_ms)
        now_ms, num_batches = float(self._modelled(*at)[0]), 2 if self._parts(*at) else 1
        fewer_ms, more_tokens_ms = self._modelled(np.array([cap, cap]), np.array([least, most])).tolist()
        token_ms = (more_tokens_ms - fewer_ms) / (most - least)
        step_ms = (float(later._modelled(*at)[0]) - now_ms) / (_A_FEW * num_batches)
        factor, drafted_ms = self.drafted.factor, min(self.token_ms, max(0.0, token_ms))
        verified_ms = max(0.0, token_ms) - drafted_ms
        return Further(factor * drafted_ms, factor * verified_ms, factor * max(0.0, step_ms))

    def alone_ms(self, drafted: Sequence[float] = ()) -> list[float]:
        """Of one session by its lookahead; `drafted` says how likely each position is drafted, () all of them."""
        most = min(len(self.whole_ms), len(self.away_ms))
        tokens = np.arange(most)
        whole_ms = self.whole_ms[:most]
        if drafted:
            tokens = np.concatenate(([0.0], np.cumsum(drafted)))[:most]
            whole_ms = np.interp(tokens, np.arange(len(self.whole_ms)), self.whole_ms)
        parts_ms = whole_ms + self.away_ms[:most] + self.token_ms * tokens
        first_ms = float(self.whole_ms[0] + self.away_ms[self.floor])
        lateness = self.drafted if self.floor else self.bare
        return [lateness.after(first_ms), *map(self.drafted.after, parts_ms[1:].tolist())]

    def _modelled(self, caps: Ints, tokens: Ints) -> Floats:
        together, turns = self._both(caps, tokens)
        return together if turns is None else _better(together, turns)

    def _parts(self, caps: Ints, tokens: Ints) -> bool:
        together, turns = self._both(caps, tokens)
        return turns is not None and bool((_better(together, turns) == turns).all())

    def _both(self, caps: Ints, tokens: Ints) -> tuple[Floats, Floats | None]:
        """In one batch, and in two that take turns; None where groups do not part."""
        caps = np.maximum(caps, self.floor)
        waits_ms, drafts_ms, tokens_ms = self.away_ms[caps], self.draft_ms[caps], self.token_ms * tokens
        together: Floats = self.whole_ms[tokens] + waits_ms + np.where(caps > 0, tokens_ms, 0.0)
        if not len(self.half_ms):
            return together, None
        half_draft_ms = drafts_ms + self.token_ms * (tokens >> 1)
        turns = _in_turns(self.half_ms[tokens >> 1], waits_ms - drafts_ms, half_draft_ms)
        return together, np.where(caps > 0, turns, np.inf)


def _in_turns(half_ms: Floats | float, hop_ms: Floats | float, draft_ms: Floats | float) -> Floats:
    """A cycle of two groups of which one drafts while the other is verified: the longest of what stands in line."""
    return np.maximum(np.maximum(2.0 * half_ms, half_ms + hop_ms + draft_ms), 2.0 * draft_ms)


def _better(together: Floats | float, turns: Floats | float) -> Floats:
    """What the verifier would do of both."""
    return np.where(SPLIT_MARGIN * turns < together, turns, together)
