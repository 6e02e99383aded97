"""Drafts that may end early: records that end one where a test wants it to, and a plain account of when drafts end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest

from deployments.drafter.engine import Draft, DrafterEngine, DraftRequest
from deployments.messages import EarlyStop, SamplingParams
from deployments.policy.confidence import bin_of
from tests.support.tiny_drafters import TinyPair, draft_request, kv_ranges

CHANCES = bytes([60, 110, 160, 190, 215, 235, 245, 252])
"""How likely a token holds by the drafter's confidence in it, in 255ths."""
CERTAIN = b"\xff"
"""The same of tokens that are not drafted yet: of every one."""


def early_stop(
    *,
    value: float = 1.0,
    token_cost: float = 0.0,
    step_cost: float = 0.0,
    chances: bytes = CHANCES,
    nexts: bytes = CERTAIN,
) -> EarlyStop:
    """A record that is not worth a word but for what a test says of it."""
    return EarlyStop(value=value, token_cost=token_cost, step_cost=step_cost, chances=chances, nexts=nexts)


def ending_after(length: int, confidences: Sequence[float], nexts: bytes = CERTAIN) -> EarlyStop:
    """One that ends a draft of these confidences after so many tokens, whoever else is in its batch."""
    worth = prospects(early_stop(nexts=nexts), confidences)
    least = min(worth[: length - 1], default=2.0 * worth[0])
    assert worth[length - 1] < least, "no threshold lies between the two"
    return early_stop(token_cost=(worth[length - 1] + least) / 2, nexts=nexts)


def prospects(stop: EarlyStop, confidences: Sequence[float]) -> list[float]:
    """What a further token is worth after 1, 2 .. tokens of these confidences."""
    survival, worth = 1.0, []
    for length, confidence in enumerate(confidences, 1):
        survival *= stop.chances[bin_of(confidence)] / 255
        worth.append(stop.value * survival * stop.nexts[min(length, len(stop.nexts) - 1)] / 255)
    return worth


def expected_lengths(whole: Sequence[Draft], stops: Sequence[EarlyStop | None]) -> list[int]:
    """How far a batch gets whose drafts would be these if none ended early."""
    lengths = [0] * len(whole)
    going_on = list(range(len(whole)))
    while going_on:
        gains = {}
        for row in going_on:
            lengths[row] += 1
            if lengths[row] < len(whole[row].tokens):
                gains[row] = _gain(whole[row], stops[row], lengths[row])
        going_on = [row for row, gain in gains.items() if gain > 0]
        step_cost = max((stop.step_cost for row in going_on if (stop := stops[row])), default=0.0)
        if sum(gains[row] for row in going_on) <= step_cost:
            break
    return lengths


def _gain(draft: Draft, stop: EarlyStop | None, length: int) -> float:
    return float("inf") if stop is None else prospects(stop, draft.confidences)[length - 1] - stop.token_cost


def open_batch(
    engines: Sequence[DrafterEngine],
    pair: TinyPair,
    contexts: Sequence[Sequence[int]],
    lookaheads: Sequence[int],
    params: Sequence[SamplingParams],
) -> list[DraftRequest]:
    """Sessions with these known tokens on every engine, and a request of each."""
    requests = []
    for session, (tokens, lookahead, each) in enumerate(zip(contexts, lookaheads, params, strict=True)):
        for engine in engines:
            engine.attach(session, each)
            engine.extend(session, kv_ranges(pair, tokens, 0, len(tokens) - 1), tokens[:-1])
        requests.append(draft_request(pair, session, tokens, lookahead))
    return requests


def with_stops(requests: Sequence[DraftRequest], stops: Sequence[EarlyStop | None]) -> list[DraftRequest]:
    """These requests, each with its record of when to end."""
    return [replace(one, early_stop=stop) for one, stop in zip(requests, stops, strict=True)]


def assert_beginnings(found: Sequence[Draft], whole: Sequence[Draft], lengths: Sequence[int]) -> None:
    """The drafts are of these lengths, and else what they would be if none ended early."""
    assert [len(draft.tokens) for draft in found] == list(lengths)
    for draft, all_of_it in zip(found, whole, strict=True):
        length = len(draft.tokens)
        assert draft.tokens == all_of_it.tokens[:length]
        assert draft.confidences == pytest.approx(all_of_it.confidences[:length], abs=1e-4)


def assert_ends_as_expected(
    pair: TinyPair,
    engines: Sequence[DrafterEngine],
    params: Sequence[SamplingParams],
    *,
    num_batches: int = 12,
    longest: int = 8,
) -> None:
    """Batches with records of every kind end by the plain account on all engines; enough rows end before others below
    them, and enough batches because nobody pays for a step.
    """
    chance, num_inside, num_together = random.Random(len(params)), 0, 0
    for _ in range(num_batches):
        contexts = [[chance.randrange(3, 90) for _ in range(chance.choice((3, 9, 14, 40)))] for _ in params]
        lookaheads = [chance.choice((longest, longest, longest - 1, longest // 2)) for _ in params]
        requests = open_batch(engines, pair, contexts, lookaheads, params)
        whole = engines[0].draft(requests)
        for _ in range(4):
            stops = _some_stops(chance, len(params))
            lengths = expected_lengths(whole, stops)
            for engine in engines:
                assert_beginnings(engine.draft(with_stops(requests, stops)), whole, lengths)
            rows = sorted(range(len(params)), key=lambda row: -lookaheads[row])
            num_inside += any(lengths[one] < lengths[other] for one, other in pairwise(rows))
            free = [stop and msgspec.structs.replace(stop, step_cost=0.0) for stop in stops]
            num_together += expected_lengths(whole, free) != lengths
    assert num_inside >= num_batches
    assert num_together >= num_batches / 2


def _some_stops(chance: random.Random, num: int) -> list[EarlyStop | None]:
    """Some are told, steps cost nothing, little or much, and tokens ahead are likelier or less likely."""
    step_cost = chance.choice([0.0, 0.2, 0.6])
    return [
        early_stop(
            value=chance.choice([0.5, 1.0, 2.0]),
            token_cost=chance.uniform(0.0, 0.3),
            step_cost=step_cost * chance.uniform(0.5, 1.0),
            nexts=bytes(chance.randrange(100, 256) for _ in range(chance.choice([1, 4, 8]))),
        )
        if chance.random() < 0.9
        else None
        for _ in range(num)
    ]
