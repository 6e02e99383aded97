"""Tenants take turns in a verifier's queue; prompts and verifications each in their own places."""

from __future__ import annotations

from deployments.messages import Open, SamplingParams
from deployments.policy.salts import salt_of
from deployments.verifier.engine import Chunk
from deployments.verifier.merging import Merging
from deployments.verifier.scheduler import StepBudget
from deployments.verifier.session import Session
from tests.support.fake_link import FakeLink

BUDGET = StepBudget(max_step_tokens=32, max_step_sessions=8, prompt_tokens=8)


def session(number: int, tenant: str, num_missing: int = 1, num_drafted: int = 3) -> Session:
    opened = Open(
        session=number,
        epoch=(1, 1),
        tokens=(7,) * 50,
        max_context_tokens=100,
        params=SamplingParams(),
        salt=tenant,
    )
    return Session(
        id=number,
        link=FakeLink("router-0", "router"),
        opened=opened,
        epoch=(1, 1),
        tokens=list(opened.tokens),
        drafter="",
        lookahead=0,
        computed_len=50 - num_missing,
        proposal=(8,) * num_drafted,
    )


def numbers(sessions: list[Session]) -> list[int]:
    return [one.id for one in sessions]


def chunk(number: int, num_tokens: int) -> Chunk:
    return Chunk(session=number, start=0, tokens=(7,) * num_tokens)


def test_sessions_of_one_tenant_keep_the_order_in_which_they_became_ready() -> None:
    merging = Merging(BUDGET)
    assert numbers(merging.order([session(2, "a"), session(1, "a"), session(3, "a")])) == [2, 1, 3]
    merging.ran([chunk(2, 4)])


def test_one_of_another_tenant_does_not_wait_for_all_of_the_first() -> None:
    merging = Merging(BUDGET)
    crowd = [session(number, "a") for number in range(1, 7)]
    assert numbers(merging.order([*crowd, session(9, "b")])) == [1, 9, 2, 3, 4, 5, 6]


def test_salts_of_its_own_buy_a_tenant_no_turns() -> None:
    merging = Merging(BUDGET)
    crowd = [session(number, salt_of("a", f"salt {number}")) for number in range(1, 7)]
    assert numbers(merging.order(crowd)) == [1, 2, 3, 4, 5, 6]
    assert numbers(merging.order([*crowd, session(9, "b")])) == [1, 9, 2, 3, 4, 5, 6]


def test_what_has_run_counts_in_the_next_step() -> None:
    merging = Merging(BUDGET)
    queue = [session(1, "a"), session(2, "a"), session(8, "b"), session(9, "b")]
    assert numbers(merging.order(queue)) == [1, 8, 2, 9]
    merging.ran([chunk(1, 4)])
    assert numbers(merging.order(queue[1:])) == [8, 2, 9]
    merging.ran([chunk(8, 12)])
    assert numbers(merging.order([queue[3], queue[1]])) == [2, 9]


def test_prompts_stand_where_prompts_stood_and_take_turns_of_their_own() -> None:
    merging = Merging(BUDGET)
    queue = [session(1, "a", 40), session(2, "a", 40), session(3, "a"), session(4, "a"), session(5, "b", 2)]
    queue.append(session(6, "b"))
    assert numbers(merging.order(queue)) == [1, 5, 3, 6, 2, 4]
    merging.ran([chunk(1, 20), chunk(3, 4)])
    left = [one for one in queue if one.id not in (1, 3)]
    assert numbers(merging.order(left)) == [5, 6, 2, 4]
