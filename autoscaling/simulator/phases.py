"""Sessions whose text changes its kind on the way, in virtual time: how their lookahead follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from autoscaling.simulator.events import EventQueue
from autoscaling.simulator.roles import Drafter, Verifier
from autoscaling.simulator.router import Request, Router
from autoscaling.simulator.text import Text, conditional, profiles
from deployments.messages import RequestClass
from deployments.policy.hardware import Pair
from deployments.policy.speculation import SpeculationSettings

LEARNT_SESSIONS, LEARNT_TOKENS = 24, 300
"""What a router has served before, of all kinds in turn."""


class Round(NamedTuple):
    """When a round ended (ms since its session began), where in the text, and how many drafted tokens it verified."""

    time_ms: float
    position: int
    lookahead: int


class Phased:
    """A served router with one session at a time; what it learns stays."""

    def __init__(self, pair: Pair, classes: Sequence[RequestClass]) -> None:
        self._events = EventQueue()
        verifier, drafter = Verifier(self._events, pair, jitter=0.02, seed=1), Drafter(self._events, pair.draft)
        self._router = Router(self._events, [verifier], [drafter], SpeculationSettings(), pair.hop_ms)
        self._router.tally.keeps_lookaheads = True
        for seed in range(LEARNT_SESSIONS):
            kind = classes[seed % len(classes)]
            self.run([(LEARNT_TOKENS, kind)], kind, seed)

    def run(self, phases: Sequence[tuple[int, RequestClass]], told: RequestClass, seed: int) -> list[Round]:
        """One session of (tokens, class) phases to its end; the router is told one class for all of it."""
        rates = profiles()
        text = Text([(length, conditional(rates[kind])) for length, kind in phases], seed)
        ended: list[bool] = []
        tally, begun_ms = self._router.tally, self._events.now_ms
        tally.lookaheads.clear()
        self._router.start(
            Request(text=text, num_prompt_tokens=64, request_class=told, on_end=lambda: ended.append(True))
        )
        self._events.run_until(lambda: bool(ended))
        return [Round(at_ms - begun_ms, position, lookahead) for at_ms, position, lookahead in tally.lookaheads]
