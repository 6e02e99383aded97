"""A suite: the cases of one domain, how they are asked, and which scorers judge the answers.

`evaluation.quality.loading.load_suite` reads one from a YAML or Python file, or by a built-in name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

JsonValue = bool | int | float | str | list[Any] | dict[str, Any] | None


class SuiteError(ValueError):
    """A suite cannot be used; the text names the file, the line or case, and the field."""


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question and what a good answer is.

    A text as `input` is one user message, or the raw prompt where the suite's `api` is completions. `metadata` makes
    the slices of the report. `family` and `variant_of` (the id of the case it was made from) are set together, on the
    variants of an adversarial family.
    """

    id: str
    input: str | tuple[ChatMessage, ...]
    expected: JsonValue = None
    metadata: dict[str, str] = {}
    variant_of: str | None = None
    family: str | None = None


class Generation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sampling parameters, the same for every case but the seed; `extra` goes into the request as it is."""

    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    stop: tuple[str, ...] = ()
    extra: dict[str, JsonValue] = {}

    def to_body(self, case_id: str) -> dict[str, JsonValue]:
        """The fields of the request for one case; what is not set is left to the endpoint."""
        body: dict[str, JsonValue] = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": case_seed(self.seed, case_id),
        }
        for name in ("top_p", "top_k", "min_p"):
            if (value := getattr(self, name)) is not None:
                body[name] = value
        if self.stop:
            body["stop"] = list(self.stop)
        return {**body, **self.extra}


def case_seed(seed: int, case_id: str) -> int:
    """The seed that one case is asked with, below 2**31: a function of the run's seed and the case's id alone.

    So every variant samples a case with the same seed, and no two cases with one: with a seed for all, they would
    meet the same noise at the same positions, and err together.
    """
    digest = hashlib.sha256(f"{seed}/{case_id}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


class ScorerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scorer by its registered name or its import path `module:attribute`, with its options.

    Every scorer knows the option `field`: it then sees `expected[field]` as what is expected. `label` names the metric,
    by default as the scorer is called.
    """

    name: str
    options: dict[str, JsonValue] = {}
    label: str = ""

    @property
    def metric(self) -> str:
        """What the report calls it."""
        return self.label or self.name.rpartition(":")[2]


class DomainEvalSuite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cases of one domain. `folder` is where modules beside the suite's file are imported from."""

    name: str
    cases: tuple[Case, ...]
    scorers: tuple[ScorerSpec, ...]
    description: str = ""
    api: Literal["chat", "completions"] = "chat"
    generation: Generation = Generation()
    folder: str = ""

    def case(self, id: str) -> Case:
        """The case of this id; raises KeyError."""
        for case in self.cases:
            if case.id == id:
                return case
        raise KeyError(id)

    def digest(self) -> str:
        """Hash of all that the endpoint is asked: answers of another digest belong to another suite.

        What is expected, metadata and scorers are left out, so that kept answers can be scored anew.
        """
        asked = [(case.input, self.generation.to_body(case.id)) for case in self.cases]
        content = msgspec.json.encode((self.api, [case.id for case in self.cases], asked), order="deterministic")
        return hashlib.sha256(content).hexdigest()[:16]


class Problem(msgspec.Struct, frozen=True):
    """What is wrong, and where: a path such as `$.cases[3].expected`."""

    path: str
    message: str


def problems(suite: DomainEvalSuite) -> Iterator[Problem]:
    """What the types do not say: names, ids and references."""
    if not suite.name:
        yield Problem("$.name", "must not be empty")
    if not suite.cases:
        yield Problem("$.cases", "needs at least one case")
    if not suite.scorers:
        yield Problem("$.scorers", "needs at least one scorer")
    if suite.generation.max_tokens < 1:
        yield Problem("$.generation.max_tokens", "must be at least 1")
    if suite.generation.temperature < 0:
        yield Problem("$.generation.temperature", "must be at least 0")
    metrics: set[str] = set()
    for i, spec in enumerate(suite.scorers):
        if spec.metric in metrics:
            yield Problem(f"$.scorers[{i}]", f"a second metric {spec.metric!r}: give one of them a `label`")
        metrics.add(spec.metric)
    if suite.api == "completions":
        for i, case in enumerate(suite.cases):
            if not isinstance(case.input, str):
                yield Problem(f"$.cases[{i}].input", "a conversation needs `api: chat`")
    yield from _case_problems(suite.cases)


def _case_problems(cases: tuple[Case, ...]) -> Iterator[Problem]:
    first_with = {case.id: i for i, case in reversed(list(enumerate(cases)))}
    for i, case in enumerate(cases):
        at = f"$.cases[{i}]"
        if not case.id:
            yield Problem(f"{at}.id", "must not be empty")
        elif first_with[case.id] != i:
            yield Problem(f"{at}.id", f"{case.id!r} is the id of cases[{first_with[case.id]}] already")
        if not case.input:
            yield Problem(f"{at}.input", "must not be empty")
        if (case.variant_of is None) != (case.family is None):
            yield Problem(f"{at}.family", "`family` and `variant_of` are set together")
        if case.variant_of is not None and case.variant_of not in first_with:
            yield Problem(f"{at}.variant_of", f"there is no case {case.variant_of!r}")
