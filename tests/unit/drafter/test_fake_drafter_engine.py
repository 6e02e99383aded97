"""The fake drafter drafts what its oracle says, loads no torch, and holds its callers to the contract."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deployments.drafter.engine import DrafterEngine, DraftRequest
from deployments.drafter.fake_engine import FakeDrafterEngine
from deployments.messages import KvRange, SamplingParams


def full(start: int, stop: int) -> KvRange:
    return KvRange(layer_type="full_attention", start=start, stop=stop, keys=b"k" * 4, values=b"v" * 4)


def request(session: int, context_len: int, lookahead: int = 3) -> DraftRequest:
    return DraftRequest(session=session, context_len=context_len, last_token=9, lookahead=lookahead, hidden=b"")


def test_it_drafts_what_the_oracle_says() -> None:
    engine: DrafterEngine = FakeDrafterEngine(lambda session, length, last, k: [session, length, last, k][:k])
    engine.attach(5, SamplingParams())
    engine.extend(5, [full(0, 11)])
    assert engine.have_len(5) == 11
    (draft,) = engine.draft([request(5, 12)])
    assert draft.tokens == (5, 12, 9)
    assert len(draft.confidences) == 3


def test_garbage_is_deterministic() -> None:
    drafts = []
    for _ in range(2):
        engine = FakeDrafterEngine()
        engine.attach(5, SamplingParams())
        engine.extend(5, [full(0, 11)])
        drafts.append(engine.draft([request(5, 12)]))
    assert drafts[0] == drafts[1]


def test_it_refuses_gaps_rolls_back_and_evicts() -> None:
    engine = FakeDrafterEngine(max_shadow_len=25)
    engine.attach(1, SamplingParams())
    engine.extend(1, [full(0, 10)])
    with pytest.raises(ValueError, match="leaves a gap after 10 entries"):
        engine.extend(1, [full(11, 12)])
    engine.extend(1, [full(4, 8)])
    assert engine.have_len(1) == 8
    engine.attach(2, SamplingParams())
    engine.extend(2, [full(0, 20)])
    assert not engine.has(1)
    assert engine.draft([request(1, 9), request(2, 21)])[0].tokens == ()
    engine.detach(1)
    engine.detach(1)
    assert (engine.num_attached, engine.num_detached) == (2, 1)


def test_it_asserts_the_contract() -> None:
    engine = FakeDrafterEngine()
    with pytest.raises(AssertionError):
        engine.extend(1, [full(0, 1)])
    engine.attach(1, SamplingParams())
    engine.extend(1, [full(0, 10)])
    with pytest.raises(AssertionError, match="not at this context"):
        engine.draft([request(1, 10)])
    with pytest.raises(AssertionError, match="no tokens"):
        engine.draft([request(1, 11, lookahead=0)])


def test_it_loads_neither_torch_nor_ray() -> None:
    code = "import sys, deployments.drafter.fake_engine; assert not {'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
