"""Noise and choices do not depend on where they are computed: drafter and verifier may be on unlike devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deployments.decoding import noise
from deployments.decoding.adjustments import Adjuster, RowGroup, adjust
from deployments.decoding.noise import gumbel_at, gumbel_RV, row_key
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import choose
from deployments.messages import SamplingParams

pytestmark = pytest.mark.gpu

GEMMA_VOCAB = 262_144
PARAMS = (
    SamplingParams(),
    SamplingParams(temperature=0.7, seed=3),
    SamplingParams(temperature=1.0, seed=2**63 + 1, choice_index=2),
    SamplingParams(temperature=1.1, top_k=40, seed=5),
    SamplingParams(temperature=0.9, top_p=0.9, seed=6),
    SamplingParams(temperature=0.9, min_p=0.05, seed=7),
    SamplingParams(temperature=1.3, top_k=200, top_p=0.95, min_p=0.01, seed=8),
)


def test_the_bits_behind_the_noise_are_the_same_everywhere(device: str) -> None:
    token_N = torch.arange(GEMMA_VOCAB)
    key = row_key(2**64 - 1, 3, 131_071)
    bits, others = (noise._mix_(noise._token_offsets(token_N.to(where)).add_(key)).cpu() for where in ("cpu", device))
    assert torch.equal(bits, others)


def test_the_noise_is_the_same_up_to_its_last_place(device: str) -> None:
    """Two logarithms in float64, rounded to float32: what they differ by is seen at the rounding's edges alone."""
    key_R = torch.tensor([row_key(seed, 0, 17) for seed in range(8)])
    ours_RV, theirs_RV = (gumbel_RV(key_R.to(where), GEMMA_VOCAB).cpu() for where in ("cpu", device))
    torch.testing.assert_close(ours_RV, theirs_RV, rtol=2e-7, atol=1e-7)
    assert (ours_RV != theirs_RV).float().mean() < 1e-6
    token_N = torch.tensor([0, 1, 4095, GEMMA_VOCAB - 1])
    at_N = gumbel_at(key_R[:4].to(device), token_N.to(device)).cpu()
    assert torch.equal(at_N, theirs_RV[torch.arange(4), token_N])


@pytest.mark.parametrize("num_rows", [1, 5, 40])
def test_choices_are_the_same(device: str, num_rows: int) -> None:
    torch.manual_seed(num_rows)
    logits_RV = 4 * torch.randn(num_rows, GEMMA_VOCAB)
    rows = [(PARAMS[i % len(PARAMS)], 100 + i) for i in range(num_rows)]
    ours, theirs = (choose(logits_RV.to(where), SamplingRows.build(rows, where)) for where in ("cpu", device))
    assert theirs.tokens_R.tolist() == ours.tokens_R.tolist()
    torch.testing.assert_close(theirs.confidences_R.cpu(), ours.confidences_R, rtol=1e-3, atol=1e-5)


def test_ties_go_to_the_lowest_id(device: str) -> None:
    logits_RV = torch.zeros(3, GEMMA_VOCAB, device=device)
    logits_RV[1, [77, 200_000]] = 1.0
    rows = SamplingRows.build([(SamplingParams(), i) for i in range(3)], device)
    assert choose(logits_RV, rows).tokens_R.tolist() == [0, 77, 0]


@pytest.mark.parametrize("num_rows", [1, 5, 40])
def test_the_kernel_chooses_the_same(device: str, num_rows: int) -> None:
    from deployments.decoding.cuda_choose import choose as choose_by_kernel  # triton

    torch.manual_seed(num_rows)
    logits_RV = 4 * torch.randn(num_rows, GEMMA_VOCAB)
    rows = [(PARAMS[i % len(PARAMS)], 100 + i) for i in range(num_rows)]
    ours = choose(logits_RV, SamplingRows.build(rows))
    theirs = choose_by_kernel(logits_RV.to(device), SamplingRows.build(rows, device))
    assert theirs.tokens_R.tolist() == ours.tokens_R.tolist()
    torch.testing.assert_close(theirs.confidences_R.cpu(), ours.confidences_R, rtol=1e-3, atol=1e-5)
    low_RV = logits_RV.to(device, torch.bfloat16)
    low, again = (
        choose(low_RV, SamplingRows.build(rows, device)),
        choose_by_kernel(low_RV, SamplingRows.build(rows, device)),
    )
    assert low.tokens_R.tolist() == again.tokens_R.tolist()


class Grammar:
    """Allows every third token, another third after each token."""

    def extend(self, tokens: list[int]) -> None:
        pass

    def truncate(self, num_tokens: int) -> None:
        pass

    num_mask_bytes = GEMMA_VOCAB // 8

    def masks(self, following: list[int], num_rows: int) -> np.ndarray:
        allowed_PV = (np.arange(GEMMA_VOCAB) + np.arange(num_rows)[:, None]) % 3 == 0
        return np.packbits(allowed_PV, axis=1, bitorder="little")


@pytest.mark.parametrize("vocab_size", [GEMMA_VOCAB, GEMMA_VOCAB - 100])
def test_adjusted_logits_are_the_same(device: str, vocab_size: int) -> None:
    """Of sessions with penalties, with a grammar and with neither, in one batch."""
    params = SamplingParams(
        repetition_penalty=1.3, presence_penalty=0.5, num_prompt_tokens=2, logit_bias=((9, 2.0),), grammar="g"
    )
    held, penalised = Adjuster(params, Grammar()), Adjuster(params)  # type: ignore[arg-type]
    for adjuster in (held, penalised):
        adjuster.extend(0, [5, 9, 11, 11])
    groups = [RowGroup(penalised, 0, 2, 4, [7]), RowGroup(held, 3, 4, 4, [8, 9, 10])]
    logits_RV = torch.randn(8, vocab_size, generator=torch.Generator().manual_seed(0))
    ours, theirs = (adjust(logits_RV.to(where), groups).cpu() for where in ("cpu", device))
    assert torch.equal(theirs, ours)
    assert (ours[3] == -torch.inf).sum() == vocab_size - len(range(0, vocab_size, 3))
    assert torch.equal(ours[[2, 7]], logits_RV[[2, 7]])
