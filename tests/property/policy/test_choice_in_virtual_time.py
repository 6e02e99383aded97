"""Sessions that repeat their prompt beside sessions that do not: each ends with the drafter that suits it."""

from __future__ import annotations

import random
from statistics import mean

import pytest

from autoscaling.simulator.choosing import Repeats
from autoscaling.simulator.events import EventQueue
from autoscaling.simulator.roles import Drafter, Verifier
from autoscaling.simulator.router import Request, Router
from autoscaling.simulator.text import Text, conditional, profiles
from deployments.messages import DrafterName
from deployments.policy.hardware import pairs
from deployments.policy.speculation import SpeculationSettings

RATES = {name: conditional(cumulative) for name, cumulative in profiles().items()}
COPIED = (0.97,) * 64
"""Conditional rates of a copy: it goes on until it is changed, about once in thirty tokens."""
NUM_TOKENS = 6_000


def request(index: int, *, copies: bool, seed: int) -> Request:
    number = seed * 1_000_003 + index
    offer, rates = (0.9, COPIED) if copies else (0.1, (0.3,) * 64)
    return Request(
        text=Text([(300, RATES["code"])], number),
        repeats=Repeats(text=Text([(300, rates)], number + 7), offer=offer, chance=random.Random(number)),
        num_prompt_tokens=64,
        request_class="code",
    )


def tokens_per_s(
    drafter: DrafterName, kinds: tuple[bool, ...], concurrency: int, seed: int = 3
) -> tuple[float, dict[str, int]]:
    """Speed of a closed loop after a warm-up, and rounds by who proposed; `kinds` are the sessions' in turn."""
    events, pair = EventQueue(), pairs()["h100x2-l4-31b"]
    verifier, model = Verifier(events, pair, jitter=0.02, seed=1), Drafter(events, pair.draft)
    router = Router(events, [verifier], [model], SpeculationSettings(), pair.hop_ms, drafter=drafter)
    count = 0

    def start() -> None:
        nonlocal count
        count += 1
        made = request(count, copies=kinds[count % len(kinds)], seed=seed)
        made.on_end = start
        router.start(made)

    for _ in range(concurrency):
        start()
    tally = router.tally
    events.run_until(lambda: tally.num_tokens >= NUM_TOKENS // 3)
    since_ms, before = events.now_ms, tally.num_tokens
    tally.by_drafter.clear()
    events.run_until(lambda: tally.num_tokens >= before + NUM_TOKENS)
    return 1e3 * (tally.num_tokens - before) / (events.now_ms - since_ms), tally.by_drafter


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("copies", [True, False], ids=["copies", "writes"])
def test_alike_sessions_get_the_best_drafter(copies: bool, concurrency: int) -> None:
    best: DrafterName = "prompt_lookup" if copies else "mtp"
    other: DrafterName = "mtp" if copies else "prompt_lookup"
    ratios = []
    for seed in (3, 4, 5):  # one seed's texts are 2 % off the others'
        speeds = {name: tokens_per_s(name, (copies,), concurrency, seed) for name in (best, other, "auto")}
        assert speeds[best][0] > speeds[other][0]
        ratios.append(speeds["auto"][0] / speeds[best][0])
        by_drafter = speeds["auto"][1]
        drafted = by_drafter.get("mtp", 0) + by_drafter.get("prompt_lookup", 0)
        assert by_drafter.get(best, 0) >= 0.85 * drafted, by_drafter
    assert mean(ratios) >= 0.97, ratios


def test_mixed_sessions_do_better_than_with_either_drafter_for_all() -> None:
    speeds = {name: tokens_per_s(name, (True, False), 8)[0] for name in ("mtp", "prompt_lookup", "auto")}
    assert speeds["auto"] >= 1.05 * max(speeds["mtp"], speeds["prompt_lookup"]), speeds
