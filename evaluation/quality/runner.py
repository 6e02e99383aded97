"""Has a suite answered: bounded concurrency, variants interleaved, every answer kept, so that a rerun goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

from evaluation.client import Patience, RefusedError, base_url, first_model, headers, post
from evaluation.quality.answers import Answer, AnswerFile, text_of
from evaluation.quality.suite import Case, DomainEvalSuite, JsonValue
from evaluation.quality.variants import Variant

ANSWERS, RUN, SUITE = "answers.jsonl", "run.json", "suite.json"
BESIDE = ("throughput.json", "report.md", "report.html")
"""What a throughput measurement may have left in the folder already."""

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
EXTRAS: dict[str, dict[str, dict[str, JsonValue]]] = {
    "chat": {"ids": {"return_token_ids": True}, "logprobs": {"logprobs": True, "top_logprobs": 2}},
    "completions": {"ids": {"return_token_ids": True}, "logprobs": {"logprobs": 2}},
}
"""What shows where two answers part, by API; an endpoint that refuses one is not asked for it again."""


class ResumeError(ValueError):
    """The folder holds answers to something else; the text says what differs and what to do."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run asks of whom: equal plans share a folder. No key is in it.

    `left_out` are the cases that adversarial families refused, counted by family and reason.
    """

    suite: str
    digest: str
    url: str
    model: str | None
    variants: tuple[Variant, ...]
    left_out: dict[str, int] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to ask; it changes no answer."""

    api_key: str | None = None
    concurrency: int = 8
    patience: Patience = field(default_factory=Patience)


Progress = Callable[[int, int], None]
"""Called with the number of answers that are there, and of all."""


def open_folder(folder: Path, plan: Plan, suite: DomainEvalSuite) -> AnswerFile:
    """Make or reopen the folder of a run. Raises ResumeError where it is another run's."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / RUN
    if file.exists():
        try:
            kept = msgspec.json.decode(file.read_bytes(), type=Plan)
        except msgspec.DecodeError as error:
            raise ResumeError(f"{file}: {error}") from error
        for name in Plan.__struct_fields__:
            if getattr(kept, name) != getattr(plan, name):
                what = "the suite's cases or generation parameters" if name == "digest" else name
                raise ResumeError(f"{folder} holds a run that differs in {what}: choose another --out, or remove it")
    elif any(path.name not in BESIDE for path in folder.iterdir()):
        raise ResumeError(f"{folder} is not empty and holds no run: choose another --out")
    file.write_bytes(msgspec.json.format(msgspec.json.encode(plan)) + b"\n")
    # What is expected may have changed since: answers are scored by the suite of this run.
    (folder / SUITE).write_bytes(msgspec.json.format(msgspec.json.encode(suite)) + b"\n")
    return AnswerFile(folder / ANSWERS)


def jobs(suite: DomainEvalSuite, variants: tuple[Variant, ...]) -> Iterator[tuple[Case, Variant]]:
    """Case after case under every variant, each case beginning with another, so that none is always the first."""
    for i, case in enumerate(suite.cases):
        shift = i % len(variants)
        for variant in variants[shift:] + variants[:shift]:
            yield case, variant


def asked_of(suite: DomainEvalSuite, case: Case) -> dict[str, Any]:
    """The part of a request's body that is the case's input."""
    if suite.api == "completions":
        return {"prompt": case.input}
    if isinstance(case.input, str):
        return {"messages": [{"role": "user", "content": case.input}]}
    return {"messages": [{"role": message.role, "content": message.content} for message in case.input]}


class Runner:
    """Asks for the answers that a folder lacks."""

    def __init__(self, suite: DomainEvalSuite, plan: Plan, settings: Settings, answers: AnswerFile) -> None:
        self.suite = suite
        self.plan = plan
        self.settings = settings
        self.answers = answers
        self._models: dict[str, str] = {}
        self._extras: dict[str, dict[str, JsonValue]] = {}

    async def run(self, progress: Progress) -> None:
        """Answer every case under every variant. Raises EndpointError; what has been answered is kept."""
        todo = [
            job for job in jobs(self.suite, self.plan.variants) if (job[0].id, job[1].name) not in self.answers.answers
        ]
        num_all = len(self.suite.cases) * len(self.plan.variants)
        num_done = num_all - len(todo)
        progress(num_done, num_all)
        if not todo:
            return
        limits = httpx.Limits(max_connections=self.settings.concurrency)
        async with httpx.AsyncClient(headers=headers(self.settings.api_key), limits=limits) as client:
            await self._prepare(client, {variant.name: variant for _, variant in todo})
            queue = iter(todo)

            async def work() -> None:
                nonlocal num_done
                for case, variant in queue:
                    self.answers.append(await self._answer(client, case, variant))
                    num_done += 1
                    progress(num_done, num_all)

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.settings.concurrency):
                        group.create_task(work())
            except ExceptionGroup as errors:
                # One worker's error stops the others; several at once have one cause.
                raise errors.exceptions[0] from None

    async def _prepare(self, client: httpx.AsyncClient, variants: dict[str, Variant]) -> None:
        """Find each endpoint's model, and what it tells about tokens if answers are to be compared."""
        for variant in variants.values():
            url = self._url(variant)
            if url not in self._models:
                known = variant.model or self.plan.model
                self._models[url] = known or await first_model(client, url, self.settings.patience)
            if url not in self._extras:
                is_compared = len(self.plan.variants) > 1
                self._extras[url] = await self._understood(client, variant) if is_compared else {}

    async def _understood(self, client: httpx.AsyncClient, variant: Variant) -> dict[str, JsonValue]:
        """The extras that an endpoint takes, found with one token each."""
        taken: dict[str, JsonValue] = {}
        body = {**self._body(self.suite.cases[0], variant), "max_tokens": 1}
        for extra in EXTRAS[self.suite.api].values():
            try:
                await post(client, self._address(variant), {**body, **extra}, self.settings.patience)
            except RefusedError:
                continue
            taken |= extra
        return taken

    async def _answer(self, client: httpx.AsyncClient, case: Case, variant: Variant) -> Answer:
        body = {**self._body(case, variant), **self._extras[self._url(variant)]}
        try:
            response = await post(client, self._address(variant), body, self.settings.patience)
        except RefusedError as error:
            if error.status in (401, 403, 404):  # every case would meet the same
                raise
            return Answer(case=case.id, variant=variant.name, refused=str(error))
        text_of(response)  # raises if it is no completion, before it is kept
        return Answer(case=case.id, variant=variant.name, body=response)

    def _body(self, case: Case, variant: Variant) -> dict[str, Any]:
        model = variant.model or self._models[self._url(variant)]
        asked = asked_of(self.suite, case)
        return {"model": model, **asked, **self.suite.generation.to_body(case.id), **variant.to_body()}

    def _url(self, variant: Variant) -> str:
        return base_url(variant.url or self.plan.url)

    def _address(self, variant: Variant) -> str:
        return self._url(variant) + PATHS[self.suite.api]
