"""The fused layers, interpreted, against the library's own in every shape of Gemma 4."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from deployments.messages import SamplingParams
from deployments.models.loading import load_target
from deployments.paged.cuda_forward import CudaForward
from deployments.paged.forward import Output, PagedForward
from deployments.paged.kv_cache import BlockTables, KvPools
from deployments.paged.model_runner import ModelRunner
from deployments.verifier import paged_engine
from deployments.verifier.engine import Chunk
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from tests.support.shapes import GEMMA_4, VOCAB_SIZE, save_pair

LIMITS = CacheLimits(max_context_tokens=120, num_kv_tokens=600, max_sessions=4, max_lookahead=8, max_step_tokens=64)


def engine_with(
    monkeypatch: pytest.MonkeyPatch, folder: Path, forward_class: type[CudaForward] | type[ModelRunner]
) -> PagedEngine:
    def build(model: torch.nn.Module, tables: BlockTables, pools: KvPools) -> PagedForward:
        if forward_class is CudaForward:
            return CudaForward(model, tables, pools, captures=False)
        return ModelRunner(model, tables, pools)

    monkeypatch.setattr(
        paged_engine, "build_forward", lambda target, tables, pools, _: build(target.model, tables, pools)
    )
    return PagedEngine(load_target(str(folder), dtype=torch.float32, device="cpu"), LIMITS)


def recorded(engine: PagedEngine, monkeypatch: pytest.MonkeyPatch) -> list[Output]:
    """What every forward pass returns from here on."""
    outputs: list[Output] = []
    forward = engine._forward.forward

    def record(chunks: list[Chunk]) -> Output:
        outputs.append(forward(chunks))
        return outputs[-1]

    monkeypatch.setattr(engine._forward, "forward", record)
    return outputs


def drive(engine: PagedEngine) -> None:
    """Prompts in one piece and in two, one of them past the window, and a rollback."""
    rng = random.Random(1)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(6, VOCAB_SIZE) for _ in range(count))

    for session in range(3):
        engine.open(session, SamplingParams(), 110)
    engine.shadow(0, 0, 0)  # from the first question on, a step's entries are copied together
    engine.step(
        [Chunk(session=0, start=0, tokens=tokens(5)), Chunk(session=1, start=0, tokens=tokens(11), is_partial=True)]
    )
    engine.step(
        [Chunk(session=1, start=11, tokens=tokens(10), scored=(7, 8)), Chunk(session=2, start=0, tokens=tokens(3))]
    )
    engine.rollback(1, 18)
    engine.step(
        [
            Chunk(session=0, start=5, tokens=tokens(1)),
            Chunk(session=1, start=18, tokens=tokens(4)),
            Chunk(session=2, start=3, tokens=tokens(2)),
        ]
    )
    engine.check_integrity()


@pytest.mark.system  # interpreted, it takes ten seconds a shape
@pytest.mark.parametrize("name", GEMMA_4)
def test_fused_layers_compute_what_the_librarys_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_pair(tmp_path, GEMMA_4[name])
    found, shadows = [], []
    for forward_class in (ModelRunner, CudaForward):
        engine = engine_with(monkeypatch, folder, forward_class)
        engine._is_on_device = forward_class is CudaForward
        found.append(recorded(engine, monkeypatch))
        drive(engine)
        parts = [*engine.shadow(1, 0, 22), *engine.shadow(1, 18, 22), *engine.shadow(2, 3, 5)]
        shadows.append([part.keys + part.values for part in parts] + [engine.hidden(0), engine.hidden(1)])
    for expected, output in zip(*found, strict=True):
        for part in ("logits_RV", "hidden_RH", "partial_hidden_CH", "scored_RV"):
            torch.testing.assert_close(getattr(output, part), getattr(expected, part), atol=2e-4, rtol=2e-4)
    for expected_bytes, found_bytes in zip(*shadows, strict=True):
        torch.testing.assert_close(
            torch.frombuffer(bytearray(found_bytes), dtype=torch.float32),
            torch.frombuffer(bytearray(expected_bytes), dtype=torch.float32),
            atol=2e-4,
            rtol=2e-4,
        )
