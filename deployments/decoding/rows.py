"""The sampling parameters of a ragged batch, one row per position to decide.

Shapes: R = rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from deployments.messages import SamplingParams

_UINT64_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """What `warp` and `choose` need to know about each row, as columns.

    A row stands alone: nothing decided for it depends on the other rows. `seed_R` holds unsigned
    64-bit seeds reinterpreted as int64; `position_R` the absolute position of the token being decided.
    The flags are worked out once, in Python, so that a batch pays only for what one of its rows asks
    for. An all-greedy batch carries zeros in every column, as none of them is read.
    """

    temperature_R: Tensor  # float32, 0 = greedy
    top_k_R: Tensor  # int64, 0 = off
    top_p_R: Tensor  # float32, 1 = off
    min_p_R: Tensor  # float32, 0 = off
    seed_R: Tensor  # int64
    choice_R: Tensor  # int64
    position_R: Tensor  # int64
    is_all_greedy: bool
    is_all_sampled: bool
    needs_sort: bool
    needs_min_p: bool

    @classmethod
    def build(cls, rows: Sequence[tuple[SamplingParams, int]], device: torch.device | str = "cpu") -> SamplingRows:
        """Columns for (parameters, absolute position of the token being decided) pairs, in order."""
        sampled = [params for params, _ in rows if params.temperature > 0]
        if not sampled:
            return _greedy(len(rows), torch.device(device))
        floats_3R = torch.tensor(
            [
                [params.temperature for params, _ in rows],
                [params.top_p for params, _ in rows],
                [params.min_p for params, _ in rows],
            ],
            dtype=torch.float32,
            device=device,
        )
        ints_4R = torch.tensor(
            [
                [params.top_k for params, _ in rows],
                [to_int64(params.seed) for params, _ in rows],
                [params.choice_index for params, _ in rows],
                [position for _, position in rows],
            ],
            dtype=torch.int64,
            device=device,
        )
        temperature_R, top_p_R, min_p_R = floats_3R.unbind()
        top_k_R, seed_R, choice_R, position_R = ints_4R.unbind()
        return cls(
            temperature_R=temperature_R,
            top_k_R=top_k_R,
            top_p_R=top_p_R,
            min_p_R=min_p_R,
            seed_R=seed_R,
            choice_R=choice_R,
            position_R=position_R,
            is_all_greedy=False,
            is_all_sampled=len(sampled) == len(rows),
            needs_sort=any(params.top_k > 0 or params.top_p < 1 for params in sampled),
            needs_min_p=any(params.min_p > 0 for params in sampled),
        )

    def __len__(self) -> int:
        """R, the number of rows."""
        return self.temperature_R.shape[0]

    def take(self, index: Tensor | slice, *, is_all_sampled: bool | None = None) -> SamplingRows:
        """The rows at `index`; the flags stay as they are (they may promise less than holds)."""
        return SamplingRows(
            temperature_R=self.temperature_R[index],
            top_k_R=self.top_k_R[index],
            top_p_R=self.top_p_R[index],
            min_p_R=self.min_p_R[index],
            seed_R=self.seed_R[index],
            choice_R=self.choice_R[index],
            position_R=self.position_R[index],
            is_all_greedy=self.is_all_greedy,
            is_all_sampled=self.is_all_sampled if is_all_sampled is None else is_all_sampled,
            needs_sort=self.needs_sort,
            needs_min_p=self.needs_min_p,
        )


def to_int64(value: int) -> int:
    """The signed 64-bit integer with the same low 64 bits as `value`."""
    value &= _UINT64_MASK
    return value - (1 << 64) if value >> 63 else value


@lru_cache(maxsize=64)
def _greedy(num_rows: int, device: torch.device) -> SamplingRows:
    floats_R = torch.zeros(num_rows, dtype=torch.float32, device=device)
    ints_R = torch.zeros(num_rows, dtype=torch.int64, device=device)
    return SamplingRows(
        temperature_R=floats_R,
        top_k_R=ints_R,
        top_p_R=floats_R,
        min_p_R=floats_R,
        seed_R=ints_R,
        choice_R=ints_R,
        position_R=ints_R,
        is_all_greedy=True,
        is_all_sampled=num_rows == 0,
        needs_sort=False,
        needs_min_p=False,
    )
