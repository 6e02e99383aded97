"""What many scores say together: mean with an interval, the bad tail, and the same by slice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from evaluation.quality.scoring import PASS_MARK
from evaluation.quality.suite import Case

NUM_RESAMPLES = 2000
BOOTSTRAP_SEED = 20_261_125
MAX_SLICES = 20
"""A metadata key with more values than this is no slice but a label."""


class Interval(msgspec.Struct, frozen=True):
    """A mean, and the middle 95 % of the means of resampled cases."""

    mean: float
    low: float
    high: float


class Aggregate(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of `num_cases` cases; `fail_rate` is the share below 0.5, `p10` the score that one in ten misses."""

    num_cases: int
    mean: Interval
    p10: float
    fail_rate: float


def bootstrap(values: Sequence[float], seed: int = BOOTSTRAP_SEED) -> Interval:
    """Percentile bootstrap of the mean (Efron 1979); the same values and seed give the same interval."""
    assert values
    array = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(len(array), size=(NUM_RESAMPLES, len(array)))
    low, high = np.quantile(array[picks].mean(axis=1), (0.025, 0.975))
    return Interval(float(array.mean()), float(low), float(high))


def aggregate(values: Sequence[float]) -> Aggregate:
    """Summarise the scores of one metric; `values` must not be empty."""
    return Aggregate(
        num_cases=len(values),
        mean=bootstrap(values),
        p10=float(np.quantile(values, 0.1, method="lower")),
        fail_rate=sum(value < PASS_MARK for value in values) / len(values),
    )


def slices(cases: Iterable[Case], values: Mapping[str, float]) -> dict[str, Aggregate]:
    """Aggregates by `key=value` of the metadata, of keys that have 2 to MAX_SLICES values; `values` are by case id."""
    by_key: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for case in cases:
        for key, value in case.metadata.items():
            if case.id in values:
                by_key[key][value].append(values[case.id])
    return {
        f"{key}={value}": aggregate(by_value[value])
        for key, by_value in sorted(by_key.items())
        if 2 <= len(by_value) <= MAX_SLICES
        for value in sorted(by_value)
    }
