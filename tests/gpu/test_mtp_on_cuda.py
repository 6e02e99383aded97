"""Drafts on a GPU, from captured graphs, are those of the library's layers on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from deployments.drafter.library_forward import LibraryForward
from deployments.drafter.mtp_engine import MtpEngine, build_mtp_engine
from deployments.messages import SamplingParams
from deployments.models.loading import EmbeddingTable
from tests.support.draft_drill import ADJUSTED, GREEDY, KINDS, Drill, Rounds, assert_same_drafts
from tests.support.early_stops import assert_ends_as_expected
from tests.support.tiny_drafters import TinyPair, tiny_pair

pytestmark = pytest.mark.gpu

SHADOW_BYTES = 1 << 26
SHAREDKV: dict[str, Any] = {
    "target": {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
}
CENTROIDS: dict[str, Any] = {
    "target": {"vocab_size": 96},
    "vocab_size": 96,
    "assistant": {"use_ordered_embeddings": True, "num_centroids": 16, "centroid_intermediate_top_k": 3},
    "final_logit_softcapping": 4.0,
}


def of_head_dims(sliding: int, full: int) -> dict[str, Any]:
    dims = {"head_dim": sliding, "global_head_dim": full}
    return {**dims, "target": dims}


SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "fewer kv heads in full layers": SHAREDKV,
    "centroid head with softcap": CENTROIDS,
    "biased attention, other activation": {"attention_bias": True, "hidden_activation": "silu"},
    "heads of 64 and 128": of_head_dims(64, 128),
    "heads of 256 and 512": of_head_dims(256, 512),
}


def on_cuda(pair: TinyPair) -> MtpEngine:
    """As it is served: on captured graphs."""
    table = pair.embedding
    engine = build_mtp_engine(
        copy.deepcopy(pair.assistant).to("cuda"),
        EmbeddingTable(weight_VH=table.weight_VH.to("cuda"), scale=table.scale),
        pair.spec,
        shadow_bytes=SHADOW_BYTES,
        device="cuda",
    )
    assert type(engine._forward).__name__ == "GraphedForward"
    return engine


def reference(pair: TinyPair) -> MtpEngine:
    return MtpEngine(LibraryForward(pair.assistant, pair.embedding), pair.spec, shadow_bytes=SHADOW_BYTES)


@pytest.mark.parametrize("shape", SHAPES)
def test_graphs_draft_what_the_library_drafts(shape: str) -> None:
    pair = tiny_pair(**SHAPES[shape])
    engines = [on_cuda(pair), reference(pair)]
    for params in (KINDS[:1], KINDS[1:2], KINDS[:3], KINDS):
        assert_same_drafts(pair, engines, params)


@pytest.mark.parametrize("params", [[*KINDS, ADJUSTED], [GREEDY] * 67])
def test_sessions_with_penalties_and_more_sessions_than_a_graph_takes(params: Sequence[SamplingParams]) -> None:
    pair = tiny_pair(seed=1)
    assert_same_drafts(pair, [on_cuda(pair), reference(pair)], params, Rounds(number=3))


@pytest.mark.parametrize("params", [[GREEDY] * 5, KINDS, [*KINDS[:4], ADJUSTED]])
def test_drafts_that_may_end_early_end_as_the_plain_account_has_it(params: Sequence[SamplingParams]) -> None:
    pair = tiny_pair()
    assert_ends_as_expected(pair, [on_cuda(pair), reference(pair)], params)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees_on_most_tokens(dtype: torch.dtype) -> None:
    # The target's own bytes are of its dtype: both engines read the same.
    pair = tiny_pair(dtype=dtype, **of_head_dims(256, 512))
    first_tokens = [
        (one.tokens[0], other.tokens[0])
        for found, expected in Drill(pair, [on_cuda(pair), reference(pair)], [GREEDY] * 8, Rounds()).rounds()
        for one, other in zip(found, expected, strict=True)
    ]
    assert sum(one == other for one, other in first_tokens) >= 0.8 * len(first_tokens)


def test_captured_calls_wait_for_nothing_but_their_tokens() -> None:
    pair = tiny_pair()
    engine = on_cuda(pair)
    drill = Drill(pair, [engine], [GREEDY] * 3, Rounds(number=1))
    drill.rounds()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode():
            hidden_BH = torch.zeros(3, pair.spec.hidden_size)
            memory = {
                kind: [engine._shadows.get(s).window_memory(kind, 2) for s in range(3)]  # type: ignore[union-attr]
                for kind in pair.spec.layers
            }
            steps = engine._forward.start(hidden_BH, [5, 6, 7], [2, 2, 2], memory)  # type: ignore[call-arg, arg-type]
            drawn = steps.draw([4, 4, 2], [None] * 3, [GREEDY] * 3, [3, 3, 3])  # type: ignore[attr-defined]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    tokens_KB, confidences_KB = drawn.tokens_KB.tolist(), drawn.confidences_KB.tolist()
    assert list(drawn.lengths) == [4, 4, 2]
    assert all(0 <= token < 97 for tokens in tokens_KB for token in tokens)
    assert all(confidence > 0 for confidences in confidences_KB[:2] for confidence in confidences)
