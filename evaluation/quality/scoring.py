"""Scorers: what makes a number between 0 and 1 out of an answer, found by name or by import path."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, runtime_checkable

import msgspec

from evaluation.quality.suite import Case, DomainEvalSuite, JsonValue, Problem, ScorerSpec

PASS_MARK = 0.5
"""A score below it is a failure."""

BUILT_IN = ("evaluation.quality.scorers", "evaluation.quality.drift")
"""Modules whose import registers scorers."""


class Score(msgspec.Struct, frozen=True):
    """A value from 0 (wrong) to 1 (right); numbers among the details are averaged in the report."""

    value: float
    details: dict[str, JsonValue] = {}


class Scorer(Protocol):
    """Judges one answer. It must be deterministic; a wrong answer is a low score, never an exception."""

    def __call__(self, case: Case, answer: str) -> Score: ...


@runtime_checkable
class Fitted(Protocol):
    """A scorer that learns from the suite's texts before it judges."""

    def fit(self, cases: Sequence[Case]) -> None: ...


@runtime_checkable
class Checked(Protocol):
    """A scorer that needs something of a case: `check` raises ValueError with what is missing."""

    def check(self, case: Case) -> None: ...


Factory = Callable[..., Scorer]
_FACTORIES: dict[str, Factory] = {}


def register(name: str) -> Callable[[Factory], Factory]:
    """Register a factory, such as a scorer's class: called with the options of the suite as keywords.

    A ValueError or TypeError of the factory is told to the user as a mistake in the options.
    """

    def keep(factory: Factory) -> Factory:
        assert name not in _FACTORIES, f"two scorers are called {name}"
        _FACTORIES[name] = factory
        return factory

    return keep


def registered() -> dict[str, Factory]:
    """All built-in scorers by name."""
    for module in BUILT_IN:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
    return dict(_FACTORIES)


@dataclass(frozen=True, slots=True)
class FieldScorer:
    """Another scorer, of one field of what is expected."""

    scorer: Scorer
    field: str

    def __call__(self, case: Case, answer: str) -> Score:
        return self.scorer(self._narrow(case), answer)

    def check(self, case: Case) -> None:
        if not isinstance(case.expected, dict) or self.field not in case.expected:
            raise ValueError(f"`expected` needs the field {self.field!r}")
        if isinstance(self.scorer, Checked):
            self.scorer.check(self._narrow(case))

    def fit(self, cases: Sequence[Case]) -> None:
        if isinstance(self.scorer, Fitted):
            self.scorer.fit([self._narrow(case) for case in cases])

    def _narrow(self, case: Case) -> Case:
        assert isinstance(case.expected, dict)
        return msgspec.structs.replace(case, expected=case.expected[self.field])


def build_scorers(suite: DomainEvalSuite) -> dict[str, Scorer]:
    """The suite's scorers by metric, fitted. Raises ValueError with what `scorer_problems` says first."""
    for problem in scorer_problems(suite):
        raise ValueError(f"{problem.path}: {problem.message}")
    scorers = {spec.metric: _build(spec, suite.folder) for spec in suite.scorers}
    for scorer in scorers.values():
        if isinstance(scorer, Fitted):
            scorer.fit(suite.cases)
    return scorers


def scorer_problems(suite: DomainEvalSuite) -> Iterator[Problem]:
    """Unknown scorers, options they do not take, and cases that lack what a scorer needs."""
    for i, spec in enumerate(suite.scorers):
        try:
            scorer = _build(spec, suite.folder)
        except (ValueError, TypeError, ImportError, AttributeError) as error:
            yield Problem(f"$.scorers[{i}]", f"{spec.name}: {error}")
            continue
        if not isinstance(scorer, Checked):
            continue
        for j, case in enumerate(suite.cases):
            try:
                scorer.check(case)
            except ValueError as error:
                yield Problem(f"$.cases[{j}].expected", f"{spec.name}: {error}")


def _build(spec: ScorerSpec, folder: str) -> Scorer:
    options = dict(spec.options)
    field = options.pop("field", None)
    if field is not None and not isinstance(field, str):
        raise ValueError("the option `field` must be a text")
    scorer = _find(spec.name, folder)(**options)
    return scorer if field is None else FieldScorer(scorer, field)


def _find(name: str, folder: str) -> Factory:
    module, colon, attribute = name.partition(":")
    if colon:
        with importing_from(folder):
            factory: Factory = getattr(import_module(module), attribute)
        return factory
    factories = registered()
    if name not in factories:
        known = ", ".join(sorted(factories))
        raise ValueError(f"no such scorer; there are {known}, and your own as `module:attribute`")
    return factories[name]


@contextmanager
def importing_from(folder: str) -> Iterator[None]:
    """Modules in `folder` can be imported meanwhile."""
    if not folder:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
