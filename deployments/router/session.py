"""A request's decoding state. The committed tokens here are the only truth; the rest can be rebuilt from them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

from deployments.distributions import Distribution
from deployments.link import Link
from deployments.logs import about, epoch_name, session_name
from deployments.measures import UNKNOWN_CLASS
from deployments.messages import (
    Commit,
    DrafterKind,
    DrafterName,
    EarlyStop,
    Epoch,
    Generate,
    Open,
    ProposalItem,
    Token,
    VerdictItem,
    VerifyItem,
)
from deployments.policy.drafter_choice import Choice, LookupWatch
from deployments.policy.limits import cut_at_end, room_for_proposal
from deployments.policy.patience import Patience
from deployments.policy.speculation import Forecast, Speculation
from deployments.router.prompt_lookup import PromptLookup

_KINDS = frozenset(get_args(DrafterKind))


@dataclass(slots=True)
class SessionChoice:
    """What a session has if its drafter is the router's choice; `attached_s` is 0 once its drafter has drafted."""

    drafter: Choice = field(default_factory=Choice)
    watch: LookupWatch = field(default_factory=LookupWatch)
    attached_s: float = 0.0


class Phase(enum.Enum):
    """What a session waits for."""

    WAITING = "a verifier to be placed on"
    VERIFYING = "a verdict"
    DRAFTING = "a proposal"
    READY = "its verifier's next step"


@dataclass(slots=True, eq=False)
class Session:
    """One choice of one request, from Generate to its last Commit.

    `drafter_name` is what drafts for it, never "auto"; with a `choice` it changes on the way, and a drafter that is
    attached stays so while the text itself is looked up.

    What is `asked` for (lookahead, early stop, probe, forecast) is of the round to come; the same without is of the
    proposal that is there.

    `num_missed` counts the latest proposals of its drafter of which not even the first token held.

    `epoch` names the present placement. `verify_epoch` is the one under which the outstanding Open
    or Verify went out: it lags behind when the drafter changed while a step was running. A drafter of
    tokens has been sent the first `sent_len` of them.
    """

    id: int
    request: Generate
    ingress: Link
    tokens: list[Token]
    epoch: Epoch
    verify_epoch: Epoch
    drafter_name: DrafterName
    phase: Phase = Phase.WAITING
    verifier: str = ""
    drafter: str = ""
    proposal: tuple[Token, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    confidences: tuple[float, ...] = ()
    proposed_by: DrafterName = "none"
    held: ProposalItem | None = None
    outstanding: Open | VerifyItem | None = None
    num_resends: int = 0
    is_paused: bool = False
    deadline_s: float = 0.0
    patience: Patience = field(default_factory=Patience)
    lookahead: int = 0
    asked_lookahead: int = 0
    early_stop: EarlyStop | None = None
    asked_early_stop: EarlyStop | None = None
    is_probe: bool = False
    asks_probe: bool = False
    forecast: Forecast | None = None
    asked_forecast: Forecast | None = None
    round_started_s: float = 0.0
    draft_s: float = 0.0
    sent_len: int = 0
    lookup: PromptLookup | None = None
    plan: Speculation | None = None
    choice: SessionChoice | None = None
    num_rounds: int = 0
    num_missed: int = 0

    @property
    def context_len(self) -> int:
        """How many tokens are committed, prompt included."""
        return len(self.tokens)

    @property
    def told_class(self) -> str:
        """The class that its request came with: what it turns out to be depends on who drafts."""
        return self.request.request_class or UNKNOWN_CLASS

    @property
    def wants_drafter(self) -> bool:
        """Whether a drafter's replica shall be attached."""
        return self.drafter_name in _KINDS and self.request.num_speculative_tokens != 0

    @property
    def has_token_drafter(self) -> bool:
        """Whether its drafter is one that this router sends tokens to."""
        return bool(self.drafter) and self.drafter_name == "draft_model"

    @property
    def fed_drafter(self) -> str:
        """The drafter that the verifier feeds and gives the go-ahead, "" for none."""
        return self.drafter if self.drafter_name == "mtp" else ""

    def about(self, **more: str | float | None) -> dict[str, dict[str, object]]:
        """What a log line about this session says of it."""
        return about(
            session=session_name(self.id),
            request=self.request.request,
            epoch=epoch_name(self.epoch),
            round=self.num_rounds,
            **more,
        )

    def is_verified_by(self, verifier: str, epoch: Epoch) -> bool:
        """Whether it waits for this verifier's answer to what was asked under this epoch."""
        return self.phase is Phase.VERIFYING and self.verifier == verifier and self.verify_epoch == epoch

    def awaits_verdict(self, item: VerdictItem) -> bool:
        """Whether the item answers the outstanding step; anything else is stale or invented."""
        return (
            self.phase is Phase.VERIFYING
            and item.epoch == self.verify_epoch
            and item.context_len == self.context_len
            and 0 <= item.num_accepted <= item.num_drafted <= len(self.proposal)
        )

    def take_verdict(self, item: VerdictItem) -> Commit:
        """Commit what the verdict decided, up to the end of the output."""
        decided = (*self.proposal[: item.num_accepted], item.next_token)
        context_len = self.context_len
        request = self.request
        kept, finish_reason = cut_at_end(decided, context_len, request.max_context_tokens, request.stop_token_ids)
        self.tokens.extend(kept)
        self.num_rounds += 1
        commit = Commit(
            request=request.request,
            context_len=context_len,
            tokens=kept,
            num_drafted=item.num_drafted,
            num_accepted=min(item.num_accepted, len(kept)),
            finish_reason=finish_reason,
            num_cached=item.num_cached,
            logprobs=item.logprobs[: len(kept)],
            prompt_logprobs=item.prompt_logprobs,
            drafter=self.proposed_by,
        )
        self.proposal, self.confidences, self.distributions = (), (), ()
        self.outstanding = None
        self.num_resends = 0
        return commit

    def offer(self, item: ProposalItem) -> bool:
        """Take a proposal if this round waits for it; hold it if its verdict is still under way; else drop it."""
        if item.epoch != self.epoch:
            return False
        if self.phase is Phase.VERIFYING and item.context_len > self.context_len:
            self.held = item
            return False
        if self.phase is not Phase.DRAFTING or item.context_len != self.context_len:
            return False
        self.proposal = self.clip(item.tokens)
        self.confidences = item.confidences[: len(self.proposal)]
        self.distributions = item.distributions[: len(self.proposal)]
        self.proposed_by = self.drafter_name
        self.held = None
        return True

    def look_up(self) -> None:
        """Propose what followed the last tokens when they stood in the text before, if they did."""
        if self.asked_lookahead == 0:
            return
        self.proposal = self.clip(self.found(self.asked_lookahead))
        self.confidences, self.distributions = (), ()
        self.proposed_by = "prompt_lookup"

    def found(self, lookahead: int) -> tuple[Token, ...]:
        """What followed the last tokens when they stood in the text before; () if they did not."""
        if self.lookup is None:
            self.lookup = PromptLookup()
        return self.lookup.propose(self.tokens, lookahead)

    def clip(self, tokens: Sequence[Token]) -> tuple[Token, ...]:
        """No more than was asked for, and no more than the output has room for."""
        room = room_for_proposal(self.context_len, self.request.max_context_tokens)
        return tuple(tokens[: min(room, self.asked_lookahead)])
