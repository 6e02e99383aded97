"""The choice of a drafter in virtual time: the served policy, and texts in the place of tokens."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from autoscaling.simulator.text import Text
from deployments.policy.costs import DraftCosts
from deployments.policy.drafter_choice import Choice, Explorer, LookupWatch, Offers, Option, Outlook
from deployments.policy.drafter_options import LOOKUP, drafted, looked_up, outlook
from deployments.policy.planner import Planner
from deployments.policy.speculation import Speculation

_MODEL = "mtp"
_CONTEXT_TOKENS = 256


@dataclass(slots=True, kw_only=True)
class Repeats:
    """What prompt lookup guesses of a text where it finds something, which it does with the chance `offer`."""

    text: Text
    offer: float
    chance: random.Random

    def has_offer(self) -> bool:
        """Whether it finds something now."""
        return self.chance.random() < self.offer


@dataclass(slots=True)
class SessionChoice:
    """One session's."""

    drafter: Choice = field(default_factory=Choice)
    watch: LookupWatch = field(default_factory=LookupWatch)


class Choosing:
    """As the served router does it, with one model and prompt lookup to choose from."""

    def __init__(self, draft_costs: dict[str, DraftCosts]) -> None:
        self._draft_costs = draft_costs
        self._explorer = Explorer()
        self._offers = Offers()

    def begin(self, planner: Planner, plan: Speculation, remaining_tokens: int) -> SessionChoice:
        """A session starts."""
        choice = SessionChoice()
        known = {kind: drafter.num_rounds for kind, drafter in plan.drafters.items()}
        options = self._options(planner, plan, choice)
        choice.drafter.begin(self._explorer.first(options, self._outlook(planner, plan, remaining_tokens), known))
        plan.kind = choice.drafter.name
        return choice

    def before_round(self, planner: Planner, plan: Speculation, choice: SessionChoice, remaining_tokens: int) -> None:
        """Choose what drafts for the round after the one that is being sent."""
        if choice.drafter.is_due():
            options = self._options(planner, plan, choice)
            choice.drafter.decide(options, self._outlook(planner, plan, remaining_tokens))
            if plan.kind != choice.drafter.name:
                plan.kind, plan.lookahead = choice.drafter.name, None

    def watched(self, plan: Speculation, choice: SessionChoice, repeats: Repeats, position: int) -> None:
        """A round is over, and the next is not looked up."""
        has_offer = repeats.has_offer()
        self.count(plan, choice, has_offer)
        if has_offer:
            num_held = repeats.text.num_held(position, plan.num_positions)
            plan.acceptance_of(LOOKUP).observe(num_held, min(num_held + 1, plan.num_positions))

    def count(self, plan: Speculation, choice: SessionChoice, has_offer: bool) -> None:
        """The text was searched."""
        choice.watch.count(has_offer)
        self._offers.observe(plan.acceptance_of(LOOKUP).request_class, has_offer)

    def _options(self, planner: Planner, plan: Speculation, choice: SessionChoice) -> list[Option]:
        parts = next(iter(self._draft_costs.values())).parts
        offer = choice.watch.offer(self._offers.rate(plan.acceptance_of(LOOKUP).request_class))
        model = drafted(_MODEL, plan, planner.exposure, parts, 0.0)
        return [model, looked_up(plan, planner.exposure, offer)]

    def _outlook(self, planner: Planner, plan: Speculation, remaining_tokens: int) -> Outlook:
        return outlook(planner, plan, _CONTEXT_TOKENS, remaining_tokens, plan.requested)
