"""What a GPU captures, run uncaptured in Triton's interpreter, drafts what the library's layers draft."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deployments.drafter.graphed_forward import GraphedForward, can_run_graphed
from deployments.drafter.library_forward import LibraryForward
from deployments.drafter.mtp_engine import MtpEngine
from tests.support.draft_drill import ADJUSTED, GREEDY, KINDS, Rounds, assert_same_drafts
from tests.support.early_stops import assert_beginnings, ending_after, open_batch, with_stops
from tests.support.tiny_drafters import TinyPair, draft_request, kv_ranges, tiny_pair

SIZES = (1, 2, 4)
QUICK = Rounds(number=2, lookaheads=(1, 3))
CENTROIDS: dict[str, Any] = {
    "target": {"vocab_size": 96},
    "vocab_size": 96,
    "assistant": {"use_ordered_embeddings": True, "num_centroids": 16, "centroid_intermediate_top_k": 3},
    "final_logit_softcapping": 4.0,
}
SHAPES: dict[str, dict[str, Any]] = {
    "mixed head dimensions": {},
    "centroid head with softcap": CENTROIDS,
    "biased attention": {"attention_bias": True},
    "other activation": {"hidden_activation": "silu"},
    "fewer kv heads in full layers": {
        "target": {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
    },
    "full layer first": {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
}


def make_engines(pair: TinyPair) -> list[MtpEngine]:
    """One on the operations of the graphs, one on the library's layers."""
    graphed = GraphedForward(pair.assistant, pair.embedding, sizes=SIZES, capture=False)
    library = LibraryForward(pair.assistant, pair.embedding)
    return [MtpEngine(forward, pair.spec, shadow_bytes=1 << 22) for forward in (graphed, library)]


@pytest.mark.parametrize("shape", SHAPES)
def test_drafts_equal_the_library_s(shape: str) -> None:
    pair = tiny_pair(**SHAPES[shape])
    assert_same_drafts(pair, make_engines(pair), KINDS[:2], QUICK)


@pytest.mark.parametrize("params", [KINDS[:1], KINDS, [*KINDS[:2], ADJUSTED]])
def test_batches_of_every_size_and_kind(params: Any) -> None:
    pair = tiny_pair(seed=1)
    assert_same_drafts(pair, make_engines(pair), params, QUICK)


def test_rows_that_end_early_change_nothing_for_those_beside_them() -> None:
    pair = tiny_pair(seed=1)
    engine, _ = make_engines(pair)
    contexts = [list(range(3 + row, 9 + 6 * row)) for row in range(4)]
    requests = open_batch([engine], pair, contexts, (5, 5, 4, 4), KINDS[:4])
    whole, lengths = engine.draft(requests), (5, 1, 3, 4)
    stops = [ending_after(length, draft.confidences) for length, draft in zip(lengths, whole, strict=True)]
    assert_beginnings(engine.draft(with_stops(requests, stops)), whole, lengths)


def test_what_an_earlier_call_pointed_to_is_not_read() -> None:
    pair = tiny_pair()
    engine, _ = make_engines(pair)
    tokens = list(range(3, 20))
    for session in range(3):
        engine.attach(session, GREEDY)
        engine.extend(session, kv_ranges(pair, tokens, 0, len(tokens) - 1))
    requests = [draft_request(pair, session, tokens, 3) for session in range(3)]
    expected = engine.draft(requests)
    forward = engine._forward
    assert isinstance(forward, GraphedForward)
    for session in (1, 2):
        engine.detach(session)
    assert engine.draft(requests[:1])[0].tokens == expected[0].tokens
    # One session on the pass for one, three on that for four, whose last row has no entries.
    for places_4R in forward._space.places.values():
        assert places_4R[3].count_nonzero() == 1
        assert torch.equal(places_4R[:, 1:], torch.zeros_like(places_4R[:, 1:]))


def test_angles_that_depend_on_the_context_are_left_to_others() -> None:
    pair = tiny_pair()
    assert can_run_graphed(pair.assistant)
    pair.assistant.config.get_text_config().rope_parameters["full_attention"]["rope_type"] = "dynamic"
    assert not can_run_graphed(pair.assistant)
