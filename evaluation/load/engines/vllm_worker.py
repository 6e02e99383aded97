"""Worker: vLLM's own engine in one process, in an environment of its own that has nothing else of ours."""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

from evaluation.load.engines.worker_loop import Answerer, serve
from evaluation.load.engines.worker_options import WorkerOptions, parse_options


def load(options: WorkerOptions) -> tuple[Answerer, dict[str, str]]:
    """Build an engine with the lookahead given; it cannot be changed afterwards."""
    import torch
    import vllm

    speculation = {"method": "mtp", "model": str(options.pair / "assistant")}
    llm = vllm.LLM(
        model=str(options.pair / "target"),
        dtype=options.dtype,
        max_model_len=options.max_context_tokens + options.lookahead,
        max_num_seqs=options.max_streams,
        # A prompt is measured more than once: nobody shall answer the second time from memory.
        enable_prefix_caching=False,
        disable_log_stats=False,
        speculative_config={**speculation, "num_speculative_tokens": options.lookahead} if options.lookahead else None,
    )
    return Driver(llm).answer, {"vllm": vllm.__version__, "torch": torch.__version__}


class Driver:
    """Steps the engine under `vllm.LLM` by hand, so that a new prompt begins when one ends."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._num_requests = 0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer every prompt greedily, `num_streams` at a time."""
        engine = self._llm.llm_engine
        waiting = iter(request["prompts"])
        names: list[str] = []
        outputs: dict[str, list[int]] = {}
        step_ms: list[float] = []
        before = self._counts()
        started_s = time.perf_counter()
        while True:
            for prompt in islice(waiting, request["num_streams"] - len(names) + len(outputs)):
                names.append(self._add(prompt, request["max_tokens"]))
            if not engine.has_unfinished_requests():
                break
            step_started_s = time.perf_counter()
            for output in engine.step():
                if output.finished:
                    outputs[output.request_id] = list(output.outputs[0].token_ids)
            step_ms.append((time.perf_counter() - step_started_s) * 1e3)
        wall_s = time.perf_counter() - started_s
        num_rounds, num_accepted = (after - b for after, b in zip(self._counts(), before, strict=True))
        return {
            "outputs": [outputs[name] for name in names],
            "wall_s": wall_s,
            "step_ms": step_ms,
            "num_rounds": num_rounds,
            "num_accepted": num_accepted,
        }

    def _add(self, prompt: list[int], max_tokens: int) -> str:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        self._num_requests += 1
        name = str(self._num_requests)
        parameters = SamplingParams(temperature=0, max_tokens=max_tokens)
        self._llm.llm_engine.add_request(name, TokensPrompt(prompt_token_ids=prompt), parameters)
        return name

    def _counts(self) -> tuple[int, int]:
        """Rounds that verified a proposal, and drafted tokens accepted, since the engine was built."""
        counts = {metric.name: metric.value for metric in self._llm.get_metrics() if hasattr(metric, "value")}
        prefix = "vllm:spec_decode_num_"
        return int(counts.get(f"{prefix}drafts", 0)), int(counts.get(f"{prefix}accepted_tokens", 0))


if __name__ == "__main__":
    serve(lambda: load(parse_options()))
