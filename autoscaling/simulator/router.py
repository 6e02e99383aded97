"""A router in virtual time: it feeds the served planner from reports and asks it for every lookahead."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autoscaling.simulator.choosing import Choosing, Repeats, SessionChoice
from autoscaling.simulator.events import EventQueue
from autoscaling.simulator.roles import Asked, Decided, Drafter, GoAhead, Proposed, StepReport, Verifier
from autoscaling.simulator.text import Output
from deployments.messages import DrafterName, EarlyStop, RequestClass
from deployments.policy.acceptance import DrafterAcceptance
from deployments.policy.costs import DraftCosts
from deployments.policy.drafter_options import LOOKUP
from deployments.policy.experience import Ended
from deployments.policy.planner import Planner
from deployments.policy.speculation import Forecast, Speculation, SpeculationSettings


@dataclass(slots=True, kw_only=True)
class Request:
    """What a client asks for; `request_class` is what the router is told, right or wrong.

    `repeats` is what prompt lookup finds in it, None for nothing at all. `on_round` is told of every step that commits
    tokens of it: its position by then, and how many drafted tokens were looked at and held.
    """

    text: Output
    repeats: Repeats | None = None
    num_prompt_tokens: int
    request_class: RequestClass | None = None
    num_speculative_tokens: int | None = None
    on_end: Callable[[], None] = lambda: None
    on_round: Callable[[int, int, int], None] = lambda position, num_drafted, num_held: None


@dataclass(slots=True, kw_only=True)
class _Session:
    id: int
    request: Request
    plan: Speculation
    verifier: int
    drafter: int
    position: int = 0
    lookahead: int = 0
    round_started_ms: float = 0.0
    draft_ms: float = 0.0
    num_proposed: int = 0
    num_asked: int = 0
    confidences: tuple[float, ...] = ()
    early_stop: EarlyStop | None = None
    is_probe: bool = False
    forecast: Forecast | None = None
    asked_forecast: Forecast | None = None
    choice: SessionChoice | None = None
    proposed_by: str = ""

    @property
    def is_looked_up(self) -> bool:
        """Whether its next proposal comes from the text itself."""
        return self.plan.kind == LOOKUP


@dataclass(slots=True)
class Tally:
    """What was committed, and in how many rounds."""

    num_tokens: int = 0
    num_rounds: int = 0
    num_drafted: int = 0
    by_lookahead: dict[int, int] = field(default_factory=dict)
    by_drafter: dict[str, int] = field(default_factory=dict)
    lookaheads: list[tuple[float, int, int]] = field(default_factory=list)
    keeps_lookaheads: bool = False


class Router:
    """Runs sessions on verifiers and drafters; each session stays where it was placed."""

    def __init__(
        self,
        events: EventQueue,
        verifiers: Sequence[Verifier],
        drafters: Sequence[Drafter],
        settings: SpeculationSettings,
        hop_ms: float,
        *,
        drafter: DrafterName = "mtp",
    ) -> None:
        self._events = events
        self._verifiers = verifiers
        self._drafters = drafters
        self._hop_ms = hop_ms
        self._settings = settings
        self._drafter = drafter
        self._acceptance: dict[str, DrafterAcceptance] = {}
        costs = {str(index): DraftCosts() for index in range(len(drafters))}
        self._costs = costs
        self._choosing = Choosing(costs) if drafter == "auto" else None
        self.planners = [Planner(settings, draft_costs=costs) for _ in verifiers]
        self._ids = itertools.count(1)
        self._sessions: dict[int, _Session] = {}
        self.tally = Tally()
        for index, verifier in enumerate(verifiers):
            self.planners[index].costs.seed(verifier.timings)
            self.planners[index].max_step_tokens = verifier.max_step_tokens
            verifier.report = lambda report, index=index: self._on_report(index, report)  # type: ignore[misc]
            verifier.go_ahead = self._on_go_ahead

    def start(self, request: Request) -> None:
        """Place a request on the verifier and drafter with the fewest sessions, and read its prompt."""
        loads = [len(planner.sessions) for planner in self.planners]
        verifier = loads.index(min(loads))
        attached = [sum(one.drafter == i for one in self._sessions.values()) for i in range(len(self._drafters))]
        session = _Session(
            id=next(self._ids),
            request=request,
            plan=Speculation(
                drafters=self._acceptance,
                kind="mtp" if self._choosing else self._drafter,
                num_positions=self._settings.max_speculative_tokens,
                request_class=request.request_class,
                requested=request.num_speculative_tokens,
                may_end_early=True,
            ),
            verifier=verifier,
            drafter=attached.index(min(attached)),
        )
        self._sessions[session.id] = session
        self.planners[verifier].begins(session.id, session.plan)
        if self._choosing is not None:
            session.choice = self._choosing.begin(self.planners[verifier], session.plan, request.text.length)
        self._verify(session, num_prompt_tokens=request.num_prompt_tokens)

    def _on_go_ahead(self, decided: Decided) -> None:
        if (session := self._sessions.get(decided.session)) is None:
            return

        def done(proposed: Proposed) -> None:
            self._events.after(self._hop_ms, lambda: self._on_proposal(session, proposed, decided.early_stop))

        position, text = session.position + decided.num_held + 1, session.request.text
        asked = GoAhead(
            decided.lookahead,
            decided.early_stop,
            lambda index: text.confidence(position, index),
            done,
        )
        self._drafters[session.drafter].go_ahead(session.id, asked)

    def _on_proposal(self, session: _Session, proposed: Proposed, early_stop: EarlyStop | None) -> None:
        if session.id not in self._sessions:
            return
        if session.draft_ms != proposed.batch_ms:
            costs = self._costs[str(session.drafter)]
            costs.observe(proposed.batch_steps, proposed.batch_tokens, proposed.batch_ms)
            costs.observe_steps(proposed.batch_asked, proposed.batch_steps)
        room = session.request.text.length - session.position - 1
        session.draft_ms = proposed.batch_ms
        num_asked = min(session.lookahead, room)
        session.num_proposed = min(proposed.num_tokens, num_asked)
        session.confidences = proposed.confidences[: session.num_proposed]
        session.early_stop = early_stop
        session.num_asked = num_asked if early_stop is not None and session.confidences else 0
        session.proposed_by = session.plan.kind
        self._verify(session)

    def _on_report(self, index: int, report: StepReport) -> None:
        planner = self.planners[index]
        own_tokens = sum(1 + item.num_drafted for item in report.items)
        decided = [(self._sessions[item.session], item) for item in report.items if item.session in self._sessions]
        planner.on_step(report.shape, report.step_ms, len(report.items), own_tokens)
        for session, item in decided:
            self._on_decided(planner, session, item, report)
        planner.refresh()

    def _on_decided(self, planner: Planner, session: _Session, item: Decided, report: StepReport) -> None:
        now_ms, length = self._events.now_ms, session.request.text.length
        if session.round_started_ms:
            gap_ms = now_ms - session.round_started_ms - report.step_ms
            if session.num_proposed and session.proposed_by != LOOKUP:
                planner.exposure.observe_drafted(gap_ms, session.draft_ms, report.idle_ms, len(report.items))
            elif report.is_bare:
                planner.exposure.observe_bare(gap_ms, report.idle_ms, len(report.items))
            self._count(session, item)
            if not session.plan.is_apart(self._settings):
                session.plan.acceptance_of(session.proposed_by or session.plan.kind).observe(
                    item.num_held,
                    item.num_drafted,
                    is_next_held=item.is_next_held,
                    confidences=session.confidences,
                    num_asked=session.num_asked,
                )
            round_ms, num_sessions = gap_ms + report.step_ms, len(planner.sessions)
            ended = Ended(item.num_held, item.num_drafted, session.forecast, num_sessions, round_ms, session.draft_ms)
            planner.on_round(session.plan, ended)
            session.plan.heed(item.num_drafted, item.num_held, self._settings)
        session.round_started_ms = now_ms
        num_new = min(item.num_held + 1, length - session.position)
        session.position += num_new
        session.confidences, session.num_asked = (), 0
        self.tally.num_tokens += num_new
        session.request.on_round(session.position, item.num_drafted, item.num_held)
        if session.position >= length:
            del self._sessions[session.id]
            del planner.sessions[session.id]
            self._verifiers[session.verifier].close(session.id)
            self._drafters[session.drafter].forget(session.id)
            session.request.on_end()
            return
        self._watch(session)
        if session.is_looked_up or not session.lookahead:
            self._drafters[session.drafter].forget(session.id)
            session.draft_ms = 0.0
            session.num_proposed = self._look_up(session)
            self._verify(session)

    def _watch(self, session: _Session) -> None:
        is_next = session.is_looked_up and session.lookahead > 0
        if self._choosing is not None and session.choice is not None and not is_next:
            if session.request.repeats is None:
                self._choosing.count(session.plan, session.choice, False)
            else:
                self._choosing.watched(session.plan, session.choice, session.request.repeats, session.position)

    def _look_up(self, session: _Session) -> int:
        """How many tokens prompt lookup proposes."""
        if not session.is_looked_up or not session.lookahead:
            return 0
        repeats = session.request.repeats
        has_offer = repeats is not None and repeats.has_offer()
        if self._choosing is not None and session.choice is not None:
            self._choosing.count(session.plan, session.choice, has_offer)
        session.proposed_by = LOOKUP
        return min(session.lookahead, session.request.text.length - session.position - 1) if has_offer else 0

    def _count(self, session: _Session, item: Decided) -> None:
        tally = self.tally
        tally.num_rounds += 1
        tally.num_drafted += item.num_drafted
        by = session.proposed_by if item.num_drafted else ""
        tally.by_drafter[by] = tally.by_drafter.get(by, 0) + 1
        tally.by_lookahead[item.num_drafted] = tally.by_lookahead.get(item.num_drafted, 0) + 1
        if tally.keeps_lookaheads:
            tally.lookaheads.append((self._events.now_ms, session.position, item.num_drafted))

    def _offered(self, session: _Session, drafter: str, num_drafted: int) -> tuple[int, tuple[float, ...]]:
        """How much of the proposal is to be verified, and how likely each token holds: () for just so much."""
        acceptance = session.plan.acceptance_of(drafter)
        if not session.confidences or not num_drafted:
            return num_drafted, tuple(acceptance.survival[:num_drafted])
        survival = acceptance.sharpened(session.confidences)
        if session.early_stop is not None:
            return session.plan.num_worth(survival), ()
        return num_drafted, tuple(survival)

    def _verify(self, session: _Session, num_prompt_tokens: int = 0) -> None:
        """Send what was proposed, with the lookahead of the round after it."""
        text, position, planner = session.request.text, session.position, self.planners[session.verifier]
        num_drafted = 0 if num_prompt_tokens else session.num_proposed
        is_open = session.plan.told(self._settings) is None and not session.is_probe
        if num_drafted and session.proposed_by == LOOKUP and session.request.repeats is not None:
            text = session.request.repeats.text
        drafter = session.proposed_by or session.plan.kind
        num_drafted, survival = self._offered(session, drafter, num_drafted) if is_open else (num_drafted, ())
        room = max(0, session.request.text.length - position - 2)
        if self._choosing is not None and session.choice is not None:
            self._choosing.before_round(planner, session.plan, session.choice, room + 1)
        if planner.lacks_plan(session.plan):
            planner.refresh()
        session.lookahead = min(planner.lookahead(session.plan), room)
        session.is_probe = session.plan.is_probe
        session.forecast, session.asked_forecast = session.asked_forecast, session.plan.forecast
        asked = Asked(
            session=session.id,
            context_len=session.request.num_prompt_tokens + position,
            num_drafted=num_drafted,
            lookahead=0 if session.is_looked_up else session.lookahead,
            num_left=session.request.text.length - position,
            survival=survival,
            num_prompt_tokens=num_prompt_tokens,
            num_held=lambda lookahead: text.num_held(position, lookahead),
            early_stop=session.plan.early_stop,
            num_proposed=len(session.confidences),
        )
        session.num_proposed = num_drafted
        self._events.after(self._hop_ms, lambda: self._verifiers[session.verifier].verify(asked))
