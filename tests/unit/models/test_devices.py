"""The bound on a GPU's memory; the GPU itself is a stand-in (CONTRIBUTING.md: tests/gpu has the real one)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from deployments.models.devices import bound_gpu_memory


@pytest.fixture
def fractions(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The fractions asked of a GPU with 1000 bytes."""
    asked: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=1000))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    return asked


def test_the_bound_becomes_a_fraction(fractions: list[float]) -> None:
    bound_gpu_memory(250)
    assert fractions == [0.25]


def test_no_bound_touches_nothing(fractions: list[float]) -> None:
    bound_gpu_memory(None)
    assert fractions == []


def test_more_than_there_is_is_refused(fractions: list[float]) -> None:
    with pytest.raises(ValueError, match=r"max_gpu_bytes: 2000 .*1000; lower it"):
        bound_gpu_memory(2000)
    assert fractions == []
