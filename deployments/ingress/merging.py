"""Several generators read at once, as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def merged(sources: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """The items of all sources as they come, each with its source's index.

    Each source is read at most two items ahead of the reader, and none starves another. The first
    exception of any source is raised; that, the end and closing close all of them.
    """
    if len(sources) == 1:  # the usual case needs no task
        async with aclosing(sources[0]) as source:
            async for item in source:
                yield 0, item
        return
    queue: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue()
    slots = [asyncio.Semaphore(1) for _ in sources]  # one item of each source in the queue

    async def read(index: int, source: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    await slots[index].acquire()
                    queue.put_nowait((index, item))
        except Exception as error:
            queue.put_nowait(error)
        else:
            queue.put_nowait(None)

    tasks = [asyncio.ensure_future(read(index, source)) for index, source in enumerate(sources)]
    try:
        num_running = len(tasks)
        while num_running:
            entry = await queue.get()
            if isinstance(entry, BaseException):
                raise entry
            if entry is None:
                num_running -= 1
            else:
                slots[entry[0]].release()
                yield entry
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
