"""One simulation: a scenario in, speeds out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from autoscaling.simulator.events import EventQueue
from autoscaling.simulator.roles import Device, Drafter, Verifier
from autoscaling.simulator.router import Request, Router
from autoscaling.simulator.text import Output, RecordedText, Text, conditional, profiles, recordings
from deployments.messages import RequestClass
from deployments.policy.hardware import DraftTable, Pair
from deployments.policy.speculation import SpeculationSettings


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A closed loop of `concurrency` sessions of some classes, until `num_tokens` are committed.

    `lookahead` None leaves it to the policy, an integer is asked for by every request. `told` says whether the
    router knows the requests' classes; `told_class` tells it a wrong one. `spread` makes sessions of a class differ.
    Texts are drawn from profiles, or `recorded` answers, as long as they were.
    With `colocated` the one verifier drafts on its own device, in the time of that table.
    """

    pair: Pair
    concurrency: int
    classes: tuple[RequestClass, ...]
    lookahead: int | None = None
    policy: SpeculationSettings = SpeculationSettings()
    num_tokens: int = 20_000
    warm_up_tokens: int = 2_000
    num_verifiers: int = 1
    num_drafters: int = 1
    colocated: DraftTable | None = None
    prompt_tokens: int = 64
    output_tokens: int = 400
    spread: float = 0.0
    recorded: bool = False
    jitter: float = 0.0
    told: bool = True
    told_class: RequestClass | None = None
    seed: int = 1


@dataclass(slots=True)
class Result:
    """Speeds over the time after the warm-up."""

    tokens_per_s: float
    acceptance_length: float
    mean_lookahead: float
    prediction_error: float
    drafter_share: float
    verifier_share: float
    by_lookahead: dict[int, int] = field(default_factory=dict)


def simulate(scenario: Scenario) -> Result:
    """Run a scenario in virtual time."""
    events = EventQueue()
    verifiers, drafters = _roles(scenario, events)
    router = Router(events, verifiers, drafters, scenario.policy, scenario.pair.hop_ms)
    next_request = _requests(scenario)

    def start() -> None:
        request = next_request()
        request.on_end = start
        router.start(request)

    for _ in range(scenario.concurrency):
        start()
    tally = router.tally
    events.run_until(lambda: tally.num_tokens >= scenario.warm_up_tokens)
    since_ms, num_before, rounds_before, drafted_before = (
        events.now_ms,
        tally.num_tokens,
        tally.num_rounds,
        tally.num_drafted,
    )
    tally.by_lookahead.clear()
    goal = num_before + scenario.num_tokens
    events.run_until(lambda: tally.num_tokens >= goal)
    elapsed_ms, num_tokens = events.now_ms - since_ms, tally.num_tokens - num_before
    num_rounds = max(1, tally.num_rounds - rounds_before)
    return Result(
        tokens_per_s=1e3 * num_tokens / elapsed_ms,
        acceptance_length=num_tokens / num_rounds,
        mean_lookahead=(tally.num_drafted - drafted_before) / num_rounds,
        prediction_error=max(planner.costs.error.median for planner in router.planners),
        drafter_share=sum(drafter.busy_ms for drafter in drafters) / len(drafters) / events.now_ms,
        verifier_share=sum(verifier.busy_ms for verifier in verifiers) / len(verifiers) / events.now_ms,
        by_lookahead=dict(sorted(tally.by_lookahead.items())),
    )


def _roles(scenario: Scenario, events: EventQueue) -> tuple[list[Verifier], list[Drafter]]:
    pair, jitter = scenario.pair, scenario.jitter
    if scenario.colocated is not None:
        assert scenario.num_verifiers == 1
        device = Device(events)
        # First in, first called: a go-ahead comes before the next step.
        drafter = Drafter(events, scenario.colocated, device=device)
        return [Verifier(events, pair, jitter=jitter, seed=scenario.seed, device=device)], [drafter]
    verifiers = [
        Verifier(events, pair, jitter=jitter, seed=scenario.seed + index) for index in range(scenario.num_verifiers)
    ]
    return verifiers, [Drafter(events, pair.draft) for _ in range(scenario.num_drafters)]


def _requests(scenario: Scenario) -> Callable[[], Request]:
    """Requests in the same order and with the same text for every policy."""
    rates: dict[RequestClass, Sequence[float]] = {name: conditional(p) for name, p in profiles().items()}
    chance = random.Random(scenario.seed)
    count = 0

    def make() -> Request:
        nonlocal count
        count += 1
        request_class = scenario.classes[count % len(scenario.classes)]
        length = max(8, round(scenario.output_tokens * chance.uniform(0.5, 1.5)))
        told = scenario.told_class or (request_class if scenario.told else None)
        text: Output
        if scenario.recorded:
            text = RecordedText(chance.choice(recordings()[request_class]))
        else:
            text = Text([(length, rates[request_class])], scenario.seed * 1_000_003 + count, scenario.spread)
        return Request(
            text=text,
            num_prompt_tokens=max(1, round(scenario.prompt_tokens * chance.uniform(0.5, 1.5))),
            request_class=told,
            num_speculative_tokens=scenario.lookahead,
        )

    return make
