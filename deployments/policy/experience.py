"""What rounds were seen to take and to bring, from verdict to verdict.

    steps, rounds -> round times, promises kept

What a planner goes by beside the costs of parts and the acceptance of tokens. Rounds that others disturb tell nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from deployments.policy.costs import StepCosts
from deployments.policy.promises import Promises
from deployments.policy.round_times import BareModel, RoundTimes
from deployments.policy.speculation import Forecast, Speculation, SpeculationSettings
from deployments.timing import StepShape

_PURE_CYCLES = 3.0
"""Cycles without a drafted token after which rounds of sessions that share steps are bare ones from end to end, and
groups that took turns have come together: the first takes 1.8 times as long as later ones, the third 1.15.
"""
_PROMPTS_SHARE = 0.25
"""Of a round that others' prompts may take, by the cost model, for it to tell something: that much is taken off."""


class Ended(NamedTuple):
    """A session's round that has ended with the latest step: of `num_looked_at` drafted tokens `num_held` held.

    It was one of `num_sessions` on the verifier (sessions that want no drafter are not among those; where there are no
    others nothing can be learnt), asked for with `forecast`, and its drafter took `draft_ms`.
    """

    num_held: int
    num_looked_at: int
    forecast: Forecast | None
    num_sessions: int
    round_ms: float
    draft_ms: float = 0.0


class Experience:
    """Of the rounds of one verifier's sessions."""

    def __init__(self) -> None:
        self.round_times = RoundTimes()
        self.promises = Promises()
        self._prompts_ms = 0.0
        self._drafted_each = 0.0
        self._bare_cycles = 0.0

    def on_step(self, shape: StepShape, num_own: int, num_own_tokens: int, num_sessions: int, costs: StepCosts) -> None:
        """A step has run, with so many of the sessions and tokens of them in it."""
        if shape.num_prompt_tokens:  # plans know what they cost more than beside a token of every session
            num_bare = max(1, num_sessions + shape.num_sequences - num_own)
            bare = msgspec.structs.replace(shape, num_tokens=num_bare, num_prompt_tokens=0)
            self._prompts_ms += max(0.0, float(costs.prompts_ms(bare, shape.num_prompt_tokens)[0]))
        self._drafted_each = num_own_tokens / max(1, num_own) - 1.0
        num_cycles = num_own / max(1, num_sessions)
        self._bare_cycles = self._bare_cycles + num_cycles if num_own_tokens == num_own else 0.0

    def on_round(
        self, session: Speculation, ended: Ended, settings: SpeculationSettings, context: float, bare_model: BareModel
    ) -> None:
        """Take a round that has ended with that step."""
        prompts_ms, session.prompts_ms = self._prompts_ms - session.prompts_ms, self._prompts_ms
        is_same_company, session.company = session.company == ended.num_sessions, ended.num_sessions
        if not ended.num_sessions or prompts_ms > _PROMPTS_SHARE * ended.round_ms:
            return
        told = session.told(settings)
        if told is None:
            self._observe_promise(session, ended, prompts_ms)
        if is_same_company and not session.is_apart(settings):
            if ended.num_looked_at:
                self._observe_drafted(session, ended, prompts_ms)
            elif not told and not _is_drafted(ended.forecast):
                self._observe_bare(session, ended, prompts_ms, context, bare_model)

    def _observe_promise(self, session: Speculation, ended: Ended, prompts_ms: float) -> None:
        """Take what came of a plan. Prompts are none of its fault: only the kind that runs would pay for them."""
        forecast, num_sessions = ended.forecast, ended.num_sessions
        if forecast is not None and forecast.rate and forecast.num_sessions == num_sessions:
            num_promised = forecast.rate * (ended.round_ms - prompts_ms) / num_sessions
            num_come = session.weight * (1 + ended.num_held)
            self.promises.observe(num_sessions, forecast.is_drafted, num_promised, num_come)

    def _observe_drafted(self, session: Speculation, ended: Ended, prompts_ms: float) -> None:
        """Take a round's time if it and the one before it, in whose wake it began, were of the same kind."""
        forecast = ended.forecast
        if forecast is None or not _is_drafted(forecast) or session.num_rounds_off:
            return
        if forecast.num_sessions == ended.num_sessions:
            modelled_ms = forecast.modelled_ms(self._drafted_each, ended.draft_ms)
            self.round_times.observe_drafted(ended.num_sessions, modelled_ms, ended.round_ms - prompts_ms)

    def _observe_bare(
        self, session: Speculation, ended: Ended, prompts_ms: float, context: float, bare_model: BareModel
    ) -> None:
        """The same of a round without a draft: not of one whose draft came too late, or had no room."""
        if ended.num_sessions == 1 or (session.num_rounds_off and self._bare_cycles >= _PURE_CYCLES):
            self.round_times.observe_bare(ended.num_sessions, context, bare_model, ended.round_ms - prompts_ms)


def _is_drafted(forecast: Forecast | None) -> bool:
    return forecast is not None and forecast.is_drafted
