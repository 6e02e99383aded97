"""What a verifier on an accelerator ships, and what a drafter there makes of it, is what a CPU's is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from deployments.drafter.engine import DraftRequest
from deployments.drafter.mtp_engine import MtpEngine, load_mtp_engine
from deployments.drafter.shadow import tensor_from_bytes
from deployments.messages import KvRange, SamplingParams, SessionId
from deployments.models.loading import load_target
from deployments.verifier.engine import Chunk
from deployments.verifier.paged_engine import CacheLimits, PagedEngine

pytestmark = pytest.mark.gpu

TOLERANCE = 5e-4
"""Entries and states are sums of some hundred products, a few in size, and float32 on either side."""
CONTEXTS = (2, 13, 30, 150)
PARAMS = (SamplingParams(), SamplingParams(temperature=0.8, seed=11))


def verifier(folder: Path, device: str) -> PagedEngine:
    """An engine of this target."""
    target = load_target(str(folder), dtype=torch.float32, device=device)
    return PagedEngine(target, CacheLimits(max_context_tokens=256, num_kv_tokens=2_000, max_lookahead=8))


def drafter(folder: Path, device: str) -> MtpEngine:
    """An engine of its assistant."""
    return load_mtp_engine(str(folder), f"{folder}-assistant", dtype=torch.float32, shadow_bytes=1 << 26, device=device)


def read(engine: PagedEngine, session: SessionId, tokens: list[int]) -> int:
    """Compute all of a session's tokens but the last, past a proposal; what is decided there."""
    engine.open(session, SamplingParams(), len(tokens) + 16)
    last = len(tokens) - 1
    if cut := last // 2:
        engine.step([Chunk(session=session, start=0, tokens=tuple(tokens[:cut]), is_partial=True)])
    (outcome,) = engine.step([Chunk(session=session, start=cut, tokens=(*tokens[cut:last], 3, 4), num_drafted=2)])
    if outcome.num_accepted:  # the state is that of a position behind
        engine.rollback(session, last - 1)
        (outcome,) = engine.step([Chunk(session=session, start=last - 1, tokens=(tokens[last - 1],))])
    return outcome.next_token


def worst(one: bytes, other: bytes) -> float:
    """The largest difference of two float32 arrays."""
    assert len(one) == len(other)
    ours, theirs = (tensor_from_bytes(data, torch.float32) for data in (one, other))
    return float((ours - theirs).abs().max()) if one else 0.0


def assert_alike(ours: tuple[KvRange, ...], theirs: tuple[KvRange, ...]) -> None:
    places = [[(r.layer_type, r.start, r.stop) for r in ranges] for ranges in (ours, theirs)]
    assert places[0] == places[1]
    for one, other in zip(ours, theirs, strict=True):
        assert worst(one.keys, other.keys) <= TOLERANCE
        assert worst(one.values, other.values) <= TOLERANCE


def test_shadow_hidden_state_and_proposals_are_a_cpus(folder: Path, device: str) -> None:
    rng = random.Random(4)
    engines = [verifier(folder, where) for where in ("cpu", device)]
    drafters = [drafter(folder, where) for where in ("cpu", device)]
    requests: list[DraftRequest] = []
    for session, context in enumerate(CONTEXTS):
        tokens = [rng.randrange(6, engines[0].vocab_size) for _ in range(context)]
        decided = [read(engine, session, tokens) for engine in engines]
        assert decided[0] == decided[1]
        for start in (0, context // 2):
            assert_alike(*(engine.shadow(session, start, context - 1) for engine in engines))
        hidden, other = (engine.hidden(session) for engine in engines)
        assert worst(hidden, other) <= TOLERANCE
        for one in drafters:
            one.attach(session, PARAMS[session % 2])
            one.extend(session, engines[0].shadow(session, 0, context - 1))
        requests.append(
            DraftRequest(
                session=session, context_len=context, last_token=tokens[-1], lookahead=1 + 2 * session, hidden=hidden
            )
        )
    for batch in (requests, requests[1:2], requests[::-1]):
        expected, got = (one.draft(batch) for one in drafters)
        for right, draft in zip(expected, got, strict=True):
            assert draft.tokens == right.tokens
            assert draft.confidences == pytest.approx(right.confidences, abs=1e-3)
    for engine in engines:
        engine.check_integrity()
