"""Rejection sampling commits the target's own distribution: chi-square over pairs of tokens, two rounds if need be.

Proposals have three tokens, so that a pair comes from a whole block, from a part, or from two rounds.

A toy target and a toy drafter depend on the token before. Whether a drafted token is looked at may
depend on what was there before it was drawn, and never on the draw: the flaws at the end show that
each of these tests would notice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from deployments.decoding import rejection
from deployments.decoding.acceptance import accept
from deployments.decoding.drawing import Draw, Drawer, Drawn
from deployments.decoding.noise import ACCEPT, child_key, uniform
from deployments.decoding.rejection import verify
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import choose
from deployments.distributions import Distribution
from deployments.messages import SamplingParams
from tests.property.decoding.test_sampling_distribution import SIGNIFICANCE, fit
from tests.support import decoding_reference as reference

VOCAB, NUM_DRAWS, NUM_DRAFTED, FIRST = 12, 4_000, 3, 7
PARAMS = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.6),
    SamplingParams(temperature=1.4, top_k=6),
    SamplingParams(temperature=1.0, top_p=0.8),
    SamplingParams(temperature=1.3, top_k=8, top_p=0.9, min_p=0.05),
]
Trim = Callable[[Distribution, int], bool]
"""(what a token was drawn from, the token) -> whether to look at it and those behind it."""


def target_after(token: int) -> Tensor:
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(100 + token)) * 1.5


def draft_after(token: int) -> Tensor:
    return target_after(token) + torch.randn(VOCAB, generator=torch.Generator().manual_seed(500 + token))


TARGET = torch.stack([target_after(token) for token in range(VOCAB)])
DRAFT = torch.stack([draft_after(token) for token in range(VOCAB)])


def draw_the_likeliest(logits_RV: Tensor, rows: SamplingRows, salts: Sequence[int | None]) -> Drawn:
    """As prompt lookup does: a token that depends on the text alone, with nothing that it was drawn from."""
    return Drawn(logits_RV.argmax(-1), torch.empty(0))


def rows_of(params: SamplingParams, position: int) -> SamplingRows:
    made = [
        SamplingParams(
            temperature=params.temperature, top_k=params.top_k, top_p=params.top_p, min_p=params.min_p, seed=seed
        )
        for seed in range(NUM_DRAWS)
    ]
    return SamplingRows.build([(each, position) for each in made])


def proposals(
    last_N: Tensor, params: SamplingParams, position: int, draw: Draw, trim: Trim
) -> tuple[list[list[int]], list[list[Distribution]]]:
    """Three drafted tokens for each of many texts, cut at the first that `trim` will not look at."""
    drafts: list[list[int]] = [[] for _ in last_N]
    given: list[list[Distribution]] = [[] for _ in last_N]
    is_open = [True] * len(last_N)
    for step in range(NUM_DRAFTED):
        drawn = draw(DRAFT[last_N], rows_of(params, position + step), [position] * len(last_N))
        last_N = drawn.tokens_R
        for i, token in enumerate(last_N.tolist()):
            known = drawn.distributions.get(i)
            is_open[i] = is_open[i] and (known is None or trim(known, token))
            if is_open[i]:
                drafts[i].append(token)
                given[i].extend([] if known is None else [known])
    return drafts, given


def round_of(last_N: Tensor, params: SamplingParams, position: int, draw: Draw, trim: Trim) -> list[list[int]]:
    """What one round commits for each of many texts."""
    drafts, given = proposals(last_N, params, position, draw, trim)
    logits, rows = [], []
    for i, draft in enumerate(drafts):
        before = [int(last_N[i]), *draft]
        logits.extend(TARGET[token] for token in before)
        each = SamplingParams(
            temperature=params.temperature, top_k=params.top_k, top_p=params.top_p, min_p=params.min_p, seed=i
        )
        rows.extend((each, position + step) for step in range(len(before)))
    outcomes = verify(torch.stack(logits), SamplingRows.build(rows), drafts, given)
    return [[*draft[:count], token] for draft, (count, token) in zip(drafts, outcomes, strict=True)]


def committed_pairs(params: SamplingParams, draw: Draw, trim: Trim) -> np.ndarray:
    """The first two tokens of each text, in one round or in two."""
    start_N = torch.zeros(NUM_DRAWS, dtype=torch.int64)
    texts = round_of(start_N, params, FIRST, draw, trim)
    second = round_of(torch.tensor([text[0] for text in texts]), params, FIRST + 1, draw, trim)
    return np.array([text[0] * VOCAB + (text[1] if len(text) > 1 else second[i][0]) for i, text in enumerate(texts)])


def expected_pairs(params: SamplingParams) -> np.ndarray:
    first = np.array(reference.distribution(target_after(0).tolist(), params))
    second = np.array([reference.distribution(target_after(token).tolist(), params) for token in range(VOCAB)])
    return (first[:, None] * second).ravel()


def look_at_all(known: Distribution, token: int) -> bool:
    return True


def probabilities(known: Distribution) -> dict[int, float]:
    chances = np.frombuffer(known.probabilities, np.float32).tolist()
    ids = np.frombuffer(known.token_ids, np.int32).tolist() or range(len(chances))
    return dict(zip(ids, chances, strict=True))


def look_at_clear_ones(known: Distribution, token: int) -> bool:
    """By the distribution, whatever was drawn from it: allowed."""
    return max(probabilities(known).values()) > 0.4


def look_at_likely_tokens(known: Distribution, token: int) -> bool:
    """By the drawn token: bends the distribution."""
    return probabilities(known)[token] > 0.3


DRAWS: dict[str, Draw] = {
    "whole": Drawer(),
    "sparse": Drawer(4),
    "lookup": draw_the_likeliest,
}


@pytest.mark.parametrize("params", PARAMS, ids=lambda p: f"T{p.temperature}k{p.top_k}p{p.top_p}m{p.min_p}")
@pytest.mark.parametrize("draw", DRAWS)
def test_pairs_follow_the_target(draw: str, params: SamplingParams) -> None:
    assert fit(committed_pairs(params, DRAWS[draw], look_at_all), expected_pairs(params)) > SIGNIFICANCE


@pytest.mark.parametrize("draw", ["whole", "sparse"])
def test_trimming_by_the_distribution_changes_nothing(draw: str) -> None:
    pairs = committed_pairs(PARAMS[0], DRAWS[draw], look_at_clear_ones)
    assert fit(pairs, expected_pairs(PARAMS[0])) > SIGNIFICANCE


@pytest.mark.parametrize("draw", ["whole", "sparse"])
def test_the_chi_square_rejects_trimming_by_the_drawn_token(draw: str) -> None:
    pairs = committed_pairs(PARAMS[0], DRAWS[draw], look_at_likely_tokens)
    assert fit(pairs, expected_pairs(PARAMS[0])) < SIGNIFICANCE


@pytest.mark.parametrize("params", PARAMS, ids=lambda p: f"T{p.temperature}k{p.top_k}p{p.top_p}m{p.min_p}")
@pytest.mark.parametrize("draw", DRAWS)
def test_the_chi_square_rejects_a_residual_that_subtracts_nothing(
    draw: str, params: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejection, "_surplus", lambda target_NV, draft_NV, may_keep_N: target_NV)
    assert fit(committed_pairs(params, DRAWS[draw], look_at_all), expected_pairs(params)) < SIGNIFICANCE


def test_the_chi_square_rejects_a_distribution_truncated_after_the_draw() -> None:
    def draw(logits_RV: Tensor, rows: SamplingRows, salts: Sequence[int | None]) -> Drawn:
        """Drawn from the whole, but what is sent is renormalised over the likeliest four and the token."""
        whole = Drawer()(logits_RV, rows, salts)
        sent: list[Distribution] = []
        for known, token in zip(whole.distributions.values(), whole.tokens_R.tolist(), strict=True):
            chances = np.frombuffer(known.probabilities, np.float32)
            ids = sorted({*np.argsort(chances)[-4:].tolist(), token})
            kept = chances[ids] / chances[ids].sum()
            sent.append(Distribution(token_ids=np.array(ids, np.int32).tobytes(), probabilities=kept.tobytes()))
        return Drawn(whole.tokens_R, whole.confidences_R, dict(enumerate(sent)))

    flat = SamplingParams(temperature=1.5)
    assert fit(committed_pairs(flat, draw, look_at_all), expected_pairs(flat)) < SIGNIFICANCE


def test_the_chi_square_rejects_acceptance_by_the_noise_of_the_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejection, "_uniforms", lambda key_N, lengths: torch.full(key_N.shape, 0.5).double())
    assert fit(committed_pairs(PARAMS[0], DRAWS["whole"], look_at_all), expected_pairs(PARAMS[0])) < SIGNIFICANCE


@pytest.mark.parametrize(
    "broken",
    [
        Distribution(token_ids=b"\x01\x00\x00", probabilities=b"\x00\x00\x80"),
        Distribution(token_ids=b"\xff\xff\xff\xff", probabilities=b"\x00\x00\x80?"),
        Distribution(token_ids=b"\x63\x00\x00\x00", probabilities=b"\x00\x00\x80?"),
        Distribution(token_ids=b"\x01\x00\x00\x00", probabilities=b"\x00\x00\xc0\x7f"),
        Distribution(token_ids=b"", probabilities=b""),
    ],
)
def test_a_distribution_that_makes_no_sense_counts_as_none(broken: Distribution) -> None:
    logits_RV = TARGET[:2].repeat(50, 1)
    rows = SamplingRows.build(
        [(SamplingParams(temperature=1.0, seed=seed), FIRST + step) for seed in range(50) for step in range(2)]
    )
    drafts = [[1]] * 50
    assert verify(logits_RV, rows, drafts, [[broken]] * 50) == verify(logits_RV, rows, drafts, [[]] * 50)


def after_a_block_that_failed(first_salt: int, second_salt: int) -> float:
    """How well the token after a block of two of which nothing held fits the target, when one more was drafted for it.

    There are two tokens, the target is (0.9, 0.1) everywhere and the draft (0.5, 0.5).
    """
    count = 20_000
    target_V = torch.tensor([0.9, 0.1]).log()

    def one_round(seeds: Sequence[int], position: int, lookahead: int, salt: int) -> list[tuple[int, int]]:
        made = [SamplingParams(temperature=1.0, seed=seed) for seed in seeds]
        drawn = [
            Drawer()(
                torch.zeros(len(made), 2),
                SamplingRows.build([(params, position + step) for params in made]),
                [salt] * len(made),
            )
            for step in range(lookahead)
        ]
        drafts = torch.stack([one.tokens_R for one in drawn], 1).tolist()
        given = [[one.distributions[i] for one in drawn] for i in range(len(made))]
        rows = SamplingRows.build([(params, position + step) for params in made for step in range(lookahead + 1)])
        outcomes = verify(target_V.expand(len(rows), 2), rows, drafts, given)
        return [(draft[0] if held else token, held) for draft, (held, token) in zip(drafts, outcomes, strict=True)]

    failed = [seed for seed, (_, held) in enumerate(one_round(range(count), FIRST, 2, first_salt)) if held == 0]
    assert len(failed) > count / 4
    second = [token for token, _ in one_round(failed, FIRST + 1, 1, second_salt)]
    return fit(np.array(second), np.array([0.9, 0.1]))


def test_what_a_block_that_failed_says_bends_no_later_round() -> None:
    assert after_a_block_that_failed(FIRST, FIRST + 1) > SIGNIFICANCE


def test_the_chi_square_rejects_numbers_that_an_earlier_round_has_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_the_position(key_N: Tensor, lengths: Sequence[int]) -> Tensor:
        return uniform(child_key(key_N, torch.full_like(key_N, ACCEPT)))

    monkeypatch.setattr(rejection, "_uniforms", of_the_position)
    assert after_a_block_that_failed(FIRST, FIRST + 1) < SIGNIFICANCE


def test_the_chi_square_rejects_drafts_by_noise_that_an_earlier_round_has_seen() -> None:
    assert after_a_block_that_failed(FIRST, FIRST) < SIGNIFICANCE


@pytest.mark.parametrize("draw", ["whole", "sparse"])
def test_a_block_keeps_more_than_its_tokens_one_by_one_would(draw: str) -> None:
    start_N = torch.zeros(NUM_DRAWS, dtype=torch.int64)
    drafts, given = proposals(start_N, PARAMS[0], FIRST, DRAWS[draw], look_at_all)
    as_block = one_by_one = 0.0
    for draft, known in zip(drafts, given, strict=True):
        target_KV = TARGET[[0, *draft[:-1]]].softmax(-1)
        draft_KV = torch.tensor([[probabilities(each).get(token, 0.0) for token in range(VOCAB)] for each in known])
        kept, _ = rejection.keeping(target_KV, draft_KV, [draft])
        ratios = (target_KV / draft_KV)[range(NUM_DRAFTED), draft].clamp_max(1.0)
        one_by_one += float(ratios.cumprod(0).sum())
        as_block += sum(1 - float((1 - torch.tensor(kept[i:])).prod()) for i in range(NUM_DRAFTED))
    assert as_block > 1.01 * one_by_one


def test_both_modes_in_one_step_decide_as_each_alone() -> None:
    """A coupled proposal beside one under rejection, drawn in one batch by one drafter."""
    wanted = [SamplingParams(temperature=1.0, seed=seed) for seed in range(40)]
    rows = SamplingRows.build([(params, FIRST) for params in wanted])
    salts = [FIRST if seed % 2 else None for seed in range(40)]
    together = Drawer(4)(DRAFT[:1].repeat(40, 1), rows, salts)
    assert sorted(together.distributions) == list(range(1, 40, 2))
    alone = [Drawer(4)(DRAFT[:1], rows.take(slice(i, i + 1)), [salt]) for i, salt in enumerate(salts)]
    assert together.tokens_R.tolist() == [int(one.tokens_R) for one in alone]
    drafts = [[token] for token in together.tokens_R.tolist()]
    given = [(together.distributions[i],) if salt else None for i, salt in enumerate(salts)]
    logits_RV = torch.cat([TARGET[[0, draft[0]]] for draft in drafts])
    both = SamplingRows.build([(params, FIRST + step) for params in wanted for step in range(2)])
    outcomes = verify(logits_RV, both, drafts, given)
    for i, one in enumerate(outcomes):
        part = slice(2 * i, 2 * i + 2)
        assert one == verify(logits_RV[part], both.take(part), drafts[i : i + 1], given[i : i + 1])[0]
    coupled = accept(choose(logits_RV, both).tokens_R, drafts)
    assert outcomes[::2] == coupled[::2]
    assert outcomes[1::2] != coupled[1::2]


@pytest.mark.parametrize("at_once", [1, 5])
def test_how_many_are_judged_at_once_changes_nothing(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start_N = torch.zeros(NUM_DRAWS, dtype=torch.int64)
    together = round_of(start_N, PARAMS[4], FIRST, DRAWS["sparse"], look_at_clear_ones)
    monkeypatch.setattr(rejection, "rows_at_once", lambda vocab_size, device: at_once)
    assert round_of(start_N, PARAMS[4], FIRST, DRAWS["sparse"], look_at_clear_ones) == together


def test_greedy_rows_go_by_equality_in_any_company() -> None:
    greedy, sampled = SamplingParams(), SamplingParams(temperature=1.0, seed=3)
    best = int(TARGET[0].argmax())
    rows = SamplingRows.build([(greedy, 7), (greedy, 8), (sampled, 7), (sampled, 8)])
    logits_RV = TARGET[[0, best, 0, best]]
    outcomes = verify(logits_RV, rows, [[best], [best]], [None, []])
    assert outcomes[0] == (1, int(TARGET[best].argmax()))
    assert verify(logits_RV[:2], rows.take(slice(0, 2)), [[(best + 1) % VOCAB]], [None])[0] == (0, best)
