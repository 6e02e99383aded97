"""Penalties, biases and bans: the batched path against the slow one, HF's own processors, and each row alone."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from deployments.decoding import adjustments
from deployments.decoding.adjustments import Adjuster, RowGroup, adjust
from deployments.messages import SamplingParams
from tests.support import decoding_reference as reference

VOCAB = 12
tokens = st.integers(0, VOCAB - 1)
params = st.builds(
    SamplingParams,
    repetition_penalty=st.sampled_from([1.0, 1.0, 0.5, 1.3, 4.0]),
    presence_penalty=st.sampled_from([0.0, 0.0, -2.0, 0.7, 2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.0, -1.0, 0.3, 2.0]),
    num_prompt_tokens=st.integers(1, 8),
    logit_bias=st.dictionaries(tokens, st.floats(-100, 100), max_size=3).map(lambda bias: tuple(bias.items())),
    banned_token_ids=st.lists(tokens, max_size=3).map(tuple),
    banned_before=st.integers(0, 14),
    allowed_token_ids=st.one_of(st.just(()), st.lists(tokens, min_size=4, max_size=9).map(tuple)),
    bad_words=st.lists(st.lists(tokens, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
)


@st.composite
def sessions(draw: st.DrawFn) -> tuple[SamplingParams, list[int], list[int], list[tuple[int, list[int]]]]:
    """Parameters, a known context, drafted tokens, and how the context came about: pieces that overwrite each other."""
    known = draw(st.lists(tokens, min_size=1, max_size=16))
    pieces, start = [], 0
    while start < len(known):
        stop = draw(st.integers(start + 1, len(known)))
        wrong = draw(st.lists(tokens, max_size=4))
        pieces.append((start, [*known[start:stop], *wrong]))
        start = stop
    pieces.append((len(known), []))
    return draw(params), known, draw(st.lists(tokens, max_size=6)), pieces


def adjuster_for(params: SamplingParams, pieces: list[tuple[int, list[int]]]) -> Adjuster:
    adjuster = Adjuster(params)
    for start, piece in pieces:
        adjuster.extend(start, piece)
    return adjuster


def group(adjuster: Adjuster, known: list[int], drafted: list[int], first_row: int) -> RowGroup:
    return RowGroup(adjuster, first_row, 1 + len(drafted), len(known), drafted)


@settings(max_examples=300, deadline=None)
@given(batch=st.lists(sessions(), min_size=1, max_size=4), seed=st.integers(0, 2**32))
def test_every_row_equals_the_reference_and_itself_alone(batch, seed: int) -> None:
    num_rows = sum(1 + len(drafted) for _, _, drafted, _ in batch)
    logits_RV = torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 5
    logits_RV[0, 0] = -math.inf
    untouched = logits_RV.clone()
    groups, row = [], 0
    for params, known, drafted, pieces in batch:
        groups.append(group(adjuster_for(params, pieces), known, drafted, row))
        row += 1 + len(drafted)
    adjusted_RV = adjust(logits_RV, groups)
    assert torch.equal(logits_RV, untouched)
    row = 0
    for params, known, drafted, pieces in batch:
        part = logits_RV[row : row + 1 + len(drafted)]
        alone_RV = adjust(part, [group(adjuster_for(params, pieces), known, drafted, 0)])
        assert torch.equal(alone_RV, adjusted_RV[row : row + len(part)])
        for i in range(len(part)):
            expected = reference.adjust(part[i].tolist(), params, [*known, *drafted[:i]])
            torch.testing.assert_close(alone_RV[i], torch.tensor(expected), rtol=1e-5, atol=1e-4)
        row += len(part)


@settings(max_examples=100, deadline=None)
@given(session=sessions())
def test_the_last_rows_alone_are_the_last_of_all(session) -> None:
    """A drafter asks for one row at a time, a verifier for all of them."""
    params, known, drafted, pieces = session
    logits_RV = torch.randn(1 + len(drafted), VOCAB)
    every_RV = adjust(logits_RV, [group(adjuster_for(params, pieces), known, drafted, 0)])
    adjuster = adjuster_for(params, pieces)
    for i in range(1 + len(drafted)):
        one = RowGroup(adjuster, 0, 1, len(known) + i, drafted[:i])
        assert torch.equal(adjust(logits_RV[i : i + 1], [one])[0], every_RV[i])


@settings(max_examples=100, deadline=None)
@given(context=st.lists(tokens, min_size=2, max_size=20), penalty=st.sampled_from([0.4, 1.0, 1.2, 3.0]))
def test_what_transformers_has_as_processors_is_the_same(context: list[int], penalty: float) -> None:
    logits_1V = torch.randn(1, VOCAB) * 4
    ids = torch.tensor([context])
    bias = {3: 2.5, 7: -4.0}
    num_prompt, num_more = len(context) - 1, 3
    params = SamplingParams(
        repetition_penalty=penalty,
        num_prompt_tokens=num_prompt,
        logit_bias=tuple(bias.items()),
        banned_token_ids=(1, 5),
        banned_before=num_prompt + num_more,
    )
    biased = SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()})(ids, logits_1V.clone())
    penalised = RepetitionPenaltyLogitsProcessor(penalty)(ids, biased)
    expected = MinNewTokensLengthLogitsProcessor(num_prompt, num_more, [1, 5])(ids, penalised)
    adjuster = Adjuster(params)
    adjuster.extend(0, context)
    assert torch.equal(adjust(logits_1V, [RowGroup(adjuster, 0, 1, len(context), ())]), expected)


def test_counts_outgrow_their_first_capacity_and_shrink_back() -> None:
    params = SamplingParams(frequency_penalty=1.0, repetition_penalty=2.0, num_prompt_tokens=100)
    context = [token % 300 for token in range(700)]
    adjuster = Adjuster(params)
    adjuster.extend(0, context)
    logits_1V = torch.ones(1, 400)
    for length in (700, 350, 120, 40, 0):
        adjuster.truncate(length)
        assert adjuster.num_known == length
        adjusted_1V = adjust(logits_1V, [RowGroup(adjuster, 0, 1, length, ())])
        expected = reference.adjust(logits_1V[0].tolist(), params, context[:length])
        torch.testing.assert_close(adjusted_1V[0], torch.tensor(expected))


def test_a_gap_is_refused_and_a_session_without_penalties_counts_nothing() -> None:
    adjuster = Adjuster(SamplingParams(presence_penalty=1.0))
    with pytest.raises(ValueError, match="gap"):
        adjuster.extend(1, [3])
    adjuster = Adjuster(SamplingParams(logit_bias=((1, 2.0),)))
    adjuster.extend(5, [3])
    assert adjuster.num_known == 0


def test_parameters_say_what_they_ask_for() -> None:
    assert not SamplingParams(banned_before=5).adjusts_logits
    assert not SamplingParams(banned_token_ids=(1,)).adjusts_logits
    assert SamplingParams(banned_token_ids=(1,), banned_before=5).adjusts_logits
    assert SamplingParams(logit_bias=((1, 1.0),)).adjusts_logits
    for name, value in (("repetition_penalty", 0.9), ("presence_penalty", -1.0), ("frequency_penalty", 0.1)):
        one = msgspec.structs.replace(SamplingParams(), **{name: value})
        assert one.has_penalties
        assert one.adjusts_logits


@pytest.mark.parametrize("is_broken", [False, True])
def test_drafted_tokens_that_are_not_counted_are_noticed(is_broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_broken:
        sound = adjustments.Adjuster.penalties
        monkeypatch.setattr(adjustments.Adjuster, "penalties", lambda self, _, num_rows: sound(self, (), num_rows))
    params = SamplingParams(frequency_penalty=1.5)
    adjuster = Adjuster(params)
    adjuster.extend(0, [1, 2])
    adjusted_RV = adjust(torch.zeros(3, VOCAB), [RowGroup(adjuster, 0, 3, 2, [2, 2])])
    assert (adjusted_RV[:, 2].tolist() == [-1.5, -3.0, -4.5]) is not is_broken


def test_bits_are_unpacked_alike_on_a_cpu_and_elsewhere() -> None:
    bits_NQ = np.random.default_rng(0).integers(0, 256, (3, 40), dtype=np.uint8)
    on_cpu = adjustments._unpacked(bits_NQ, torch.device("cpu"))
    assert torch.equal(adjustments._unpacked_on(bits_NQ, torch.device("cpu")), on_cpu)
    assert on_cpu[1, 19] == bool(bits_NQ[1, 2] >> 3 & 1)
