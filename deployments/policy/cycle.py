"""The time in which every session of a verifier has one round, by the longest lookahead and the tokens drafted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.policy.round_times import AS_MODELLED, Lateness
from deployments.policy.waiting import SPLIT_MARGIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """Either all sessions share a step, or two halves take turns: one drafts while the other is verified, which hides
    the drafts and reads the weights twice. The verifier does the better of both.

    `whole_ms` and `half_ms` are the steps of all and of half of the sessions with 0, 1 .. drafted tokens (`half_ms`
    is () where groups do not part); `away_ms` the time between two steps, by the longest lookahead; a draft takes
    `draft_ms` by the longest lookahead and `token_ms` per token. Somebody has asked for `floor` tokens in any case.
    What rounds were seen to take comes on top: `bare` of cycles without drafts, `drafted` of the others.
    """

    whole_ms: Sequence[float]
    half_ms: Sequence[float]
    away_ms: Sequence[float]
    draft_ms: Sequence[float]
    token_ms: float
    floor: int = 0
    bare: Lateness = AS_MODELLED
    drafted: Lateness = AS_MODELLED

    def __call__(self, cap: int, most: int) -> list[float]:
        """By the tokens drafted in all, from 0 to `most`."""
        late_ms, factor = self._lateness(max(cap, self.floor))
        return [late_ms + factor * one for one in self.modelled(cap, most)]

    def modelled(self, cap: int, most: int) -> list[float]:
        """The same by the sum of its parts alone."""
        cap = max(cap, self.floor)
        waits_ms, token_ms = self.away_ms[cap], self.token_ms
        if cap == 0:
            return [one + waits_ms for one in self.whole_ms[: most + 1]]
        together = [one + waits_ms + token_ms * i for i, one in enumerate(self.whole_ms[: most + 1])]
        if not self.half_ms:
            return together
        drafts_ms = 2 * self.draft_ms[cap]
        turns = [
            SPLIT_MARGIN * max(2 * one, one + token_ms * i + waits_ms, drafts_ms + 2 * token_ms * i)
            for i, one in enumerate(self.half_ms[: most // 2 + 1])
        ]
        return [one if one <= turns[i >> 1] else turns[i >> 1] / SPLIT_MARGIN for i, one in enumerate(together)]

    def alone(self, most: int) -> list[float]:
        """Of one session by its lookahead: what `self(k, k)[k]` is for 0 .. `most`."""
        first = self.whole_ms[0] + self.away_ms[self.floor]
        rest = zip(self.whole_ms[1 : most + 1], self.away_ms[1:], strict=False)
        drafted = (one + away_ms + self.token_ms * i for i, (one, away_ms) in enumerate(rest, start=1))
        return [self._lateness(self.floor).after(first), *map(self.drafted.after, drafted)]

    def _lateness(self, cap: int) -> Lateness:
        """Of a cycle with this longest lookahead."""
        return self.drafted if cap else self.bare
