"""Muon for the matrices, AdamW for the rest, and a schedule measured in wall time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

MATRIX_RATE = 0.02
OTHER_RATE = 0.003
WARM_UP = 0.02
DECAY_FROM = 0.45
MAX_GRADIENT_NORM = 1.0


@dataclass(kw_only=True)
class Budget:
    """How much wall time a training run may take, and how far it is."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    started: float = field(default=-1.0)

    @property
    def progress(self) -> float:
        if self.started < 0:
            self.started = self.clock()
        return min(1.0, (self.clock() - self.started) / self.seconds)


def rate_scale(progress: float) -> float:
    """Rise, stay, then fall linearly to nearly nothing, so that a run may end at any planned time."""
    if progress < WARM_UP:
        return 0.05 + 0.95 * progress / WARM_UP
    if progress < DECAY_FROM:
        return 1.0
    return max(0.0, 1.0 - (progress - DECAY_FROM) / (1.0 - DECAY_FROM)) * 0.98 + 0.02


class Optimiser:
    """Steps both optimisers at the rate the budget's progress asks for."""

    def __init__(self, model: nn.Module, *, scale: float = 1.0) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            is_matrix = parameter.dim() == 2 and "embed" not in name and "lm_head" not in name
            (matrices if is_matrix else others).append(parameter)
        self.parameters = [*matrices, *others]
        self.parts = (
            (torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.02, momentum=0.95), MATRIX_RATE * scale),
            (torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.97), weight_decay=0.0), OTHER_RATE * scale),
        )

    def step(self, progress: float) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
        for part, rate in self.parts:
            for group in part.param_groups:
                group["lr"] = rate * rate_scale(progress)
            part.step()  # type: ignore[no-untyped-call]
            part.zero_grad(set_to_none=True)
