"""The sampling parameters of a ragged batch, one row per position to decide.

Shapes: R = rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from deployments.decoding.noise import row_key
from deployments.messages import SamplingParams


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """What `warp` and `choose` need to know about each row, as columns.

    A row stands alone: nothing decided for it depends on the other rows. The plain fields are worked
    out once, in Python, so that a batch pays only for what one of its rows asks for and no device is
    asked. They are bounds: after `take` they may promise less than holds.
    """

    temperature_R: Tensor  # float32, 0 = greedy
    top_k_R: Tensor  # int64, 0 = off
    top_p_R: Tensor  # float32, 1 = off
    min_p_R: Tensor  # float32, 0 = off
    key_R: Tensor  # int64, the noise of (seed, choice, absolute position)
    is_all_greedy: bool
    is_all_sampled: bool
    is_all_cut: bool  # every sampled row has a top-k, top-p or min-p
    max_top_k: int  # 0 = no row has a top-k
    has_top_p: bool
    has_free_top_p: bool  # some row has a top-p without a top-k
    has_min_p: bool

    @classmethod
    def build(cls, rows: Sequence[tuple[SamplingParams, int]], device: torch.device | str = "cpu") -> SamplingRows:
        """Columns for (parameters, absolute position of the token being decided) pairs, in order.

        An all-greedy batch carries zeros in every column, as none of them is read.
        """
        sampled = [params for params, _ in rows if params.temperature > 0]
        if not sampled:
            return _greedy(len(rows), torch.device(device))
        floats_3R = [
            [params.temperature for params, _ in rows],
            [params.top_p for params, _ in rows],
            [params.min_p for params, _ in rows],
        ]
        ints_2R = [
            [params.top_k for params, _ in rows],
            [row_key(params.seed, params.choice_index, position) for params, position in rows],
        ]
        temperature_R, top_p_R, min_p_R = torch.tensor(floats_3R, dtype=torch.float32, device=device).unbind()
        top_k_R, key_R = torch.tensor(ints_2R, dtype=torch.int64, device=device).unbind()
        return cls(
            temperature_R=temperature_R,
            top_k_R=top_k_R,
            top_p_R=top_p_R,
            min_p_R=min_p_R,
            key_R=key_R,
            is_all_greedy=False,
            is_all_sampled=len(sampled) == len(rows),
            is_all_cut=all(params.top_k > 0 or params.top_p < 1 or params.min_p > 0 for params in sampled),
            max_top_k=max(params.top_k for params in sampled),
            has_top_p=any(params.top_p < 1 for params in sampled),
            has_free_top_p=any(params.top_p < 1 and params.top_k <= 0 for params in sampled),
            has_min_p=any(params.min_p > 0 for params in sampled),
        )

    def __len__(self) -> int:
        """R, the number of rows."""
        return self.temperature_R.shape[0]

    def take(self, index: slice | Tensor) -> SamplingRows:
        """The rows at `index`; a slice's are views."""
        return SamplingRows(
            temperature_R=self.temperature_R[index],
            top_k_R=self.top_k_R[index],
            top_p_R=self.top_p_R[index],
            min_p_R=self.min_p_R[index],
            key_R=self.key_R[index],
            is_all_greedy=self.is_all_greedy,
            is_all_sampled=self.is_all_sampled,
            is_all_cut=self.is_all_cut,
            max_top_k=self.max_top_k,
            has_top_p=self.has_top_p,
            has_free_top_p=self.has_free_top_p,
            has_min_p=self.has_min_p,
        )


@lru_cache(maxsize=256)
def _greedy(num_rows: int, device: torch.device) -> SamplingRows:
    floats_R = torch.zeros(num_rows, dtype=torch.float32, device=device)
    ints_R = torch.zeros(num_rows, dtype=torch.int64, device=device)
    return SamplingRows(
        temperature_R=floats_R,
        top_k_R=ints_R,
        top_p_R=floats_R,
        min_p_R=floats_R,
        key_R=ints_R,
        is_all_greedy=True,
        is_all_sampled=False,
        is_all_cut=False,
        max_top_k=0,
        has_top_p=False,
        has_free_top_p=False,
        has_min_p=False,
    )
