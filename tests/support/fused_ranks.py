"""A target in shares on ranks of this machine, fused and as the library has it; run in each rank's process."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed

from deployments.kernels.library import Kernels
from deployments.messages import SamplingParams
from deployments.models.loading import Target, load_target
from deployments.paged.cuda_forward import CudaForward
from deployments.paged.forward import Output, PagedForward
from deployments.paged.kv_cache import BlockTables, KvPools
from deployments.verifier import paged_engine
from deployments.verifier.engine import Chunk
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from tests.support.shapes import VOCAB_SIZE

LIMITS = CacheLimits(max_context_tokens=64, num_kv_tokens=200, max_sessions=2, max_lookahead=8, max_step_tokens=64)
Build = Callable[[Target, BlockTables, KvPools, Kernels], PagedForward]


def compare(rank: int, num_ranks: int, folder: str, meeting: str, result: str) -> None:
    """Write the largest difference of logits between the two ways, on this rank."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num_ranks), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=num_ranks)
    of_library, fused = (_logits(folder, num_ranks, build) for build in (paged_engine.build_forward, _fused))
    worst = max(float((ours - theirs).abs().max()) for ours, theirs in zip(fused, of_library, strict=True))
    Path(f"{result}-{rank}").write_text(str(worst))
    torch.distributed.barrier()


def _fused(target: Target, tables: BlockTables, pools: KvPools, kernels: Kernels) -> PagedForward:
    return CudaForward(target.model, tables, pools, num_ranks=target.num_ranks, captures=False)


def _logits(folder: str, num_ranks: int, build: Build) -> list[torch.Tensor]:
    """What two sessions' steps compute."""
    original, paged_engine.build_forward = paged_engine.build_forward, build
    try:
        engine = PagedEngine(load_target(folder, dtype=torch.float32, device="cpu", num_ranks=num_ranks), LIMITS)
    finally:
        paged_engine.build_forward = original
    outputs: list[Output] = []
    forward = engine._forward.forward

    def record(chunks: Sequence[Chunk]) -> Output:
        outputs.append(forward(chunks))
        return outputs[-1]

    engine._forward.forward = record  # type: ignore[method-assign]
    rng = random.Random(1)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(6, VOCAB_SIZE) for _ in range(count))

    for session in range(2):
        engine.open(session, SamplingParams(), 60)
    engine.step([Chunk(session=0, start=0, tokens=tokens(5)), Chunk(session=1, start=0, tokens=tokens(14))])
    engine.step([Chunk(session=0, start=5, tokens=tokens(2)), Chunk(session=1, start=14, tokens=tokens(3))])
    return [output.logits_RV for output in outputs]
