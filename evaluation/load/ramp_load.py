"""The clients of a ramp: as many streams in flight as a profile says, and each text compared."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from evaluation.pocket.prompts import held_out

REQUEST_TIMEOUT_S = 120.0
TICK_S = 0.25
MAX_WAIT_S = 45.0
"""The longest that a phase is drawn out until its gate opens."""
SAMPLED = {"temperature": 0.8, "seed": 2**40 + 3}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Streams in flight: up to `peak` within `climb_s`, there for `hold_s`, down again, `rest` for `rest_s`, then none
    for `idle_s`.
    """

    peak: int
    climb_s: float
    hold_s: float
    rest: int
    rest_s: float
    idle_s: float

    @property
    def ends(self) -> dict[str, float]:
        """When each phase is over that waits for something: the replicas, where they are to follow."""
        return {
            "hold": self.climb_s + self.hold_s,
            "rest": self.load_s + self.rest_s,
            "idle": self.whole_s,
        }

    @property
    def load_s(self) -> float:
        """When the fall is over."""
        return 2 * self.climb_s + self.hold_s

    @property
    def whole_s(self) -> float:
        """When the ramp is over."""
        return self.load_s + self.rest_s + self.idle_s

    def at(self, time_s: float) -> int:
        """Streams that should be in flight."""
        if not 0 <= time_s < self.load_s + self.rest_s:
            return 0
        share = min(time_s / self.climb_s, 1.0, (self.load_s - time_s) / self.climb_s)
        least = 1 if time_s < self.load_s - self.climb_s else self.rest
        return max(least, round(share * self.peak))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request, and the text that it has to get."""

    fields: dict[str, Any]
    text: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How one request went; seconds since the ramp began. `problem` is what kept it from ending, "" for nothing."""

    begun_s: float
    first_s: float
    end_s: float
    num_tokens: int
    is_same: bool
    problem: str = ""


async def cases_of(url: str, count: int, max_tokens: int) -> list[Case]:
    """Greedy and sampled requests by turns, with the text that each gets alone and without speculation."""
    examples = [example for task in ("structured", "code", "prose") for example in held_out(task, count // 3 + 1, 5)]
    cases = []
    async with httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_S) as client:
        for index, example in enumerate(examples[:count]):
            fields = {
                "model": "pocket",
                "messages": example.prompt_messages,
                "max_tokens": max_tokens,
                "temperature": 0,
                **(SAMPLED if index % 2 else {}),
            }
            plain = {**fields, "speculation": {"num_speculative_tokens": 0}}
            response = await client.post("/v1/chat/completions", json=plain)
            response.raise_for_status()
            cases.append(Case(fields=fields, text=response.json()["choices"][0]["message"]["content"]))
    return cases


class Course:
    """Where in its profile a ramp is: time goes on, but for phases whose gate is not open yet."""

    def __init__(self, profile: Profile, gate: Callable[[str], bool]) -> None:
        self._ends = profile.ends
        self._gate = gate
        self._waited_s = 0.0
        self._last_s = 0.0
        self.time_s = 0.0

    def at(self, now_s: float) -> float:
        """The time in the profile at a time of the clock, which never goes back."""
        passed_s, self._last_s = now_s - self._last_s, now_s
        phase = next((name for name, end_s in self._ends.items() if self.time_s < end_s), None)
        if phase is not None and self.time_s + passed_s >= self._ends[phase]:
            if self._waited_s < MAX_WAIT_S and not self._gate(phase):
                self._waited_s += passed_s
                return self.time_s
            self._waited_s = 0.0
        self.time_s += passed_s
        return self.time_s


class Ramp:
    """Drives the load and keeps what came of it. `gate` tells whether a phase may end when its time is over."""

    def __init__(
        self, url: str, profile: Profile, cases: Sequence[Case], gate: Callable[[str], bool] = lambda phase: True
    ) -> None:
        self._course = Course(profile, gate)
        self._url = url
        self._profile = profile
        self._cases = itertools.cycle(cases)
        self._begun_s = 0.0
        self.answers: list[Answer] = []
        self.in_flight: list[tuple[float, int, int]] = []
        """(time, streams wanted, streams there)"""

    async def run(self) -> None:
        """The whole profile, until the last answer has ended."""
        running: set[asyncio.Task[None]] = set()
        limits = httpx.Limits(max_connections=4 * self._profile.peak)
        async with httpx.AsyncClient(base_url=self._url, timeout=REQUEST_TIMEOUT_S, limits=limits) as client:
            self._begun_s = time.perf_counter()
            while (time_s := self._course.at(now_s := self._now_s())) < self._profile.whole_s or running:
                wanted = self._profile.at(time_s)
                running = {task for task in running if not task.done()}
                for _ in range(wanted - len(running)):
                    running.add(asyncio.create_task(self._one(client, next(self._cases))))
                self.in_flight.append((round(now_s, 2), wanted, len(running)))
                await asyncio.sleep(TICK_S)

    def _now_s(self) -> float:
        return time.perf_counter() - self._begun_s

    async def _one(self, client: httpx.AsyncClient, case: Case) -> None:
        begun_s, first_s, num_tokens, text, problem = self._now_s(), 0.0, 0, "", ""
        body = {**case.fields, "stream": True, "stream_options": {"include_usage": True}}
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        is_done = False
        try:
            async with client.stream("POST", path, json=body) as response:
                if response.status_code != httpx.codes.OK:
                    problem = f"{response.status_code}: {(await response.aread())[:300]!r}"
                async for line in response.aiter_lines():
                    data = line.removeprefix("data: ")
                    is_done = is_done or data == "[DONE]"
                    if data == line or data == "[DONE]":
                        continue
                    chunk = json.loads(data)
                    problem = problem or str(chunk.get("error", ""))
                    for choice in chunk.get("choices", ()):
                        if piece := choice["delta"].get("content") if "delta" in choice else choice["text"]:
                            first_s = first_s or self._now_s()
                            text += piece
                    if usage := chunk.get("usage"):
                        num_tokens = usage["completion_tokens"]
        except httpx.HTTPError as error:
            problem = repr(error)
        if not problem and not is_done:
            problem = "the stream ended before its end"
        self.answers.append(
            Answer(
                begun_s=begun_s,
                first_s=first_s or self._now_s(),
                end_s=self._now_s(),
                num_tokens=num_tokens,
                is_same=text == case.text,
                problem=problem,
            )
        )

    def summary(self) -> dict[str, Any]:
        """Counts and latencies of all answers."""
        ended = [answer for answer in self.answers if not answer.problem]
        first = sorted(answer.first_s - answer.begun_s for answer in ended)
        per_token = sorted((a.end_s - a.first_s) / (a.num_tokens - 1) for a in ended if a.num_tokens > 1)
        return {
            "num_requests": len(self.answers),
            "num_lost": len(self.answers) - len(ended),
            "num_changed": sum(not answer.is_same for answer in ended),
            "num_tokens": sum(answer.num_tokens for answer in ended),
            "problems": sorted({answer.problem for answer in self.answers if answer.problem})[:5],
            **{f"first_token_s_{name}": round(value, 3) for name, value in _quantiles(first).items()},
            **{f"token_ms_{name}": round(1e3 * value, 2) for name, value in _quantiles(per_token).items()},
        }


def _quantiles(ordered: Sequence[float]) -> dict[str, float]:
    if not ordered:
        return {}
    return {"p50": statistics.median(ordered), "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]}
