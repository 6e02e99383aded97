"""What goes into the next step: a pure choice of chunks from the sessions' state and the step's budget.

There are no phases, only sessions whose computed length is catching up with their known tokens. One
that lacks a single entry is verified; one that lacks more is (still) reading its prompt. Verifications
come first, prompts fill what they leave, and a share is kept for prompts so that neither starves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.distributions import Distribution
from deployments.messages import SessionId, Token
from deployments.verifier.engine import Chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A session that may need the next step: its known `tokens`, and a `proposal` for what follows them.

    `wants_verify` says that a verdict is due; without it the session only catches up to its last
    known token, and yields none. With `scores_tokens` the log-probabilities of the known tokens are
    wanted as well.
    """

    session: SessionId
    computed_len: int
    tokens: Sequence[Token]
    proposal: tuple[Token, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    wants_verify: bool = True
    scores_tokens: bool = False

    @property
    def num_missing(self) -> int:
        """Known tokens without a cache entry; the last of them is left out when no verdict is due."""
        return len(self.tokens) - self.computed_len - (0 if self.wants_verify else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBudget:
    """How much one step may hold. `prompt_tokens` of the tokens are kept for prompts while one waits.

    `max_scored_tokens` bounds the logits that are kept to score prompts: a row of the vocabulary each.
    """

    max_step_tokens: int
    max_step_sessions: int
    prompt_tokens: int
    max_scored_tokens: int = 256

    def __post_init__(self) -> None:
        if not 0 < self.prompt_tokens <= self.max_step_tokens or self.max_step_sessions < 2:
            raise ValueError(
                f"{self} cannot serve both prompts and verifications; "
                "keep 1 <= prompt_tokens <= max_step_tokens and max_step_sessions >= 2"
            )


def plan_step(sessions: Sequence[Pending], budget: StepBudget) -> list[Chunk]:
    """Choose the next step's chunks; empty when no session needs one.

    `sessions` stand in the order in which they became ready: what does not fit now keeps its place,
    so the first verification and the first prompt always move on. A proposal is never trimmed here;
    a chunk that reaches the last known token carries it whole.
    """
    verifications = [pending for pending in sessions if pending.num_missing == 1 and pending.wants_verify]
    prompts = [pending for pending in sessions if pending.num_missing > 1 or _only_catches_up(pending)]
    chunks: list[Chunk] = []
    num_tokens = 0
    max_tokens = budget.max_step_tokens - (budget.prompt_tokens if prompts else 0)
    max_sessions = budget.max_step_sessions - (1 if prompts else 0)
    for pending in verifications:
        cost = 1 + len(pending.proposal)
        if chunks and (num_tokens + cost > max_tokens or len(chunks) >= max_sessions):
            break
        chunks.append(_chunk(pending, 1))
        num_tokens += cost
    # The first verification goes even when it is over the budget, and then the first prompt's share still counts.
    num_left = max(budget.max_step_tokens - num_tokens, budget.prompt_tokens if prompts else 0)
    num_scorable = budget.max_scored_tokens
    for pending in prompts:
        if num_left <= 0 or len(chunks) >= budget.max_step_sessions:
            break
        if pending.scores_tokens and num_scorable <= 0:
            continue
        chunk = _chunk(pending, min(num_left, num_scorable) if pending.scores_tokens else num_left)
        chunks.append(chunk)
        num_left -= len(chunk.tokens)
        num_scorable -= len(chunk.scored)
    return chunks


def _only_catches_up(pending: Pending) -> bool:
    return pending.num_missing == 1 and not pending.wants_verify


def _chunk(pending: Pending, num_tokens: int) -> Chunk:
    """Up to `num_tokens` missing tokens; a chunk that gets to the last one goes on to the whole proposal."""
    start = pending.computed_len
    num_missing = pending.num_missing
    if not pending.wants_verify or num_tokens < num_missing:
        stop = start + min(num_tokens, num_missing)
        tokens, scored = tuple(pending.tokens[start:stop]), _scored(pending, stop)
        return Chunk(session=pending.session, start=start, tokens=tokens, is_partial=True, scored=scored)
    tokens = (*pending.tokens[start:], *pending.proposal)
    return Chunk(
        session=pending.session,
        start=start,
        tokens=tokens,
        num_drafted=len(pending.proposal),
        distributions=pending.distributions[: len(pending.proposal)],
        scored=_scored(pending, len(pending.tokens)),
    )


def _scored(pending: Pending, stop: int) -> tuple[Token, ...]:
    """The known tokens that follow those of a chunk from the computed length to `stop`."""
    return tuple(pending.tokens[pending.computed_len + 1 : stop + 1]) if pending.scores_tokens else ()
