"""The step's choice of chunks: budgets, order, and that nobody starves."""

from __future__ import annotations

import pytest

from deployments.verifier.scheduler import Pending, StepBudget, plan_step

BUDGET = StepBudget(max_step_tokens=32, max_step_sessions=4, prompt_tokens=8)


def verifying(session: int, known: int = 10, proposal: tuple[int, ...] = ()) -> Pending:
    return Pending(session=session, computed_len=known - 1, tokens=tuple(range(known)), proposal=proposal)


def prompting(session: int, known: int, computed: int = 0, proposal: tuple[int, ...] = ()) -> Pending:
    return Pending(session=session, computed_len=computed, tokens=tuple(range(known)), proposal=proposal)


def test_nothing_to_do_is_an_empty_step() -> None:
    idle = Pending(session=1, computed_len=9, tokens=tuple(range(10)), wants_verify=False)
    assert plan_step([], BUDGET) == []
    assert plan_step([idle], BUDGET) == []


def test_a_verification_brings_its_last_token_and_the_whole_proposal() -> None:
    (chunk,) = plan_step([verifying(1, proposal=(70, 71))], BUDGET)
    assert (chunk.start, chunk.tokens, chunk.num_drafted, chunk.is_partial) == (9, (9, 70, 71), 2, False)


def test_verifications_come_first_and_prompts_fill_what_they_leave() -> None:
    chunks = plan_step([prompting(1, 100), verifying(2, proposal=(7,) * 4), prompting(3, 5)], BUDGET)
    assert [chunk.session for chunk in chunks] == [2, 1]
    assert chunks[1].tokens == tuple(range(27))
    assert chunks[1].is_partial
    assert sum(len(chunk.tokens) for chunk in chunks) == BUDGET.max_step_tokens


def test_a_short_prompt_leaves_tokens_for_the_next() -> None:
    chunks = plan_step([prompting(1, 5), prompting(2, 100, computed=40)], BUDGET)
    assert [(chunk.session, chunk.is_partial) for chunk in chunks] == [(1, False), (2, True)]
    assert chunks[1].tokens == tuple(range(40, 67))


def test_a_chunk_that_reaches_the_last_known_token_is_not_partial_and_carries_the_proposal() -> None:
    (chunk,) = plan_step([prompting(1, 20, computed=5, proposal=(8, 9))], BUDGET)
    assert chunk.tokens == (*range(5, 20), 8, 9)
    assert (chunk.num_drafted, chunk.is_partial) == (2, False)


def test_a_session_that_wants_no_verdict_only_catches_up() -> None:
    pending = Pending(session=1, computed_len=2, tokens=tuple(range(6)), wants_verify=False)
    (chunk,) = plan_step([pending], BUDGET)
    assert (chunk.tokens, chunk.is_partial) == ((2, 3, 4), True)
    almost = Pending(session=1, computed_len=4, tokens=tuple(range(6)), wants_verify=False)
    (chunk,) = plan_step([almost], BUDGET)
    assert (chunk.tokens, chunk.is_partial) == ((4,), True)


def test_the_session_budget_holds_and_a_place_is_kept_for_a_prompt() -> None:
    ready = [verifying(i) for i in range(6)]
    assert [chunk.session for chunk in plan_step(ready, BUDGET)] == [0, 1, 2, 3]
    assert [chunk.session for chunk in plan_step([*ready, prompting(9, 50)], BUDGET)] == [0, 1, 2, 9]


def test_the_token_budget_holds_and_a_share_is_kept_for_a_prompt() -> None:
    ready = [verifying(i, proposal=(5,) * 10) for i in range(3)]
    assert [chunk.session for chunk in plan_step(ready, BUDGET)] == [0, 1]
    chunks = plan_step([*ready, prompting(9, 50)], BUDGET)
    assert [(chunk.session, len(chunk.tokens)) for chunk in chunks] == [(0, 11), (1, 11), (9, 10)]


def test_a_proposal_over_the_whole_budget_still_moves_on_and_so_does_the_first_prompt() -> None:
    chunks = plan_step([verifying(1, proposal=(5,) * 40), prompting(2, 50)], BUDGET)
    assert [(chunk.session, len(chunk.tokens)) for chunk in chunks] == [(1, 41), (2, 8)]


def test_every_session_is_served_when_the_left_out_keep_their_place() -> None:
    waiting = [prompting(i, 40) for i in range(3)] + [verifying(i, proposal=(5,) * 6) for i in range(3, 13)]
    computed = {pending.session: pending.computed_len for pending in waiting}
    for _ in range(40):
        sessions = [
            Pending(session=p.session, computed_len=computed[p.session], tokens=p.tokens, proposal=p.proposal)
            for p in waiting
        ]
        chunks = plan_step(sessions, BUDGET)
        for chunk in chunks:
            computed[chunk.session] += len(chunk.tokens)
        done = {chunk.session for chunk in chunks if not chunk.is_partial}
        waiting = [pending for pending in waiting if pending.session not in done]
        if not waiting:
            break
    assert not waiting


def test_a_budget_that_would_starve_someone_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt_tokens"):
        StepBudget(max_step_tokens=8, max_step_sessions=4, prompt_tokens=9)
    with pytest.raises(ValueError, match="max_step_sessions"):
        StepBudget(max_step_tokens=8, max_step_sessions=1, prompt_tokens=1)
