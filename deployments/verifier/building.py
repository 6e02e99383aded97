"""From a resolved configuration to a verifier's engine: the whole target on one device, or one rank's share of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed

from deployments.config import OutriderConfig
from deployments.grammars import Grammars
from deployments.memory import MemoryUse
from deployments.models.devices import bound_gpu_memory
from deployments.models.loading import load_target
from deployments.paged.build import compiled_library, runs_fused
from deployments.paged.footprint import (
    CacheBudget,
    Needs,
    StepSize,
    layer_bytes,
    sliding_layers,
    tensor_bytes,
    untied_bytes,
    workspace_bytes,
)
from deployments.verifier.paged_engine import CacheLimits, PagedEngine


def build_engine(config: OutriderConfig) -> PagedEngine:
    """Load the target, or with several ranks this process's share, and put a paged engine around it.

    ConfigError when it does not fit into the memory that it may have.
    """
    verifier, context = config.verifier, config.model.max_context_tokens
    max_lookahead, kernels = config.speculation.max_speculative_tokens, config.kernels_for(config.verifier)
    assert isinstance(context, int)
    bound_gpu_memory((verifier.max_gpu_bytes or verifier.max_memory_bytes) if verifier.device == "cuda" else None)
    torch.set_num_threads(verifier.num_threads or 1)
    before = tensor_bytes()
    target = load_target(
        config.model.model_source,
        dtype=getattr(torch, config.model.dtype),
        device=verifier.device,
        num_ranks=verifier.num_ranks,
    )
    num_rows = min(verifier.max_step_tokens, verifier.max_sessions * (1 + max_lookahead))
    step_bytes = workspace_bytes(target, StepSize(num_tokens=verifier.max_step_tokens, num_rows=num_rows))
    longest, block_size = context + max_lookahead, verifier.kv_cache.block_size
    limits = CacheLimits(
        max_context_tokens=context,
        num_kv_tokens=longest,
        max_sessions=verifier.max_sessions,
        max_lookahead=max_lookahead,
        block_size=block_size,
        max_step_tokens=verifier.max_step_tokens,
    )
    layers, sliding = layer_bytes(target), sliding_layers(target.text_config)
    # Kernels read entries where they lie; the library's layers read copies, padded to the longest.
    reads_in_place = runs_fused(target) or compiled_library(target, kernels) is not None
    read_bytes = 0 if reads_in_place else 2 * max(layers)
    window_bytes = sum(layers[layer] for layer in sliding)
    needs = Needs(
        entry_bytes=sum(layers) - window_bytes,
        window_bytes=window_bytes,
        num_window_blocks=limits.num_window_blocks(target.text_config.sliding_window) if sliding else 0,
        read_bytes=read_bytes,
        other_bytes=tensor_bytes() - before + untied_bytes(target) + step_bytes,
        longest_tokens=longest,
        block_size=block_size,
    )
    budget = CacheBudget("verifier", verifier.kv_cache.memory_bytes, verifier.max_memory_bytes)
    num_kv_tokens = _least_of_ranks(budget.num_tokens(verifier.kv_cache.num_tokens, needs), verifier.num_ranks)
    limits = replace(limits, num_kv_tokens=num_kv_tokens)
    engine = PagedEngine(target, limits, kernels)
    engine.grammars = Grammars.load_if_possible(Path(config.model.model_source))
    del target  # the kernels keep weights of their own
    engine.memory = MemoryUse(
        weights_bytes=tensor_bytes() - before - engine.memory.cache_bytes,
        cache_bytes=engine.memory.cache_bytes,
        workspace_bytes=step_bytes + limits.num_kv_tokens * read_bytes,
    )
    return engine


def _least_of_ranks(number: int, num_ranks: int) -> int:
    """What all ranks have room for, since they keep the same books."""
    if num_ranks == 1:
        return number
    least = torch.tensor(number, device="cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
    torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
    return int(least)
