"""How many bytes a paged engine takes, before it takes them: what a budget leaves for keys and values.

    budget = weights + workspace + cache

Weights are what loading has left in memory. The workspace is a bound on one step's activations, from the model's
widths: nothing of it is reserved.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.distributed.tensor import DTensor
from transformers import PretrainedConfig

from deployments.checkpoint import ConfigError
from deployments.models.loading import Target

_WIDE_ROWS = 6
"""Rows of the hidden size, and of the vocabulary, that are alive at once: inputs, sums, norms; logits, noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSize:
    """The largest step: so many tokens, of which so many rows need logits."""

    num_tokens: int
    num_rows: int


def tensor_bytes() -> int:
    """Bytes of all tensors that are alive in this process."""
    gc.collect()
    storages: dict[tuple[str, int], int] = {}
    for item in gc.get_objects():
        if not issubclass(type(item), torch.Tensor) or isinstance(item, DTensor) or item.device.type == "meta":
            continue  # a distributed tensor holds a local one, which is counted
        if item.is_mkldnn:  # oneDNN's packed weights show no storage
            storages["packed", id(item)] = item.numel() * item.element_size()
        else:
            storage = item.untyped_storage()
            storages["plain", storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def untied_bytes(target: Target) -> int:
    """Bytes of the copy that packing makes of a head which the checkpoint shares with the embedding."""
    head = target.model.get_output_embeddings()
    is_packed = head is not None and target.model.device.type == "cpu"
    return int(head.weight.nbytes) if is_packed and head.weight is target.model.get_input_embeddings().weight else 0


def layer_bytes(target: Target) -> list[int]:
    """Bytes of one token's keys and values in each layer that keeps its own."""
    shapes = (target.kv_shape(layer) for layer in range(num_own_layers(target.text_config)))
    return [2 * heads * dim * target.model.dtype.itemsize for heads, dim in shapes]


def num_own_layers(text_config: PretrainedConfig) -> int:
    """Layers that keep keys and values of their own; those behind them read earlier ones."""
    num_layers: int = text_config.num_hidden_layers
    return num_layers - (getattr(text_config, "num_kv_shared_layers", 0) or 0)


def sliding_layers(text_config: PretrainedConfig) -> frozenset[int]:
    """Layers with keys and values of their own that see a window, where others see everything: none else.

    Admission goes by the layers that see everything; a model without any keeps all its entries as if it had.
    """
    types, window = getattr(text_config, "layer_types", None), getattr(text_config, "sliding_window", None)
    num_own = num_own_layers(text_config)
    if not types or not window or all(kind == "sliding_attention" for kind in types[:num_own]):
        return frozenset()
    return frozenset(i for i in range(num_own) if types[i] == "sliding_attention")


def workspace_bytes(target: Target, step: StepSize) -> int:
    """A bound on what one step allocates, attention's reads of the cache aside."""
    config, dtype = target.text_config, target.model.dtype
    num_experts = getattr(config, "top_k_experts", None) or 1
    inner = max(config.intermediate_size, num_experts * (getattr(config, "moe_intermediate_size", None) or 0))
    wide = 2 if getattr(config, "use_double_wide_mlp", False) else 1
    heads = max(sum(target.kv_shape(layer)) for layer in range(num_own_layers(config)))
    token_width = _WIDE_ROWS * config.hidden_size + 3 * wide * inner + 4 * config.num_attention_heads * heads
    activations: int = step.num_tokens * token_width * max(4, dtype.itemsize)
    return activations + decision_bytes(step.num_rows, config.vocab_size)


def decision_bytes(num_rows: int, vocab_size: int) -> int:
    """A bound on what choosing so many tokens allocates."""
    return _WIDE_ROWS * num_rows * vocab_size * 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a cache is sized for: a token's entry, what a step may copy of it to read it, what is beside the cache.

    `window_bytes` is a token's part in layers that see a window; they take `num_window_blocks` blocks at most.
    """

    entry_bytes: int
    window_bytes: int = 0
    num_window_blocks: int = 0
    read_bytes: int = 0
    other_bytes: int = 0
    longest_tokens: int
    block_size: int

    def num_bytes(self, num_blocks: int) -> int:
        """What so many blocks take, and one beside them that is always empty."""
        in_windows = self.window_bytes * (1 + min(num_blocks, self.num_window_blocks))
        return self.block_size * (self.entry_bytes * (1 + num_blocks) + in_windows)

    def num_blocks(self, num_bytes: int) -> int:
        """How many blocks `num_bytes` hold, beside the empty one."""
        num_units = num_bytes // self.block_size - self.entry_bytes - self.window_bytes
        num_blocks = num_units // (self.entry_bytes + self.window_bytes)
        if num_blocks <= self.num_window_blocks:
            return num_blocks
        return (num_units - self.num_window_blocks * self.window_bytes) // self.entry_bytes

    def within_process(self) -> Needs:
        """The same where what a step copies counts as well."""
        return replace(self, entry_bytes=self.entry_bytes + self.read_bytes, read_bytes=0)


@dataclass(frozen=True, slots=True)
class CacheBudget:
    """Bounds in bytes, as the configuration names them under `section`: of the cache, and of the whole process."""

    section: str
    cache_bytes: int | None
    process_bytes: int | None = None

    def num_tokens(self, asked: int | Literal["auto"], needs: Needs) -> int:
        """How many tokens the cache holds; "auto" is all there is room for.

        ConfigError when a budget does not hold what is asked for, or one session of the longest context: it names
        the field and the smallest number that will do.
        """
        wanted = needs.longest_tokens if asked == "auto" else asked
        sizes = [
            ("kv_cache.memory_bytes", self.cache_bytes, 0, needs),
            ("max_memory_bytes", self.process_bytes, needs.other_bytes, needs.within_process()),
        ]
        rooms = []
        for name, budget, other_bytes, sized in sizes:
            if budget is None:
                continue
            least = other_bytes + sized.num_bytes(-(-wanted // needs.block_size))
            if budget < least:
                way_out = "model.max_context_tokens" if asked == "auto" else "kv_cache.num_tokens"
                raise ConfigError(
                    f"{self.section}.{name}: {budget} bytes do not hold {wanted} tokens"
                    + (f" beside {other_bytes} bytes of weights and activations" if other_bytes else "")
                    + f"; raise it to {least} or more, or lower {way_out}"
                )
            rooms.append(sized.num_blocks(budget - other_bytes) * needs.block_size)
        if asked != "auto":
            return asked
        assert rooms, "without a budget the number of tokens is configured"
        return min(rooms)
