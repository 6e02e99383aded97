"""Worker: Outrider's verifier and drafter engines in one process, as their deployments build them."""

from __future__ import annotations

from typing import Any

import torch

from deployments.drafter.mtp_engine import load_mtp_engine
from deployments.kernels.library import Kernels
from deployments.models.loading import load_target
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from deployments.verifier.scheduler import StepBudget
from deployments.verifier.service import VerifierSettings
from evaluation.load.engines.pair_loop import PairLoop
from evaluation.load.engines.worker_loop import Answerer, serve
from evaluation.load.engines.worker_options import WorkerOptions, parse_options

SHADOW_BYTES = 1 << 30
BLOCK_SIZE = 16


def load(options: WorkerOptions) -> tuple[Answerer, dict[str, str]]:
    """Build both engines; the kernels get the threads, and torch one: its own would wait against theirs."""
    torch.set_num_threads(1)
    loop = build_loop(options)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        run = loop.run(request["prompts"], request["num_streams"], request["max_tokens"], request["lookahead"])
        return {
            "outputs": run.outputs,
            "wall_s": run.wall_s,
            "step_ms": run.step_ms,
            "num_rounds": run.num_rounds,
            "num_accepted": run.num_accepted,
        }

    return answer, {"torch": torch.__version__}


def build_loop(options: WorkerOptions) -> PairLoop:
    """Engines with room for so many sessions, and the budget of a step that the service uses."""
    settings, pair = VerifierSettings(), options.pair
    kernels, dtype = Kernels(num_threads=options.threads), getattr(torch, options.dtype)
    target = load_target(str(pair / "target"), dtype=dtype, device=options.device)
    limits = CacheLimits(
        max_context_tokens=options.max_context_tokens,
        num_kv_tokens=options.max_streams * (options.max_context_tokens + settings.max_lookahead + BLOCK_SIZE),
        max_sessions=options.max_streams,
        max_lookahead=settings.max_lookahead,
        block_size=BLOCK_SIZE,
    )
    return PairLoop(
        verifier=PagedEngine(target, limits, kernels),
        drafter=load_mtp_engine(
            str(pair / "target"),
            str(pair / "assistant"),
            dtype=dtype,
            shadow_bytes=SHADOW_BYTES,
            device=options.device,
            kernels=kernels,
        ),
        budget=StepBudget(
            max_step_tokens=settings.max_step_tokens,
            max_step_sessions=settings.max_step_sessions,
            prompt_tokens=settings.prompt_tokens,
        ),
        stop_tokens=target.eos_token_ids,
    )


if __name__ == "__main__":
    serve(lambda: load(parse_options()))
