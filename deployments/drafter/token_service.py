"""Drafting from committed tokens alone: the router sends what was committed, this side answers with a proposal.

All sessions that are asked for are drafted for together, inline on the loop; prompts are read in
slices beside them. While nobody asks, guesses are carried on as if all of a proposal were accepted,
one token at a time: a guess that comes true is answered at once. Nothing here can change an output.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.distributions import DistributionStore
from deployments.drafter.stats import DrafterStats
from deployments.drafter.text import Text
from deployments.drafter.token_engine import ReadRequest, TokenDrafterEngine
from deployments.link import Link, send_or_drop
from deployments.messages import (
    Attach,
    Detach,
    Draft,
    DraftItem,
    Introduce,
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


class TokenDrafterService:
    """An Endpoint for links from routers."""

    def __init__(
        self,
        engine: TokenDrafterEngine,
        settings: TokenDrafterSettings,
        meter: Meter | None = None,
        store: DistributionStore | None = None,
    ) -> None:
        self._store = store
        self._engine = engine
        self._settings = settings
        self._texts: dict[SessionId, Text] = {}
        self._unread: dict[SessionId, Text] = {}
        self._ahead: dict[SessionId, Text] = {}
        self._proposals: dict[Link, list[ProposalItem]] = {}
        self._work = asyncio.Event()
        meter = meter or Meter()
        self.stats = DrafterStats(meter)
        self.num_questions = 0
        self.num_hits = 0
        meter.before_reading(lambda: self.stats.refresh(len(self._texts)))

    @property
    def num_sessions(self) -> int:
        """Sessions that are attached."""
        return len(self._texts)

    # -- Endpoint -----------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        """A router learns what it can be given here."""
        if link.role == "router":
            send_or_drop(link, Introduce(kind="draft_model"))

    def link_closed(self, link: Link) -> None:
        """A router that is gone takes its sessions along."""
        for session in [s for s, text in self._texts.items() if text.link is link]:
            self._drop(session)

    def received(self, link: Link, message: Message) -> None:
        """Take one message; reading and drafting happen in `run`."""
        match message:
            case Draft():
                for item in message.items:
                    self._on_draft(link, item)
            case Attach():
                self._on_attach(link, message)
            case Detach():
                text = self._texts.get(message.session)
                if text is not None and message.epoch >= text.attach.epoch:
                    self._drop(message.session)
            case _:
                raise ValueError(f"a drafter of tokens does not take {type(message).__name__} from a {link.role}")

    async def run(self) -> None:
        """Read and draft while there is something to, until cancelled."""
        while True:
            await self._work.wait()
            if not self._step():
                self._work.clear()
                continue
            # The first turn of the loop polls the sockets, the second runs what they brought.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    # -- what routers send --------------------------------------------------------------------

    def _on_attach(self, link: Link, message: Attach) -> None:
        known = self._texts.get(message.session)
        if known is not None and message.epoch < known.attach.epoch:
            return
        self._unread.pop(message.session, None)
        self._ahead.pop(message.session, None)
        self._texts[message.session] = Text(link, message)
        self._engine.attach(message.session, message.params, message.max_context_tokens)

    def _on_draft(self, link: Link, item: DraftItem) -> None:
        text = self._texts.get(item.session)
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

    def _drop(self, session: SessionId) -> None:
        del self._texts[session]
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
        draft_ms = self._draft(requests) if requests else 0.0
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
                self.num_hits += 1
                self._answer(text)
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

    def _draft(self, requests: Sequence[ReadRequest]) -> float:
        """Run the engine and note what came of it; returns the time it took."""
        started_s = time.perf_counter()
        waited_s = [started_s - asked_s for r in requests if (asked_s := self._texts[r.session].asked_s) is not None]
        drafts = self._engine.draft(requests)
        batch_s = time.perf_counter() - started_s
        self.stats.add_batch(batch_s, waited_s, sum(len(draft.tokens) for draft in drafts))
        for request, draft in zip(requests, drafts, strict=True):
            text = self._texts[request.session]
            text.add(draft, self._engine.computed_len(request.session))
            if not draft.tokens:
                self._ahead.pop(text.session, None)  # there is no room for it
            if text.asked is not None and request.num_draft_tokens > 0:
                self._answer(text)
            if text.num_cached < request.start + len(request.tokens) or request.num_draft_tokens > 0:
                self._rest(text)  # it has what it asked for, or there is no room for it
        return batch_s * 1e3

    def _answer(self, text: Text) -> None:
        self.num_questions += 1
        self._proposals.setdefault(text.link, []).append(text.proposal(self._store))

    def _rest(self, text: Text) -> None:
        """Nothing is asked of this text now: its guess may be carried on."""
        if self._unread.pop(text.session, None) is not None and self._settings.drafts_ahead and text.num_cached > 0:
            self._ahead[text.session] = text
