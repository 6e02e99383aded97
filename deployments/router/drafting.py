"""What the router asks of drafters that work from tokens alone: one Draft per step and drafter."""

from __future__ import annotations

from deployments.link import send_or_drop
from deployments.messages import Draft, DraftItem, Need
from deployments.policy.limits import room_for_proposal
from deployments.router.peers import Peers
from deployments.router.session import Session


class Drafts:
    """Sends each drafter the tokens that it lacks, and gathers the questions of one verdict into one message."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._items: dict[str, list[DraftItem]] = {}

    def let_read(self, session: Session) -> None:
        """A drafter of tokens begins with what is committed so far while the verifier does the same."""
        if session.has_token_drafter:
            self._send(session.drafter, [self._item(session, 0)])

    def ask(self, session: Session) -> bool:
        """Ask for a proposal with the next `send`; False if the session has nobody to ask, or no use for one."""
        lookahead = min(
            session.asked_lookahead, room_for_proposal(session.context_len, session.request.max_context_tokens)
        )
        if not session.has_token_drafter or lookahead == 0:
            return False
        self._items.setdefault(session.drafter, []).append(self._item(session, lookahead))
        return True

    def ask_again(self, session: Session, need: Need, *, is_awaited: bool) -> None:
        """Send what a drafter has missed, and the question with it if its answer is still waited for."""
        session.sent_len = max(0, min(need.have_len, session.sent_len))
        if not (is_awaited and self.ask(session)):
            self.let_read(session)
        self.send()

    def send(self) -> None:
        """Send what was asked since the last time."""
        for drafter, items in self._items.items():
            self._send(drafter, items)
        self._items.clear()

    def _item(self, session: Session, lookahead: int) -> DraftItem:
        start = min(session.sent_len, session.context_len - 1)
        session.sent_len = session.context_len
        return DraftItem(
            session=session.id,
            epoch=session.epoch,
            context_len=session.context_len,
            start=start,
            tokens=tuple(session.tokens[start:]),
            lookahead=lookahead,
        )

    def _send(self, drafter: str, items: list[DraftItem]) -> None:
        if (peer := self._peers.drafters.get(drafter)) is not None:
            send_or_drop(peer.link, Draft(items=tuple(items)))
