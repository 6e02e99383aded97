"""The lookaheads of all sessions of one verifier: what was learnt, put into the joint search once per step.

    step, rounds -> costs, acceptance, exposure -> choose -> a lookahead per session

Everything is deterministic and knows no clock: a router feeds it from its messages, the simulator from
virtual time. A plan is made anew when enough rounds have come in since the last, so that its cost per
session and round is the same at any number of sessions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from deployments.messages import EarlyStop, Priority, SessionId
from deployments.policy.costs import DraftCosts, StepCosts, mean_parts
from deployments.policy.cycle import Cycle, Further
from deployments.policy.exposure import Exposure
from deployments.policy.lookahead import Candidate, Choice, Search, unless_as_good
from deployments.policy.probing import Probing, of_the_longest_off, probe_rounds
from deployments.policy.round_times import Lateness, RoundTimes, company
from deployments.policy.speculation import Forecast, Probe, Speculation, SpeculationSettings
from deployments.policy.step_mix import StepMix
from deployments.timing import StepShape

_WEIGHTS: Mapping[Priority, float] = {"interactive": 1.0, "batch": 0.4}
_PLANS_PER_ROUND = 4
"""At most so many plans in the time in which every session has one round."""
_CALM = 16.0
"""Cycles until the next plan at the most, where one plan after the other says that nobody shall draft."""
_BEGINS, _ENDS = 1.02, 1.005
"""Drafting begins where it promises more than the one, and ends where it promises less than the other."""
_FIRST_BEGINS = 1.25
"""The same for a session's first round. It is decided before the prompt is read, when nobody knows who will share the
round, and the drafter has the whole prompt to catch up with: what promises little had better wait for the second.
"""
_GIVEN_UP, _MOST_GIVEN_UP = 0.025, 1.04
"""What a cap of all sessions has to promise beyond a shorter one, by the logarithm of the odds that a whole proposal
adds to the first token after it. Where what holds comes in runs, the rounds of long proposals begin behind a miss more
often than those of short ones, and show less of the first positions than short ones would find there (ADR 12).
"""
_DEEPER_EVERY = 32.0
"""Cycles between two looks beyond what pays."""
_PURE_CYCLES = 2.0
"""Cycles without a drafted token after which rounds of sessions that share steps are bare ones from end to end."""
_PROMPTS_SHARE = 0.25
"""Of a round that others' prompts may take, by the cost model, for it to tell something: that much is taken off."""
_MOST_ENDING_EARLY = 16
"""Sessions of which drafts end early. Among more of them, batches hardly differ in what they have in prospect, and
groups that take turns part and join with every draft that is longer or shorter than the one before.
"""
_SETTLED_ROUNDS = 4
"""A session's first rounds take longer than others: its request is still under way everywhere."""


@dataclass(slots=True)
class PlannerStats:
    """Counters since the planner began."""

    num_plans: int = 0
    rate: float = 0.0
    cap: int = 0


@dataclass(slots=True)
class Planner:
    """Decides for the sessions of one verifier. `draft_costs` are those of all drafters there are."""

    settings: SpeculationSettings
    max_step_tokens: int = 512
    can_split: bool = True
    costs: StepCosts = field(default_factory=StepCosts)
    exposure: Exposure = field(default_factory=Exposure)
    draft_costs: dict[str, DraftCosts] = field(default_factory=dict)
    sessions: dict[SessionId, Speculation] = field(default_factory=dict)
    stats: PlannerStats = field(default_factory=PlannerStats)
    _batch: StepMix = field(default_factory=StepMix)
    round_times: RoundTimes = field(default_factory=RoundTimes)
    probing: Probing = field(default_factory=Probing)
    _prompts_ms: float = 0.0
    _missing_ms: float = 0.0
    _bare_cycles: float = 0.0
    _num_rounds_since_plan: int = 0
    _cycles_to_plan: float = 1.0 / _PLANS_PER_ROUND
    _has_news: bool = False
    _cycles_to_deeper: float = _DEEPER_EVERY
    _threshold: float = 0.0
    _cap: int = 0
    _forecast: Forecast | None = None
    _further: Further | None = None
    _promises_much: bool = False

    # -- observations -------------------------------------------------------------------------

    def on_step(
        self, shape: StepShape, step_ms: float, num_own: int, num_own_tokens: int, num_missing: int = 0
    ) -> None:
        """A step has run, with so many sessions and tokens of this planner in it; so many planned ones were not."""
        self.costs.observe(shape, step_ms)
        self._batch.observe(shape, num_own, num_own_tokens)
        if shape.num_prompt_tokens or num_missing:
            self._count_unforeseen(shape, num_missing)
        self._num_rounds_since_plan += num_own
        num_cycles = num_own / max(1, len(self.sessions))
        self._bare_cycles = self._bare_cycles + num_cycles if num_own_tokens == num_own else 0.0

    def on_round(
        self,
        session: Speculation,
        num_held: int,
        num_looked_at: int,
        forecast: Forecast | None,
        num_sessions: int,
        round_ms: float,
    ) -> None:
        """A round of this session has ended, one of so many on the verifier; `forecast` is what it was asked with.

        Sessions that want no drafter are not among those; where there are no others nothing can be learnt.
        """
        prompts_ms, missing_ms = self._prompts_ms - session.prompts_ms, self._missing_ms - session.missing_ms
        session.prompts_ms, session.missing_ms = self._prompts_ms, self._missing_ms
        session.num_rounds += 1
        told = session.told(self.settings)
        is_apart = bool(told) and session.ends_early and session.acceptance.has_ended_early
        if session.advance(1 + num_held) and told is None:
            self._has_news = True
        if told is None and num_sessions:  # rounds that were told pay for no looking around
            self._cycles_to_deeper -= 1.0 / num_sessions
            self.probing.passed(1.0 / num_sessions, company(num_sessions))
        is_same_company = session.company == num_sessions
        session.company = num_sessions
        if prompts_ms <= _PROMPTS_SHARE * round_ms and is_same_company and num_sessions and not is_apart:
            self._observe_time(session, num_looked_at, forecast, round_ms - prompts_ms + missing_ms)
        session.num_rounds_off = 0 if num_looked_at else session.num_rounds_off + 1
        if num_looked_at and told is None:
            self._cycles_to_plan = 1.0 / _PLANS_PER_ROUND
        elif num_looked_at and told is not None:
            longer = told + (2 if num_held >= num_looked_at else -1)
            session.heuristic = min(self.settings.max_speculative_tokens, max(1, longer))

    def _count_unforeseen(self, shape: StepShape, num_missing: int) -> None:
        """What prompts have added to a step, and what was taken off it by tokens that it lacks: no plan knew."""
        num_verified = max(1, shape.num_tokens - shape.num_prompt_tokens)
        verified = msgspec.structs.replace(shape, num_tokens=num_verified, num_prompt_tokens=0)
        verified_ms = self.costs.predict(verified)
        if shape.num_prompt_tokens:
            self._prompts_ms += max(0.0, self.costs.predict(shape) - verified_ms)
        if num_missing:
            whole = msgspec.structs.replace(verified, num_tokens=max(1, num_verified + num_missing))
            self._missing_ms += self.costs.predict(whole) - verified_ms

    def _observe_time(
        self, session: Speculation, num_looked_at: int, forecast: Forecast | None, round_ms: float
    ) -> None:
        """Take a round's time if it and the one before it, in whose wake it began, were of the same kind."""
        num_sessions = session.company
        if num_looked_at:
            is_foreseen = forecast is not None and forecast.is_drafted and forecast.num_sessions == num_sessions
            if forecast is not None and is_foreseen and not session.num_rounds_off:
                self.round_times.observe_drafted(num_sessions, forecast.modelled_ms, round_ms)
        elif session.told(self.settings) or (forecast is not None and forecast.is_drafted):
            return  # drafts that came too late, or had no room, took their time all the same
        elif num_sessions == 1 or (session.num_rounds_off and self._bare_cycles >= _PURE_CYCLES):
            self.round_times.observe_bare(num_sessions, self._batch.context, self._bare_model, round_ms)

    # -- decisions ----------------------------------------------------------------------------

    def lookahead(self, session: Speculation) -> int:
        """How many tokens to draft in the session's next round, its room aside."""
        told = session.told(self.settings)
        if told is not None:
            session.forecast = self._forecast if told == session.lookahead else None
            session.early_stop = None
            return told
        is_first, session.is_new = session.is_new, False
        if session.probe is not None and self._is_of_another_company(session.probe):
            session.probe = None
        session.is_probe = session.probe is not None
        if session.probe is not None:
            return self._as_far(session, self._tried(session, session.probe))
        if session.lookahead is None:
            survival = session.acceptance.survival[: self._cap]
            session.lookahead = sum(chance >= self._threshold for chance in survival)
        session.forecast = self._forecast
        return 0 if is_first and not self._promises_much else self._as_far(session, session.lookahead)

    def _as_far(self, session: Speculation, lookahead: int) -> int:
        """How many tokens to ask for: where drafts are seen to end early, as many as there may be."""
        session.early_stop = self._early_stop_of(session) if lookahead else None
        if session.early_stop is None or not session.acceptance.has_ended_early:
            return lookahead
        return min(session.num_positions, self.settings.max_speculative_tokens)

    def begins(self, session_id: SessionId, session: Speculation) -> bool:
        """A session takes part from now on; whether that makes another company, which needs a plan at once."""
        self.sessions[session_id] = session
        return self._forecast is None or company(self._forecast.num_sessions) != company(len(self.sessions))

    def lacks_plan(self, session: Speculation) -> bool:
        """Whether the session is new, or its drafter: that counts as a round for the next plan."""
        if session.lookahead is not None:
            return False
        self._num_rounds_since_plan += 1
        self._has_news = True
        return True

    def refresh(self) -> None:
        """Plan anew if enough rounds have come in, and sessions begun, since the last plan."""
        cycles = 1.0 / _PLANS_PER_ROUND if self._has_news else self._cycles_to_plan
        if self._num_rounds_since_plan >= cycles * len(self.sessions):
            self._plan()

    def _may_end_early(self, session: Speculation) -> bool:
        return session.ends_early and len(self.sessions) <= _MOST_ENDING_EARLY

    def _early_stop_of(self, session: Speculation) -> EarlyStop | None:
        """When a draft of this session is not worth going on with."""
        if self._further is None or not self._may_end_early(session):
            return None
        acceptance, more = session.acceptance, self._further
        session.place_cost = more.verified / _WEIGHTS[session.priority]
        return EarlyStop(
            value=_WEIGHTS[session.priority],
            token_cost=more.drafted + more.verified,
            step_cost=more.step,
            chances=acceptance.calibration.as_bytes(),
            nexts=acceptance.calibration.nexts(self.settings.max_speculative_tokens),
        )

    def _is_of_another_company(self, probe: Probe) -> bool:
        """Then it tells nothing, and holds its session up beside others that go on as planned."""
        forecast = probe.forecast
        return forecast is not None and company(forecast.num_sessions) != company(len(self.sessions))

    def _tried(self, session: Speculation, probe: Probe) -> int:
        probe.num_rounds -= 1
        if not probe.num_rounds:
            session.probe = None
        session.forecast = probe.forecast
        return probe.lookahead

    def _plan(self) -> None:
        self._num_rounds_since_plan, self._has_news = 0, False
        if not self.sessions:
            return
        self.stats.num_plans += 1
        limit = self.settings.max_speculative_tokens
        sessions, candidates, settled = [], [], []
        for one in self.sessions.values():
            weight, survival, told = _WEIGHTS[one.priority], one.acceptance.survival, one.told(self.settings)
            if told is None:
                sessions.append(one)
                drafted = one.acceptance.drafted[:limit] if self._may_end_early(one) else ()
                candidates.append(Candidate(survival[:limit], weight, one.is_free, drafted))
            else:  # it takes part in the step whatever is decided for the others
                one.lookahead = told
                settled.append(Candidate((), weight * (1.0 + sum(survival[:told]))))
        search = self._search(candidates + settled, limit)
        if not sessions:
            self._only_told(search)
            return
        bare, with_drafts = search.best()
        chosen, rival = self._better(bare, with_drafts)
        before = tuple(min(one.lookahead or 0, limit) for one in sessions)
        is_other = before != chosen.lookaheads[: len(sessions)] and all(one.lookahead is not None for one in sessions)
        if is_other and sum(before) <= search.max_tokens:
            chosen = unless_as_good(chosen, search.score(before + (0,) * len(settled)))
        for session, lookahead in zip(sessions, chosen.lookaheads, strict=False):
            session.lookahead = lookahead
        is_calm = not chosen.cap and not self._cap
        self._cycles_to_plan = min(_CALM, 2.0 * self._cycles_to_plan) if is_calm else 1.0 / _PLANS_PER_ROUND
        self._threshold, self._cap = chosen.threshold, chosen.cap
        self._further = None
        if with_drafts is not None:
            more_ms = search.cycle.marginal_ms(with_drafts.cap, with_drafts.num_tokens)
            self._further = Further(*(chosen.rate * one for one in more_ms))
        self._forecast = self._forecast_of(chosen, search.cycle)
        self.stats.rate, self.stats.cap = chosen.rate, chosen.cap
        self._promises_much = self.stats.rate > _FIRST_BEGINS * bare.rate
        if rival is not None and (probe := self._probe_of(sessions, chosen, rival, search)) is not None:
            self._begin_probe(sessions, probe, self._forecast_of(probe, search.cycle))
        if chosen.cap:
            self._look_deeper(sessions, limit)

    def _only_told(self, search: Search) -> None:
        """Nothing is to be decided, but what rounds take is learnt from those that were told as well."""
        nothing = (0,) * len(self.sessions)
        self._forecast = self._forecast_of(search.score(nothing), search.cycle)
        self._cycles_to_plan = _CALM

    def _search(self, candidates: Sequence[Candidate], limit: int) -> Search:
        room = max(0, self.max_step_tokens - len(self.sessions))
        num_pairs = min(room, sum(len(one.survival) for one in candidates))
        may_end_early = any(one.drafted for one in candidates)
        given_up = self._given_up() if len(candidates) > 1 and not may_end_early else 1.0
        return Search(candidates, self._cycle(num_pairs, limit), given_up)

    def _given_up(self) -> float:
        drafters = {one.kind: one.drafters[one.kind] for one in self.sessions.values() if one.kind in one.drafters}
        runs = max((drafter.run_log_odds for drafter in drafters.values()), default=0.0)
        return min(_MOST_GIVEN_UP, 1.0 + _GIVEN_UP * runs)

    # -- what was seen against what the model says ------------------------------------------------

    def _bare_model(self, num_sessions: float, context: float) -> float:
        """What a cycle of so many sessions takes by the sum of its parts if nobody drafts."""
        sequences = max(1, round(num_sessions * (1.0 + self._batch.other_sequences)))
        tokens = max(sequences, round(num_sessions * (1.0 + self._batch.other_sequences + self._batch.other_drafted)))
        shape = StepShape(num_sequences=sequences, num_tokens=tokens, num_context_tokens=round(context * sequences))
        return self.costs.predict(shape) + self.exposure.bare_hop_ms

    def _forecast_of(self, choice: Choice, cycle: Cycle) -> Forecast:
        modelled_ms = cycle.modelled_ms(choice.cap, choice.num_tokens)
        return Forecast(len(self.sessions), _is_drafted(choice, cycle), modelled_ms)

    def _better(self, bare: Choice, drafted: Choice | None) -> tuple[Choice, Choice | None]:
        """The better of two kinds of rounds, and the other."""
        if drafted is None:
            return bare, None
        margin = _ENDS if self._cap else _BEGINS
        if drafted.rate > margin * bare.rate:
            return drafted, bare
        return bare, drafted

    def _probe_of(
        self, sessions: Sequence[Speculation], chosen: Choice, rival: Choice, search: Search
    ) -> Choice | None:
        """Now and then try the other kind of rounds: all sessions where it is unknown, else as few as will do."""
        if len(sessions) == 1 and sessions[0].num_rounds < _SETTLED_ROUNDS:
            return None
        probing, rate = self.probing, chosen.rate
        num_seen = self.round_times.num_cycles(len(self.sessions), _is_drafted(rival, search.cycle))
        probe = rival
        if not probing.is_untried(num_seen):
            if not probing.may_be_due:
                return None
            if rival.cap:
                rounds_off = [one.num_rounds_off for one in sessions]
                probe = search.score(of_the_longest_off(rounds_off, rival.lookaheads))
            num_cycles = probe_rounds(len(sessions)) * probe.cycle_ms / chosen.cycle_ms
            if not probing.is_due(rate, probe.rate, num_cycles, num_seen):
                return None
        return probe

    def _begin_probe(self, sessions: Sequence[Speculation], probe: Choice, forecast: Forecast) -> None:
        self.probing.begins()
        for session, lookahead in zip(sessions, probe.lookaheads, strict=False):
            if lookahead != session.lookahead:
                session.probe = Probe(lookahead, probe_rounds(len(sessions)), forecast)

    def _look_deeper(self, sessions: Sequence[Speculation], limit: int) -> None:
        """Now and then a few sessions look one token further than pays, so that a change is seen."""
        if self._cycles_to_deeper > 0.0:
            return
        self._cycles_to_deeper = _DEEPER_EVERY
        for session in sorted(sessions, key=lambda one: -one.num_rounds_off)[: max(1, len(sessions) // 16)]:
            if session.probe is None and session.lookahead is not None and session.lookahead < limit:
                session.probe = Probe(session.lookahead + 1, 1, self._forecast)

    def _cycle(self, num_pairs: int, limit: int) -> Cycle:
        num_sessions, batch = len(self.sessions), self._batch
        fixed = [told for one in self.sessions.values() if (told := one.told(self.settings))]
        num_sequences = num_sessions * (1.0 + batch.other_sequences)
        num_tokens = num_sequences + sum(fixed) + num_sessions * batch.other_drafted
        costs = self._used_costs()
        first_ms, step_ms, token_ms = mean_parts(costs)
        num_steps = np.mean([one.steps(limit) for one in costs or (DraftCosts(),)], axis=0)
        half_ms, draft_ms = np.empty(0), first_ms + step_ms * num_steps
        if self.can_split and num_sequences >= 2.0:
            half_ms = self.costs.curve(self._shape(num_sequences / 2, num_tokens / 2), num_pairs // 2)
        return Cycle(
            whole_ms=self.costs.curve(self._shape(num_sequences, num_tokens), num_pairs),
            half_ms=half_ms,
            away_ms=np.array(self.exposure.away_ms(draft_ms.tolist())),
            draft_ms=draft_ms,
            step_ms=step_ms,
            token_ms=token_ms / max(1, len(costs)),
            floor=min(max(fixed, default=0), limit),
            bare=Lateness(factor=self.round_times.bare_factor(num_sessions, self._bare_model)),
            drafted=self.round_times.drafted_lateness(num_sessions),
        )

    def _shape(self, num_sequences: float, num_tokens: float) -> StepShape:
        sequences = max(1, round(num_sequences))
        context = round(self._batch.context * sequences)
        return StepShape(
            num_sequences=sequences, num_tokens=max(sequences, round(num_tokens)), num_context_tokens=context
        )

    def _used_costs(self) -> list[DraftCosts]:
        used = {one.drafter for one in self.sessions.values()} & self.draft_costs.keys()
        return [self.draft_costs[name] for name in used or self.draft_costs]


def _is_drafted(choice: Choice, cycle: Cycle) -> bool:
    return choice.cap > 0 or cycle.floor > 0
