"""A drafter that is no use for one class is left by it and tried again, over real streams; no token changes."""

from __future__ import annotations

import asyncio
import math

from deployments.drafter.fake_engine import FakeDrafterEngine, garbage
from deployments.ingress.generation import GenerateRequest
from deployments.messages import RequestClass, SamplingParams
from deployments.verifier.fake_engine import FakeEngine, toy_next_token, toy_proposal
from tests.support.rig import Rig, running_rig

VOCAB, LENGTH = 50, 60
SEEDS: dict[RequestClass, int] = {"code": 1, "prose": 2}


class ClassDrafter(FakeDrafterEngine):
    """Agrees with the toy target always, but never for the seeds in `broken`."""

    def __init__(self) -> None:
        super().__init__(self._drafted)
        self.rig: Rig | None = None
        self.broken: set[int] = set()

    def _drafted(self, session: int, context_len: int, _last: int, lookahead: int) -> tuple[int, ...]:
        assert self.rig is not None
        for node in self.rig.of("verifier"):
            known = node.service._sessions.get(session)
            if known is not None and known.context_len == context_len:
                seed = known.opened.params.seed
                agreement = 0.0 if seed in self.broken else 1.0
                return toy_proposal(known.tokens, seed=seed, vocab_size=VOCAB, lookahead=lookahead, agreement=agreement)
        return tuple(garbage(session, context_len, 0, lookahead))


async def num_drafted(rig: Rig, request_class: RequestClass, index: int) -> int:
    """Answer one request, hold it to the toy target's own text, and count what was drafted for it."""
    prompt = (index % VOCAB, 7, 9)
    request = GenerateRequest(
        id=f"{request_class}-{index}",
        prompt=prompt,
        max_context_tokens=len(prompt) + LENGTH,
        params=SamplingParams(seed=SEEDS[request_class]),
        request_class=request_class,
        drafter="mtp",
    )
    commits = [commit async for commit in rig.client.generate(request)]
    tokens = list(prompt)
    while len(tokens) < request.max_context_tokens:
        tokens.append(toy_next_token(tokens, seed=SEEDS[request_class], vocab_size=VOCAB))
    assert [token for commit in commits for token in commit.tokens] == tokens[len(prompt) :]
    return sum(commit.num_drafted for commit in commits if commit.drafter == "mtp")


async def test_one_class_leaves_the_drafter_and_comes_back() -> None:
    drafter = ClassDrafter()
    async with asyncio.timeout(60), running_rig(verifiers=[FakeEngine()], drafters=[drafter]) as rig:
        drafter.rig, drafter.broken = rig, {SEEDS["code"]}
        await asyncio.gather(*(num_drafted(rig, "code", index) for index in range(4)))
        watched = rig.of("router")[0].service._peers.canaries._watched["drafter-0", "code"]
        while not watched.num_bypasses:  # within a tick
            await asyncio.sleep(0.01)
        watched._until_s = math.inf  # a bypass lasts until this test says so, however slow the machine
        assert await num_drafted(rig, "code", 4) == 0
        assert await num_drafted(rig, "prose", 4) > LENGTH // 2, "the other class keeps it"
        drafter.broken = set()
        watched._until_s = 0.0
        assert await num_drafted(rig, "code", 5) > LENGTH // 2
