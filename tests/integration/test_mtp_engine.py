"""The MTP engine proposes exactly what the library's modules propose, one step and one session at a time."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.decoding.drawing import Drawer
from deployments.drafter import mtp_engine
from deployments.drafter.compiled_forward import CompiledForward
from deployments.drafter.engine import DrafterEngine, DraftRequest
from deployments.drafter.lean_forward import LeanForward
from deployments.drafter.library_forward import LibraryForward
from deployments.drafter.mtp_engine import MtpEngine, build_mtp_engine
from deployments.kernels.library import Kernels
from deployments.messages import SamplingParams
from tests.support.choosers import ARCHITECTURES
from tests.support.tiny_drafters import TinyPair, draft_request, kv_ranges, reference_draft, tiny_pair

GREEDY = SamplingParams()
CENTROIDS: dict[str, Any] = {
    "target": {"vocab_size": 96},
    "vocab_size": 96,
    "assistant": {"use_ordered_embeddings": True, "num_centroids": 16, "centroid_intermediate_top_k": 3},
    "final_logit_softcapping": 4.0,
}
SHAREDKV: dict[str, Any] = {"target": {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8}}
KEQV: dict[str, Any] = {
    "target": {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
}
WIDE: dict[str, Any] = {"head_dim": 16, "global_head_dim": 32}
# Stepwise: as for sessions with penalties, whose logits are adjusted between two steps.
# The older architectures: kernels that are compiled for processors without AVX-512.
KINDS = {
    "compiled": CompiledForward,
    **dict.fromkeys(ARCHITECTURES[1:], CompiledForward),
    "stepwise": CompiledForward,
    "lean": LeanForward,
    "library": LibraryForward,
}


def wide_pair(shape: dict[str, Any]) -> TinyPair:
    """A pair whose sizes are multiples of 16, as the compiled kernels need them."""
    sizes = WIDE | {"hidden_size": 32, "intermediate_size": 48}
    return tiny_pair(**(sizes | shape | {"target": WIDE | shape.get("target", {})}))


def sampled(seed: int) -> SamplingParams:
    return SamplingParams(temperature=0.9, top_p=0.95, seed=seed)


def some_tokens(length: int, seed: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(3, 90) for _ in range(length)]


def make_engine(pair: TinyPair, *, kind: str = "compiled", shadow_bytes: int = 1 << 22) -> MtpEngine:
    if kind == "library":
        return MtpEngine(LibraryForward(pair.assistant, pair.embedding), pair.spec, shadow_bytes=shadow_bytes)
    architecture = kind if kind in ARCHITECTURES else "native"
    kernels = Kernels(compiled=kind != "lean", num_threads=2, architecture=architecture)
    engine = build_mtp_engine(pair.assistant, pair.embedding, pair.spec, shadow_bytes=shadow_bytes, kernels=kernels)
    if kind == "stepwise":
        drawer = Drawer()
        engine.draw = lambda logits_RV, rows, salts: drawer(logits_RV, rows, salts)
    return engine


def open_session(engine: DrafterEngine, pair: TinyPair, session: int, tokens: Sequence[int], p: SamplingParams) -> None:
    engine.attach(session, p)
    engine.extend(session, kv_ranges(pair, tokens, 0, len(tokens) - 1))


def assert_drafts(
    engine: DrafterEngine, pair: TinyPair, wanted: Sequence[tuple[int, list[int], int, SamplingParams]]
) -> None:
    """Each (session, known tokens, lookahead, parameters) gets the reference's tokens and confidences."""
    drafts = engine.draft([draft_request(pair, session, tokens, k) for session, tokens, k, _ in wanted])
    for draft, (session, tokens, lookahead, params) in zip(drafts, wanted, strict=True):
        expected, confidences = reference_draft(pair, tokens, lookahead, params)
        assert draft.session == session
        assert list(draft.tokens) == expected
        assert draft.confidences == pytest.approx(confidences, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("params", [GREEDY, sampled(3)])
@pytest.mark.parametrize("shape", [{}, CENTROIDS, SHAREDKV, KEQV])
def test_single_sessions_of_any_length(shape: dict[str, Any], params: SamplingParams, kind: str) -> None:
    pair = wide_pair(shape)
    engine = make_engine(pair, kind=kind)
    # A centroid head is not one for the kernels.
    assert type(engine._forward) is KINDS["lean" if shape is CENTROIDS and kind != "library" else kind]
    assert pair.spec.sliding_window == 12
    for length in (2, 3, 12, 13, 14, 40):
        tokens = some_tokens(length, length)
        open_session(engine, pair, 1, tokens, params)
        assert_drafts(engine, pair, [(1, tokens, 5, params)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_stacked_bytes", [0, 1 << 30])
def test_a_ragged_batch(kind: str, max_stacked_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtp_engine, "_MAX_STACKED_BYTES", max_stacked_bytes)
    pair = wide_pair({})
    engine = make_engine(pair, kind=kind)
    wanted = []
    for session, (length, lookahead) in enumerate([(2, 4), (9, 1), (30, 6), (14, 3), (13, 6), (21, 2)]):
        params = sampled(session) if session % 2 else GREEDY
        tokens = some_tokens(length, session)
        open_session(engine, pair, session, tokens, params)
        wanted.append((session, tokens, lookahead, params))
    assert_drafts(engine, pair, wanted)
    assert_drafts(engine, pair, wanted[2:3])
    assert_drafts(engine, pair, wanted[::-1])


def test_rounds_that_extend_step_by_step_past_the_window() -> None:
    pair = wide_pair({})
    engine = make_engine(pair)
    params, tokens = sampled(8), some_tokens(60, 1)
    engine.attach(1, params)
    have = 0
    for length in (5, 6, 9, 15, 16, 20, 33, 34, 60):
        engine.extend(1, kv_ranges(pair, tokens, have, length - 1))
        have = length - 1
        assert engine.have_len(1) == have
        assert_drafts(engine, pair, [(1, tokens[:length], 4, params)])


def test_after_a_rollback_the_new_continuation_counts() -> None:
    pair = wide_pair({})
    engine = make_engine(pair)
    old = some_tokens(30, 2)
    new = old[:22] + some_tokens(5, 77)
    engine.attach(1, GREEDY)
    for stop in range(1, 30):
        engine.extend(1, kv_ranges(pair, old, stop - 1, stop))
    engine.extend(1, kv_ranges(pair, new, 22, 26))
    assert engine.have_len(1) == 26
    assert_drafts(engine, pair, [(1, new, 5, GREEDY)])


def test_bfloat16_agrees_with_the_library_on_most_tokens() -> None:
    pair = tiny_pair(dtype=torch.bfloat16)
    engine = make_engine(pair)
    num_equal = 0
    for seed in range(10):
        tokens = some_tokens(20, seed)
        open_session(engine, pair, seed, tokens, GREEDY)
        (draft,) = engine.draft([draft_request(pair, seed, tokens, 1)])
        num_equal += list(draft.tokens) == reference_draft(pair, tokens, 1, GREEDY)[0]
    assert num_equal >= 8


def test_eviction_costs_a_draft_and_heals() -> None:
    pair = tiny_pair()
    alone = make_engine(pair)
    tokens = some_tokens(40, 5)
    open_session(alone, pair, 1, tokens, GREEDY)
    engine = make_engine(pair, shadow_bytes=2 * alone.shadow_bytes)
    for session in (1, 2, 3):
        open_session(engine, pair, session, tokens, GREEDY)
    assert (engine.has(1), engine.have_len(1)) == (False, 0)
    drafts = engine.draft([draft_request(pair, session, tokens, 2) for session in (1, 2, 3)])
    assert [len(draft.tokens) for draft in drafts] == [0, 2, 2]
    engine.extend(1, kv_ranges(pair, tokens, 0, 39))
    assert engine.has(1)
    assert not engine.has(2)
    assert_drafts(engine, pair, [(1, tokens, 2, GREEDY), (3, tokens, 2, GREEDY)])


def test_a_malformed_request_gets_no_draft_and_spoils_no_other() -> None:
    pair = tiny_pair()
    engine = make_engine(pair)
    tokens = some_tokens(10, 1)
    open_session(engine, pair, 1, tokens, GREEDY)
    good = draft_request(pair, 1, tokens, 2)

    def changed(**fields: Any) -> DraftRequest:
        named = {name: getattr(good, name) for name in ("session", "context_len", "last_token", "lookahead", "hidden")}
        return DraftRequest(**{**named, **fields})

    bad = [
        changed(hidden=good.hidden[:-1]),
        changed(last_token=97),
        changed(last_token=-1),
        changed(context_len=12),
        changed(session=9),
        changed(lookahead=0),
    ]
    drafts = engine.draft([bad[0], good, *bad[1:]])
    assert [len(draft.tokens) for draft in drafts] == [0, 2, 0, 0, 0, 0, 0]
    assert engine.draft([bad[0]])[0].tokens == ()
    assert engine.draft([]) == []


def test_attach_starts_over_and_detach_is_idempotent() -> None:
    pair = tiny_pair()
    engine = make_engine(pair)
    open_session(engine, pair, 1, some_tokens(10, 1), GREEDY)
    engine.attach(1, sampled(1))
    assert (engine.has(1), engine.have_len(1), engine.shadow_bytes) == (True, 0, 0)
    engine.detach(1)
    engine.detach(1)
    assert not engine.has(1)


def test_an_assistant_of_another_target_is_refused() -> None:
    pair = tiny_pair()
    for other, reason in (
        (tiny_pair(target={"hidden_size": 40}), "backbone hidden size is 40, the target needs 32"),
        (tiny_pair(vocab_size=96), "vocabulary size is 96, the target needs 97"),
        (tiny_pair(head_dim=4), r"layer 0 \(kv heads, head dim\) is \(2, 4\), the target needs \(2, 8\)"),
    ):
        with pytest.raises(ValueError, match=reason):
            build_mtp_engine(other.assistant, pair.embedding, pair.spec, shadow_bytes=1)


HELD_BYTES = """
import gc, sys, torch
from deployments.drafter.mtp_engine import load_mtp_engine
target, assistant = sys.argv[1:]
engine = load_mtp_engine(target, assistant, dtype=torch.float32, shadow_bytes=1 << 20)
gc.collect()
tensors = [o for o in gc.get_objects() if isinstance(o, torch.Tensor)]
storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
print(sum(storages.values()))
"""


def test_a_drafter_process_holds_nothing_of_the_target_but_its_embedding(tmp_path: Path) -> None:
    pair = tiny_pair(target={"intermediate_size": 4096})
    pair.target.save_pretrained(tmp_path / "target")
    pair.assistant.save_pretrained(tmp_path / "assistant")
    assistant_bytes = sum(parameter.nbytes for parameter in pair.assistant.parameters())
    target_bytes = sum(parameter.nbytes for parameter in pair.target.parameters())
    allowed = pair.embedding.weight_VH.nbytes + 2 * assistant_bytes
    assert target_bytes > 20 * allowed
    command = [sys.executable, "-W", "ignore", "-c", HELD_BYTES, str(tmp_path / "target"), str(tmp_path / "assistant")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert assistant_bytes / 2 < int(printed) < allowed
