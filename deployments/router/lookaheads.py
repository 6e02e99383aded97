"""The router's side of the planner: what it hears of steps, drafts and rounds, and the lookaheads it asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from deployments.messages import Costs, DrafterName, Proposal, Token, Verdict, VerdictItem
from deployments.policy.acceptance import DrafterAcceptance
from deployments.policy.costs import DraftCosts, mean_parts
from deployments.policy.experience import Ended
from deployments.policy.limits import room_for_proposal
from deployments.policy.patience import after_skipped_round
from deployments.policy.planner import Planner
from deployments.policy.speculation import Forecast, Speculation, SpeculationSettings
from deployments.router.peers import VerifierPeer
from deployments.router.session import Session

_PLANNING_SHARE, _PLANNING_SHARE_ALONE, _PLANNING_SHARE_FRESH = 0.01, 0.05, 0.1
"""Of the router's time, for plans: of several sessions, of one, and where a kind of rounds has just begun. Rounds of a
small target are not much longer than a plan, which holds up others' messages; a session alone waits for its draft
meanwhile. What has begun on a promise that it does not keep is to end soon.
"""


class Round(NamedTuple):
    """A session's round, from verdict to verdict; `draft_ms` None if no drafter drafted in it."""

    plan: Speculation
    num_sessions: int
    num_held: int
    num_looked_at: int
    num_asked: int
    is_next_held: bool | None
    drafted_by: DrafterName
    confidences: tuple[float, ...]
    draft_ms: float | None
    gap_ms: float
    forecast: Forecast | None


class Lookaheads:
    """Everything that this router has learnt. Costs belong to replicas, acceptance to kinds of drafter."""

    def __init__(self, settings: SpeculationSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._next_plan_s = 0.0
        self._acceptance: dict[str, DrafterAcceptance] = {}
        self._draft_costs: dict[str, DraftCosts] = {}

    def planner(self) -> Planner:
        """For a verifier that has come."""
        return Planner(settings=self._settings, draft_costs=self._draft_costs)

    @property
    def num_rounds(self) -> dict[str, int]:
        """How many rounds of each kind of drafter are known."""
        return {kind: drafter.num_rounds for kind, drafter in self._acceptance.items()}

    def draft_parts(self, names: Collection[str]) -> tuple[float, float, float]:
        """What these drafters take: fixed, per step of the longest lookahead, per token; ms, their mean."""
        return mean_parts([self._draft_costs[name] for name in names if name in self._draft_costs])

    def told(self, plan: Speculation) -> int | None:
        """The lookahead that is told and not searched for; None where the plan may have any."""
        return plan.told(self._settings)

    def drafters_gone(self, names: Iterable[str]) -> None:
        """Drafters' costs are forgotten with them."""
        for name in names:
            self._draft_costs.pop(name, None)

    def on_costs(self, verifier: VerifierPeer, costs: Costs) -> None:
        """A verifier says what its steps took when it warmed up."""
        verifier.planner.costs.seed(costs.timings)
        verifier.planner.max_step_tokens = costs.max_step_tokens
        verifier.planner.can_split = costs.can_split

    def on_draft(self, drafter: str, proposal: Proposal) -> None:
        """A drafter's batch has been done."""
        if proposal.longest:
            costs = self._draft_costs.get(drafter)
            if costs is None:
                costs = self._draft_costs[drafter] = DraftCosts()
            costs.observe(proposal.longest, proposal.num_tokens, proposal.draft_ms)
            if proposal.lookahead:
                costs.observe_steps(proposal.lookahead, proposal.longest)

    def observe(self, verifier: VerifierPeer, session: Session, item: VerdictItem, gap_ms: float) -> Round:
        """What there is to learn from a session's round that has just ended; `gap_ms` is its time outside the step.

        It is kept for `learn`, as the session goes on before that.
        """
        drafted, looked_at = session.proposal, item.num_drafted
        is_free = session.proposed_by == "prompt_lookup"
        plan = self.plan_of(session)
        plan.heed(looked_at, item.num_accepted, self._settings)
        num_asked = 0
        if session.early_stop is not None and session.confidences:
            room = room_for_proposal(session.context_len, session.request.max_context_tokens)
            num_asked = min(room, session.lookahead)
        return Round(
            plan=plan,
            num_sessions=len(verifier.planner.sessions),
            num_held=item.num_accepted,
            num_looked_at=looked_at,
            num_asked=num_asked,
            is_next_held=_is_next_held(session, item),
            drafted_by=session.proposed_by,
            confidences=session.confidences[: len(drafted)],
            draft_ms=session.draft_s * 1e3 if drafted and not is_free else None,
            gap_ms=gap_ms,
            forecast=session.forecast,
        )

    def learn(self, verifier: VerifierPeer, verdict: Verdict, num_own_tokens: int, rounds: Sequence[Round]) -> None:
        """Take a step of a verifier and the rounds that ended with it, and plan what follows from them.

        Called when everything that others wait for has been sent: this takes as long as a hop.
        """
        planner = verifier.planner
        if verdict.step_ms > 0.0:
            planner.on_step(verdict.shape, verdict.step_ms, len(verdict.items), num_own_tokens)
        is_bare = num_own_tokens == len(verdict.items)
        for one in rounds:
            if one.gap_ms > 0.0 and one.draft_ms is not None:
                planner.exposure.observe_drafted(one.gap_ms, one.draft_ms, verdict.idle_ms, len(rounds))
            elif one.gap_ms > 0.0 and is_bare:
                planner.exposure.observe_bare(one.gap_ms, verdict.idle_ms, len(rounds))
            if not one.plan.is_apart(self._settings):
                one.plan.acceptance_of(one.drafted_by).observe(
                    one.num_held,
                    one.num_looked_at,
                    is_next_held=one.is_next_held,
                    confidences=one.confidences,
                    num_asked=one.num_asked,
                )
            round_ms, draft_ms = one.gap_ms + verdict.step_ms, one.draft_ms or 0.0
            ended = Ended(one.num_held, one.num_looked_at, one.forecast, one.num_sessions, round_ms, draft_ms)
            planner.on_round(one.plan, ended)
        self._plan(planner)

    def _plan(self, planner: Planner, *, at_once: bool = False) -> None:
        begun_s = self._clock()
        if at_once or begun_s >= self._next_plan_s:
            planner.refresh()
            self._next_plan_s = begun_s + (self._clock() - begun_s) / _planning_share(planner)

    def ask(self, planner: Planner, session: Session) -> int:
        """The lookahead of the session's next round, its room aside."""
        if session.drafter_name == "none":
            return 0
        patience, session.patience = session.patience, after_skipped_round(session.patience)
        plan = self.plan_of(session)
        plan.drafter = session.drafter
        at_once = session.id not in planner.sessions and planner.begins(session.id, plan)
        if planner.lacks_plan(plan):
            self._plan(planner, at_once=at_once)
        lookahead = planner.lookahead(plan)
        session.is_probe, session.asks_probe = session.asks_probe, plan.is_probe
        session.forecast, session.asked_forecast = session.asked_forecast, plan.forecast
        session.lookahead, session.early_stop = session.asked_lookahead, session.asked_early_stop
        session.asked_early_stop = plan.early_stop
        return 0 if patience.num_rounds_to_skip else lookahead

    def offered(self, session: Session) -> tuple[tuple[Token, ...], tuple[int, ...]]:
        """What to verify of the proposal, and how likely each token holds: () where just so many are wanted.

        That is where a request has told so, in a probe, and where the draft might have ended early: what is not worth
        its place is left out here. Where acceptance is not coupled the drawn tokens' confidences must stay out of this.
        """
        proposal = session.proposal
        if not proposal or session.is_probe or self.told(plan := self.plan_of(session)) is not None:
            return proposal, ()
        acceptance = plan.acceptance_of(session.proposed_by)
        survival = acceptance.sharpened(session.confidences) if session.confidences else acceptance.survival
        if session.confidences and session.early_stop is not None:
            return proposal[: plan.num_worth(survival)], ()
        return proposal, tuple([int(100.0 * chance + 0.5) for chance in survival[: len(proposal)]])

    def plan_of(self, session: Session) -> Speculation:
        """The session as its planner knows it."""
        if session.plan is None:
            request, most = session.request, self._settings.max_speculative_tokens
            allowed = request.max_speculative_tokens
            session.plan = Speculation(
                drafters=self._acceptance,
                request_class=request.request_class,
                num_positions=most if allowed is None else min(most, allowed),
                kind=session.drafter_name,
                requested=request.num_speculative_tokens,
                priority=request.priority,
                policy=request.policy,
                may_end_early=not request.params.draws_to_reject,
            )
        return session.plan


def _planning_share(planner: Planner) -> float:
    if planner.probing.is_fresh:
        return _PLANNING_SHARE_FRESH
    return _PLANNING_SHARE if len(planner.sessions) > 1 else _PLANNING_SHARE_ALONE


def _is_next_held(session: Session, item: VerdictItem) -> bool | None:
    """Whether the first token that was cut off the proposal was the target's own.

    None where nothing was, or a token before it was rejected; and under rejection sampling, where the target's token
    does not tell whether the drafted one would have been accepted.
    """
    if session.distributions or not item.num_accepted == item.num_drafted < len(session.proposal):
        return None
    return session.proposal[item.num_drafted] == item.next_token
