"""The lookaheads of all sessions of one verifier: what was learnt, put into the joint search once per step.

    step, rounds -> costs, acceptance, exposure -> choose -> a lookahead per session

Everything is deterministic and knows no clock: a router feeds it from its messages, the simulator from
virtual time. A plan is made anew when enough rounds have come in since the last, so that its cost per
session and round is the same at any number of sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from deployments.messages import PolicyName, Priority, RequestClass, SessionId
from deployments.policy.acceptance import DrafterAcceptance, SessionAcceptance
from deployments.policy.costs import DraftCosts, StepCosts
from deployments.policy.exposure import Exposure
from deployments.policy.lookahead import Candidate, CycleTimes, choose, rate_of
from deployments.policy.waiting import SPLIT_MARGIN
from deployments.timing import StepShape

_WEIGHTS: Mapping[Priority, float] = {"interactive": 1.0, "batch": 0.4}
_HYSTERESIS = 1.003
"""A plan stays unless another one promises more than this."""
_PLANS_PER_ROUND = 4
"""At most so many plans in the time in which every session has one round."""
_PROBE_EVERY, _PROBE_AT_MOST_EVERY = 32, 256
_FULL, _SCARCE = 1.0, 0.85
"""Use of the KV cache above which lookaheads shrink, down to 0 when it is full."""


class SpeculationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who decides a lookahead that the request leaves open, and its bounds.

    `adaptive` maximises expected tokens per second; `constant` takes `num_speculative_tokens`; `heuristic`
    starts there, adds 2 after a proposal accepted whole and takes 1 off after any other, as transformers do.
    """

    policy: PolicyName = "adaptive"
    num_speculative_tokens: int = 4
    max_speculative_tokens: int = 16


@dataclass(slots=True, kw_only=True)
class Speculation:
    """One session as the planner knows it. `requested` None leaves the lookahead to the policy.

    `drafters` is what is known of each kind of drafter, shared by all sessions; `kind` drafts for this one.
    """

    drafters: dict[str, DrafterAcceptance]
    kind: str
    num_positions: int
    request_class: RequestClass | None = None
    requested: int | None = None
    priority: Priority = "interactive"
    lookahead: int | None = None
    heuristic: int = 0
    is_probe: bool = False
    num_rounds_off: int = 0
    by_kind: dict[str, SessionAcceptance] = field(default_factory=dict)

    @property
    def acceptance(self) -> SessionAcceptance:
        """With the drafter that drafts for it."""
        return self.acceptance_of(self.kind)

    @property
    def is_free(self) -> bool:
        """Whether its drafts expose no time: they are looked up where the session is."""
        return self.kind == "prompt_lookup"

    def acceptance_of(self, kind: str) -> SessionAcceptance:
        """With drafters of this kind."""
        known = self.by_kind.get(kind)
        if known is None:
            drafter = self.drafters.setdefault(kind, DrafterAcceptance())
            known = self.by_kind[kind] = SessionAcceptance(drafter, self.request_class, self.num_positions)
        return known


@dataclass(slots=True)
class PlannerStats:
    """Counters since the planner began."""

    num_plans: int = 0
    num_probes: int = 0
    rate: float = 0.0
    cap: int = 0


@dataclass(slots=True)
class _Batch:
    """What a step of this verifier looks like, smoothed: what other routers bring per own session, and contexts."""

    other_sequences: float = 0.0
    other_drafted: float = 0.0
    context: float = 256.0

    def observe(self, shape: StepShape, num_own: int, num_own_tokens: int) -> None:
        other = max(0, shape.num_sequences - num_own)
        drafted = max(0, shape.num_tokens - shape.num_prompt_tokens - num_own_tokens - other)
        self.other_sequences += 0.1 * (other / max(1, num_own) - self.other_sequences)
        self.other_drafted += 0.1 * (drafted / max(1, num_own) - self.other_drafted)
        self.context += 0.1 * (shape.num_context_tokens / max(1, shape.num_sequences) - self.context)


@dataclass(slots=True)
class Planner:
    """Decides for the sessions of one verifier. `draft_costs` are those of the drafters that they use."""

    settings: SpeculationSettings
    max_step_tokens: int = 512
    can_split: bool = True
    costs: StepCosts = field(default_factory=StepCosts)
    exposure: Exposure = field(default_factory=Exposure)
    draft_costs: dict[str, DraftCosts] = field(default_factory=dict)
    sessions: dict[SessionId, Speculation] = field(default_factory=dict)
    stats: PlannerStats = field(default_factory=PlannerStats)
    kv_usage: float = 0.0
    _batch: _Batch = field(default_factory=_Batch)
    _num_rounds_since_plan: int = 0
    _steps_to_probe: int = _PROBE_EVERY
    _probe_every: int = _PROBE_EVERY
    _is_probe: bool = False
    _threshold: float = 0.0
    _cap: int = 0

    # -- observations -------------------------------------------------------------------------

    def on_step(self, shape: StepShape, step_ms: float, num_own: int, num_own_tokens: int) -> None:
        """A step has run, with so many sessions and tokens of this planner in it."""
        self.costs.observe(shape, step_ms)
        self._batch.observe(shape, num_own, num_own_tokens)
        self._num_rounds_since_plan += num_own
        self._steps_to_probe -= 1

    def on_round(self, session: Speculation, num_held: int, num_looked_at: int, is_next_held: bool = False) -> None:
        """A round of this session has ended."""
        if num_looked_at:
            session.num_rounds_off = 0
            was_whole = num_held >= num_looked_at
            session.heuristic = min(
                self.settings.max_speculative_tokens, max(1, session.heuristic + (2 if was_whole else -1))
            )
        else:
            session.num_rounds_off += 1

    # -- decisions ----------------------------------------------------------------------------

    def lookahead(self, session: Speculation) -> int:
        """How many tokens to draft in the session's next round, its room aside."""
        settings = self.settings
        if session.requested is not None:
            return min(session.requested, settings.max_speculative_tokens)
        if settings.policy == "constant":
            return settings.num_speculative_tokens
        if settings.policy == "heuristic":
            session.heuristic = session.heuristic or max(1, settings.num_speculative_tokens)
            return session.heuristic
        if self._num_rounds_since_plan * _PLANS_PER_ROUND >= len(self.sessions) or not self.stats.num_plans:
            self._plan()
        if session.lookahead is None:
            survival = session.acceptance.survival[: self._cap]
            session.lookahead = sum(chance >= self._threshold for chance in survival)
        return session.lookahead

    def _plan(self) -> None:
        self._num_rounds_since_plan = 0
        self.stats.num_plans += 1
        limit = self._limit()
        sessions, candidates, settled = [], [], []
        for one in self.sessions.values():
            weight, survival = _WEIGHTS[one.priority], one.acceptance.survival
            if one.requested is None:
                sessions.append(one)
                candidates.append(Candidate(survival[:limit], weight, one.is_free))
            else:  # it takes part in the step whatever is decided for the others
                settled.append(Candidate((), weight * (1.0 + sum(survival[: one.requested or 0]))))
        if not sessions:
            return
        everyone = candidates + settled
        room = max(0, self.max_step_tokens - len(self.sessions))
        num_pairs = min(room, sum(len(one.survival) for one in candidates))
        cycle_ms = self._cycle(num_pairs, limit)
        choice = choose(everyone, cycle_ms, limit, num_pairs)
        lookaheads = choice.lookaheads[: len(sessions)]
        before = tuple(min(one.lookahead or 0, limit) for one in sessions)
        if before != lookaheads and sum(before) <= num_pairs and all(one.lookahead is not None for one in sessions):
            vector = before + (0,) * len(settled)
            if choice.rate < _HYSTERESIS * rate_of(vector, everyone, cycle_ms):
                lookaheads = before
        for session, lookahead in zip(sessions, lookaheads, strict=True):
            session.lookahead, session.is_probe = lookahead, False
        self._threshold, self._cap = choice.threshold, choice.cap
        self.stats.rate, self.stats.cap = choice.rate, max(lookaheads)
        self._probe(sessions, limit)

    def _probe(self, sessions: list[Speculation], limit: int) -> None:
        """Now and then a few sessions look one token further than pays, so that what has changed is seen."""
        if self._steps_to_probe > 0:
            return
        is_off = self.stats.cap == 0
        self._probe_every = min(2 * self._probe_every, _PROBE_AT_MOST_EVERY) if is_off else _PROBE_EVERY
        self._steps_to_probe = self._probe_every
        sessions = sorted(sessions, key=lambda one: -one.num_rounds_off)
        for session in sessions[: max(1, len(sessions) // 16)]:
            assert session.lookahead is not None
            if session.lookahead < limit:
                session.lookahead += 1
                session.is_probe = True
                self.stats.num_probes += 1

    def _limit(self) -> int:
        most = self.settings.max_speculative_tokens
        if self.kv_usage <= _SCARCE:
            return most
        return int(most * max(0.0, _FULL - self.kv_usage) / (_FULL - _SCARCE))

    def _cycle(self, num_pairs: int, limit: int) -> CycleTimes:
        """The time in which every session has one round.

        Either all of them share a step, or two halves take turns: one drafts while the other is verified, which
        hides the drafts and reads the weights twice. The verifier does the better of both.
        """
        num_sessions, batch = len(self.sessions), self._batch
        fixed = [one.requested for one in self.sessions.values() if one.requested]
        num_sequences = num_sessions * (1.0 + batch.other_sequences)
        num_tokens = num_sequences + sum(fixed) + num_sessions * batch.other_drafted
        first_ms, step_ms, token_ms = self._draft_parts()
        floor = min(max(fixed, default=0), limit)
        away_ms = self.exposure.by_cap(first_ms, step_ms, limit)
        whole = self.costs.curve(self._shape(num_sequences, num_tokens), num_pairs)
        joint = [one + token_ms * i for i, one in enumerate(whole)]
        half = self.costs.curve(self._shape(num_sequences / 2, num_tokens / 2), num_pairs // 2 + 1)
        halves = [(one, one + token_ms * i, 2 * token_ms * i) for i, one in enumerate(half)]

        def cycle_ms(cap: int, most: int) -> list[float]:
            waits_ms = away_ms[max(cap, floor)]
            if cap == 0:
                return [one + waits_ms for one in whole[: most + 1]]
            together = [one + waits_ms for one in joint[: most + 1]]
            if not self.can_split:
                return together
            drafts_ms = 2 * (first_ms + step_ms * cap)
            turns = [
                SPLIT_MARGIN * max(2 * one, alone + waits_ms, drafts_ms + tokens)
                for one, alone, tokens in halves[: most // 2 + 1]
            ]
            return [one if one <= turns[i >> 1] else turns[i >> 1] / SPLIT_MARGIN for i, one in enumerate(together)]

        return cycle_ms

    def _shape(self, num_sequences: float, num_tokens: float) -> StepShape:
        sequences = max(1, round(num_sequences))
        context = round(self._batch.context * sequences)
        return StepShape(
            num_sequences=sequences, num_tokens=max(sequences, round(num_tokens)), num_context_tokens=context
        )

    def _draft_parts(self) -> tuple[float, float, float]:
        parts = [costs.parts for costs in self.draft_costs.values()] or [DraftCosts().parts]
        first, step, token = (sum(column) / len(parts) for column in zip(*parts, strict=True))
        return first, step, token / len(parts)
