"""Outrider's two engines in one process: verify, draft, verify, with nothing between them.

The steps are planned as the verifier's service plans them; what would cross streams is handed over.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from deployments.drafter.engine import DrafterEngine, DraftRequest
from deployments.messages import SamplingParams, SessionId, Token
from deployments.policy.limits import cut_at_end, room_for_proposal
from deployments.verifier.engine import Chunk, Outcome, VerifierEngine
from deployments.verifier.scheduler import Pending, StepBudget, plan_step
from evaluation.load.engines.records import Run

GREEDY = SamplingParams()


@dataclass(slots=True, kw_only=True)
class _Session:
    tokens: list[Token]
    num_prompt_tokens: int
    max_context_tokens: int
    computed_len: int = 0
    proposal: tuple[Token, ...] = ()
    shadow_len: int = 0
    is_ended: bool = False


@dataclass(slots=True)
class PairLoop:
    """Drives a verifier's and a drafter's engine greedily, as many sessions at a time as asked for."""

    verifier: VerifierEngine
    drafter: DrafterEngine
    budget: StepBudget
    stop_tokens: tuple[Token, ...]
    _sessions: dict[SessionId, _Session] = field(default_factory=dict)
    _num_rounds: int = 0
    _num_accepted: int = 0

    def run(self, prompts: Sequence[Sequence[Token]], num_streams: int, max_tokens: int, lookahead: int) -> Run:
        """Answer every prompt, `num_streams` at a time, a new one beginning when one ends."""
        outputs: dict[SessionId, tuple[Token, ...]] = {}
        self._num_rounds = self._num_accepted = 0
        waiting = iter(enumerate(prompts))
        step_ms: list[float] = []
        started_s = time.perf_counter()
        while True:
            self._open(islice(waiting, num_streams - len(self._sessions)), max_tokens)
            if not self._sessions:
                break
            step_started_s = time.perf_counter()
            self._step(lookahead)
            step_ms.append((time.perf_counter() - step_started_s) * 1e3)
            for session in [s for s, state in self._sessions.items() if state.is_ended]:
                state = self._close(session)
                outputs[session] = tuple(state.tokens[state.num_prompt_tokens :])
        return Run(
            outputs=tuple(outputs[index] for index in range(len(prompts))),
            wall_s=time.perf_counter() - started_s,
            step_ms=tuple(step_ms),
            num_rounds=self._num_rounds,
            num_accepted=self._num_accepted,
        )

    def _open(self, prompts: Iterable[tuple[SessionId, Sequence[Token]]], max_tokens: int) -> None:
        for session, prompt in prompts:
            longest = len(prompt) + max_tokens
            self.verifier.open(session, GREEDY, longest)
            self.drafter.attach(session, GREEDY)
            self._sessions[session] = _Session(
                tokens=list(prompt), num_prompt_tokens=len(prompt), max_context_tokens=longest
            )

    def _close(self, session: SessionId) -> _Session:
        self.verifier.close(session)
        self.drafter.detach(session)
        return self._sessions.pop(session)

    def _step(self, lookahead: int) -> None:
        pending = [
            Pending(session=session, computed_len=s.computed_len, tokens=s.tokens, proposal=s.proposal)
            for session, s in self._sessions.items()
        ]
        chunks = plan_step(pending, self.budget)
        outcomes = iter(self.verifier.step(chunks))
        requests = []
        for chunk in chunks:
            state = self._sessions[chunk.session]
            if chunk.is_partial:
                state.computed_len = chunk.start + len(chunk.tokens)
                continue
            self._commit(state, chunk, next(outcomes))
            room = min(lookahead, room_for_proposal(len(state.tokens), state.max_context_tokens))
            if room > 0 and not state.is_ended:
                requests.append(self._request(chunk.session, state, room))
        for draft in self.drafter.draft(requests) if requests else ():
            self._sessions[draft.session].proposal = draft.tokens

    def _commit(self, state: _Session, chunk: Chunk, outcome: Outcome) -> None:
        decided = (*state.proposal[: outcome.num_accepted], outcome.next_token)
        kept, reason = cut_at_end(decided, len(state.tokens), state.max_context_tokens, self.stop_tokens)
        self._num_rounds += bool(chunk.num_drafted)
        self._num_accepted += outcome.num_accepted
        state.tokens.extend(kept)
        state.computed_len = len(state.tokens) - 1
        state.proposal = ()
        state.is_ended = reason is not None

    def _request(self, session: SessionId, state: _Session, lookahead: int) -> DraftRequest:
        """Bring the shadow up to date, and ask for the tokens after the last known one."""
        self.drafter.extend(session, self.verifier.shadow(session, state.shadow_len, state.computed_len))
        state.shadow_len = state.computed_len
        return DraftRequest(
            session=session,
            context_len=len(state.tokens),
            last_token=state.tokens[-1],
            lookahead=lookahead,
            hidden=self.verifier.hidden(session),
        )
