"""Held-out prompts of an exact number of tokens."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

from evaluation.pocket.prompts import held_out
from evaluation.pocket.records import Task

Encode = Callable[[str], list[int]]
NUM_FILLERS = 60

# What stands before a prompt that is too short. Contracts among contracts make the pocket target end at once.
_FILLERS: dict[Task, Task] = {"structured": "summary", "code": "code", "prose": "prose", "summary": "summary"}


def exact_prompts(task: Task, num_tokens: int, count: int, seed: int, encode: Encode) -> list[list[int]]:
    """`count` prompts of `num_tokens` tokens each: the last of a conversation that ends in a held-out question.

    What is over is cut off behind the beginning-of-text token. `encode` adds no special tokens.
    """
    fillers = cycle([encode(example.text + "\n")[1:] for example in held_out(_FILLERS[task], NUM_FILLERS, seed + 1)])
    prompts = []
    for example in held_out(task, count, seed):
        begin, *tokens = encode(example.chat)
        while len(tokens) < num_tokens - 1:
            tokens = next(fillers) + tokens
        prompts.append([begin, *tokens[len(tokens) - num_tokens + 1 :]])
    return prompts
