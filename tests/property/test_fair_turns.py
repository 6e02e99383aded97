"""Bounded waiting: whatever others queue, each session's step comes within a bound that does not depend on them."""

from __future__ import annotations

import itertools
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.messages import Open, SamplingParams
from deployments.policy.fairness import FairTurns
from deployments.verifier.merging import Merging
from deployments.verifier.scheduler import Pending, StepBudget, plan_step
from deployments.verifier.session import Session
from tests.support.fake_link import FakeLink

MOST = 9
"""Tokens of a verification at most."""
BUDGET = StepBudget(max_step_tokens=24, max_step_sessions=6, prompt_tokens=8)
COSTS = st.integers(1, MOST)
TENANTS = ("a", "b", "c", "d")


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(TENANTS), COSTS), max_size=60))
def test_an_order_has_every_entry_once_and_a_tenants_own_in_their_order(queued: list[tuple[str, int]]) -> None:
    turns = FairTurns()
    places = turns.order([tenant for tenant, _ in queued], [cost for _, cost in queued])
    assert sorted(places) == list(range(len(queued)))
    for tenant in TENANTS:
        own = [place for place in places if queued[place][0] == tenant]
        assert own == sorted(own)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(TENANTS), COSTS), max_size=60), st.integers(1, 60))
def test_tenants_that_all_have_something_queued_get_the_same(queued: list[tuple[str, int]], num_taken: int) -> None:
    turns, had = FairTurns(), Counter[str]()
    for place in turns.order([tenant for tenant, _ in queued], [cost for _, cost in queued])[:num_taken]:
        tenant, cost = queued[place]
        had[tenant] += cost
        queued = [entry if index != place else ("", 0) for index, entry in enumerate(queued)]
        left = Counter(name for name, _ in queued)
        for other in TENANTS:
            assert not left[other] or had[tenant] - had[other] <= MOST


class Steps:
    """A verifier's queue, stepped as it does: in the order of turns, as much as a step's budget takes."""

    def __init__(self) -> None:
        self.merging = Merging(BUDGET)
        self.active: dict[int, Session] = {}
        self._ids = itertools.count(1)

    def add(self, tenant: str, num_missing: int, num_drafted: int = 0) -> int:
        opened = Open(
            session=next(self._ids),
            epoch=(1, 1),
            tokens=(7,) * num_missing,
            max_context_tokens=10**6,
            params=SamplingParams(),
            salt=tenant,
        )
        self.active[opened.session] = Session(
            id=opened.session,
            link=FakeLink("router-0", "router"),
            opened=opened,
            epoch=opened.epoch,
            tokens=list(opened.tokens),
            drafter="",
            lookahead=0,
            proposal=(8,) * num_drafted,
        )
        return opened.session

    def step(self) -> set[int]:
        """Who got a verdict."""
        pending = [
            Pending(session=one.id, computed_len=one.computed_len, tokens=one.tokens, proposal=one.proposal)
            for one in self.merging.order(self.active.values())
        ]
        chunks = plan_step(pending, BUDGET)
        self.merging.ran(chunks)
        for chunk in chunks:
            self.active[chunk.session].computed_len += len(chunk.tokens)
        decided = {chunk.session for chunk in chunks if not chunk.is_partial}
        for session in decided:
            del self.active[session]
        return decided


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 40), st.integers(0, 5))
def test_a_verification_waits_for_its_own_tenants_and_a_share_of_the_others(
    rng: random.Random, num_before: int, num_own: int
) -> None:
    """Before the tenant's n-th go T (n + 1) of the longest at most; each step takes its tokens or its sessions."""
    steps, others = Steps(), TENANTS[1:]
    for _ in range(num_before):
        steps.add(rng.choice(others), 1, rng.randrange(MOST))
    for _ in range(rng.randrange(6)):  # turns have been had before
        steps.step()
    own = [steps.add("a", 1, MOST - 1) for _ in range(num_own + 1)][-1]
    least_per_step = min(BUDGET.max_step_tokens - BUDGET.prompt_tokens - MOST + 1, BUDGET.max_step_sessions - 1)
    bound = 1 + len(TENANTS) * (num_own + 2) * MOST // least_per_step
    for _ in range(bound):
        for _ in range(rng.randrange(12)):  # whatever arrives, and as fast as it may
            steps.add(rng.choice(others), rng.choice([1, 1, 50]), rng.randrange(MOST))
        if own in steps.step():
            return
    raise AssertionError(f"no verdict within {bound} steps")


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(2, 120))
def test_a_prompt_is_read_at_its_tenants_share_however_long_others_are(rng: random.Random, num_tokens: int) -> None:
    steps = Steps()
    for tenant in TENANTS[1:]:
        steps.add(tenant, 5_000)
    for _ in range(rng.randrange(6)):
        steps.step()
    own = steps.add("a", num_tokens)
    bound = 1 + len(TENANTS) * (num_tokens + BUDGET.max_step_tokens) // BUDGET.prompt_tokens
    for _ in range(bound):
        for _ in range(rng.randrange(4)):
            steps.add(rng.choice(TENANTS[1:]), rng.choice([1, 30, 1000]))
        if own in steps.step():
            return
    raise AssertionError(f"not read within {bound} steps")


def test_a_tenant_that_rested_has_saved_nothing_up() -> None:
    turns = FairTurns()
    for _ in range(50):
        turns.order(["a"], [4])
        turns.served("a", 4)
    assert turns.order(["a", "a", "b", "b"], [4] * 4) == [0, 2, 1, 3]


def test_what_a_tenant_has_had_too_much_is_not_forgotten_while_it_rests() -> None:
    turns = FairTurns()
    turns.order(["a", "b"], [100, 1])
    turns.served("a", 100)
    turns.served("b", 1)
    turns.order(["b", "c"], [1, 1])
    assert turns.order(["a", "b", "b"], [1, 1, 1]) == [1, 2, 0]
    for _ in range(120):
        turns.order(["b"], [1])
        turns.served("b", 1)
    assert turns.order(["a", "b"], [1, 1]) == [0, 1]
    assert len(turns._had) == 2
