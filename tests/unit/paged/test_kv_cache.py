"""Blocks are handed out once, taken back whole, and found again by position."""

from __future__ import annotations

import random

import pytest
import torch

from deployments.paged.kv_cache import NULL_BLOCK, BlockTables, KvPools, _gathered, _joined, _memory_of
from tests.support.slots import slots


def make_tables(num_blocks: int = 20, max_sessions: int = 4) -> BlockTables:
    return BlockTables(num_blocks=num_blocks, block_size=4, max_sessions=max_sessions, max_session_tokens=32)


def test_room_is_reserved_whole_and_given_back() -> None:
    tables = make_tables()
    tables.reserve(1, 30)
    tables.reserve(2, 32)
    assert tables.usage == pytest.approx(0.8)
    assert tables.has_room(16)
    assert not tables.has_room(17)
    with pytest.raises(ValueError, match="no room for 17 KV entries"):
        tables.reserve(3, 17)
    tables.release(1)
    tables.release(1)
    assert tables.usage == pytest.approx(0.4)
    tables.check_integrity()


def test_rows_and_the_longest_session_bound_what_fits() -> None:
    tables = make_tables(num_blocks=100, max_sessions=1)
    assert not tables.has_room(33)
    tables.reserve(1, 4)
    assert not tables.has_room(4)


def test_room_grows_block_by_block_until_there_is_none() -> None:
    tables = make_tables()
    tables.reserve(1, 3)
    assert tables.capacity(1) == 4
    assert tables.grow(1, 4)
    assert tables.grow(1, 9)
    assert tables.capacity(1) == 12
    assert len(tables.spans(1, 0, 12)) == 1
    for session in (2, 3):
        tables.reserve(session, 32)
    assert tables.has_room(4)
    assert not tables.has_room(4, num_spare_blocks=1)
    assert not tables.grow(1, 17)
    assert tables.capacity(1) == 12
    tables.check_integrity()
    tables.release(2)
    tables.reserve(4, 4)
    assert tables.grow(1, 17)
    assert len(set(slots(tables, 1, 0, 20))) == 20
    assert slots(tables, 1, 0, 20) == slots(tables, 1, 0, 7) + slots(tables, 1, 7, 20)
    assert tables.run_start(tables.row(1)) is None
    tables.check_integrity()


def test_slots_of_all_sessions_are_distinct_and_never_null() -> None:
    tables = make_tables()
    for session in range(4):
        tables.reserve(session, 20)
    taken = [slot for session in range(4) for slot in slots(tables, session, 0, 20)]
    assert len(set(taken)) == 80
    assert min(taken) >= (NULL_BLOCK + 1) * tables.block_size
    assert slots(tables, 2, 7, 13) == slots(tables, 2, 0, 20)[7:13]
    assert slots(tables, 2, 7, 7) == []


def test_consecutive_blocks_are_known_as_a_run() -> None:
    tables = make_tables()
    for session, num_tokens in enumerate((8, 4, 8)):
        tables.reserve(session, num_tokens)
        (run,) = tables.spans(session, 0, num_tokens)
        assert tables.run_start(tables.row(session)) == run.start
        assert tables.spans(session, 1, num_tokens) == [slice(run.start + 1, run.start + num_tokens)]
    tables.release(0)
    tables.release(2)
    tables.reserve(3, 16)
    assert tables.run_start(tables.row(3)) is None
    assert len(tables.spans(3, 2, 15)) > 1
    assert slots(tables, 3, 2, 15) == [int(tables.blocks_RM[tables.row(3), p // 4]) * 4 + p % 4 for p in range(2, 15)]


def test_books_balance_after_any_opening_and_closing() -> None:
    tables, rng = make_tables(), random.Random(0)
    is_open: set[int] = set()
    for _ in range(300):
        session = rng.randrange(6)
        if session in is_open:
            tables.release(session)
            is_open.discard(session)
        elif tables.has_room(tokens := rng.randrange(1, 33)):
            tables.reserve(session, tokens)
            is_open.add(session)
        tables.check_integrity()
    assert all((session in tables) == (session in is_open) for session in range(6))


def test_integrity_notices_a_shared_block() -> None:
    tables = make_tables()
    tables.reserve(1, 8)
    tables.blocks_RM[tables.row(1), 0] += 1
    with pytest.raises(AssertionError, match="block tables"):
        tables.check_integrity()


def test_pools_write_where_they_are_told_and_read_it_back() -> None:
    pools = KvPools(layer_shapes={0: (2, 3), 4: (1, 5)}, num_slots=12, dtype=torch.float32, device="cpu")
    slots = torch.tensor([7, 4, 9])
    keys, values = torch.randn(1, 1, 3, 5), torch.randn(1, 1, 3, 5)
    pools.begin_step(slots)
    all_keys, all_values = pools.update(keys, values, 4)
    assert all_keys.shape == all_values.shape == (12, 1, 5)
    read = pools.read(4, [slice(9, 10), slice(7, 8)])
    assert read == tuple(part[0, 0, [2, 0]].numpy().tobytes() for part in (keys, values))
    assert pools.read(4, []) == (b"", b"")
    pools.check_integrity(block_size=4)
    pools.begin_step(torch.tensor([0, 4, 5]))
    pools.update(keys, values, 4)
    with pytest.raises(AssertionError, match="null block"):
        pools.check_integrity(block_size=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_the_same_whether_a_pool_lies_here_or_on_another_device(dtype: torch.dtype) -> None:
    pool_SGD = torch.randn(12, 2, 6).to(dtype)
    places = [slice(9, 11), slice(2, 3)]
    expected = pool_SGD[[9, 10, 2]].view(torch.uint8).numpy().tobytes()
    assert _joined(_memory_of(pool_SGD), places) == _gathered(pool_SGD, places) == expected
