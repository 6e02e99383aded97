"""Sessions are placed by what a router is told of loads, and by what it has sent where."""

from __future__ import annotations

from deployments.messages import Attach, Cancel, Costs, Introduce, Load, Open
from deployments.policy.prefixes import beginnings
from tests.support.fake_link import FakeLink
from tests.support.router_rig import Rig

SHARED = tuple(range(200))


def rig_with(num_verifiers: int = 2, *, num_prefix_tokens: int = 10_000, **settings: int) -> Rig:
    rig = Rig(num_verifiers=num_verifiers, **settings)
    for link in rig.verifiers:
        costs = Costs(timings=(), max_step_tokens=512, num_prefix_tokens=num_prefix_tokens)
        rig.router.received(link, costs)
    return rig


def placed(rig: Rig, request: str, tokens: tuple[int, ...], salt: str = "") -> int:
    """Where a new request is opened."""
    rig.generate(request, tokens=tokens, num_prompt_tokens=len(tokens), max_context_tokens=len(tokens) + 40, salt=salt)
    opened = [(index, link.take(Open)) for index, link in enumerate(rig.verifiers)]
    ((index, _),) = [(index, taken) for index, taken in opened if taken]
    return index


def test_what_begins_alike_goes_to_the_same_verifier_and_the_rest_to_the_other() -> None:
    rig = rig_with()
    first = placed(rig, "r0", (*SHARED, 7))
    assert placed(rig, "r1", (*SHARED, 8)) == first
    assert placed(rig, "r2", tuple(range(1000, 1200))) == 1 - first
    assert placed(rig, "r3", (*SHARED, 9), salt="another tenant") == 1 - first


def test_a_text_that_was_answered_is_held_with_its_answer() -> None:
    rig = rig_with()
    where = placed(rig, "r0", tuple(range(60)))
    session = next(iter(rig.router._sessions.values()))
    session.tokens += [7] * 10
    rig.router.received(rig.ingress, Cancel(request="r0"))
    rig.router.received(rig.verifiers[where], Load(num_sessions=1))  # another router's
    assert placed(rig, "r1", (*range(60), *[7] * 10, 5)) == 1 - where, "64 tokens are not worth a busier verifier"
    held = rig.router._peers.verifiers[f"verifier-{where}"].prefixes
    assert held.num_held(beginnings((*range(60), *[7] * 10), "")) == 64


def test_verifiers_that_reuse_nothing_share_what_comes_evenly() -> None:
    rig = rig_with(num_prefix_tokens=0)
    places = [placed(rig, f"r{index}", (*SHARED, index)) for index in range(8)]
    assert places.count(0) == places.count(1) == 4


def test_other_routers_sessions_count() -> None:
    rig = rig_with()
    rig.router.received(rig.verifiers[0], Load(num_sessions=5))
    assert [placed(rig, f"r{index}", (index, 1, 2)) for index in range(5)] == [1] * 5
    rig.router.received(rig.verifiers[1], Load(num_sessions=5))  # these five themselves
    rig.router.received(rig.verifiers[0], Load(num_sessions=0))
    assert [placed(rig, f"s{index}", (index, 1, 2)) for index in range(5)] == [0] * 5


def test_where_sessions_wait_for_room_no_other_goes() -> None:
    rig = rig_with()
    rig.router.received(rig.verifiers[1], Load(num_sessions=1, num_waiting=1))
    assert [placed(rig, f"r{index}", (index, 1, 2)) for index in range(4)] == [0] * 4


def test_a_drafter_that_others_use_gets_fewer() -> None:
    rig = Rig(num_drafters=2)
    rig.router.received(rig.drafters[0], Load(num_sessions=3, kind="mtp"))
    for index in range(4):
        rig.generate(f"r{index}")
    assert [len(link.take(Attach)) for link in rig.drafters] == [1, 3]


def test_the_load_of_a_drafter_inside_a_verifier_is_not_the_verifiers() -> None:
    rig = rig_with()
    rig.router.received(rig.verifiers[0], Introduce(kind="mtp"))
    rig.router.received(rig.verifiers[0], Load(num_sessions=9, kind="mtp"))
    peers = rig.router._peers
    assert peers.verifiers["verifier-0"].load.num_others == 0
    assert peers.drafters["verifier-0/mtp"].load.num_others == 9
    rig.router.received(FakeLink("stranger", "verifier"), Load(num_sessions=1))
