"""What the choice of a drafter looks at, made of what the planner has learnt.

A drafter stays for the rest of an answer, so it is judged by what to expect over that, and not by the beginning.
"""

from __future__ import annotations

from itertools import accumulate

from deployments.policy.drafter_choice import Option, Outlook
from deployments.policy.exposure import Exposure
from deployments.policy.planner import Planner
from deployments.policy.speculation import Speculation
from deployments.timing import StepShape

LOOKUP = "prompt_lookup"


def drafted(
    kind: str, plan: Speculation, exposure: Exposure, draft_parts: tuple[float, float, float], switch_ms: float
) -> Option:
    """A drafter with a model: its batch takes (fixed, per step, per token) and exposes that and the hops."""
    fixed_ms, step_ms, token_ms = draft_parts
    acceptance = plan.acceptance_of(kind)
    num_steps = accumulate(acceptance.drafted or [1.0] * plan.num_positions, initial=0.0)
    away_ms = exposure.away_ms([fixed_ms + (step_ms + token_ms) * steps for steps in num_steps])
    return Option(kind, acceptance.survival_ahead, away_ms, switch_ms=switch_ms)


def looked_up(plan: Speculation, exposure: Exposure, offer: float) -> Option:
    """Prompt lookup, which exposes nothing and has a proposal with the chance `offer`."""
    away_ms = (exposure.bare_hop_ms,) * (plan.num_positions + 1)
    return Option(LOOKUP, plan.acceptance_of(LOOKUP).survival_ahead, away_ms, offer=offer, is_watched=True)


def outlook(
    planner: Planner, plan: Speculation, context_len: int, remaining_tokens: int, lookahead: int | None
) -> Outlook:
    """Steps as they would be if all sessions of the verifier did as this one."""
    num_sessions = max(1, len(planner.sessions))
    step_ms = [
        planner.costs.predict(
            StepShape(
                num_sequences=num_sessions,
                num_tokens=num_sessions * (1 + k),
                num_context_tokens=num_sessions * context_len,
            )
        )
        for k in range(plan.num_positions + 1)
    ]
    return Outlook(step_ms, max(1, remaining_tokens), lookahead)
