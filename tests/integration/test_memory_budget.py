"""A verifier and its drafters stay within the bytes that they may have, and say what they take."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from deployments.config import ConfigError, OutriderConfig, parse
from deployments.drafter.building import build_service
from deployments.messages import SamplingParams
from deployments.metering import Meter
from deployments.verifier.building import build_engine
from deployments.verifier.engine import Chunk
from tests.support.shapes import GEMMA_4, save_pair

KERNELS = [True, False]


def configured(is_compiled: bool, **verifier: Any) -> OutriderConfig:
    fields = {"model": {"max_context_tokens": 256}, "kernels": {"compiled": is_compiled}, "verifier": verifier}
    return parse(fields).resolve()


def smallest(error: ConfigError) -> int:
    found = re.search(r"raise it to (\d+) or more", str(error))
    assert found, error
    return int(found[1])


@pytest.mark.parametrize("is_compiled", KERNELS)
@pytest.mark.parametrize("field", ["max_memory_bytes", "kv_cache.memory_bytes"])
def test_the_smallest_budget_that_an_error_names_serves_one_session(is_compiled: bool, field: str) -> None:
    def build(num_bytes: int) -> Any:
        name, _, inner = field.partition(".")
        return build_engine(configured(is_compiled, **{name: {inner: num_bytes} if inner else num_bytes}))

    with pytest.raises(ConfigError, match=rf"verifier\.{field}: 1000 bytes do not hold 272 tokens") as caught:
        build(1000)
    least = smallest(caught.value)
    engine = build(least)
    memory = engine.memory
    total = memory.weights_bytes + memory.cache_bytes + memory.workspace_bytes
    assert (total if field == "max_memory_bytes" else memory.cache_bytes) <= least
    assert memory.weights_bytes > 1 << 20
    assert engine.can_open(272)
    assert engine.open(1, SamplingParams(), 272) == 0
    engine.step([Chunk(session=1, start=0, tokens=(5,) * 272)])
    with pytest.raises(ConfigError):
        build(least - 1)


def test_a_larger_budget_holds_more_sessions() -> None:
    with pytest.raises(ConfigError) as caught:
        build_engine(configured(True, max_memory_bytes=1))
    least = smallest(caught.value)
    engine = build_engine(configured(True, max_memory_bytes=2 * least))
    num_open = 0
    while engine.can_open(272):
        engine.open(num_open, SamplingParams(), 272)
        num_open += 1
    assert num_open > 1
    assert sum((engine.memory.weights_bytes, engine.memory.cache_bytes, engine.memory.workspace_bytes)) <= 2 * least


@pytest.mark.system
def test_every_shape_names_a_budget_that_will_do(tmp_path: Path) -> None:
    for name, shape in GEMMA_4.items():
        target = save_pair(tmp_path / name, shape)
        model = {"model_source": str(target), "max_context_tokens": 128}
        with pytest.raises(ConfigError) as caught:
            build_engine(parse({"model": model, "verifier": {"max_memory_bytes": 1}}).resolve())
        fields = {"model": model, "verifier": {"max_memory_bytes": smallest(caught.value)}}
        engine = build_engine(parse(fields).resolve())
        assert engine.can_open(144), name


@pytest.mark.parametrize("kind", ["mtp", "draft_model"])
def test_a_drafter_says_what_it_takes(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    draft_model = {"kv_cache": {"memory_bytes": 8 << 20}}
    fields = {"model": {"max_context_tokens": 256}, "speculation": {"drafter": kind}, "draft_model": draft_model}
    meter = Meter()
    with caplog.at_level(logging.INFO, "deployments.memory"):
        build_service(parse(fields).resolve(), kind, meter)
    assert [record.message for record in caplog.records if record.name == "deployments.memory"] == ["memory"]
    found = {labels: values[0] for name, labels, values in meter.samples() if name == "memory_bytes"}
    parts = {part: found[kind, part] for part in ("weights", "cache", "workspace")}
    assert all(value > 0 for value in parts.values())
    assert parts["cache"] == 1 << 30 if kind == "mtp" else (7 << 20) < parts["cache"] <= (8 << 20)
