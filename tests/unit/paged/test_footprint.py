"""A budget in bytes holds what it says, or names the smallest that does."""

from __future__ import annotations

import re
from typing import Literal

import pytest
import torch

from deployments.checkpoint import ConfigError
from deployments.paged.footprint import CacheBudget, Needs, tensor_bytes

NEEDS = Needs(entry_bytes=100, read_bytes=20, other_bytes=5_000, longest_tokens=70, block_size=16)


def test_the_tighter_bound_decides_and_one_block_stays_empty() -> None:
    assert CacheBudget("verifier", 100 * 16 * 9, None).num_tokens("auto", NEEDS) == 8 * 16
    assert CacheBudget("verifier", 100 * 16 * 9 - 1, None).num_tokens("auto", NEEDS) == 7 * 16
    assert CacheBudget("verifier", 10**9, 5_000 + 120 * 16 * 7).num_tokens("auto", NEEDS) == 6 * 16
    assert CacheBudget("verifier", 100 * 16 * 9, 10**9).num_tokens("auto", NEEDS) == 8 * 16


def test_a_number_that_is_configured_stays_if_it_fits() -> None:
    assert CacheBudget("verifier", None).num_tokens(1234, NEEDS) == 1234
    assert CacheBudget("verifier", 100 * 16 * 9, 10**9).num_tokens(8 * 16, NEEDS) == 8 * 16
    with pytest.raises(ConfigError, match=r"verifier\.kv_cache\.memory_bytes: .* lower kv_cache\.num_tokens"):
        CacheBudget("verifier", 100 * 16 * 9, 10**9).num_tokens(8 * 16 + 1, NEEDS)


@pytest.mark.parametrize("asked", ["auto", 200])
@pytest.mark.parametrize("field", ["kv_cache.memory_bytes", "max_memory_bytes"])
def test_a_budget_that_is_too_small_names_the_smallest_that_will_do(field: str, asked: int | Literal["auto"]) -> None:
    def held(num_bytes: int) -> int:
        is_cache = field.startswith("kv")
        budget = CacheBudget("draft_model", num_bytes if is_cache else None, None if is_cache else num_bytes)
        return budget.num_tokens(asked, NEEDS)

    with pytest.raises(ConfigError, match=rf"draft_model\.{re.escape(field)}: 50 bytes do not hold") as caught:
        held(50)
    found = re.search(r"raise it to (\d+) or more", str(caught.value))
    assert found
    least = int(found[1])
    assert held(least) >= (70 if asked == "auto" else asked)
    with pytest.raises(ConfigError):
        held(least - 1)


def test_tensors_that_are_alive_are_counted_once() -> None:
    before = tensor_bytes()
    tensor = torch.zeros(1000)
    views = [tensor[:10], tensor.view(10, 100)]
    assert tensor_bytes() - before == 4000
    del tensor, views
    assert tensor_bytes() == before
