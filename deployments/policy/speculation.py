"""One session as a planner knows it, and the settings that hold for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from deployments.messages import EarlyStop, PolicyName, Priority, RequestClass
from deployments.policy.acceptance import DrafterAcceptance, SessionAcceptance, stage_of
from deployments.policy.cycle import Cycle

_WEIGHTS: Mapping[Priority, float] = {"interactive": 1.0, "batch": 0.4}


class SpeculationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who decides a lookahead that the request leaves open, and its bounds.

    `adaptive` maximises expected tokens per second; `constant` takes `num_speculative_tokens`; `heuristic`
    starts there, adds 2 after a proposal accepted whole and takes 1 off after any other, as transformers do.
    """

    policy: PolicyName = "adaptive"
    num_speculative_tokens: int = 4
    max_speculative_tokens: int = 16


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the model says of a round: how many sessions share its cycle, whether drafts are waited for, and the times
    by which it was planned. Tokens that sessions were told to draft are in those in any case: `num_told` of them.
    `rate` is what all sessions were to commit, in tokens per ms, where that was not just tried.
    """

    num_sessions: int
    is_drafted: bool
    cycle: Cycle
    num_told: int = 0
    rate: float = 0.0

    def modelled_ms(self, tokens_each: float, draft_ms: float) -> float:
        """The same of a cycle in which so much was drafted per session: its time before waits that no model knows."""
        num_tokens = round(tokens_each * self.num_sessions) - self.num_told
        return self.cycle.seen_ms(max(0, num_tokens), draft_ms)


@dataclass(slots=True)
class Probe:
    """A lookahead that is tried for a few rounds, to see what comes of it."""

    lookahead: int
    num_rounds: int
    forecast: Forecast | None


@dataclass(slots=True, kw_only=True)
class Speculation:
    """One session as the planner knows it. `requested` None leaves the lookahead to the policy; `may_end_early` says
    whether its drafter may stop where the tokens are too unlikely, as MTP drafters can.

    `drafters` is what is known of each kind of drafter, shared by all sessions; `kind` drafts for this one.
    `drafter` is the replica that does. `forecast` is what the model says of the round that it was given a lookahead
    for last, `early_stop` when its draft may end before that. A token of such a draft that is less likely to hold than
    `place_cost` is not worth its place in the step.
    """

    drafters: dict[str, DrafterAcceptance]
    kind: str
    num_positions: int
    request_class: RequestClass | None = None
    requested: int | None = None
    priority: Priority = "interactive"
    policy: PolicyName | None = None
    may_end_early: bool = False
    lookahead: int | None = None
    heuristic: int = 0
    probe: Probe | None = None
    is_probe: bool = False
    forecast: Forecast | None = None
    early_stop: EarlyStop | None = None
    place_cost: float = 0.0
    num_rounds_off: int = 0
    prompts_ms: float = 0.0
    num_rounds: int = 0
    num_tokens: int = 0
    is_new: bool = True
    company: int = 0
    drafter: str = ""
    by_kind: dict[str, SessionAcceptance] = field(default_factory=dict)

    def told(self, settings: SpeculationSettings) -> int | None:
        """The lookahead that is told, as far as the session may look; None where one is searched for."""
        policy = self.policy or settings.policy
        if self.requested is not None:
            lookahead = self.requested
        elif policy == "adaptive":
            return None
        elif policy == "constant":
            lookahead = settings.num_speculative_tokens
        else:
            lookahead = self.heuristic or max(1, settings.num_speculative_tokens)
        return min(lookahead, self.num_positions, settings.max_speculative_tokens)

    def heed(self, num_looked_at: int, num_held: int, settings: SpeculationSettings) -> None:
        """A round has ended: what the heuristic asks for next."""
        told = self.told(settings)
        if num_looked_at and told is not None:
            longer = told + (2 if num_held >= num_looked_at else -1)
            self.heuristic = min(settings.max_speculative_tokens, max(1, longer))

    def num_worth(self, survival: Sequence[float]) -> int:
        """How many tokens of a draft that might end early are worth their place in the step."""
        count = len(survival)
        while count and survival[count - 1] < self.place_cost:
            count -= 1
        return count

    @property
    def ends_early(self) -> bool:
        """Whether its drafter, the present one, may stop before the lookahead."""
        return self.may_end_early and self.kind == "mtp"

    def is_apart(self, settings: SpeculationSettings) -> bool:
        """Whether its rounds tell nothing of others: its drafts are as long as was told, theirs seen to end early."""
        return bool(self.told(settings)) and self.ends_early and self.acceptance.has_ended_early

    @property
    def weight(self) -> float:
        """What a token of it counts."""
        return _WEIGHTS[self.priority]

    @property
    def acceptance(self) -> SessionAcceptance:
        """With the drafter that drafts for it."""
        return self.acceptance_of(self.kind)

    @property
    def is_free(self) -> bool:
        """Whether its drafts expose no time: they are looked up where the session is."""
        return self.kind == "prompt_lookup"

    def acceptance_of(self, kind: str) -> SessionAcceptance:
        """With drafters of this kind."""
        known = self.by_kind.get(kind)
        if known is None:
            drafter = self.drafters.setdefault(kind, DrafterAcceptance())
            stage = stage_of(self.num_tokens)
            known = self.by_kind[kind] = SessionAcceptance(drafter, self.request_class, self.num_positions, stage)
        return known

    def advance(self, num_tokens: int) -> bool:
        """The answer has got so many tokens more; whether more of it can be foreseen now."""
        before, self.num_tokens = stage_of(self.num_tokens), self.num_tokens + num_tokens
        stage = stage_of(self.num_tokens)
        if stage == before:
            return False
        for acceptance in self.by_kind.values():
            acceptance.move_to(stage)
        return True
