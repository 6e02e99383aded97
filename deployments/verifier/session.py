"""What a verifier knows of one session. All of it can be rebuilt from the router's committed tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from deployments.distributions import Distribution
from deployments.link import Link
from deployments.logs import about, epoch_name, session_name
from deployments.messages import DeltaItem, EarlyStop, Epoch, Open, SessionId, Token, VerdictItem, VerifyItem
from deployments.policy.limits import cut_at_end, room_for_proposal
from deployments.verifier.engine import Outcome


@dataclass(slots=True, eq=False)
class Session:
    """A placed session: its tokens so far, how many of them are computed, what it is asked for, and since when.

    It came as the `arrival`-th, and its blocks have room for `room_tokens`.
    """

    id: SessionId
    link: Link
    opened: Open
    epoch: Epoch
    tokens: list[Token]
    drafter: str
    lookahead: int
    early_stop: EarlyStop | None = None
    computed_len: int = 0
    num_cached: int = 0
    arrival: int = 0
    room_tokens: int = 0
    num_preemptions: int = 0
    proposal: tuple[Token, ...] = ()
    survival: tuple[float, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    wants_verify: bool = True
    last_verdict: VerdictItem | None = None
    is_ended: bool = False
    sent_len: dict[str, int] = field(default_factory=dict)
    num_rounds: int = 0
    asked_s: float | None = None

    @property
    def context_len(self) -> int:
        """How many tokens are committed, prompt included."""
        return len(self.tokens)

    def about(self, **more: str | float | None) -> dict[str, dict[str, object]]:
        """What a log line about this session says of it."""
        return about(
            session=session_name(self.id),
            request=self.opened.request,
            epoch=epoch_name(self.epoch),
            round=self.num_rounds,
            **more,
        )

    def take_verify(self, item: VerifyItem, vocab_size: int, max_lookahead: int) -> None:
        """Make the proposal part of the next step; what comes after a token that is no token is not looked at."""
        self.epoch = item.epoch
        self.drafter = item.drafter
        self.lookahead = item.lookahead
        self.early_stop = item.early_stop
        room = min(max_lookahead, room_for_proposal(self.context_len, self.opened.max_context_tokens))
        self.proposal = valid_prefix(item.tokens[:room], vocab_size)
        self.survival = tuple(percent / 100 for percent in item.survival_percent[: len(self.proposal)])
        self.distributions = item.distributions
        self.wants_verify = True

    def shorten(self, num_tokens: int) -> None:
        """Leave out the proposal's tokens from the given number on, and what is known of them.

        A session that finds no place in the step that was planned is looked at again as it is now.
        """
        self.proposal, self.survival = self.proposal[:num_tokens], self.survival[:num_tokens]

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's log-probabilities are still owed: not to a session that was moved in mid-output."""
        params = self.opened.params
        return params.scores_prompt and self.context_len == params.num_prompt_tokens

    def decide(self, outcome: Outcome) -> None:
        """Commit what the step decided. The session rests until the router asks again."""
        num_accepted, next_token = outcome.num_accepted, outcome.next_token
        decided = (*self.proposal[:num_accepted], next_token)
        opened = self.opened
        _, finish_reason = cut_at_end(decided, self.context_len, opened.max_context_tokens, opened.stop_token_ids)
        self.is_ended = finish_reason is not None
        self.last_verdict = VerdictItem(
            session=self.id,
            epoch=self.epoch,
            context_len=self.context_len,
            num_accepted=num_accepted,
            next_token=next_token,
            num_drafted=len(self.proposal),
            num_cached=self.num_cached,
            logprobs=outcome.logprobs,
            prompt_logprobs=outcome.prompt_logprobs,
        )
        self.num_cached = 0  # told once, with the first verdict
        self.num_rounds += 1
        self.tokens.extend(decided)
        self.computed_len = self.context_len - 1
        self.proposal, self.survival, self.distributions = (), (), ()
        self.wants_verify = False

    @property
    def next_lookahead(self) -> int:
        """How many tokens a drafter shall draft now, no more than the output has room for."""
        if self.is_ended or not self.drafter:
            return 0
        return min(self.lookahead, room_for_proposal(self.context_len, self.opened.max_context_tokens))


@dataclass(slots=True)
class DeltaBatch:
    """What one Delta will carry, and how many shadow entries that is."""

    items: list[DeltaItem] = field(default_factory=list)
    num_entries: int = 0


def valid_prefix(tokens: Sequence[Token], vocab_size: int) -> tuple[Token, ...]:
    """The tokens up to the first that is outside the vocabulary."""
    for index, token in enumerate(tokens):
        if not 0 <= token < vocab_size:
            return tuple(tokens[:index])
    return tuple(tokens)
