"""The pocket pair on an accelerator writes what it writes on a CPU, drafted for or not, alone or in company."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from tokenizers import Tokenizer

from deployments.drafter.mtp_engine import load_mtp_engine
from deployments.messages import SamplingParams, Token
from deployments.models.loading import load_target
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from deployments.verifier.scheduler import StepBudget
from evaluation.load.engines.exact_prompts import exact_prompts
from evaluation.load.engines.pair_loop import PairLoop
from tests.support.equality import POCKET, Reference, Tally

pytestmark = pytest.mark.gpu

NUM_TOKENS = 32


@cache
def prompts() -> list[list[Token]]:
    """Held-out prompts, one of them past the sliding window of 256."""
    tokenizer = Tokenizer.from_file(str(POCKET / "target" / "tokenizer.json"))

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    tasks = (("structured", 64), ("code", 64), ("prose", 64), ("prose", 400))
    return [exact_prompts(task, length, 1, 3, encode)[0] for task, length in tasks]  # type: ignore[arg-type]


def loop(device: str) -> PairLoop:
    """Both engines on one device."""
    target = load_target(str(POCKET / "target"), dtype=torch.float32, device=device)
    return PairLoop(
        verifier=PagedEngine(target, CacheLimits(max_context_tokens=1024, num_kv_tokens=8192)),
        drafter=load_mtp_engine(
            str(POCKET / "target"),
            str(POCKET / "assistant"),
            dtype=torch.float32,
            shadow_bytes=1 << 28,
            device=device,
        ),
        budget=StepBudget(max_step_tokens=256, max_step_sessions=16, prompt_tokens=128),
        stop_tokens=target.eos_token_ids,
    )


def check(expected: Sequence[Sequence[Token]], got: Sequence[Sequence[Token]], reference: Reference) -> None:
    tally = Tally(reference)
    for prompt, right, output in zip(prompts(), expected, got, strict=True):
        tally.check(prompt, SamplingParams(), right, output)
    tally.close()


def test_the_text_is_the_cpus_with_and_without_speculation(device: str) -> None:
    reference = Reference(POCKET / "target", device)
    expected = loop("cpu").run(prompts(), 1, NUM_TOKENS, 0)
    accelerated = loop(device)
    for num_streams in (1, 4):
        for lookahead in (0, 4):
            run = accelerated.run(prompts(), num_streams, NUM_TOKENS, lookahead)
            check(expected.outputs, run.outputs, reference)
            if lookahead:
                assert run.acceptance_length is not None
                assert run.acceptance_length > 2
