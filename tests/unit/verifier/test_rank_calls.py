"""An engine's calls survive the way to a rank."""

from __future__ import annotations

import pytest

from deployments.drafter.engine import DrafterEngine, DraftRequest
from deployments.drafter.fake_engine import FakeDrafterEngine
from deployments.drafter.fake_token_engine import FakeTokenEngine
from deployments.drafter.rank_engines import MtpRankEngine, TokenRankEngine
from deployments.drafter.token_engine import ReadRequest, TokenDrafterEngine
from deployments.messages import KvRange, SamplingParams
from deployments.paged.prefix_index import Prefix
from deployments.verifier.engine import VerifierEngine
from deployments.verifier.fake_engine import FakeEngine
from deployments.verifier.rank_calls import TARGET, Held, RankLost, decode_result, encode_call, perform


def test_a_prefix_reaches_the_rank_and_its_length_comes_back() -> None:
    engine = FakeEngine(num_reused=5)
    for session, prefix, length in ((1, Prefix(tokens=tuple(range(9)), salt="a"), 5), (2, None, 0)):
        call = encode_call("open", (session, SamplingParams(seed=3), 100, prefix))
        assert decode_result("open", perform({TARGET: Held(engine, VerifierEngine)}, call)) == length
    first, second = engine.prefixes
    assert first is not None
    assert (list(first.tokens), first.salt) == (list(range(9)), "a")
    assert second is None
    assert engine.computed_len(1) == 5


def over_bytes(name: str, engine: object, protocol: type):
    """Calls as a rank answers them."""
    engines = {TARGET: Held(FakeEngine(), VerifierEngine), name: Held(engine, protocol)}

    def call(method: str, *arguments: object) -> object:
        return decode_result(method, perform(engines, encode_call(method, arguments, name)), protocol)

    return call


def test_a_drafter_of_a_rank_is_used_like_one_that_is_here() -> None:
    engine = FakeDrafterEngine(lambda session, context_len, last, lookahead: tuple(range(lookahead)))
    proxy = MtpRankEngine(over_bytes("mtp", engine, DrafterEngine))
    proxy.attach(1, SamplingParams(seed=5))
    assert proxy.has(1)
    entry = KvRange(layer_type="full_attention", start=0, stop=1, keys=b"", values=b"")
    proxy.extend(1, [entry])
    assert proxy.have_len(1) == engine.have_len(1) == 1
    request = DraftRequest(session=1, context_len=2, last_token=4, lookahead=3, hidden=b"")
    assert proxy.draft([request]) == engine.draft([request])
    proxy.detach(1)
    assert not proxy.has(1)


def test_a_drafter_of_tokens_too() -> None:
    engine = FakeTokenEngine(lambda params, text: (text[-1] + 1) % 50)
    proxy = TokenRankEngine(over_bytes("draft_model", engine, TokenDrafterEngine))
    assert proxy.vocab_size == 50
    proxy.attach(1, SamplingParams(), 100)
    (draft,) = proxy.draft([ReadRequest(session=1, start=0, tokens=(3, 4), num_draft_tokens=2, context_len=2)])
    assert draft.tokens == (5, 6)
    assert proxy.computed_len(1) == 3
    proxy.detach(1)


def test_what_a_drafter_refuses_is_a_value_error_and_what_the_target_does_is_a_loss() -> None:
    class Refusing(FakeDrafterEngine):
        def extend(self, *_: object) -> None:
            raise ValueError("a range leaves a gap")

    call = over_bytes("mtp", Refusing(lambda *_: ()), DrafterEngine)
    with pytest.raises(ValueError, match=r"^a range leaves a gap$"):
        MtpRankEngine(call).extend(1, [])
    with pytest.raises(RankLost, match=r"there is no '__class__'"):
        call("__class__")
    engines = {TARGET: Held(FakeEngine(), VerifierEngine)}
    with pytest.raises(RankLost, match=r"there is no 'draft' of an engine 'mtp' here"):
        decode_result("draft", perform(engines, encode_call("draft", ([],), "mtp")), DrafterEngine)
