"""From a resolved configuration to a verifier's engine: the whole target on one device, or one rank's share of it."""

from __future__ import annotations

import torch

from deployments.config import OutriderConfig
from deployments.models.devices import bound_gpu_memory
from deployments.models.loading import load_target
from deployments.verifier.paged_engine import CacheLimits, PagedEngine


def build_engine(config: OutriderConfig) -> PagedEngine:
    """Load the target, or with several ranks this process's share, and put a paged engine around it."""
    verifier = config.verifier
    context, num_kv_tokens = config.model.max_context_tokens, verifier.kv_cache.num_tokens
    assert isinstance(context, int)
    assert isinstance(num_kv_tokens, int)
    bound_gpu_memory(verifier.max_gpu_bytes if verifier.device == "cuda" else None)
    torch.set_num_threads(verifier.num_threads or 1)
    target = load_target(
        config.model.model_source,
        dtype=getattr(torch, config.model.dtype),
        device=verifier.device,
        num_ranks=verifier.num_ranks,
    )
    return PagedEngine(
        target,
        CacheLimits(
            max_context_tokens=context,
            num_kv_tokens=num_kv_tokens,
            max_sessions=verifier.max_sessions,
            max_lookahead=config.speculation.max_speculative_tokens,
            block_size=verifier.kv_cache.block_size,
        ),
        config.kernels_for(verifier),
    )
