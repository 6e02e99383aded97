"""Drives a verifier engine the way its service does: opens sessions, plans steps, commits what they decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deployments.messages import SamplingParams, SessionId, Token
from deployments.paged.prefix_index import Prefix
from deployments.verifier.engine import VerifierEngine
from deployments.verifier.scheduler import Pending, StepBudget, plan_step

Drafter = Callable[[SessionId, Sequence[Token]], Sequence[Token]]
"""(session, its known tokens) -> a proposal for what follows."""


@dataclass(slots=True)
class Drive:
    """One engine with its sessions' committed tokens; `num_accepted` counts drafted tokens that held.

    With a `salt` sessions share what they begin with; `num_reused` counts the entries that this saved.
    """

    engine: VerifierEngine
    budget: StepBudget = field(
        default_factory=lambda: StepBudget(max_step_tokens=96, max_step_sessions=16, prompt_tokens=32)
    )
    tokens: dict[SessionId, list[Token]] = field(default_factory=dict)
    num_accepted: int = 0
    salt: str | None = None
    num_reused: int = 0

    def generate(
        self, prompts: Sequence[Sequence[Token]], params: Sequence[SamplingParams], num_tokens: int, draft: Drafter
    ) -> list[list[Token]]:
        """Generate for all prompts together, at least `num_tokens` each, cut to that; sessions are closed after."""
        computed: dict[SessionId, int] = {}
        for session, prompt in enumerate(prompts):
            prefix = Prefix(tokens=prompt, salt=self.salt) if self.salt is not None else None
            computed[session] = self.engine.open(session, params[session], len(prompt) + num_tokens, prefix)
            self.tokens[session] = list(prompt)
        self.num_reused += sum(computed.values())
        goal = {session: len(prompt) + num_tokens for session, prompt in enumerate(prompts)}
        while unfinished := [s for s in self.tokens if len(self.tokens[s]) < goal[s]]:
            pending = [
                Pending(
                    session=s,
                    computed_len=computed[s],
                    tokens=self.tokens[s],
                    proposal=tuple(draft(s, self.tokens[s]))[: goal[s] - len(self.tokens[s]) - 1],
                )
                for s in unfinished
            ]
            self._step(pending, computed)
        for session in list(self.tokens):
            self.engine.close(session)
        outputs = [self.tokens[s][len(prompt) :] for s, prompt in enumerate(prompts)]
        self.tokens.clear()
        return outputs

    def _step(self, pending: Sequence[Pending], computed: dict[SessionId, int]) -> None:
        chunks = plan_step(pending, self.budget)
        outcomes = {outcome.session: outcome for outcome in self.engine.step(chunks)}
        for chunk in chunks:
            stop = chunk.start + len(chunk.tokens)
            if chunk.is_partial:
                computed[chunk.session] = stop
                continue
            outcome = outcomes[chunk.session]
            drafted = chunk.tokens[len(chunk.tokens) - chunk.num_drafted :]
            self.tokens[chunk.session] += [*drafted[: outcome.num_accepted], outcome.next_token]
            computed[chunk.session] = stop - chunk.num_drafted + outcome.num_accepted
            self.num_accepted += outcome.num_accepted
