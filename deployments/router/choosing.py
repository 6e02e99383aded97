"""The router's side of the choice of a drafter: what each would promise a session, and what it has shown."""

from __future__ import annotations

from deployments.messages import DrafterName
from deployments.policy.drafter_choice import CatchUp, Explorer, Offers, Option, Outlook
from deployments.policy.drafter_options import LOOKUP, drafted, looked_up, outlook
from deployments.policy.planner import Planner
from deployments.router.lookaheads import Lookaheads
from deployments.router.peers import Peers
from deployments.router.session import Session


class Choosing:
    """Chooses for sessions that leave their drafter open, and learns from all their rounds."""

    def __init__(self, peers: Peers, lookaheads: Lookaheads) -> None:
        self._peers = peers
        self._lookaheads = lookaheads
        self._explorer = Explorer()
        self._offers = Offers()
        self._catch_up = CatchUp()

    def begin(self, session: Session) -> None:
        """The session is on a verifier, for the first time or again: it keeps what it has if that is there."""
        if session.choice is None:
            return
        options = self._options(session)
        if session.choice.drafter.name not in {option.name for option in options}:
            name = self._explorer.first(options, self._outlook(session), self._lookaheads.num_rounds)
            session.choice.drafter.begin(name)
            self._have(session)

    def changes(self, session: Session) -> bool:
        """Whether the next round has another drafter than this one, as it seems now."""
        choice = session.choice
        if choice is None or not choice.drafter.is_due():
            return False
        choice.drafter.decide(self._options(session), self._outlook(session))
        return self._have(session)

    def attached(self, session: Session, now_s: float) -> None:
        """A drafter is to be made ready in the session's midst."""
        if session.choice is not None and session.drafter:
            session.choice.attached_s = now_s

    def drafted(self, session: Session, now_s: float) -> None:
        """A proposal has come."""
        choice = session.choice
        if choice is not None and choice.attached_s and session.proposal:
            self._catch_up.observe(session.context_len, 1e3 * (now_s - choice.attached_s))
            choice.attached_s = 0.0

    def committed(self, session: Session) -> None:
        """A round is over, and the next is not a look at the text: what one would have found is held and judged."""
        choice = session.choice
        if choice is None:
            return
        if session.drafter_name == LOOKUP and session.asked_lookahead:
            choice.watch.drop()
            return
        plan = self._lookaheads.plan_of(session)
        judged = choice.watch.judged(session.tokens)
        if judged is not None:
            plan.acceptance_of(LOOKUP).observe(*judged)
        if not choice.watch.is_open:
            found = session.found(plan.num_positions)
            choice.watch.hold(session.context_len, found)
            self._count(session, bool(found))

    def looked_up(self, session: Session) -> None:
        """The next round's proposal has been looked for in the text, whether it was found or not."""
        if session.choice is not None and session.drafter_name == LOOKUP and session.asked_lookahead:
            self._count(session, bool(session.proposal))

    def _count(self, session: Session, has_offer: bool) -> None:
        assert session.choice is not None
        session.choice.watch.count(has_offer)
        self._offers.observe(self._lookaheads.plan_of(session).acceptance_of(LOOKUP).request_class, has_offer)

    def _have(self, session: Session) -> bool:
        assert session.choice is not None
        name: DrafterName = session.choice.drafter.name or LOOKUP  # type: ignore[assignment]
        if name == session.drafter_name:
            return False
        session.drafter_name = name
        session.choice.attached_s = 0.0
        plan = self._lookaheads.plan_of(session)
        plan.kind, plan.lookahead = name, None
        return True

    def _options(self, session: Session) -> list[Option]:
        """Every kind that could draft for the session where it is, and prompt lookup."""
        assert session.choice is not None
        plan, exposure = self._lookaheads.plan_of(session), self._planner(session).exposure
        catch_up_ms = self._catch_up.predict(session.context_len)
        options = [
            drafted(
                kind,
                plan,
                exposure,
                self._lookaheads.draft_parts(names),
                0.0 if session.drafter in names else catch_up_ms,
            )
            for kind, names in self._peers.kinds_for(session).items()
        ]
        offer = session.choice.watch.offer(self._offers.rate(plan.acceptance_of(LOOKUP).request_class))
        return [*options, looked_up(plan, exposure, offer)]

    def _outlook(self, session: Session) -> Outlook:
        plan = self._lookaheads.plan_of(session)
        remaining = session.request.max_context_tokens - session.context_len
        lookahead = self._lookaheads.told(plan)
        return outlook(self._planner(session), plan, session.context_len, remaining, lookahead)

    def _planner(self, session: Session) -> Planner:
        return self._peers.verifiers[session.verifier].planner
