"""Tokens picked by the kernel are those of `decoding.sampling`."""

from __future__ import annotations

import pytest
import torch

from deployments.decoding.cuda_choose import choose as choose_by_kernel
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import choose
from deployments.messages import SamplingParams

PARAMS = (
    SamplingParams(),
    SamplingParams(temperature=0.7, seed=3),
    SamplingParams(temperature=1.0, seed=2**63 + 1, choice_index=2),
    SamplingParams(temperature=1.1, top_k=40, seed=5),
    SamplingParams(temperature=0.9, top_p=0.9, seed=6),
    SamplingParams(temperature=1.3, top_k=200, top_p=0.95, min_p=0.01, seed=8),
)


@pytest.mark.filterwarnings("ignore:overflow encountered")  # 64-bit products wrap, as they must
@pytest.mark.parametrize("vocab_size", [97, 10_000])
@pytest.mark.parametrize("params", [PARAMS, PARAMS[:1], PARAMS[1:2]], ids=["mixed", "greedy", "sampled"])
def test_choices_and_confidences_are_the_same(vocab_size: int, params: tuple[SamplingParams, ...]) -> None:
    torch.manual_seed(vocab_size)
    logits_RV = 3 * torch.randn(2 * len(params), vocab_size)
    logits_RV[:, [5, 60]] = logits_RV.amax(-1, keepdim=True)  # equals: the lowest id
    rows = SamplingRows.build([(params[i % len(params)], 100 + i) for i in range(len(logits_RV))])
    expected, found = choose(logits_RV, rows), choose_by_kernel(logits_RV, rows)
    assert found.tokens_R.tolist() == expected.tokens_R.tolist()
    torch.testing.assert_close(found.confidences_R, expected.confidences_R, rtol=1e-4, atol=1e-6)


def test_what_is_not_a_number_yields_some_token_and_nothing_yields_nothing() -> None:
    logits_RV = torch.full((2, 97), torch.nan)
    rows = SamplingRows.build([(PARAMS[0], 1), (PARAMS[0], 2)])
    assert all(0 <= token < 97 for token in choose_by_kernel(logits_RV, rows).tokens_R.tolist())
    assert len(choose_by_kernel(logits_RV[:0], SamplingRows.build([])).tokens_R) == 0
