"""Prompts of exactly one length: cut from a class's texts, or made longer with others of its texts before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx

from evaluation.client import Patience, RefusedError, post
from evaluation.pocket.prompts import held_out
from evaluation.pocket.records import TASKS, Task
from evaluation.quality.loading import load_suite
from evaluation.quality.runner import PATHS, asked_of

NUM_TEXTS = 32
"""Texts of a class; longer measurements use them again, each time with another beginning."""
NUM_FRESH_TOKENS = 4
"""At a prompt's beginning, so that none finds another's entries in a prefix cache."""

Asked = dict[str, Any]
"""The part of a request's body that is the prompt: `messages`, or `prompt`."""


@dataclass(frozen=True, slots=True)
class TaskClass:
    """A kind of text, and prompts of it as bodies ask them."""

    name: str
    api: str
    prompts: tuple[Asked, ...]


def built_in_class(name: str, seed: int) -> TaskClass:
    """Held-out texts of one of the pocket models' tasks. Raises ValueError."""
    tasks: dict[str, Task] = {task: task for task in TASKS}
    if name not in tasks:
        raise ValueError(f"unknown class {name!r}: use {', '.join(tasks)}, or --suite for your own texts")
    examples = held_out(tasks[name], NUM_TEXTS, seed)
    return TaskClass(name, "chat", tuple({"messages": list(example.prompt_messages)} for example in examples))


def class_of_suite(path_or_name: str) -> TaskClass:
    """The inputs of a suite's cases. Raises SuiteError."""
    suite = load_suite(path_or_name)
    own = [case for case in suite.cases if case.family is None][:NUM_TEXTS]
    return TaskClass(suite.name, suite.api, tuple(asked_of(suite, case) for case in own))


@dataclass(slots=True)
class Prompts:
    """A class's prompts as one endpoint is asked them: token ids of one length where it tokenises, else the texts."""

    source: TaskClass
    ids: tuple[tuple[int, ...], ...]
    num_tokens: int

    def request(self, index: int, key: str) -> tuple[str, Asked]:
        """Path and prompt of one request; another `key` begins otherwise, but is as long."""
        random = Random(f"{self.source.name}/{index}/{key}")
        if not self.ids:
            return PATHS[self.source.api], _begun(self.source.prompts[index % len(self.source.prompts)], random)
        tokens = fixed(self.ids, index, self.num_tokens)
        # The first one may be the model's beginning-of-text token.
        fresh = random.choices(tokens[1:], k=min(NUM_FRESH_TOKENS, len(tokens) - 1))
        return PATHS["completions"], {"prompt": [tokens[0], *fresh, *tokens[1 + len(fresh) :]]}


def fixed(ids: Sequence[Sequence[int]], index: int, num_tokens: int) -> list[int]:
    """Text `index`, with texts that follow it put before it until it is long enough, and cut at its beginning.

    The first token stays the first.
    """
    own = list(ids[index % len(ids)])
    first, tokens = own[0], own[1:]
    for step in range(1, 1 + num_tokens):
        if len(tokens) >= num_tokens - 1:
            break
        tokens = [*ids[(index + step) % len(ids)][1:], *tokens]
    return [first, *tokens[len(tokens) - (num_tokens - 1) :]]


def _begun(asked: Asked, random: Random) -> Asked:
    """The same text behind a number of its own."""
    number = f"({random.randrange(10**8)}) "
    if "prompt" in asked:
        return {"prompt": number + asked["prompt"]}
    first, *rest = asked["messages"]
    return {"messages": [{**first, "content": number + first["content"]}, *rest]}


async def prompts_for(client: httpx.AsyncClient, url: str, model: str, source: TaskClass, num_tokens: int) -> Prompts:
    """Tokenise a class's texts at the endpoint; one without /tokenize is asked the texts as they are."""
    ids = []
    for asked in source.prompts:
        turn = {"add_generation_prompt": True} if "messages" in asked else {}
        try:
            answer = await post(client, f"{url}/tokenize", {"model": model, **asked, **turn}, Patience(timeout_s=60))
        except RefusedError:
            return Prompts(source, (), num_tokens)
        tokens = tuple(answer.get("tokens") or ())
        if len(tokens) < 2:
            return Prompts(source, (), num_tokens)
        ids.append(tokens)
    return Prompts(source, tuple(ids), num_tokens)
