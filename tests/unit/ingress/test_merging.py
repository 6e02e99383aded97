"""Several generators as one: every item once, in each source's order, and nothing left open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from deployments.ingress.merging import merged


class Source:
    """Yields its items with a turn of the loop before each, then raises `error` or hangs if it is told to."""

    def __init__(self, items: list[int], *, error: Exception | None = None, hangs: bool = False) -> None:
        self.items, self.error, self.hangs = items, error, hangs
        self.num_taken = 0
        self.is_open = False

    async def run(self) -> AsyncGenerator[int, None]:
        self.is_open = True
        try:
            for item in self.items:
                await asyncio.sleep(0)
                self.num_taken += 1
                yield item
            if self.hangs:
                await asyncio.Event().wait()
            if self.error is not None:
                raise self.error
        finally:
            self.is_open = False


@pytest.mark.parametrize("num_sources", [1, 2, 7])
async def test_every_item_comes_once_in_its_sources_order(num_sources: int) -> None:
    sources = [Source([100 * i + j for j in range(i + 2)]) for i in range(num_sources)]
    items = [item async for item in merged([source.run() for source in sources])]
    for i, source in enumerate(sources):
        assert [item for index, item in items if index == i] == source.items
    assert len(items) == sum(len(source.items) for source in sources)


async def test_sources_are_read_together() -> None:
    items = [index async for index, _ in merged([Source([0] * 5).run(), Source([0] * 5).run()])]
    assert items.index(1) < 4


@pytest.mark.parametrize("others", [[], [Source([1, 2], hangs=True)]])
async def test_an_error_of_one_ends_all(others: list[Source]) -> None:
    bad = Source([1], error=ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        async for _ in merged([source.run() for source in (bad, *others)]):
            pass
    assert not any(source.is_open for source in (bad, *others))


@pytest.mark.parametrize("num_sources", [1, 3])
async def test_closing_closes_all(num_sources: int) -> None:
    sources = [Source([1, 2, 3], hangs=True) for _ in range(num_sources)]
    async with aclosing(merged([source.run() for source in sources])) as items:
        await anext(items)
        assert any(source.is_open for source in sources)
    assert not any(source.is_open for source in sources)


async def test_a_slow_reader_holds_its_sources_back() -> None:
    sources = [Source(list(range(100))) for _ in range(3)]
    async with aclosing(merged([source.run() for source in sources])) as items:
        await anext(items)
        for _ in range(500):
            await asyncio.sleep(0)
        assert sum(source.num_taken for source in sources) <= 7
