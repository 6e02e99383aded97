"""A session that writes prose, then JSON, then prose: its lookahead follows within a few rounds."""

from __future__ import annotations

from autoscaling.simulator.events import EventQueue
from autoscaling.simulator.roles import Drafter, Verifier
from autoscaling.simulator.router import Request, Router
from autoscaling.simulator.text import Text, conditional, profiles
from deployments.policy.hardware import pairs
from deployments.policy.planner import SpeculationSettings

RATES = {name: conditional(cumulative) for name, cumulative in profiles().items()}
BEST_PROSE, BEST_STRUCTURED = 4, 5
"""The best fixed lookaheads at one session on this pair (docs/benchmarks.md)."""
PHASE_TOKENS = 150


def router(events: EventQueue) -> Router:
    pair = pairs()["h100x2-l4-31b"]
    verifier, drafter = Verifier(events, pair, jitter=0.02, seed=1), Drafter(events, pair.draft)
    return Router(events, [verifier], [drafter], SpeculationSettings(), pair.hop_ms)


def run(events: EventQueue, router: Router, text: Text, request_class: str) -> list[tuple[int, int]]:
    """One session to its end; (position, tokens verified) of each round."""
    ended: list[bool] = []
    router.tally.keeps_lookaheads = True
    router.tally.lookaheads.clear()
    request = Request(
        text=text,
        num_prompt_tokens=64,
        request_class=request_class,  # type: ignore[arg-type]
        on_end=lambda: ended.append(True),
    )
    router.start(request)
    events.run_until(lambda: bool(ended))
    return [(position, lookahead) for _, position, lookahead in router.tally.lookaheads]


def test_each_phase_has_its_lookahead_within_six_rounds():
    events = EventQueue()
    served = router(events)
    for seed in range(24):
        name = ("prose", "structured")[seed % 2]
        run(events, served, Text([(300, RATES[name])], seed), name)
    phases = [(PHASE_TOKENS, RATES[name]) for name in ("prose", "structured", "prose")]
    followed = []
    for seed in range(10):
        rounds = run(events, served, Text(phases, 1000 + seed), "prose")
        structured = [k for position, k in rounds if PHASE_TOKENS <= position < 2 * PHASE_TOKENS]
        prose = [k for position, k in rounds if 2 * PHASE_TOKENS <= position < 3 * PHASE_TOKENS - 20]
        assert any(abs(k - BEST_STRUCTURED) <= 1 for k in structured[:6]), structured
        followed.append(any(abs(k - BEST_PROSE) <= 1 for k in prose[:6]))
        # And it stays there, for the most part.
        late = structured[8:]
        assert sum(abs(k - BEST_STRUCTURED) <= 1 for k in late) >= 0.8 * len(late)
    # Of ten, one text's prose begins with six rounds in which four to six drafted tokens hold: it looks like JSON.
    assert sum(followed) >= 9
