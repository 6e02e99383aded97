"""A session that writes prose, then JSON, then prose: its lookahead follows within a few rounds."""

from __future__ import annotations

from autoscaling.simulator.phases import Phased
from deployments.policy.hardware import pairs

BEST_PROSE, BEST_STRUCTURED = 4, 5
"""The best fixed lookaheads at one session on this pair (docs/benchmarks.md)."""
PHASE_TOKENS = 150


def test_each_phase_has_its_lookahead_within_six_rounds():
    served = Phased(pairs()["h100x2-l4-31b"], ("prose", "structured"))
    followed = []
    for seed in range(10):
        phases = [(PHASE_TOKENS, name) for name in ("prose", "structured", "prose")]
        rounds = [(one.position, one.lookahead) for one in served.run(phases, "prose", 1000 + seed)]
        structured = [k for position, k in rounds if PHASE_TOKENS <= position < 2 * PHASE_TOKENS]
        prose = [k for position, k in rounds if 2 * PHASE_TOKENS <= position < 3 * PHASE_TOKENS - 20]
        assert any(abs(k - BEST_STRUCTURED) <= 1 for k in structured[:6]), structured
        followed.append(any(abs(k - BEST_PROSE) <= 1 for k in prose[:6]))
        # And it stays there, for the most part.
        late = structured[8:]
        assert sum(abs(k - BEST_STRUCTURED) <= 1 for k in late) >= 0.8 * len(late)
    # Of ten, one text's prose begins with six rounds in which four to six drafted tokens hold: it looks like JSON.
    assert sum(followed) >= 9
