"""The compiled choice of tokens, on an engine whose model does not matter."""

from __future__ import annotations

import platform
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from deployments.kernels.library import Kernels
from deployments.models.loading import kv_shape, load_target
from deployments.paged.build import build_forward
from deployments.paged.compiled_forward import CompiledForward
from deployments.paged.kv_cache import BlockTables, KvPools
from tests.support.tiny_models import save_tiny_target

ARCHITECTURES = ["native", *(["x86-64-v3", "x86-64-v2"] if platform.machine() == "x86_64" else [])]
"""What kernels are compiled for in tests: this processor, and older ones whose code it runs as well (AVX2, SSE4)."""


@lru_cache(maxsize=4)
def compiled_forward(num_threads: int = 1, architecture: str = "native") -> CompiledForward:
    """A forward of some tiny model, whose `choose` takes any logits."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_tiny_target(Path(scratch) / "target", head_dim=16, global_head_dim=32, hidden_size=32)
        target = load_target(str(folder), dtype=torch.float32, device="cpu")
    layers = range(target.text_config.num_hidden_layers)
    shapes = {layer: kv_shape(target.text_config, layer) for layer in layers}
    pools = KvPools(layer_shapes=shapes, num_slots=32, dtype=torch.float32, device="cpu")
    tables = BlockTables(num_blocks=1, block_size=16, max_sessions=1, max_session_tokens=16)
    forward = build_forward(target, tables, pools, Kernels(num_threads=num_threads, architecture=architecture))
    assert isinstance(forward, CompiledForward)
    return forward
