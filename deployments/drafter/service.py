"""The drafter's side of a round: deltas bring a session's shadow up to date and its go-ahead; drafts go to its router.

All sessions that have their go-ahead when a batch starts are drafted for together, inline on the
loop; it waits for others that are about to have theirs where that pays. Nothing here can change an
output: what is missing, late or wrong only costs speed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.distributions import DistributionStore, kept_or_sent
from deployments.drafter.attached import AttachedSessions, Attachment, about_attached
from deployments.drafter.engine import DrafterEngine, DraftRequest
from deployments.link import Link, send_or_drop
from deployments.logs import about
from deployments.messages import (
    Attach,
    Delta,
    DeltaItem,
    Message,
    Need,
    Proposal,
    ProposalItem,
    SessionId,
)
from deployments.metering import Meter
from deployments.pacing import Pace
from deployments.policy.draft_waiting import DraftPolicy
from deployments.policy.early_stop import is_usable
from deployments.waits import wait_for_more

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterSettings:
    """Bounds of a drafter: sessions drafted for in one batch, and deltas held for sessions yet to be attached."""

    max_batch_sessions: int = 64
    max_held_deltas: int = 256


class DrafterService(AttachedSessions[Attachment]):
    """An Endpoint for links from routers and verifiers."""

    kind = "mtp"

    def __init__(
        self,
        engine: DrafterEngine,
        settings: DrafterSettings,
        meter: Meter | None = None,
        store: DistributionStore | None = None,
        pace: Pace[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(meter)
        self._store = store
        self._pace = pace
        self._engine = engine
        self._settings = settings
        self._held: dict[SessionId, tuple[Link, DeltaItem]] = {}
        self._ready: dict[SessionId, tuple[DraftRequest, float]] = {}
        """What is to be drafted, and since when."""
        self._policy = DraftPolicy()
        self._waiting_since_ms: float | None = None

    def link_closed(self, link: Link) -> None:
        """A router that is gone takes its sessions along; of a verifier, only what was held is dropped."""
        super().link_closed(link)
        for session in [s for s, (verifier, _) in self._held.items() if verifier is link]:
            del self._held[session]

    def _take(self, link: Link, message: Message) -> None:
        if not isinstance(message, Delta):
            raise ValueError(f"a drafter does not take {type(message).__name__} from a {link.role}")
        for item in message.items:
            self._on_delta(link, item)

    async def _turn(self) -> bool:
        if not self._ready:
            return False
        if not await self._waits():
            await self._draft_batch()
        return True

    # -- shadows ------------------------------------------------------------------------------

    def _begin(self, link: Link, message: Attach) -> None:
        self._ready.pop(message.session, None)
        self._attached[message.session] = Attachment(link, message)
        self._engine.attach(message.session, message.params)
        if held := self._held.pop(message.session, None):
            self._on_delta(*held)

    def _on_delta(self, link: Link, item: DeltaItem) -> None:
        known = self._attached.get(item.session)
        if known is None or item.epoch > known.attach.epoch:
            self._hold(link, item)
        elif item.epoch == known.attach.epoch and self._extend(link, item, known.attach) and item.lookahead > 0:
            request = DraftRequest(
                session=item.session,
                context_len=item.context_len,
                last_token=item.last_token,
                lookahead=item.lookahead,
                hidden=item.hidden,
                early_stop=item.early_stop if item.early_stop and is_usable(item.early_stop) else None,
            )
            now_s = time.perf_counter()
            self._policy.came_back(item.session, now_s * 1e3)
            self._ready[item.session] = (request, now_s)
            self._work.set()
        else:
            self._policy.forget(item.session)

    def _hold(self, link: Link, item: DeltaItem) -> None:
        """Keep one delta per session until its Attach comes; the oldest gives way when there are too many."""
        self._held.pop(item.session, None)
        self._held[item.session] = (link, item)
        if len(self._held) > self._settings.max_held_deltas:
            del self._held[next(iter(self._held))]

    def _extend(self, link: Link, item: DeltaItem, attach: Attach) -> bool:
        """Write a delta into the shadow; ask for what is missing before it instead, if anything is."""
        if not self._engine.has(item.session):
            self._engine.attach(item.session, attach.params)
        have_len = self._engine.have_len(item.session)
        start = min((r.start for r in item.ranges if r.layer_type == "full_attention"), default=item.context_len - 1)
        if start > have_len:
            self.stats.shadow_gaps.add()
            send_or_drop(link, Need(session=item.session, epoch=item.epoch, have_len=have_len))
            return False
        try:
            self._engine.extend(item.session, item.ranges, item.tokens, item.lookahead > 0)
        except ValueError as error:
            self.stats.bad_deltas.add()
            logger.warning(
                "a delta does not fit and is dropped: %s", error, extra=about_attached(attach, peer=link.peer)
            )
            return False
        return self._engine.have_len(item.session) == item.context_len - 1

    def _forget(self, session: SessionId) -> None:
        self._ready.pop(session, None)
        self._held.pop(session, None)
        self._policy.forget(session)
        self._engine.detach(session)

    # -- drafting -----------------------------------------------------------------------------

    async def _waits(self) -> bool:
        """Wait a little for sessions that are about to come back, if that pays; whether anything was waited for."""
        now_ms = time.perf_counter() * 1e3
        if self._waiting_since_ms is None:
            self._waiting_since_ms = now_ms
        if len(self._ready) >= self._settings.max_batch_sessions:
            return False
        lookaheads = [request.lookahead for request, _ in self._ready.values()]
        until_ms = self._policy.wait_until_ms(lookaheads, self._waiting_since_ms, now_ms)
        if until_ms is None or until_ms <= now_ms:
            return False
        await wait_for_more(self._work, until_ms - now_ms)
        return True

    async def _draft_batch(self) -> None:
        """Draft for the sessions that are ready, oldest first, and send each router its proposals in one message."""
        sessions = list(self._ready)[: self._settings.max_batch_sessions]
        ready = [self._ready.pop(session) for session in sessions]
        requests = [request for request, _ in ready]
        self._waiting_since_ms = None
        started_s = time.perf_counter()
        try:
            drafts = self._engine.draft(requests)
        except ValueError as error:
            logger.warning("a batch of %d sessions could not be drafted for: %s", len(requests), error)
            return
        if self._pace is not None:
            await self._pace.step_over([max(1, len(draft.tokens)) for draft in drafts], started_s)
        now_s = time.perf_counter()
        batch_s = now_s - started_s
        lengths = [len(draft.tokens) for draft in drafts]
        num_tokens, longest = sum(lengths), max(lengths)
        asked = [request.lookahead for request in requests]
        proposals: dict[Link, list[ProposalItem]] = {}
        for request, draft in zip(requests, drafts, strict=True):
            known = self._attached[request.session]
            proposals.setdefault(known.link, []).append(
                ProposalItem(
                    session=request.session,
                    epoch=known.attach.epoch,
                    context_len=request.context_len,
                    tokens=draft.tokens,
                    confidences=draft.confidences,
                    distributions=kept_or_sent(self._store, request.session, request.context_len, draft.distributions),
                )
            )
        for link, items in proposals.items():
            send_or_drop(
                link,
                Proposal(
                    items=tuple(items),
                    draft_ms=batch_s * 1e3,
                    longest=longest,
                    num_tokens=num_tokens,
                    lookahead=max(asked),
                ),
            )
        self._policy.left(sessions, asked, lengths, batch_s * 1e3, now_s * 1e3)
        if logger.isEnabledFor(logging.DEBUG):
            more = {"sessions": len(requests), "tokens": num_tokens, "seconds": batch_s}
            logger.debug("batch", extra=about(batch=self.stats.num_batches + 1, **more))
        self.stats.add_batch(batch_s, (started_s - since_s for _, since_s in ready), num_tokens)
