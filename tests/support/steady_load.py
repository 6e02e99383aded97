"""A load that is there when something happens, however fast answers come: whoever has one asks again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Answer = TypeVar("Answer")


async def answers_around(
    happens: Callable[[], Awaitable[None]], asks: Sequence[Callable[[], Awaitable[Answer]]]
) -> list[list[Answer]]:
    """All ask at once, again and again; `happens` is awaited after the first answer, and each asks once more after it.

    Returns the answers of each; an error in one ends the rest.
    """
    is_under_way, is_over = asyncio.Event(), asyncio.Event()

    async def go_on(ask: Callable[[], Awaitable[Answer]]) -> list[Answer]:
        answers: list[Answer] = []
        is_last = False
        while not is_last:
            is_last = is_over.is_set()
            answers.append(await ask())
            is_under_way.set()
        return answers

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(go_on(ask)) for ask in asks]
        await is_under_way.wait()
        await happens()
        is_over.set()
    return [task.result() for task in tasks]
