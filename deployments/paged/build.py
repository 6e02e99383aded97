"""Which forward pass runs a model: the compiled one where machine and model allow it, else the library's layers."""

from __future__ import annotations

import ctypes
from typing import Any

from torch import nn

from deployments.kernels.library import Kernels
from deployments.models.cpu_kernels import use_cpu_kernels
from deployments.models.loading import Target
from deployments.paged.compiled_forward import CompiledForward, can_run_compiled
from deployments.paged.forward import PagedForward
from deployments.paged.kv_cache import BlockTables, KvPools
from deployments.paged.model_runner import ModelRunner

_FUSED_LAYERS = ("Gemma4TextDecoderLayer", "Gemma4UnifiedTextDecoderLayer")


def compiled_library(target: Target, kernels: Kernels) -> ctypes.CDLL | None:
    """The kernels, if they will run this target."""
    return kernels.library() if target.num_ranks == 1 and can_run_compiled(target.model) else None


def runs_fused(target: Target) -> bool:
    """Whether this target will run on the fused layers of a GPU."""
    return target.model.device.type == "cuda" and _can_fuse(target)


def _can_fuse(target: Target) -> bool:
    """Whether every layer is of a class that is rewritten, and its weights are plain matrices, not quantised ones."""
    config: Any = target.text_config
    layers: Any = getattr(target.model.get_decoder(), "layers", None)
    return (
        isinstance(layers, nn.ModuleList)
        and all(type(layer).__name__ in _FUSED_LAYERS for layer in layers)
        and all(type(module) is nn.Linear for module in layers.modules() if hasattr(module, "in_features"))
        and config.hidden_activation == "gelu_pytorch_tanh"
        and not config.attention_bias
    )


def build_forward(target: Target, tables: BlockTables, pools: KvPools, kernels: Kernels) -> PagedForward:
    """A forward pass over these pools. The model is its own from now on; a compiled pass needs it no more."""
    model = target.model
    if runs_fused(target):
        # Triton comes with torch's builds for GPUs, and with no other.
        from deployments.paged.cuda_forward import CudaForward

        return CudaForward(model, tables, pools, num_ranks=target.num_ranks)
    if target.num_ranks > 1:  # the kernels know nothing of the other shares
        return ModelRunner(model, tables, pools)
    library = compiled_library(target, kernels)
    if library is not None:
        return CompiledForward(library, model, tables, pools, num_threads=kernels.num_threads)
    use_cpu_kernels(model)
    return ModelRunner(model, tables, pools)
