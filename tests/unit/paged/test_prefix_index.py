"""Blocks are shared by those who begin alike, by nobody else, and never change while they are."""

from __future__ import annotations

import random

import pytest

from deployments.messages import Token
from deployments.paged.kv_cache import BlockTables
from deployments.paged.prefix_index import BlockHash, PrefixTrail
from tests.support.slots import slots

SIZE = 4


def make_tables(num_blocks: int = 20, max_sessions: int = 8) -> BlockTables:
    return BlockTables(num_blocks=num_blocks, block_size=SIZE, max_sessions=max_sessions, max_session_tokens=64)


def hashes(tokens: list[Token], salt: str = "") -> list[BlockHash]:
    return [block_hash for _, block_hash in PrefixTrail(salt, SIZE).write(0, tokens)]


def fill(tables: BlockTables, session: int, tokens: list[Token], salt: str = "") -> None:
    tables.set_computed_len(session, len(tokens))
    for index, block_hash in PrefixTrail(salt, SIZE).write(0, tokens):
        tables.publish(session, index, block_hash)


def test_a_hash_covers_everything_before_and_the_salt() -> None:
    one = hashes([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert len(one) == 2  # a block that is not full has none
    assert hashes([1, 2, 3, 4, 5, 6, 7, 0])[0] == one[0]
    assert hashes([1, 2, 3, 4, 5, 6, 7, 0])[1] != one[1]
    assert hashes([0, 2, 3, 4, 5, 6, 7, 8])[1] != one[1]
    assert not set(hashes([1, 2, 3, 4, 5, 6, 7, 8], "other")) & set(one)


def test_a_trail_written_in_pieces_or_over_again_has_the_same_hashes() -> None:
    tokens = list(range(23))
    trail = PrefixTrail("", SIZE)
    found = dict(trail.write(0, tokens[:3]))
    found |= dict(trail.write(3, [90, 91, 92]))
    assert list(found) == [0]
    found |= dict(trail.write(2, tokens[2:9]))
    found |= dict(trail.write(9, tokens[9:]))
    assert [found[index] for index in range(5)] == hashes(tokens)


def test_sessions_that_begin_alike_share_blocks_while_open_and_after() -> None:
    tables, tokens = make_tables(), list(range(10))
    assert tables.reserve(1, 20, hashes(tokens)) == 0
    fill(tables, 1, tokens)
    assert tables.reserve(2, 20, hashes([*tokens[:8], 99, 98, 97, 96])) == 8
    assert tables.computed_len(2) == 8
    assert slots(tables, 2, 0, 8) == slots(tables, 1, 0, 8)
    assert not set(slots(tables, 2, 8, 20)) & set(slots(tables, 1, 0, 20))
    assert tables.usage == pytest.approx((5 + 3) / 20)
    tables.check_integrity()
    tables.release(1)
    tables.release(2)
    assert tables.usage == 0.0
    tables.check_integrity()
    assert tables.reserve(3, 12, hashes(tokens)) == 8
    assert tables.reserve(4, 12, hashes(tokens, "another tenant")) == 0
    tables.check_integrity()


def test_room_counts_more_than_what_is_remembered() -> None:
    tables, tokens = make_tables(num_blocks=8), list(range(32))
    tables.reserve(1, 32)
    fill(tables, 1, tokens)
    tables.release(1)
    assert tables.has_room(32)
    tables.reserve(2, 12)  # the end of what was remembered goes first
    assert tables.reserve(3, 20, hashes(tokens)) == 20
    tables.check_integrity()
    assert not tables.has_room(1)


def test_what_will_be_overwritten_is_found_no_more() -> None:
    tables, tokens = make_tables(), list(range(12))
    tables.reserve(1, 12)
    fill(tables, 1, tokens)
    tables.withdraw(1, 9)
    assert tables.reserve(2, 12, hashes(tokens)) == 8
    with pytest.raises(AssertionError, match="another session shares"):
        tables.withdraw(1, 7)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes_a_shared_entry_is_of_the_tokens_before_it(seed: int) -> None:
    rng = random.Random(seed)
    tables = make_tables(num_blocks=40, max_sessions=5)
    written: dict[int, tuple[object, ...]] = {}  # what each slot was computed from
    trails: dict[int, PrefixTrail] = {}
    known: dict[int, tuple[str, list[Token]]] = {}
    prompts: dict[int, list[Token]] = {}
    num_reused = 0
    for step in range(400):
        if rng.random() < 0.3 and tables.has_room(40) and len(known) < 5:
            salt = rng.choice("ab")
            prompt = [token for _ in range(4) for token in [rng.randrange(2)] * 2 * SIZE][: rng.randrange(1, 30)]
            trails[step] = PrefixTrail(salt, SIZE)
            found = [block_hash for _, block_hash in trails[step].write(0, prompt[:-1])]
            reused = tables.reserve(step, 40, found)
            num_reused += reused
            for position, slot in enumerate(slots(tables, step, 0, reused)):
                assert written[slot] == (salt, *prompt[: position + 1])
            known[step], prompts[step] = (salt, prompt[:reused]), prompt
        elif known:
            session = rng.choice(list(known))
            salt, tokens = known[session]
            if rng.random() < 0.3 or len(tokens) > 30:
                tables.release(session)
                del known[session], trails[session]
                continue
            more = prompts[session][len(tokens) :] or [rng.randrange(2) for _ in range(rng.randrange(1, 8))]
            num_kept = rng.randrange(len(more) + 1)  # the rest was drafted and rejected: written, never published
            start = len(tokens)
            for offset, slot in enumerate(slots(tables, session, start, start + len(more))):
                written[slot] = (salt, *tokens, *more[: offset + 1])
            tokens += more[:num_kept]
            tables.set_computed_len(session, len(tokens))
            for index, block_hash in trails[session].write(start, more[:num_kept]):
                tables.publish(session, index, block_hash)
        tables.check_integrity()
    assert num_reused > 50
