"""Worker: transformers' `generate`, alone and assisted, and its continuous batching, on one loaded target.

Shapes: B prompts, S prompt tokens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig

from evaluation.load.engines.records import HF_ASSISTED, HF_CONTINUOUS
from evaluation.load.engines.worker_loop import Answerer, serve
from evaluation.load.engines.worker_options import WorkerOptions, parse_options
from evaluation.load.hf_generate import ForwardCounter, end_tokens, generate, load_assistant, load_model

PAGE_SIZE = 256
RESULT_TIMEOUT_S = 300.0


def load(options: WorkerOptions) -> tuple[Answerer, dict[str, str]]:
    """Load target and assistant; which of the three systems answers is said with each request."""
    torch.set_num_threads(options.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return Peer(options).answer, {"transformers": transformers.__version__, "torch": torch.__version__}


class Peer:
    """One target, driven in three manners."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        where = {"device": options.device, "dtype": getattr(torch, options.dtype)}
        self._model = load_model(options.pair / "target", **where)
        self._assistant = load_assistant(options.pair / "assistant", 1, **where)
        self._counter = ForwardCounter(self._model)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer every prompt greedily, `num_streams` at a time."""
        manner: Callable[..., tuple[list[list[int]], float]]
        manner = self._continuous if request["system"] == HF_CONTINUOUS else self._generate
        is_assisted = request["system"] == HF_ASSISTED
        self._counter.starts_s.clear()
        outputs, wall_s = manner(request, is_assisted)
        starts = self._counter.starts_s
        # The first forward pass of an answer is its prefill: it yields a token and verifies nothing.
        num_rounds = len(starts) - len(outputs) if is_assisted else 0
        return {
            "outputs": outputs,
            "wall_s": wall_s,
            "step_ms": [(b - a) * 1e3 for a, b in pairwise(starts)],
            "num_rounds": num_rounds,
            "num_accepted": sum(map(len, outputs)) - len(outputs) - num_rounds if is_assisted else 0,
        }

    def _generate(self, request: dict[str, Any], is_assisted: bool) -> tuple[list[list[int]], float]:
        """Batches of prompts of one length, one batch after another."""
        self._assistant.generation_config.num_assistant_tokens = request["lookahead"]
        assistant = self._assistant if is_assisted else None
        prompts, size = request["prompts"], request["num_streams"]
        outputs: list[list[int]] = []
        started_s = time.perf_counter()
        for start in range(0, len(prompts), size):
            ids_BS = torch.tensor(prompts[start : start + size], device=self._options.device)
            outputs += generate(self._model, ids_BS, torch.ones_like(ids_BS), request["max_tokens"], assistant)
        return outputs, time.perf_counter() - started_s

    def _continuous(self, request: dict[str, Any], _is_assisted: bool) -> tuple[list[list[int]], float]:
        """A manager of its own for each run, started before the clock: idle, its thread would poll."""
        prompts, max_tokens = request["prompts"], request["max_tokens"]
        pages = -(-self._options.max_context_tokens // PAGE_SIZE) + 1
        batching = ContinuousBatchingConfig(
            page_size=PAGE_SIZE,
            num_blocks=pages * request["num_streams"],
            max_batch_tokens=max(512, request["num_streams"]),
            max_requests_per_batch=request["num_streams"],
            allow_block_sharing=False,
            use_cuda_graph=False,
        )
        generation = GenerationConfig(
            do_sample=False, max_new_tokens=max_tokens, eos_token_id=list(end_tokens(self._model)), pad_token_id=0
        )
        with (
            torch.inference_mode(),
            self._model.continuous_batching_context_manager(
                generation_config=generation, continuous_batching_config=batching
            ) as manager,
        ):
            while manager.batch_processor is None and manager.is_running():
                time.sleep(0.001)
            self._counter.starts_s.clear()
            started_s = time.perf_counter()
            outputs = self._collect(manager, prompts, max_tokens)
            return outputs, time.perf_counter() - started_s

    def _collect(self, manager: Any, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
        names = manager.add_requests(inputs=prompts, max_new_tokens=max_tokens)
        outputs: dict[str, list[int]] = {}
        while len(outputs) < len(prompts):
            result = manager.get_result(timeout=RESULT_TIMEOUT_S)
            if result is None:
                raise RuntimeError(f"continuous batching gave no result within {RESULT_TIMEOUT_S:.0f} s")
            if result.error is not None:
                raise RuntimeError(f"continuous batching failed: {result.error}")
            if result.is_finished():
                outputs[result.request_id] = list(result.generated_tokens)
        return [outputs[name] for name in names]


if __name__ == "__main__":
    serve(lambda: load(parse_options()))
