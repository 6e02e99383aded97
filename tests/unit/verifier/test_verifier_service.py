"""The verifier's loop with links that remember: who is told of a step first, and who only when the rest is done."""

from __future__ import annotations

import asyncio

import pytest

from deployments.messages import Delta, Message, Open, SamplingParams, Verdict
from deployments.verifier.fake_engine import FakeEngine
from deployments.verifier.service import VerifierService, VerifierSettings
from tests.support.fake_link import FakeLink


class Told(FakeLink):
    """Writes down in `order` what is sent, and, after a Delta, when the loop has had a turn."""

    def __init__(self, peer: str, role: str, order: list[str], *, is_local: bool = False) -> None:
        super().__init__(peer, role)  # type: ignore[arg-type]
        self.is_local = is_local
        self.order = order

    def send(self, message: Message) -> None:
        super().send(message)
        if isinstance(message, Delta | Verdict):
            self.order.append(type(message).__name__)
        if isinstance(message, Delta):
            asyncio.get_running_loop().call_soon(self.order.append, "turn")


async def order_of(lookahead: int, *, is_local: bool = False) -> list[str]:
    """What became of the first step of one session, whose drafter shall draft so many tokens."""
    order: list[str] = []
    service = VerifierService(FakeEngine(), VerifierSettings())
    router = Told("router-0", "router", order)
    service.link_opened(router)  # type: ignore[arg-type]
    service.link_opened(Told("drafter-0", "drafter", order, is_local=is_local))  # type: ignore[arg-type]
    opening = Open(
        session=1,
        epoch=(1, 1),
        tokens=(1, 2, 3),
        max_context_tokens=40,
        params=SamplingParams(),
        drafter="drafter-0",
        lookahead=lookahead,
    )
    service.received(router, opening)  # type: ignore[arg-type]
    running = asyncio.create_task(service.run())
    for _ in range(10):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return order


async def test_a_verdict_leaves_a_drafter_elsewhere_time_to_begin() -> None:
    assert await order_of(4) == ["Delta", "turn", "Verdict"]


@pytest.mark.parametrize("lookahead", [0, 4])
async def test_a_verdict_is_not_held_back_where_somebody_waits_for_it(lookahead: int) -> None:
    """Nobody drafts, or a drafter on this loop would do so before the verdict is out."""
    order = await order_of(lookahead, is_local=True)
    assert order[: 2 if lookahead else 1] == (["Delta", "Verdict"] if lookahead else ["Verdict"])
