"""Least squares over a few features, kept current one observation at a time."""

from __future__ import annotations

from collections.abc import Sequence

_REFRESH_AFTER = 8
"""Observations between two solutions, once there are some: solving costs more than observing."""
_HICCUP = 4.0
"""How many times more than expected a value counts at most, where values differ."""


class Regression:
    """Weights w >= 0 of `y = w . x`, fitted to relative errors; older observations fade.

    `prior` are the weights before any observation, `spread` how far each may be off; both never fade,
    so a feature that nobody exercises stays where it was. `memory` is the number of observations that count.
    """

    def __init__(
        self, prior: Sequence[float], spread: Sequence[float], *, noise: float = 0.1, memory: int = 256
    ) -> None:
        size = len(prior)
        self._prior = tuple(prior)
        self._precision = [(noise / one) ** 2 for one in spread]
        self._fading = 1.0 - 1.0 / memory
        self._products = [[0.0] * size for _ in range(size)]
        self._targets = [0.0] * size
        self._num_observed = 0
        self._num_unsolved = 0
        self._weights = list(prior)

    @property
    def weights(self) -> Sequence[float]:
        """The fitted weights."""
        if self._num_unsolved and self._num_unsolved >= min(_REFRESH_AFTER, self._num_observed):
            self._solve()
        return self._weights

    def predict(self, features: Sequence[float]) -> float:
        """What the fit says of these features."""
        return sum(weight * x for weight, x in zip(self.weights, features, strict=True))

    def observe(self, features: Sequence[float], value: float, trust: float = 1.0, tolerance: float = 0.0) -> None:
        """Take one measurement; `trust` below 1 takes it as part of one.

        An error counts by its ratio to `value + tolerance`, which is over 0.
        """
        size = len(self._prior)
        scale = value + tolerance
        rows = [x / scale for x in features]
        for i in range(size):
            products, row = self._products[i], rows[i] * trust
            for j in range(size):
                products[j] = self._fading * products[j] + row * rows[j]
            self._targets[i] = self._fading * self._targets[i] + row * value / scale
        self._num_observed += 1
        self._num_unsolved += 1

    def observe_spread(self, features: Sequence[float], value: float) -> None:
        """Take one of values that differ a lot for the same features, of which the mean is wanted.

        All errors count alike: by the values' own size the smallest would count most, and of 4 and 40 ms 4.4 be found.
        """
        value = min(value, _HICCUP * max(1e-3, self.predict(features)))
        self.observe(features, value, tolerance=1.0 - value)

    def _solve(self) -> None:
        """Drop the most negative weight until none is left: enough for a handful of features."""
        self._num_unsolved = 0
        active = list(range(len(self._prior)))
        while active:
            matrix = [
                [self._products[i][j] + (self._precision[i] if i == j else 0.0) for j in active]
                + [self._targets[i] + self._precision[i] * self._prior[i]]
                for i in active
            ]
            solution = _eliminate(matrix)
            worst = min(range(len(active)), key=solution.__getitem__)
            if solution[worst] >= 0.0:
                break
            del active[worst]
            solution = []
        self._weights = [0.0] * len(self._prior)
        for index, weight in zip(active, solution, strict=True):
            self._weights[index] = weight


def _eliminate(matrix: list[list[float]]) -> list[float]:
    """Solve a small positive definite system given with its right-hand side as the last column."""
    size = len(matrix)
    for i in range(size):
        pivot = matrix[i]
        for j in range(i + 1, size):
            factor = matrix[j][i] / pivot[i]
            row = matrix[j]
            for k in range(i, size + 1):
                row[k] -= factor * pivot[k]
    solution = [0.0] * size
    for i in reversed(range(size)):
        rest = sum(matrix[i][j] * solution[j] for j in range(i + 1, size))
        solution[i] = (matrix[i][size] - rest) / matrix[i][i]
    return solution
