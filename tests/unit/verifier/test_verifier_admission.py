"""Sessions come in by what they hold, make way for those before them, and all get to an end."""

from __future__ import annotations

import random

import pytest

from deployments.messages import Open, Priority, SamplingParams
from deployments.metering import Meter
from deployments.verifier.admission import MAX_PREEMPTIONS, Admission
from deployments.verifier.engine import Chunk
from deployments.verifier.fake_engine import FakeEngine
from deployments.verifier.session import Session
from deployments.verifier.stats import VerifierStats
from tests.support.fake_link import FakeLink

LONGEST = 40


def make(num_kv_tokens: int, **options: int) -> tuple[Admission, FakeEngine]:
    engine = FakeEngine(num_kv_tokens=num_kv_tokens, max_context_tokens=LONGEST, **options)
    return Admission(engine, VerifierStats(Meter()), reuses_prefixes=True), engine


def session(number: int, num_tokens: int, priority: Priority = "interactive", longest: int = LONGEST) -> Session:
    opened = Open(
        session=number,
        epoch=(1, number),
        tokens=(7,) * num_tokens,
        max_context_tokens=longest,
        params=SamplingParams(),
        priority=priority,
    )
    link = FakeLink("router-0", "router")
    return Session(
        id=number, link=link, opened=opened, epoch=(1, number), tokens=list(opened.tokens), drafter="", lookahead=0
    )


def step_of(one: Session, num_tokens: int) -> Chunk:
    return Chunk(session=one.id, start=0, tokens=(7,) * num_tokens)


def test_sessions_come_in_by_the_tokens_that_they_have_and_in_order() -> None:
    admission, engine = make(num_kv_tokens=30)
    first, second, large, small = session(1, 10), session(2, 10), session(3, 10), session(4, 1)
    for one in (first, second, large, small):
        admission.wait(one)
        admission.wait(one)
    # 4 x 40 tokens would never fit; the third leaves no token for the two before it, and the fourth does not pass it.
    assert admission.admit() == [first, second]
    assert (admission.num_open, admission.num_waiting) == (2, 2)
    assert admission.admit() == []
    admission.leave(first)
    admission.leave(first)
    assert admission.admit() == [large, small]
    assert engine.open_sessions == {2, 3, 4}


@pytest.mark.parametrize(("priorities", "victim"), [("iii", 3), ("ibi", 2), ("bib", 3), ("bii", 1)])
def test_the_last_of_the_lowest_priority_makes_way(priorities: str, victim: int) -> None:
    admission, engine = make(num_kv_tokens=33)
    names: dict[str, Priority] = {"i": "interactive", "b": "batch"}
    sessions = {i + 1: session(i + 1, 10, names[letter]) for i, letter in enumerate(priorities)}
    for one in sessions.values():
        admission.wait(one)
    assert len(admission.admit()) == 3
    grower = sessions[2 if victim == 1 else 1]
    chunks, preempted = admission.fit([step_of(one, 14 if one is grower else 10) for one in sessions.values()])
    assert preempted == [sessions[victim]]
    assert [chunk.session for chunk in chunks] == [number for number in sessions if number != victim]
    assert engine.open_sessions == set(sessions) - {victim}
    assert (sessions[victim].computed_len, sessions[victim].num_preemptions) == (0, 1)
    # It comes in again before those that came later, with all that it has.
    late = session(9, 1)
    admission.wait(late)
    admission.wait(sessions[victim])
    assert admission.admit() == []
    admission.leave(grower)
    assert admission.admit() == [sessions[victim], late]


def test_one_that_made_way_often_enough_gets_all_the_room_it_may_need() -> None:
    admission, engine = make(num_kv_tokens=LONGEST + 12)
    old, young = session(1, 4), session(2, 4)
    for _ in range(MAX_PREEMPTIONS):
        for one in (old, young):
            admission.wait(one)
        assert young in admission.admit()
        _, preempted = admission.fit([step_of(old, LONGEST), step_of(young, 13)])
        assert preempted == [young]
        admission.leave(old)
    admission.wait(young)
    assert admission.admit() == [young]
    assert young.room_tokens == LONGEST
    late = session(3, 4)
    admission.wait(late)
    assert admission.admit() == [late]
    assert admission.fit([step_of(late, 13), step_of(young, LONGEST)])[1] == [late]
    assert engine.open_sessions == {2}


def test_what_others_know_of_a_beginning_is_told_once() -> None:
    admission, engine = make(num_kv_tokens=30, num_reused=6)
    one = session(1, 10)
    admission.wait(one)
    admission.admit()
    assert (one.num_cached, one.computed_len) == (6, 6)
    one.num_cached = 0  # told
    assert admission.fit([step_of(one, 31)])[1] == [one]
    assert engine.open_sessions == set()
    admission.wait(one)
    assert admission.admit() == [one]
    assert (one.num_cached, one.computed_len) == (0, 6)


def proposing(one: Session, num_drafted: int) -> Chunk:
    one.proposal = (8,) * num_drafted
    tokens = (*one.tokens, *one.proposal)
    return Chunk(session=one.id, start=0, tokens=tokens, num_drafted=num_drafted)


def test_nobody_makes_way_for_a_guess_and_proposals_get_the_room_that_is_left() -> None:
    admission, _ = make(num_kv_tokens=29)
    first, second, third = (session(number, 8) for number in (1, 2, 3))
    for one in (first, second, third):
        admission.wait(one)
    assert len(admission.admit()) == 3
    third.tokens += [7] * 2  # what is known comes before what others guess
    chunks, preempted = admission.fit([proposing(first, 2), proposing(second, 4), proposing(third, 5)])
    assert preempted == []
    assert [chunk.num_drafted for chunk in chunks] == [2, 0, 0]
    assert [len(chunk.tokens) for chunk in chunks] == [10, 8, 10]
    assert [len(one.proposal) for one in (first, second, third)] == [2, 0, 0]
    admission.leave(first)
    chunks, _ = admission.fit([proposing(second, 4), proposing(third, 5)])
    assert [chunk.num_drafted for chunk in chunks] == [4, 5]


def test_a_proposal_that_has_room_in_part_is_cut_with_what_it_was_drawn_from() -> None:
    chunk = Chunk(session=1, start=3, tokens=(1, 2, 3, 4), num_drafted=3, distributions=("a", "b", "c"))  # type: ignore[arg-type]
    cut = chunk.without_last(2)
    assert (cut.tokens, cut.num_drafted, cut.distributions) == ((1, 2), 1, ("a",))
    assert chunk.without_last(3).tokens == (1,)


@pytest.mark.parametrize("seed", range(10))
def test_everybody_gets_to_an_end(seed: int) -> None:
    """Any sessions, resting and working, in a cache that holds one of the longest: none starves, none is left over."""
    rng = random.Random(seed)
    admission, engine = make(num_kv_tokens=LONGEST + rng.randrange(40))
    arriving = [
        session(n, rng.randrange(1, 20), rng.choice(["interactive", "batch"]), rng.randrange(21, LONGEST + 1))
        for n in range(1, 25)
    ]
    working: list[Session] = []
    total = num_steps = 0
    while arriving or admission.num_waiting or working:
        num_steps += 1
        assert num_steps < 3000, "somebody starves"
        if arriving and rng.random() < 0.3:
            admission.wait(arriving.pop())
        working += admission.admit()
        chosen = [one for one in working if rng.random() < 0.6]  # the others rest
        chunks, preempted = admission.fit([step_of(one, one.context_len) for one in chosen])
        working = [one for one in working if one not in preempted]
        for one in preempted:
            assert one.num_preemptions <= MAX_PREEMPTIONS
            admission.wait(one)
        total += len(preempted)
        for chunk in chunks:
            one = next(one for one in working if one.id == chunk.session)
            assert one.room_tokens >= one.context_len
            one.tokens += [7] * rng.randrange(1, 5)
            del one.tokens[one.opened.max_context_tokens :]
            if one.context_len == one.opened.max_context_tokens:
                admission.leave(one)
                working.remove(one)
    assert engine.kv_usage == 0
    assert total > 0
