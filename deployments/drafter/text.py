"""What a drafter of tokens knows of one session: the committed text, and its own guess at how that goes on."""

from __future__ import annotations

from dataclasses import dataclass, field

from deployments.distributions import Distribution, DistributionStore, kept_or_sent
from deployments.drafter.engine import Draft
from deployments.drafter.token_engine import ReadRequest
from deployments.link import Link
from deployments.messages import Attach, DraftItem, ProposalItem, SessionId, Token


@dataclass(slots=True, eq=False)
class Text:
    """A session's committed `tokens`, and behind them a `guess`.

    A guess stays good as long as what is committed agrees with it, since the noise behind each token
    is that of its position: what was drafted beyond a proposal need not be drafted again. The first
    `num_cached` tokens of both together have their entries in the engine's cache, unless it evicted
    them. `drafted_s` has for each token of the guess what it took to draft while nobody waited for it.
    """

    link: Link
    attach: Attach
    tokens: list[Token] = field(default_factory=list)
    guess: list[Token] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    distributions: list[Distribution] = field(default_factory=list)
    drafted_s: list[float] = field(default_factory=list)
    num_cached: int = 0
    asked: DraftItem | None = None
    asked_s: float | None = None
    last_lookahead: int = 0

    @property
    def session(self) -> SessionId:
        """Whose text it is."""
        return self.attach.session

    @property
    def num_to_draft(self) -> int:
        """How many tokens the guess lacks of what was asked for."""
        return 0 if self.asked is None else max(0, self.asked.lookahead - len(self.guess))

    @property
    def num_ahead(self) -> int:
        """How many tokens the guess lacks to reach over one proposal, the verifier's token, and another proposal."""
        room = self.attach.max_context_tokens - len(self.tokens) - len(self.guess)
        return min(room, 2 * self.last_lookahead + 1 - len(self.guess)) if self.last_lookahead else 0

    def take(self, item: DraftItem, now_s: float) -> None:
        """Append what was committed since; the guess is kept if it was right. `item` leaves no gap."""
        new = item.tokens[len(self.tokens) - item.start :]
        num_right = 0
        while num_right < min(len(new), len(self.guess)) and new[num_right] == self.guess[num_right]:
            num_right += 1
        if num_right < min(len(new), len(self.guess)):
            self.num_cached = min(self.num_cached, len(self.tokens) + num_right)
            self.guess.clear()
            self.confidences.clear()
            self.distributions.clear()
            self.drafted_s.clear()
        for column in (self.guess, self.confidences, self.distributions, self.drafted_s):
            del column[: len(new)]
        self.tokens.extend(new)
        self.asked, self.asked_s = (item, now_s) if item.lookahead > 0 else (None, None)
        self.last_lookahead = item.lookahead

    def unread(self, computed_len: int, *, to_draft: bool) -> tuple[int, tuple[Token, ...]]:
        """Where the cache ends, of `computed_len` entries, and the tokens from there on.

        Drafting reads the last token once more if need be; reading alone leaves it, as drafting will read it.
        """
        start = min(self.num_cached, computed_len)
        if not to_draft:
            return start, tuple(self.tokens[start:-1])
        num_known = len(self.tokens)
        start = min(start, num_known + len(self.guess) - 1)
        return start, (*self.tokens[start:], *self.guess[max(0, start - num_known) :])

    def reading(self, start: int, tokens: tuple[Token, ...], num_draft_tokens: int) -> ReadRequest:
        """What the engine is to do for this text."""
        return ReadRequest(
            session=self.session,
            start=start,
            tokens=tokens,
            num_draft_tokens=num_draft_tokens,
            context_len=len(self.tokens),
        )

    @property
    def hidden_s(self) -> float:
        """How much of the time behind the answer to what was asked nobody has waited for."""
        return 0.0 if self.asked is None else sum(self.drafted_s[: self.asked.lookahead])

    def add(self, draft: Draft, computed_len: int, hidden_s: float) -> None:
        """Lengthen the guess by what was drafted after it; the cache holds `computed_len` entries now.

        Of each token's time nobody has waited for `hidden_s`.
        """
        self.num_cached = computed_len
        self.guess.extend(draft.tokens)
        self.confidences.extend(draft.confidences)
        self.distributions.extend(draft.distributions)
        self.drafted_s.extend(hidden_s for _ in draft.tokens)

    def proposal(self, store: DistributionStore | None) -> ProposalItem:
        """Answer what was asked with the guess, as far as it goes, and with what it was drawn from."""
        item = self.asked
        assert item is not None
        self.asked = self.asked_s = None
        return ProposalItem(
            session=item.session,
            epoch=item.epoch,
            context_len=item.context_len,
            tokens=tuple(self.guess[: item.lookahead]),
            confidences=tuple(self.confidences[: item.lookahead]),
            distributions=kept_or_sent(
                store, item.session, item.context_len, tuple(self.distributions[: item.lookahead])
            ),
        )
