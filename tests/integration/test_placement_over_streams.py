"""Several routers place sessions on several verifiers over real streams: what begins alike meets, no text changes."""

from __future__ import annotations

import asyncio
from collections import Counter

from deployments.ingress.generation import GenerateRequest
from deployments.link import Link
from deployments.messages import Message, Open, SamplingParams, SessionId, Token
from deployments.paged.prefix_index import Prefix
from deployments.verifier.fake_engine import FakeEngine, toy_next_token
from tests.support.rig import Rig, running_rig

VOCAB, LENGTH, SHARED, BLOCK = 50, 24, 384, 16


class RememberingEngine(FakeEngine):
    """A toy engine that knows what it was given before, in whole blocks; `texts` has every session's own."""

    def __init__(self) -> None:
        super().__init__(max_context_tokens=500)
        self.texts: list[tuple[Token, ...]] = []
        self.num_known_tokens = 0

    def open(self, session: SessionId, params: SamplingParams, num_tokens: int, prefix: Prefix | None = None) -> int:
        assert prefix is not None
        tokens = tuple(prefix.tokens)
        self._num_reused = max((common(tokens[:-1], text) for text in self.texts), default=0) // BLOCK * BLOCK
        self.num_known_tokens += self._num_reused
        self.texts.append(tokens)
        return super().open(session, params, num_tokens, prefix)


def common(one: tuple[Token, ...], other: tuple[Token, ...]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def request(topic: int, index: int) -> GenerateRequest:
    prompt = (*[topic] * SHARED, index % VOCAB, 3)
    params = SamplingParams(seed=topic)
    return GenerateRequest(
        id=f"t{topic}-{index}", prompt=prompt, max_context_tokens=len(prompt) + LENGTH, params=params
    )


async def check_all(rig: Rig, made: list[GenerateRequest]) -> None:
    outputs = await asyncio.gather(*(rig.generate(one) for one in made))
    for asked, output in zip(made, outputs, strict=True):
        tokens = list(asked.prompt)
        while len(tokens) < asked.max_context_tokens:
            tokens.append(toy_next_token(tokens, seed=asked.params.seed, vocab_size=VOCAB))
        assert output == tokens[len(asked.prompt) :]


async def all_know_that_all_are_idle(rig: Rig) -> None:
    loads = [peer.load for node in rig.of("router") for peer in node.service._peers.verifiers.values()]
    while any(load.num_others for load in loads):
        await asyncio.sleep(0.001)


async def test_what_begins_alike_meets() -> None:
    engines = [RememberingEngine() for _ in range(3)]
    async with asyncio.timeout(60), running_rig(verifiers=engines, num_routers=2) as rig:
        for index in range(12):  # a session of each of three topics at a time
            await check_all(rig, [request(topic, index) for topic in (5, 6, 7)])
            await all_know_that_all_are_idle(rig)
    placed = [Counter(text[0] for text in engine.texts) for engine in engines]
    num_first = sum(len(counts) for counts in placed)
    assert num_first <= 6, f"{placed}: each router has one place for each topic"
    assert sum(engine.num_opened for engine in engines) == 36
    assert sum(engine.num_known_tokens for engine in engines) >= (36 - num_first) * SHARED


async def test_a_crowd_with_one_beginning_is_shared_out_all_the_same() -> None:
    engines = [RememberingEngine() for _ in range(2)]
    held: list[tuple[int, Link, Open]] = []
    async with asyncio.timeout(60), running_rig(verifiers=engines, num_routers=2) as rig:
        taps = [node.tap for node in rig.of("verifier")]

        def hold(link: Link, message: Message, index: int) -> Message | None:
            """Sessions begin when all have been placed, so that none is over before the last one comes."""
            if not isinstance(message, Open) or len(held) == 24:
                return message
            held.append((index, link, message))
            if len(held) == 24:
                for place, its_link, opening in held:
                    taps[place].inner.received(its_link, opening)
            return None

        for index, tap in enumerate(taps):
            tap.bend = lambda link, message, index=index: hold(link, message, index)  # type: ignore[misc]
        await check_all(rig, [request(5, index) for index in range(24)])
    assert sum(engine.num_opened for engine in engines) == 24
    assert min(engine.num_opened for engine in engines) >= 9
