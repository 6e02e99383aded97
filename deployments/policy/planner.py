"""The lookaheads of all sessions of one verifier: what was learnt, put into the joint search once per step.

    step, rounds -> costs, acceptance, exposure -> choose -> a lookahead per session

Everything is deterministic and knows no clock: a router feeds it from its messages, the simulator from
virtual time. A plan is made anew when enough rounds have come in since the last, so that its cost per
session and round is the same at any number of sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deployments.messages import EarlyStop, SessionId
from deployments.policy.costs import DraftCosts, StepCosts, mean_parts
from deployments.policy.cycle import Cycle, Floats, Further
from deployments.policy.experience import Ended, Experience
from deployments.policy.exposure import Exposure
from deployments.policy.lookahead import Candidate, Choice, Search, unless_as_good
from deployments.policy.probing import Probing, of_the_longest_off, probe_rounds
from deployments.policy.round_times import Lateness, company
from deployments.policy.speculation import Forecast, Probe, Speculation, SpeculationSettings
from deployments.policy.step_mix import StepMix
from deployments.timing import StepShape

_PLANS_PER_ROUND = 4
"""At most so many plans in the time in which every session has one round."""
_CALM = 16.0
"""Cycles until the next plan at the most, where one plan after the other says that nobody shall draft."""
_BEGINS, _BEGINS_TOGETHER, _ENDS = 1.02, 1.05, 1.005
"""Drafting begins where it promises more than the one, and ends where it promises less than the other. Together it has
to promise more: until groups have parted, or come together again, two or three cycles go by for nothing.
"""
_CLEARLY = 1.25
"""How many times as much the other kind of rounds has to promise while sessions that share steps have not settled in
theirs. A kind's first rounds show what going over to it costs, and where both are about as good, that is all that
choosing between them can lose.
"""
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
_MOST_ENDING_EARLY = 16
"""Sessions of which drafts end early. Among more of them, batches hardly differ in what they have in prospect, and
groups that take turns part and join with every draft that is longer or shorter than the one before.
"""
_BEYOND = 1
"""Tokens that a draft which may end early may go on beyond what is planned for its session. What comes in runs is
had in the next round too: a token looks better by its confidence than it is for the answer.
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
    experience: Experience = field(default_factory=Experience)
    probing: Probing = field(default_factory=Probing)
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

    def on_step(self, shape: StepShape, step_ms: float, num_own: int, num_own_tokens: int) -> None:
        """A step has run, with so many sessions and tokens of this planner in it."""
        self.costs.observe(shape, step_ms)
        self._batch.observe(shape, num_own, num_own_tokens)
        self.experience.on_step(shape, num_own, num_own_tokens, len(self.sessions), self.costs)
        self._num_rounds_since_plan += num_own

    def on_round(self, session: Speculation, ended: Ended) -> None:
        """A round of this session has ended with that step."""
        session.num_rounds += 1
        told, num_looked_at = session.told(self.settings), ended.num_looked_at
        if session.advance(1 + ended.num_held) and told is None:
            self._has_news = True
        if told is None and ended.num_sessions:  # rounds that were told pay for no looking around
            self._cycles_to_deeper -= 1.0 / ended.num_sessions
            self.probing.passed(1.0 / ended.num_sessions, company(ended.num_sessions))
        self.experience.on_round(session, ended, self.settings, self._batch.context, self._bare_model)
        session.num_rounds_off = 0 if num_looked_at else session.num_rounds_off + 1
        if num_looked_at and told is None:
            self._cycles_to_plan = 1.0 / _PLANS_PER_ROUND

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
        """How many tokens to ask for: where drafts are seen to end early, good ones may go on beyond the plan."""
        session.early_stop = self._early_stop_of(session) if lookahead else None
        if session.early_stop is None or not session.acceptance.has_ended_early:
            return lookahead
        return min(lookahead + _BEYOND, session.num_positions, self.settings.max_speculative_tokens)

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
        session.place_cost = more.verified / session.weight
        return EarlyStop(
            value=session.weight,
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
            weight, told = one.weight, one.told(self.settings)
            if told is None:
                sessions.append(one)
                drafted = one.acceptance.drafted[:limit] if self._may_end_early(one) else ()
                candidates.append(Candidate(one.acceptance.survival[:limit], weight, one.is_free, drafted))
            else:  # it takes part in the step whatever is decided for the others
                one.lookahead = told
                settled.append(Candidate((), weight * (1.0 + sum(one.acceptance.survival[:told]))))
        search = self._search(candidates + settled, limit)
        if not sessions:
            self._only_told(search)
            return
        bare, with_drafts = search.best()
        chosen, rival = self._better(bare, with_drafts, search.cycle)
        before = tuple(min(one.lookahead or 0, limit) for one in sessions)
        is_other = before != chosen.lookaheads[: len(sessions)] and all(one.lookahead is not None for one in sessions)
        if is_other and sum(before) <= search.max_tokens:
            chosen = unless_as_good(chosen, search.score(before + (0,) * len(settled)))
        for session, lookahead in zip(sessions, chosen.lookaheads, strict=False):
            session.lookahead = lookahead
        if bool(chosen.cap) != bool(self._cap):
            self.probing.changes()
        is_calm = not chosen.cap and not self._cap
        self._cycles_to_plan = min(_CALM, 2.0 * self._cycles_to_plan) if is_calm else 1.0 / _PLANS_PER_ROUND
        self._threshold, self._cap = chosen.threshold, chosen.cap
        self._further = None
        if with_drafts is not None:
            more_ms = search.cycle.marginal_ms(with_drafts.cap, with_drafts.num_tokens)
            self._further = Further(*(chosen.rate * one for one in more_ms))
        self._forecast = self._forecast_of(chosen, search.cycle, chosen.rate)
        self.stats.rate, self.stats.cap = chosen.rate, chosen.cap
        self._promises_much = self._kept(chosen, search.cycle) > _FIRST_BEGINS * self._kept(bare, search.cycle)
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

    def _forecast_of(self, choice: Choice, cycle: Cycle, rate: float = 0.0) -> Forecast:
        num_told = sum(told for one in self.sessions.values() if (told := one.told(self.settings)))
        return Forecast(len(self.sessions), _is_drafted(choice, cycle), cycle, num_told, rate)

    def _better(self, bare: Choice, drafted: Choice | None, cycle: Cycle) -> tuple[Choice, Choice | None]:
        """The better of two kinds of rounds, and the other."""
        if drafted is None:
            return bare, None
        if self._kept(drafted, cycle) > self._margin() * self._kept(bare, cycle):
            return drafted, bare
        return bare, drafted

    def _margin(self) -> float:
        """How many times as much as bare rounds drafted ones have to promise."""
        if len(self.sessions) == 1:
            return _ENDS if self._cap else _BEGINS
        if not self.probing.has_settled:
            return 1.0 / _CLEARLY if self._cap else _CLEARLY
        return _ENDS if self._cap else _BEGINS_TOGETHER

    def _kept(self, choice: Choice, cycle: Cycle) -> float:
        """Its rate, as far as plans of its kind keep what they promise."""
        return choice.rate * self.experience.promises.kept(len(self.sessions), _is_drafted(choice, cycle))

    def _probe_of(
        self, sessions: Sequence[Speculation], chosen: Choice, rival: Choice, search: Search
    ) -> Choice | None:
        """Now and then try the other kind of rounds: all sessions where it is unknown, else as few as will do."""
        if len(sessions) == 1 and sessions[0].num_rounds < _SETTLED_ROUNDS:
            return None
        probing, rate = self.probing, self._kept(chosen, search.cycle)
        num_seen = self.experience.round_times.num_cycles(len(self.sessions), _is_drafted(rival, search.cycle))
        probe = rival
        if not probing.is_untried(num_seen):
            if not probing.may_be_due:
                return None
            if rival.cap:
                rounds_off = [one.num_rounds_off for one in sessions]
                probe = search.score(of_the_longest_off(rounds_off, rival.lookaheads))
            num_cycles = probe_rounds(len(sessions)) * probe.cycle_ms / chosen.cycle_ms
            if not probing.is_due(rate, self._kept(probe, search.cycle), num_cycles, num_seen):
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
        draft_ms = first_ms + step_ms * num_steps
        whole_ms, prompts_ms = self._steps_ms(num_sessions, num_sequences, num_tokens, num_pairs)
        half_ms, read_ms = np.empty(0), float(prompts_ms[0])
        if self.can_split and num_sequences >= 2.0:
            half_ms, more_ms = self._steps_ms(num_sessions / 2, num_sequences / 2, num_tokens / 2, num_pairs // 2)
            half_ms = _beside(half_ms, more_ms - read_ms / 2)
        return Cycle(
            whole_ms=_beside(whole_ms, prompts_ms - read_ms),
            half_ms=half_ms,
            away_ms=np.array(self.exposure.away_ms(draft_ms.tolist())),
            draft_ms=draft_ms,
            step_ms=step_ms,
            token_ms=token_ms / max(1, len(costs)),
            floor=min(max(fixed, default=0), limit),
            bare=Lateness(factor=self.experience.round_times.bare_factor(num_sessions, self._bare_model)),
            drafted=self.experience.round_times.drafted_lateness(num_sessions),
        )

    def _steps_ms(
        self, num_sessions: float, num_sequences: float, num_tokens: float, num_more: int
    ) -> tuple[Floats, Floats]:
        """What steps of so many own sessions take with 0 .. num_more drafted tokens, and what prompts add to that."""
        shape = self._shape(num_sequences, num_tokens)
        times_ms = self.costs.curve(shape, num_more)
        share, num_prompt_tokens = self._batch.prompts(num_sessions)
        if not share:
            return times_ms, np.zeros(1)
        return times_ms, share * self.costs.prompts_ms(shape, num_prompt_tokens, num_more)

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


def _beside(times_ms: Floats, prompts_ms: Floats) -> Floats:
    """Steps with what prompts add to them or take off: never most of them, however far off the cost model is."""
    return np.maximum(times_ms / 2, times_ms + prompts_ms)
