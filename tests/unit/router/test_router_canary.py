"""Sessions of a class for which nothing of a drafter's holds leave it; the others stay, and one of them tries again."""

from __future__ import annotations

import logging

import pytest

from deployments import measures
from deployments.messages import Attach, Detach, Open, SessionId, Verify, VerifyItem
from tests.support.router_rig import Rig

CLASSES = ("code", "prose")


class Sessions:
    """Two sessions of each class, of one router, whose drafters propose four tokens a round."""

    def __init__(self, *, num_drafters: int) -> None:
        self.rig = Rig(num_drafters=num_drafters)
        self.class_of: dict[SessionId, str] = {}
        self.asked: dict[SessionId, Open | VerifyItem] = {}
        self.attached: dict[SessionId, int] = {}
        for index in range(4):
            request_class = CLASSES[index % 2]
            self.rig.generate(f"r{index}", request_class=request_class, max_context_tokens=4000)
            opened = self.rig.opened()
            self.class_of[opened.session], self.asked[opened.session] = request_class, opened
        self._listen()

    def round(self, holds: dict[str, bool]) -> None:
        """One for each session; of a class's proposals everything holds, or nothing."""
        for session, asked in list(self.asked.items()):
            is_open, num_drafted = isinstance(asked, Open), len(asked.tokens)
            held = num_drafted if not is_open and holds[self.class_of[session]] else 0
            context_len = (num_drafted if is_open else asked.context_len) + held + 1
            self.rig.verdict(asked, held, 9)
            if asked.lookahead and session in self.attached:
                self.rig.propose(asked, context_len, (1, 2, 3, 4), self.attached[session])
            for verify in self.rig.verifiers[0].take(Verify):
                self.asked |= {item.session: item for item in verify.items}
            self._listen()
        self.rig.tick(0.02)
        self._listen()

    def drafted(self, request_class: str) -> list[int | None]:
        """Which drafter each session of a class has."""
        return [self.attached.get(session) for session, one in self.class_of.items() if one == request_class]

    def _listen(self) -> None:
        for index, link in enumerate(self.rig.drafters):
            for message in link.take(Detach):
                if self.attached.get(message.session) == index:
                    del self.attached[message.session]
            self.attached |= {message.session: index for message in link.take(Attach)}


def bypasses(rig: Rig) -> dict[tuple[str, ...], float]:
    counter = rig.router._stats._drafter_bypasses
    return {labels: values[0] for name, labels, values in counter.samples() if values[0]}


def test_a_class_leaves_a_drafter_of_which_nothing_holds_and_the_other_stays(caplog: pytest.LogCaptureFixture):
    sessions = Sessions(num_drafters=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(40):
            sessions.round({"code": False, "prose": True})
    assert sessions.drafted("code") == [None, None]
    assert sessions.drafted("prose") == [0, 0]
    assert bypasses(sessions.rig) == {("code", "mtp"): 1}
    assert "drafter-0 is bypassed for a while" in caplog.text
    assert "code" in caplog.text


def test_it_is_tried_again_by_one_session_and_taken_back_by_all_when_it_is_well():
    sessions = Sessions(num_drafters=1)
    for _ in range(40):
        sessions.round({"code": False, "prose": True})
    sessions.rig.tick(5.0)
    for _ in range(3):
        sessions.round({"code": True, "prose": True})
    assert sorted(map(str, sessions.drafted("code"))) == ["0", "None"], "a trial"
    for _ in range(60):
        sessions.round({"code": True, "prose": True})
    assert sessions.drafted("code") == [0, 0]
    assert sum(bypasses(sessions.rig).values()) == 1


def test_a_trial_that_fails_is_counted_and_lasts_longer():
    sessions = Sessions(num_drafters=1)
    for _ in range(40):
        sessions.round({"code": False, "prose": True})
    sessions.rig.tick(5.0)
    for _ in range(60):
        sessions.round({"code": False, "prose": True})
    assert sessions.drafted("code") == [None, None]
    assert bypasses(sessions.rig) == {("code", "mtp"): 2}
    sessions.rig.tick(6.0)
    sessions.round({"code": True, "prose": True})
    assert sessions.drafted("code") == [None, None]


def test_the_class_goes_to_another_drafter_where_there_is_one():
    sessions = Sessions(num_drafters=2)
    broken = {session: sessions.attached[session] for session in sessions.class_of}
    assert set(broken.values()) == {0, 1}
    left = sessions.rig.router._peers.canaries
    for _ in range(60):
        left.observe("drafter-0", "code", False, 1)
        left.observe("drafter-0", "prose", False, 1)
    sessions.round({"code": True, "prose": True})
    assert set(sessions.attached.values()) == {1}
    assert bypasses(sessions.rig) == {("code", "mtp"): 1, ("prose", "mtp"): 1}


def test_every_cell_is_there_before_it_is_needed():
    """Prometheus sees no growth in a series that begins with it."""
    counter = Rig().router._stats._drafter_bypasses
    assert counter.metric is measures.DRAFTER_BYPASSES
    assert ("unknown", "draft_model") in {labels for _, labels, _ in counter.samples()}
