"""A shadow holds what was last written, no more than its window, and refuses what does not fit."""

from __future__ import annotations

import random

import pytest
import torch

from deployments.drafter.shadow import ROLLBACK_SLACK, Shadow, ShadowPool
from deployments.messages import KvRange, LayerType
from deployments.models.loading import ShadowLayer, ShadowSpec
from tests.support.tiny_drafters import raw_bytes

WINDOW = 8
CPU = torch.device("cpu")
SPEC = ShadowSpec(
    layers={
        "sliding_attention": ShadowLayer(layer_type="sliding_attention", index=2, num_kv_heads=2, head_dim=4),
        "full_attention": ShadowLayer(layer_type="full_attention", index=3, num_kv_heads=1, head_dim=8),
    },
    sliding_window=WINDOW,
    hidden_size=16,
    dtype=torch.float32,
)


def entries(layer_type: LayerType, start: int, versions: list[int]) -> torch.Tensor:
    """The one true keys (and, negated, values) of positions `start` onwards, shape (T, H, D)."""
    layer = SPEC.layers[layer_type]
    positions = start + torch.arange(len(versions)) + 10_000 * torch.tensor(versions, dtype=torch.int64)
    keys = positions[:, None] + torch.arange(layer.entry_numel) / 64
    return keys.view(-1, layer.num_kv_heads, layer.head_dim)


def make_range(layer_type: LayerType, start: int, stop: int, version: int | list[int] = 0) -> KvRange:
    versions = version[start:stop] if isinstance(version, list) else [version] * (stop - start)
    keys = entries(layer_type, start, versions)
    return KvRange(layer_type=layer_type, start=start, stop=stop, keys=raw_bytes(keys), values=raw_bytes(-keys))


def both(start: int, stop: int, version: int = 0) -> list[KvRange]:
    """What a verifier ships: the full layer's range, and of the sliding layer no more than its window."""
    return [
        make_range("sliding_attention", max(start, stop - WINDOW), stop, version),
        make_range("full_attention", start, stop, version),
    ]


def check(shadow: Shadow, versions: list[int]) -> None:
    """Every entry that a draft may see is the last one written."""
    assert shadow.have_len == len(versions)
    for layer_type in SPEC.layers:
        keys_HTD, values_HTD = shadow.window_view(layer_type, len(versions))
        first = max(0, len(versions) - WINDOW) if layer_type == "sliding_attention" else 0
        num_seen = keys_HTD.shape[1]
        # After a deep rollback one entry of the window may be gone: the target does not see it either.
        assert num_seen in (len(versions) - first, len(versions) - first - (first > 0))
        first = len(versions) - num_seen
        expected_HTD = entries(layer_type, first, versions[first:]).transpose(0, 1)
        assert torch.equal(keys_HTD, expected_HTD)
        assert torch.equal(values_HTD, -expected_HTD)


def test_one_bulk_extend_and_many_small_ones_hold_the_same() -> None:
    bulk, slow = Shadow(SPEC, CPU), Shadow(SPEC, CPU)
    bulk.extend(both(0, 200))
    for stop in range(1, 201):
        slow.extend(both(stop - 1, stop))
    check(bulk, [0] * 200)
    check(slow, [0] * 200)


def test_random_extends_and_rollbacks_leave_the_last_written() -> None:
    generator, num_refused = random.Random(4), 0
    for _ in range(6):
        shadow, versions = Shadow(SPEC, CPU), list[int]()
        for version in range(60):
            start = max(0, len(versions) - generator.choice((0, 0, 0, 1, 5, 20)))
            stop = start + generator.choice((0, 1, 3, 9, 70, 150))
            is_rollback = start < len(versions)
            versions = versions[:start] + [version] * (stop - start)
            try:
                shadow.extend(both(start, stop, version))
            except ValueError:
                # The last jump ahead brought one window and no more, so there was nothing to roll back to.
                assert is_rollback
                num_refused += 1
                whole_window = make_range("sliding_attention", max(0, stop - WINDOW), stop, versions)
                shadow.extend([whole_window, make_range("full_attention", start, stop, version)])
            check(shadow, versions)
    assert 0 < num_refused < 120


def test_a_sliding_layer_keeps_no_more_than_its_window_and_slack() -> None:
    shadow = Shadow(SPEC, CPU)
    for stop in range(1, 600):
        shadow.extend([make_range("sliding_attention", stop - 1, stop)])
    assert shadow.layers["sliding_attention"].num_bytes <= 2 * (2 * (WINDOW + ROLLBACK_SLACK)) * 8 * 4


def test_a_range_for_all_of_a_long_prompt_is_cut_to_the_window() -> None:
    shadow = Shadow(SPEC, CPU)
    shadow.extend([make_range("sliding_attention", 0, 400), make_range("full_attention", 0, 400)])
    check(shadow, [0] * 400)
    assert shadow.layers["sliding_attention"].num_bytes <= 2 * (2 * (WINDOW + ROLLBACK_SLACK)) * 8 * 4


def test_the_round_after_a_prompt_needs_no_larger_buffer() -> None:
    shadow = Shadow(SPEC, CPU)
    shadow.extend(both(0, 200))
    num_bytes = shadow.num_bytes
    shadow.extend(both(200, 217))
    assert shadow.num_bytes == num_bytes
    check(shadow, [0] * 217)


def test_a_window_that_jumps_ahead_joins_without_a_gap() -> None:
    shadow = Shadow(SPEC, CPU)
    shadow.extend(both(0, 5))
    shadow.extend(both(5, 50))
    check(shadow, [0] * 50)


def ship(shadow: Shadow, stop: int, computed_len: int, *, is_whole: bool) -> None:
    """The next slice, of a verifier whose sliding layers hold a window and three entries more."""
    start, held = shadow.have_len, max(0, computed_len - WINDOW - 3)
    first = min(stop, max(start, stop - WINDOW, held))
    ranges = [make_range("sliding_attention", first, stop), make_range("full_attention", start, stop)]
    shadow.extend(ranges, is_whole=is_whole)


def test_slices_of_what_a_target_still_holds_make_a_whole_window_with_the_last() -> None:
    generator = random.Random(2)
    for _ in range(50):
        shadow, computed_len = Shadow(SPEC, CPU), 0
        for _ in range(generator.randrange(1, 8)):
            computed_len += generator.randrange(1, 60)
            for _ in range(generator.randrange(3)):
                ship(shadow, generator.randrange(shadow.have_len, computed_len + 1), computed_len, is_whole=False)
        ship(shadow, computed_len, computed_len, is_whole=True)
        check(shadow, [0] * computed_len)
        shadow.extend(both(computed_len, computed_len + 2))
        check(shadow, [0] * (computed_len + 2))


def test_before_a_draft_the_window_must_be_whole() -> None:
    shadow = Shadow(SPEC, CPU)
    beginning = [make_range("sliding_attention", 96, 100), make_range("full_attention", 0, 100)]
    with pytest.raises(ValueError, match="leaves a gap"):
        shadow.extend(beginning)
    shadow.extend(beginning, is_whole=False)
    with pytest.raises(ValueError, match=r"full_attention .* leaves a gap"):
        shadow.extend([make_range("full_attention", 101, 102)], is_whole=False)
    with pytest.raises(ValueError, match=r"sliding_attention .* leaves a gap"):
        shadow.extend([make_range("sliding_attention", 100, 101)])


@pytest.mark.parametrize(
    ("start", "stop", "layer_type"),
    [(12, 14, "full_attention"), (11, 12, "full_attention"), (12, 14, "sliding_attention")],
)
def test_a_gap_is_refused_and_nothing_is_written(start: int, stop: int, layer_type: LayerType) -> None:
    shadow = Shadow(SPEC, CPU)
    shadow.extend(both(0, 10))
    other: LayerType = "full_attention" if layer_type == "sliding_attention" else "sliding_attention"
    with pytest.raises(ValueError, match=r"leaves a gap.*send the range from 10 on"):
        shadow.extend([make_range(other, 4, 6, version=7), make_range(layer_type, start, stop)])
    check(shadow, [0] * 10)


def test_a_rollback_below_what_is_kept_is_a_gap() -> None:
    shadow = Shadow(SPEC, CPU)
    for stop in range(1, 401):
        shadow.extend(both(stop - 1, stop))
    with pytest.raises(ValueError, match=r"sliding_attention range .* leaves a gap"):
        shadow.extend([make_range("sliding_attention", 200, 201)])
    check(shadow, [0] * 400)


@pytest.mark.parametrize("part", ["keys", "values"])
def test_bytes_of_another_shape_are_named(part: str) -> None:
    good = make_range("full_attention", 0, 3)
    data = {"keys": good.keys, "values": good.values, part: good.keys[:-4]}
    bad = KvRange(layer_type="full_attention", start=0, stop=3, **data)
    with pytest.raises(ValueError, match=rf"full_attention {part} of \[0, 3\) have 92 bytes, expected 96"):
        Shadow(SPEC, CPU).extend([bad])


def test_a_range_that_runs_backwards_is_refused() -> None:
    for start, stop in ((3, 1), (-2, 0)):
        bad = KvRange(layer_type="full_attention", start=start, stop=stop, keys=b"", values=b"")
        with pytest.raises(ValueError, match="is no range of positions"):
            Shadow(SPEC, CPU).extend([bad])


def test_a_pool_evicts_the_least_recently_used_and_counts_bytes() -> None:
    one = Shadow(SPEC, CPU)
    one.extend(both(0, 60))
    pool = ShadowPool(SPEC, budget_bytes=2 * one.num_bytes, device=CPU)
    for session in (1, 2):
        pool.extend(session, both(0, 60))
    assert pool.num_bytes == 2 * one.num_bytes
    pool.touch([1])
    pool.extend(3, both(0, 60))
    assert pool.get(2) is None
    assert pool.get(1) is not None
    assert pool.num_evicted == 1
    assert pool.num_bytes == 2 * one.num_bytes
    pool.drop(1)
    pool.drop(1)
    pool.start(3)
    assert pool.num_bytes == 0


def test_a_shadow_over_the_whole_budget_is_not_kept() -> None:
    pool = ShadowPool(SPEC, budget_bytes=1000, device=CPU)
    pool.extend(1, both(0, 500))
    assert pool.get(1) is None
    assert pool.num_bytes == 0


def test_a_refused_extend_keeps_the_books() -> None:
    pool = ShadowPool(SPEC, budget_bytes=1 << 20, device=CPU)
    with pytest.raises(ValueError, match="gap"):
        pool.extend(1, both(5, 6))
    pool.extend(1, both(0, 6))
    shadow = pool.get(1)
    assert shadow is not None
    assert pool.num_bytes == shadow.num_bytes
