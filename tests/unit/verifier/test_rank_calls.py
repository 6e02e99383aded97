"""An engine's calls survive the way to a rank."""

from __future__ import annotations

from deployments.messages import SamplingParams
from deployments.paged.prefix_index import Prefix
from deployments.verifier.fake_engine import FakeEngine
from deployments.verifier.rank_calls import decode_result, encode_call, encode_result, perform


def test_a_prefix_reaches_the_rank_and_its_length_comes_back() -> None:
    engine = FakeEngine(num_reused=5)
    for session, prefix, length in ((1, Prefix(tokens=tuple(range(9)), salt="a"), 5), (2, None, 0)):
        call = encode_call("open", (session, SamplingParams(seed=3), 100, prefix))
        assert decode_result("open", encode_result(perform(engine, call))) == length
    first, second = engine.prefixes
    assert first is not None
    assert (list(first.tokens), first.salt) == (list(range(9)), "a")
    assert second is None
    assert engine.computed_len(1) == 5
