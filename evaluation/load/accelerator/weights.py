"""How much of a model's weights a forward pass reads, and how long their products alone take.

Shapes: R rows, I inputs of a linear layer, E experts that are used, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from deployments.cuda.graphs import Graph
from evaluation.load.stopwatch import timed_ms

_EXPERT_WEIGHTS = ("gate_up_proj", "down_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBytes:
    """Weights that every pass reads, and those of experts, of which a pass reads what its tokens choose."""

    dense: int
    experts: int
    num_experts: int
    top_k: int

    def read_by(self, num_tokens: int) -> float:
        """Bytes that a pass over so many tokens reads at least; experts as if each token chose at random."""
        return self.dense + self.experts * share_used(num_tokens, self.num_experts, self.top_k)


def weight_bytes(model: PreTrainedModel) -> WeightBytes:
    """Count a model's weights; a tied embedding counts once, as the head that every pass reads."""
    config = model.config.get_text_config()
    experts = {id(weight): weight.nbytes for module in _expert_modules(model) for weight in _expert_weights(module)}
    every = {id(weight): weight.nbytes for weight in model.parameters()}
    return WeightBytes(
        dense=sum(every.values()) - sum(experts.values()),
        experts=sum(experts.values()),
        num_experts=getattr(config, "num_experts", None) or 1,
        top_k=getattr(config, "top_k_experts", None) or 1,
    )


def share_used(num_tokens: int, num_experts: int, top_k: int) -> float:
    """The share of the experts that so many tokens use, each choosing `top_k` at random."""
    return float(1.0 - (1.0 - top_k / num_experts) ** num_tokens)


class Products:
    """Every linear layer of a model once, and its experts' products as random routing would have them."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        self._weights = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
        self._experts = _expert_modules(model)
        self._num_experts = getattr(config, "num_experts", None) or 1
        self._top_k = getattr(config, "top_k_experts", None) or 1
        self._device, self._dtype = model.device, model.dtype

    @torch.inference_mode()
    def times_ms(self, num_rows: int, repeats: int) -> list[float]:
        """What they take on so many rows; on CUDA as one captured graph, so that launching costs nothing."""
        work = self._work(num_rows)
        work()
        if self._device.type == "cuda":
            work = _captured(work)
        timed_ms(work)
        return [timed_ms(work) for _ in range(repeats)]

    def _work(self, num_rows: int) -> Callable[[], object]:
        used = min(self._num_experts, max(1, round(self._num_experts * self._share(num_rows))))
        rows_per_expert = -(-num_rows * self._top_k // used)
        sizes = {weight.shape[1] for weight in self._weights}
        inputs_RI = {size: self._normal(num_rows, size) for size in sizes}
        weights = [weight[:used] for module in self._experts for weight in _expert_weights(module)]
        inputs_ERI = {weight.shape[2]: self._normal(used, rows_per_expert, weight.shape[2]) for weight in weights}

        def work() -> None:
            for weight in self._weights:
                linear(inputs_RI[weight.shape[1]], weight)
            for weight in weights:
                torch.bmm(inputs_ERI[weight.shape[2]], weight.transpose(1, 2))

        return work

    def _share(self, num_rows: int) -> float:
        return share_used(num_rows, self._num_experts, self._top_k)

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=self._device, dtype=self._dtype)


def _captured(work: Callable[[], object]) -> Callable[[], object]:
    """The same work as a CUDA graph."""
    return Graph(work, torch.cuda.graph_pool_handle()).replay


def _expert_modules(model: PreTrainedModel) -> list[Any]:
    return [module for module in model.modules() if getattr(getattr(module, "gate_up_proj", None), "ndim", 0) == 3]


def _expert_weights(module: Any) -> list[torch.Tensor]:
    return [getattr(module, name) for name in _EXPERT_WEIGHTS]
