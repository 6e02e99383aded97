"""Verifiers and drafters as formulas, for the autoscaling policy to act on: what sessions do to signals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from autoscaling.fleet import Drafters, Fleet, Verifiers
from autoscaling.policy import Rules, State, decide
from deployments.config_parts import AutoscalingConfig
from deployments.policy.signals import DrafterSignals, IngressSignals, VerifierSignals

STEP_MS = 12.0
DRAFT_MS = 12.0
START_S = 20.0
TICK_S = 5.0


@dataclass
class Plant:
    """A token takes `floor_ms` and `slope_ms` more for each session on its verifier; replicas take a while to start."""

    rules: Rules
    floor_ms: float = 10.0
    slope_ms: float = 1.0
    noise: Callable[[], float] = lambda: 0.0
    verifiers: int = 1
    drafters: int = 1
    state: State = field(default_factory=State)
    now_s: float = 0.0
    starts: list[tuple[float, str]] = field(default_factory=list)
    history: list[tuple[float, float, int, int]] = field(default_factory=list)

    def token_ms(self, num_sessions: float, num_verifiers: int) -> float:
        """The time per token where sessions are spread evenly."""
        return self.floor_ms + self.slope_ms * num_sessions / num_verifiers

    def fleet(self, num_sessions: float) -> Fleet:
        """What the replicas would tell."""
        verifiers = self.verifiers - sum(role == "verifier" for _, role in self.starts)
        drafters = self.drafters - sum(role == "drafter" for _, role in self.starts)
        token_ms = self.token_ms(num_sessions, verifiers) * (1 + self.noise())
        late = 1.0 if token_ms > 1e3 * self.rules.scaling.token_s else 0.0
        each = num_sessions / verifiers
        busy = min(1.0, num_sessions / 2)
        shared_ms = DRAFT_MS / 4 if num_sessions >= 2 and drafters < verifiers else 0.0
        verifier = VerifierSignals(
            busy_share=busy, step_ms=STEP_MS if num_sessions else 0.0, sessions=each, kv_usage=each / 100
        )
        drafter = DrafterSignals(busy_share=busy / 2, batch_ms=DRAFT_MS, queue_ms=shared_ms * (1 + self.noise()))
        answers = IngressSignals(
            requests=num_sessions, answer_rate=1.0, late_answer_rate=late, token_ms=token_ms if num_sessions else 0.0
        )
        return Fleet(
            verifiers=Verifiers(target=self.verifiers, running=verifiers, signals=(verifier,) * verifiers),
            drafters={"drafter": Drafters(target=self.drafters, running=drafters, signals=(drafter,) * drafters)},
            ingresses=(answers,),
        )

    def run(self, num_sessions: float, seconds: float) -> None:
        """A decision every few seconds, under this load."""
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            self.starts = [(since_s, role) for since_s, role in self.starts if self.now_s - since_s < START_S]
            self.state, decision = decide(self.state, self.fleet(num_sessions), self.rules, self.now_s)
            self._apply("verifier", decision.num_verifiers - self.verifiers)
            self._apply("drafter", decision.num_drafters["drafter"] - self.drafters)
            self.verifiers, self.drafters = decision.num_verifiers, decision.num_drafters["drafter"]
            self.history.append((self.now_s, num_sessions, self.verifiers, self.drafters))

    def _apply(self, role: str, change: int) -> None:
        self.starts += [(self.now_s, role)] * max(0, change)
        for _ in range(-change):  # what has not started yet is called off first
            waiting = next((start for start in self.starts if start[1] == role), None)
            if waiting is not None:
                self.starts.remove(waiting)

    def changes(self, since_s: float = 0.0) -> list[tuple[float, int, int]]:
        """When the counts changed after that, and by how much: verifiers, drafters."""
        moves = [(after[0], after[2] - before[2], after[3] - before[3]) for before, after in pairwise(self.history)]
        return [move for move in moves if move[0] > since_s and (move[1] or move[2])]


def plant_of(**fields: float) -> Plant:
    """A plant under the default rules, some of them changed."""
    scaling = {"enabled": True, "max_verifiers": 8, "max_drafters": 16, **fields}
    return Plant(Rules(scaling=AutoscalingConfig.model_validate(scaling), max_sessions=64))
