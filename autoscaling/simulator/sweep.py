"""Adaptive lookahead against every fixed one, over concurrency and request classes, in virtual time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor

import msgspec

from autoscaling.simulator.run import Scenario, simulate
from autoscaling.simulator.text import recordings
from deployments.messages import RequestClass
from deployments.policy.classes import REQUEST_CLASSES
from deployments.policy.hardware import Pair

MIXED = "mixed"
FIXED = tuple(range(9))


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One cell: tokens per second by fixed lookahead, and of the adaptive one with its mean lookahead."""

    pair: str
    request_class: str
    concurrency: int
    fixed: dict[int, float]
    adaptive: float
    mean_lookahead: float
    prediction_error: float

    @property
    def best(self) -> int:
        """The best fixed lookahead."""
        return max(self.fixed, key=self.fixed.__getitem__)

    @property
    def ratio(self) -> float:
        """Adaptive over the best fixed one."""
        return self.adaptive / self.fixed[self.best]

    @property
    def over_off(self) -> float:
        """Adaptive over speculation off."""
        return self.adaptive / self.fixed[0]


def classes_of(name: str, *, recorded: bool = False) -> tuple[RequestClass, ...]:
    """The classes of a cell's requests, in turn: those that there are recordings of, or all."""
    every = tuple(recordings()) if recorded else REQUEST_CLASSES
    return every if name == MIXED else tuple(one for one in every if one == name)


def measure(
    pair_name: str,
    pair: Pair,
    request_class: str,
    concurrency: int,
    num_tokens: int,
    seed: int = 1,
    recorded: bool = False,
) -> Row:
    """Run one cell, all policies on the same texts."""

    def run(lookahead: int | None) -> Scenario:
        return Scenario(
            pair=pair,
            concurrency=concurrency,
            classes=classes_of(request_class, recorded=recorded),
            recorded=recorded,
            lookahead=lookahead,
            num_tokens=max(num_tokens, 200 * concurrency),
            warm_up_tokens=max(num_tokens, 200 * concurrency),
            seed=seed,
        )

    fixed = {lookahead: simulate(run(lookahead)).tokens_per_s for lookahead in FIXED}
    adaptive = simulate(run(None))
    return Row(
        pair=pair_name,
        request_class=request_class,
        concurrency=concurrency,
        fixed=fixed,
        adaptive=adaptive.tokens_per_s,
        mean_lookahead=adaptive.mean_lookahead,
        prediction_error=adaptive.prediction_error,
    )


def sweep(
    pairs: dict[str, Pair],
    request_classes: Sequence[str],
    concurrencies: Sequence[int],
    *,
    num_tokens: int,
    num_jobs: int,
    seed: int = 1,
    recorded: bool = False,
) -> Iterable[Row]:
    """All cells, in order, as they come."""
    cells = [
        (name, pair, one, n, num_tokens, seed, recorded)
        for name, pair in pairs.items()
        for one in request_classes
        for n in concurrencies
    ]
    with ProcessPoolExecutor(num_jobs) as pool:
        yield from pool.map(measure, *zip(*cells, strict=True))
