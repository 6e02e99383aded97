"""Engines of the embedded pocket pair, and prompts that timing cannot tip over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from deployments.drafter.draft_model_engine import DraftCacheLimits, DraftModelEngine, load_draft_model_engine
from deployments.drafter.mtp_engine import MtpEngine, build_mtp_engine
from deployments.grammars import Grammars
from deployments.ingress.generation import GenerateRequest
from deployments.messages import SamplingParams, Token
from deployments.models.loading import load_assistant, load_config, load_embedding_table, load_target, shadow_spec
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from evaluation.pocket.prompts import held_out
from tests.support.equality import POCKET, SAFE_MARGIN, Reference
from tests.support.rig import Rig

TARGET = str(POCKET / "target")
ASSISTANT = str(POCKET / "assistant")
DRAFT_MODEL = str(POCKET / "draft_model")
TASKS = ("structured", "code", "prose", "summary")


def verifier_engine(*, num_kv_tokens: int = 16384, max_context_tokens: int = 1024) -> PagedEngine:
    """A verifier engine as the deployment makes it, with a small cache."""
    target = load_target(TARGET, dtype=torch.float32, device="cpu")
    engine = PagedEngine(target, CacheLimits(max_context_tokens=max_context_tokens, num_kv_tokens=num_kv_tokens))
    engine.grammars = grammars()
    return engine


def drafter_engine(*, shadow_bytes: int = 64 << 20) -> MtpEngine:
    """An MTP engine as the deployment makes it."""
    engine = build_mtp_engine(
        load_assistant(ASSISTANT, dtype=torch.float32, device="cpu"),
        load_embedding_table(TARGET, dtype=torch.float32, device="cpu"),
        shadow_spec(load_config(TARGET), dtype=torch.float32),
        shadow_bytes=shadow_bytes,
    )
    engine.grammars = grammars()
    return engine


def draft_model_engine(*, num_kv_tokens: int = 16384, max_context_tokens: int = 1024) -> DraftModelEngine:
    """A draft model's engine as the deployment makes it, with a small cache."""
    limits = DraftCacheLimits(max_context_tokens=max_context_tokens, num_kv_tokens=num_kv_tokens)
    engine = load_draft_model_engine(TARGET, DRAFT_MODEL, limits, dtype=torch.float32)
    engine.grammars = grammars()
    return engine


def grammars() -> Grammars:
    """The pair's vocabulary, as each of its engines reads it."""
    return Grammars.load(Path(TARGET))


@cache
def tokenizer():
    """The pair's tokenizer."""
    return AutoTokenizer.from_pretrained(TARGET)


def stop_token_ids() -> tuple[Token, ...]:
    """The ids that end an answer."""
    return tuple(tokenizer().convert_tokens_to_ids(["<eos>", "<turn|>"]))


def chat_prompts(count: int, seed: int = 0) -> list[tuple[Token, ...]]:
    """Token ids of held-out chat prompts, the tasks in turn."""
    per_task = -(-count // len(TASKS))
    by_task = [held_out(task, per_task, seed) for task in TASKS]
    examples = [example for group in zip(*by_task, strict=True) for example in group][:count]
    return [
        tuple(tokenizer().apply_chat_template(e.prompt_messages, add_generation_prompt=True, return_dict=False))
        for e in examples
    ]


def make_request(
    index: int, prompt: tuple[Token, ...], params: SamplingParams, num_tokens: int, **fields: Any
) -> GenerateRequest:
    """A request for so many tokens at most; the pair's end-of-text tokens end it."""
    return GenerateRequest(
        id=f"r{index}",
        prompt=prompt,
        max_context_tokens=len(prompt) + num_tokens,
        params=params,
        stop_token_ids=stop_token_ids(),
        **fields,
    )


async def outputs(rig: Rig, requests: Sequence[GenerateRequest]) -> list[list[Token]]:
    """The tokens of requests that run at once."""
    return await asyncio.wait_for(asyncio.gather(*(rig.generate(request) for request in requests)), 120)


def safe_prompts(
    reference: Reference,
    params: Sequence[SamplingParams],
    num_prompts: int,
    num_tokens: int,
    max_prompt_tokens: int | None = None,
) -> list[tuple[tuple[Token, ...], SamplingParams, list[Token]]]:
    """Prompts whose reference output stands clear of every near-tie, so that no timing can change it.

    Returns (prompt, parameters, reference output) with the parameters in turn; DESIGN.md 4 asks for
    a margin of at least 1e-3 throughout. Prompts are cut at `max_prompt_tokens`.
    """
    found = []
    for whole in chat_prompts(4 * num_prompts, seed=7):
        prompt = whole[:max_prompt_tokens]
        chosen = params[len(found) % len(params)]
        output = reference.generate(prompt, chosen, num_tokens, stop=reference.eos_token_ids)
        if min(reference.margins(prompt, output, chosen)) >= SAFE_MARGIN:
            found.append((prompt, chosen, output))
        if len(found) == num_prompts:
            return found
    raise AssertionError(f"only {len(found)} of {4 * num_prompts} prompts stand clear of near-ties")
