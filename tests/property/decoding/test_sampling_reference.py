"""The fast path against the slow, obvious one, and every row against itself in another batch."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deployments.decoding.noise import gumbel_RV, row_key
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import choose, warp
from deployments.messages import SamplingParams
from tests.support import decoding_reference as reference

MARGIN = 1e-4

seeds = st.integers(0, 2**64 - 1)
positions = st.integers(0, 2**31)
params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 0.5, 1.0, 1.7]),
    top_k=st.sampled_from([0, 0, 1, 2, 3, 7, 50, 1000]),
    top_p=st.sampled_from([1.0, 1.0, 0.0, 0.1, 0.55, 0.9, 0.999]),
    min_p=st.sampled_from([0.0, 0.0, 0.01, 0.2, 0.99]),
    seed=seeds,
    choice_index=st.integers(0, 2**20),
)
# Few distinct values make ties at every cut likely; the floats make everything else.
logits = st.one_of(
    st.lists(st.integers(-6, 6).map(lambda eighths: eighths / 8), min_size=1, max_size=60),
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=60),
)


@settings(deadline=None)
@given(seed=seeds, choice=st.integers(0, 2**40), position=positions, vocab_size=st.integers(1, 40))
def test_noise_equals_the_reference(seed: int, choice: int, position: int, vocab_size: int) -> None:
    noise_RV = gumbel_RV(torch.tensor([row_key(seed, choice, position)]), vocab_size)
    expected = [reference.gumbel(reference.noise_bits(seed, choice, position, token)) for token in range(vocab_size)]
    torch.testing.assert_close(noise_RV[0], torch.tensor(expected), rtol=1e-6, atol=1e-6)


@settings(max_examples=300, deadline=None)
@given(logits=logits, params=params)
def test_warp_equals_the_reference(logits: list[float], params: SamplingParams) -> None:
    expected, margin = reference.warp(logits, params)
    assume(margin > 1e-6)
    warped_RV = warp(torch.tensor([logits]), SamplingRows.build([(params, 0)]))
    torch.testing.assert_close(warped_RV[0], torch.tensor(expected), rtol=1e-5, atol=1e-5)


@settings(max_examples=300, deadline=None)
@given(logits=logits, params=params, position=positions)
def test_choice_equals_the_reference(logits: list[float], params: SamplingParams, position: int) -> None:
    expected, margin = reference.choose(logits, params, position)
    assume(margin > MARGIN)
    choice = choose(torch.tensor([logits]), SamplingRows.build([(params, position)]))
    assert int(choice.tokens_R) == expected
    probability = (
        reference.distribution(logits, params)[expected]
        if params.temperature > 0
        else torch.tensor(logits).softmax(-1)[expected]
    )
    torch.testing.assert_close(float(choice.confidences_R), float(probability), rtol=1e-4, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    vocab_size=st.sampled_from([3, 40, 777, 4096, 8192]),
    spread=st.sampled_from([0.5, 3.0, 12.0]),
    seed=st.integers(0, 2**32),
)
def test_a_row_does_not_depend_on_its_batch(data: st.DataObject, vocab_size: int, spread: float, seed: int) -> None:
    rows = data.draw(st.lists(st.tuples(params, positions), min_size=2, max_size=12))
    generator = torch.Generator().manual_seed(seed)
    logits_RV = torch.randn(len(rows), vocab_size, generator=generator) * spread
    batch_rows = SamplingRows.build(rows)
    together, warped_RV = choose(logits_RV, batch_rows), warp(logits_RV, batch_rows)
    for index, row in enumerate(rows):
        alone_rows = SamplingRows.build([row])
        alone = choose(logits_RV[index : index + 1], alone_rows)
        assert torch.equal(warp(logits_RV[index : index + 1], alone_rows)[0], warped_RV[index])
        assert alone.tokens_R[0] == together.tokens_R[index]
        assert alone.confidences_R[0] == together.confidences_R[index]
