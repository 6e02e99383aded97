"""Layers that see a window hold what the next position sees, and give the rest back."""

from __future__ import annotations

import random

import pytest

from deployments.messages import Token
from deployments.paged.kv_cache import BlockTables
from deployments.paged.prefix_index import PrefixTrail
from deployments.paged.sliding_tables import SlidingShape
from tests.support.slots import sliding_slots

SIZE, WINDOW, MAX_ROLLBACK, MAX_TOKENS, LONGEST = 4, 6, 3, 14, 64
MOST_HELD = (WINDOW + MAX_ROLLBACK) // SIZE + 2
"""Blocks of a session between steps, when the window begins at the end of one."""


def make_tables(num_sessions: int = 5) -> BlockTables:
    tables = BlockTables(
        num_blocks=num_sessions * LONGEST // SIZE,
        block_size=SIZE,
        max_sessions=num_sessions,
        max_session_tokens=LONGEST,
    )
    num_blocks = num_sessions * MOST_HELD + MAX_TOKENS // SIZE + 1
    tables.slide(SlidingShape(window=WINDOW, max_rollback=MAX_ROLLBACK, num_blocks=num_blocks))
    return tables


def num_held(tables: BlockTables, session: int) -> int:
    assert tables.sliding is not None
    return int((tables.sliding.blocks_RM[tables.row(session)] != 0).sum())


def fill(tables: BlockTables, session: int, tokens: list[Token], num_a_step: int = 7) -> None:
    trail = PrefixTrail("", SIZE)
    for start in range(0, len(tokens), num_a_step):
        new = tokens[start : start + num_a_step]
        tables.prepare(session, start + len(new))
        for index, block_hash in trail.write(start, new):
            tables.publish(session, index, block_hash)
        tables.set_computed_len(session, start + len(new))
        tables.check_integrity()


def test_a_long_session_holds_its_window_and_no_more() -> None:
    tables = make_tables()
    tables.reserve(1, LONGEST)
    for length in range(1, LONGEST + 1):
        tables.prepare(1, length)
        tables.set_computed_len(1, length)
        assert num_held(tables, 1) <= MOST_HELD
        assert tables.first_sliding(1) <= max(0, length - WINDOW - MAX_ROLLBACK)
        assert len(set(sliding_slots(tables, 1, tables.first_sliding(1), length))) >= min(length, WINDOW)
    tables.check_integrity()
    tables.release(1)
    tables.check_integrity()


def test_a_rollback_of_a_proposal_keeps_the_window_before_it() -> None:
    tables = make_tables()
    tables.reserve(1, LONGEST)
    fill(tables, 1, list(range(40)))
    for length in range(39, 39 - MAX_ROLLBACK, -1):
        tables.withdraw(1, length)
        tables.set_computed_len(1, length)
        assert tables.first_sliding(1) <= length - WINDOW
        tables.check_integrity()
    with pytest.raises(AssertionError, match="further than max_rollback"):
        tables.withdraw(1, 20)


def test_a_beginning_is_found_while_the_window_before_its_end_is_known() -> None:
    tables, tokens = make_tables(num_sessions=1), list(range(48))
    hashes = [block_hash for _, block_hash in PrefixTrail("", SIZE).write(0, tokens)]
    tables.reserve(1, LONGEST)
    fill(tables, 1, tokens)
    tables.release(1)
    # The pool is smaller than the text: the blocks that were let go of first have been taken again.
    assert tables.reserve(2, LONGEST, hashes) == 48
    assert 0 < num_held(tables, 2) <= MOST_HELD
    tables.release(2)
    assert tables.reserve(3, LONGEST, hashes[:3]) == 0
    tables.release(3)
    tables.check_integrity()


def test_a_step_that_the_pool_was_not_made_for_is_noticed() -> None:
    tables = make_tables(num_sessions=1)
    tables.reserve(1, LONGEST)
    with pytest.raises(AssertionError, match="larger than the sliding pool"):
        tables.prepare(1, LONGEST)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_comes_and_goes_every_entry_in_sight_is_of_the_tokens_before_it(seed: int) -> None:
    rng, tables = random.Random(seed), make_tables()
    written: dict[int, tuple[object, ...]] = {}  # what each slot was computed from
    trails: dict[int, PrefixTrail] = {}
    known: dict[int, tuple[str, list[Token]]] = {}
    prompts: dict[int, list[Token]] = {}
    num_reused = num_rolled_back = 0

    def check(session: int) -> None:
        salt, tokens = known[session]
        first = max(0, len(tokens) - WINDOW + 1)
        slots = sliding_slots(tables, session, first, len(tokens))
        assert [written[slot] for slot in slots] == [(salt, *tokens[: p + 1]) for p in range(first, len(tokens))]

    for step in range(500):
        if rng.random() < 0.2 and tables.has_room(LONGEST) and len(known) < 5:
            salt = rng.choice("ab")
            prompt = [token for _ in range(5) for token in [rng.randrange(2)] * 2 * SIZE][: rng.randrange(8, 41)]
            trails[step] = PrefixTrail(salt, SIZE)
            reused = tables.reserve(step, LONGEST, [found for _, found in trails[step].write(0, prompt)])
            num_reused += reused
            known[step], prompts[step] = (salt, prompt[:reused]), prompt
        elif known:
            session = rng.choice(list(known))
            salt, tokens = known[session]
            if rng.random() < 0.1 or len(tokens) > LONGEST - MAX_TOKENS:
                tables.release(session)
                del known[session], trails[session]
                continue
            rest = prompts[session][len(tokens) :] or [rng.randrange(2) for _ in range(MAX_TOKENS)]
            more = rest[: rng.randrange(1, MAX_TOKENS)]
            start, num_drafted = len(tokens), rng.randrange(MAX_ROLLBACK + 1)
            num_kept = max(1, len(more) - num_drafted)  # the rest was drafted and rejected: written, never published
            tables.prepare(session, start + len(more))
            for offset, slot in enumerate(sliding_slots(tables, session, start, start + len(more))):
                written[slot] = (salt, *tokens, *more[: offset + 1])
            tokens += more[:num_kept]
            for index, block_hash in trails[session].write(start, more[:num_kept]):
                tables.publish(session, index, block_hash)
            tables.set_computed_len(session, len(tokens))
            if rng.random() < 0.2 and num_kept > MAX_ROLLBACK:
                del tokens[len(tokens) - rng.randrange(1, MAX_ROLLBACK + 1) :]
                tables.withdraw(session, len(tokens))
                tables.set_computed_len(session, len(tokens))
                num_rolled_back += 1
        for session in known:
            check(session)
        tables.check_integrity()
    assert num_reused > 20
    assert num_rolled_back > 10
