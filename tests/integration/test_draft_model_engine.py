"""The draft model's engine drafts what the library's model would, token by token, whatever shares its cache."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import choose
from deployments.drafter.draft_model_engine import DraftCacheLimits, DraftModelEngine, load_draft_model_engine
from deployments.drafter.engine import Draft
from deployments.drafter.token_engine import ReadRequest, TokenDrafterEngine
from deployments.messages import SamplingParams, Token
from tests.support.equality import NEAR_TIE, Reference, margin
from tests.support.pocket import DRAFT_MODEL, TARGET

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, seed=5)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(DRAFT_MODEL)


def make_engine(**limits: int) -> DraftModelEngine:
    fields = {"max_context_tokens": 400, "num_kv_tokens": 4000, **limits}
    return load_draft_model_engine(TARGET, DRAFT_MODEL, DraftCacheLimits(**fields), dtype=torch.float32)


def some_tokens(length: int, seed: int) -> list[Token]:
    generator = random.Random(seed)
    return [generator.randrange(6, 4000) for _ in range(length)]


def read(session: int, start: int, tokens: Sequence[Token], num_draft_tokens: int) -> ReadRequest:
    return ReadRequest(
        session=session,
        start=start,
        tokens=tuple(tokens),
        num_draft_tokens=num_draft_tokens,
        context_len=start + len(tokens),
    )


def assert_right(reference: Reference, text: Sequence[Token], params: SamplingParams, draft: Draft) -> None:
    """Every drafted token is the model's own choice after those before it, with its probability."""
    logits_TV = reference.logits([*text, *draft.tokens])
    for step, (token, confidence) in enumerate(zip(draft.tokens, draft.confidences, strict=True)):
        position = len(text) + step
        logits_V = logits_TV[position - 1]
        choice = choose(logits_V[None], SamplingRows.build([(params, position)]))
        if token != int(choice.tokens_R):
            assert margin(logits_V, params, position) <= NEAR_TIE
            return
        assert confidence == pytest.approx(float(choice.confidences_R), abs=1e-4)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_it_drafts_what_the_model_would_past_the_window_after_rollbacks_and_in_company(
    reference: Reference, params: SamplingParams
) -> None:
    engine: TokenDrafterEngine = make_engine()
    texts = {session: some_tokens(length, session) for session, length in ((1, 5), (2, 300), (3, 40))}
    for session in texts:
        engine.attach(session, params, 400)
    engine.draft([read(2, 0, texts[2][:100], 0), read(3, 0, texts[3][:39], 0)])
    engine.draft([read(2, 100, texts[2][100:290], 0)])
    requests = [read(1, 0, texts[1], 4), read(2, 290, texts[2][290:], 1), read(3, 39, texts[3][39:], 6)]
    for request, draft in zip(requests, engine.draft(requests), strict=True):
        assert len(draft.tokens) == request.num_draft_tokens
        assert_right(reference, texts[request.session], params, draft)
        texts[request.session] += [*draft.tokens[:2], 77]
    assert engine.computed_len(3) == 45
    again = [
        read(s, len(text) - 1 - (s == 3), text[len(text) - 1 - (s == 3) :], 3) for s, text in texts.items() if s != 2
    ]
    for request, draft in zip(again, engine.draft(again), strict=True):
        assert_right(reference, texts[request.session], params, draft)


def test_the_least_recently_used_cache_gives_way_and_recent_ones_do_not() -> None:
    engine = make_engine(num_kv_tokens=800)
    for session in (1, 2, 3):
        engine.attach(session, GREEDY, 400)
    long = some_tokens(390, 1)
    for session in (1, 2):
        engine.draft([read(session, 0, long, 0)])
    (draft,) = engine.draft([read(3, 0, (7, 8, 9), 2)])
    assert (draft.tokens, engine.computed_len(3)) == ((), 0), "both were used just now"
    for _ in range(40):
        engine.draft([read(2, 390, (5,), 1)])
    (draft,) = engine.draft([read(3, 0, (7, 8, 9), 2)])
    assert len(draft.tokens) == 2
    assert (engine.computed_len(1), engine.num_evicted) == (0, 1)
    assert engine.draft([read(2, 390, (5,), 1)])[0].tokens
    engine.detach(2)
    engine.detach(2)
    engine.check_integrity()


def test_sessions_hold_what_they_have_read_and_who_outgrows_the_cache_comes_back(reference: Reference) -> None:
    engine = make_engine(num_kv_tokens=480)
    texts = {session: some_tokens(30, session) for session in range(10)}
    for session in texts:
        engine.attach(session, SAMPLED, 400)
    drafts = engine.draft([read(session, 0, text, 3) for session, text in texts.items()])
    for text, draft in zip(texts.values(), drafts, strict=True):
        assert len(draft.tokens) == 3
        assert_right(reference, text, SAMPLED, draft)
    # 480 tokens are 30 blocks: everybody has two, ten are left.
    grown = some_tokens(200, 50)
    assert engine.draft([read(0, 30, grown[30:], 1)])[0].tokens == ()
    assert (engine.computed_len(0), engine.num_evicted) == (0, 1), "it alone made way"
    assert engine.draft([read(0, 0, grown[:10], 1)])[0].tokens == (), "there is no room yet for what it had"
    for session in range(1, 10):
        engine.detach(session)
    (draft,) = engine.draft([read(0, 0, grown, 4)])
    assert_right(reference, grown, SAMPLED, draft)
    assert len(draft.tokens) == 4
    engine.check_integrity()


def test_a_session_longer_than_the_model_can_read_gets_no_draft() -> None:
    engine = make_engine(max_context_tokens=32)
    engine.attach(1, GREEDY, 400)
    assert len(engine.draft([read(1, 0, some_tokens(30, 1), 2)])[0].tokens) == 2
    assert engine.draft([read(1, 30, some_tokens(3, 2), 2)])[0].tokens == ()
    engine.check_integrity()
