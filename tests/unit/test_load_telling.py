"""A change of load is told once, soon, and not with every step."""

from __future__ import annotations

from deployments.load_telling import PERIOD_S, LoadTelling
from deployments.messages import Load
from tests.support.fake_link import FakeLink


class Teller:
    def __init__(self) -> None:
        self.now_s = 10.0
        self.loads = LoadTelling(lambda: self.now_s)
        self.router = FakeLink("router-0", "router")
        self.loads.joined(self.router)

    def told(self, num_sessions: int, *, is_idle: bool = False, after_s: float = 0.0) -> list[int]:
        self.now_s += after_s
        self.loads.tell(Load(num_sessions=num_sessions), is_idle=is_idle)
        return [load.num_sessions for load in self.router.take(Load)]


def test_a_change_is_told_once_and_the_next_one_a_little_later() -> None:
    teller = Teller()
    assert teller.told(1) == [1]
    assert teller.told(1, after_s=5.0) == []
    assert teller.told(2) == [2]
    assert teller.told(3) == teller.told(4, after_s=PERIOD_S / 2) == []
    assert teller.told(4, after_s=PERIOD_S / 2) == [4]


def test_the_last_change_before_a_rest_is_told_at_once() -> None:
    teller = Teller()
    assert teller.told(1) == [1]
    assert teller.told(0, is_idle=True) == [0]
    assert teller.told(0, is_idle=True, after_s=9.0) == []


def test_who_comes_later_is_told_what_the_others_know_and_who_left_nothing() -> None:
    teller = Teller()
    late = FakeLink("router-1", "router")
    teller.told(5)
    teller.loads.joined(late)
    assert late.take_one(Load).num_sessions == 5
    teller.loads.left(teller.router)
    assert teller.told(6, after_s=1.0) == []
    assert late.take_one(Load).num_sessions == 6
    teller.loads.left(FakeLink("router-1", "router"))  # an older link of the same peer
    teller.told(7, after_s=1.0)
    assert late.take_one(Load).num_sessions == 7
