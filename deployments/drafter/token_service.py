"""Drafting from committed tokens alone: the router sends what was committed, this side answers with a proposal.

All sessions that are asked for are drafted for together, inline on the loop; prompts are read in
slices beside them. While nobody asks, guesses are carried on as if all of a proposal were accepted,
one token at a time: a guess that comes true is answered at once. Nothing here can change an output.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.distributions import DistributionStore
from deployments.drafter.attached import AttachedSessions
from deployments.drafter.text import Text
from deployments.drafter.token_engine import ReadRequest, TokenDrafterEngine
from deployments.link import Link, send_or_drop
from deployments.messages import (
    Attach,
    Draft,
    DraftItem,
    Message,
    Need,
    Proposal,
    ProposalItem,
    SessionId,
)
from deployments.metering import Meter

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDrafterSettings:
    """Bounds of a drafter of tokens: sessions in one batch, and tokens that one batch reads beyond a round's own.

    `drafts_ahead` uses the time between two questions to go on guessing.
    """

    max_batch_sessions: int = 64
    prompt_tokens: int = 128
    drafts_ahead: bool = True


class TokenDrafterService(AttachedSessions[Text]):
    """An Endpoint for links from routers."""

    kind = "draft_model"

    def __init__(
        self,
        engine: TokenDrafterEngine,
        settings: TokenDrafterSettings,
        meter: Meter | None = None,
        store: DistributionStore | None = None,
    ) -> None:
        super().__init__(meter)
        self._store = store
        self._engine = engine
        self._settings = settings
        self._unread: dict[SessionId, Text] = {}
        self._ahead: dict[SessionId, Text] = {}
        self._proposals: dict[Link, list[ProposalItem]] = {}

    def _take(self, link: Link, message: Message) -> None:
        if not isinstance(message, Draft):
            raise ValueError(f"a drafter of tokens does not take {type(message).__name__} from a {link.role}")
        for item in message.items:
            self._on_draft(link, item)

    async def _turn(self) -> bool:
        return self._step()

    # -- what routers send --------------------------------------------------------------------

    def _begin(self, link: Link, message: Attach) -> None:
        self._unread.pop(message.session, None)
        self._ahead.pop(message.session, None)
        self._attached[message.session] = Text(link, message)
        self._engine.attach(message.session, message.params, message.max_context_tokens)

    def _on_draft(self, link: Link, item: DraftItem) -> None:
        text = self._attached.get(item.session)
        if text is None or text.link is not link or item.epoch != text.attach.epoch:
            return
        have_len = len(text.tokens)
        if item.start > have_len:
            send_or_drop(link, Need(session=item.session, epoch=item.epoch, have_len=have_len))
            return
        vocab_size = self._engine.vocab_size
        if not have_len <= item.context_len == item.start + len(item.tokens) <= text.attach.max_context_tokens:
            logger.warning("session %x: %d tokens from %d on do not fit", item.session, len(item.tokens), item.start)
        elif not item.tokens or not all(0 <= token < vocab_size for token in item.tokens):
            logger.warning("session %x gets no draft: its text has tokens outside the vocabulary", item.session)
        else:
            text.take(item, time.perf_counter())
            self._ahead.pop(item.session, None)
            self._unread[item.session] = text
            self._work.set()

    def _forget(self, session: SessionId) -> None:
        self._unread.pop(session, None)
        self._ahead.pop(session, None)
        self._engine.detach(session)

    # -- reading and drafting -----------------------------------------------------------------

    def _step(self) -> bool:
        """Serve everybody who asks or has something to read, else guess ahead; whether there was anything to do."""
        requests = self._plan()
        is_ahead = not requests and not self._proposals
        if is_ahead:
            requests = self._plan_ahead()
        draft_ms = self._draft(requests, is_ahead) if requests else 0.0
        has_answered = bool(self._proposals)
        for link, items in self._proposals.items():
            lengths = [len(item.tokens) for item in items]
            send_or_drop(
                link,
                Proposal(items=tuple(items), draft_ms=draft_ms, longest=max(lengths), num_tokens=sum(lengths)),
            )
        self._proposals.clear()
        return bool(requests) or has_answered

    def _plan(self) -> list[ReadRequest]:
        """Requests of the texts that have something unread; who asks too early is answered with what there is."""
        requests: list[ReadRequest] = []
        num_left = self._settings.prompt_tokens
        for text in list(self._unread.values()):
            if len(requests) >= self._settings.max_batch_sessions:
                break
            num_draft_tokens = text.num_to_draft
            if text.asked is not None and num_draft_tokens == 0:
                self._answer(text, is_at_once=True)
            start, tokens = text.unread(self._engine.computed_len(text.session), to_draft=num_draft_tokens > 0)
            # What one round commits is read whatever else is: only prompts share the slices.
            cost = max(0, len(tokens) - (text.last_lookahead + 1))
            if not tokens:
                self._rest(text)
            elif cost <= num_left:
                num_left -= cost
                requests.append(text.reading(start, tokens, num_draft_tokens))
            else:
                if text.asked is not None:
                    self._answer(text)
                if num_left > 0:
                    requests.append(text.reading(start, tokens[:num_left], 0))
                    num_left = 0
        return requests

    def _plan_ahead(self) -> list[ReadRequest]:
        """One more token for each guess that does not reach far enough yet."""
        requests = []
        for text in list(self._ahead.values())[: self._settings.max_batch_sessions]:
            start, tokens = text.unread(self._engine.computed_len(text.session), to_draft=True)
            if text.num_ahead > 0 and len(tokens) <= text.last_lookahead + 1:
                requests.append(text.reading(start, tokens, 1))
            else:
                del self._ahead[text.session]
        return requests

    def _draft(self, requests: Sequence[ReadRequest], is_ahead: bool) -> float:
        """Run the engine and note what came of it; returns the time it took."""
        started_s = time.perf_counter()
        waited_s = [started_s - asked_s for r in requests if (asked_s := self._attached[r.session].asked_s) is not None]
        drafts = self._engine.draft(requests)
        batch_s = time.perf_counter() - started_s
        num_tokens = sum(len(draft.tokens) for draft in drafts)
        self.stats.add_batch(batch_s, waited_s, num_tokens)
        hidden_s = batch_s / max(1, num_tokens) if is_ahead else 0.0
        for request, draft in zip(requests, drafts, strict=True):
            text = self._attached[request.session]
            text.add(draft, self._engine.computed_len(request.session), hidden_s)
            if not draft.tokens:
                self._ahead.pop(text.session, None)  # there is no room for it
            if text.asked is not None and request.num_draft_tokens > 0:
                self._answer(text)
            if text.num_cached < request.start + len(request.tokens) or request.num_draft_tokens > 0:
                self._rest(text)  # it has what it asked for, or there is no room for it
        return batch_s * 1e3

    def _answer(self, text: Text, *, is_at_once: bool = False) -> None:
        self.stats.add_answer(text.hidden_s, is_at_once=is_at_once)
        self._proposals.setdefault(text.link, []).append(text.proposal(self._store))

    def _rest(self, text: Text) -> None:
        """Nothing is asked of this text now: its guess may be carried on."""
        if self._unread.pop(text.session, None) is not None and self._settings.drafts_ahead and text.num_cached > 0:
            self._ahead[text.session] = text
