"""Coupled speculation commits the very tokens that plain decoding would, whatever the drafter and the lookahead."""

from collections.abc import Callable, Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deployments.decoding.acceptance import accept
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import choose
from deployments.messages import SamplingParams

VOCAB = 24
Context = tuple[int, ...]
Drafter = Callable[[Context, SamplingParams, int], list[int]]


def target_logits(context: Context) -> Tensor:
    """A toy target: the logits after a context are a function of its last three tokens and its length."""
    generator = torch.Generator().manual_seed(hash((context[-3:], len(context))) % 2**63)
    return torch.randn(VOCAB, generator=generator) * 2


def plain(prompt: Context, params: SamplingParams, num_tokens: int) -> Context:
    context = prompt
    for _ in range(num_tokens):
        choice = choose(target_logits(context)[None], SamplingRows.build([(params, len(context))]))
        context += (int(choice.tokens_R),)
    return context


def drafter_with_error(error: float) -> Drafter:
    """A drafter whose logits are the target's, off by `error`, and whose noise is the same."""

    def draft(context: Context, params: SamplingParams, lookahead: int) -> list[int]:
        tokens: list[int] = []
        for _ in range(lookahead):
            known = context + tuple(tokens)
            generator = torch.Generator().manual_seed(len(known))
            logits_V = target_logits(known) + torch.randn(VOCAB, generator=generator) * error
            tokens.append(int(choose(logits_V[None], SamplingRows.build([(params, len(known))])).tokens_R))
        return tokens

    return draft


def garbage(context: Context, params: SamplingParams, lookahead: int) -> list[int]:
    return [(token * 7 + len(context)) % VOCAB for token in range(lookahead)]


DRAFTERS: dict[str, Drafter] = {
    "perfect": drafter_with_error(0.0),
    "good": drafter_with_error(0.7),
    "poor": drafter_with_error(8.0),
    "garbage": garbage,
}


def speculate(
    sessions: Sequence[tuple[Context, SamplingParams, str]], lookaheads: Sequence[Sequence[int]], num_tokens: int
) -> tuple[list[Context], int]:
    """Rounds over all sessions at once, each with a lookahead of its own; the contexts, and how many drafts held."""
    contexts = [prompt for prompt, _, _ in sessions]
    total_accepted = 0
    for round_index in range(num_tokens):
        drafts, rows, logits = [], [], []
        for index, (context, (_, params, drafter)) in enumerate(zip(contexts, sessions, strict=True)):
            lookahead = lookaheads[index][round_index % len(lookaheads[index])]
            draft = DRAFTERS[drafter](context, params, lookahead)
            drafts.append(draft)
            for num_drafted in range(len(draft) + 1):
                known = context + tuple(draft[:num_drafted])
                rows.append((params, len(known)))
                logits.append(target_logits(known))
        choice = choose(torch.stack(logits), SamplingRows.build(rows), with_confidences=False)
        for index, (num_accepted, next_token) in enumerate(accept(choice.tokens_R, drafts)):
            contexts[index] += (*drafts[index][:num_accepted], next_token)
            total_accepted += num_accepted
    return contexts, total_accepted


session = st.tuples(
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5).map(tuple),
    st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 0.5, 1.0, 1.5]),
        top_k=st.sampled_from([0, 0, 3, 10]),
        top_p=st.sampled_from([1.0, 1.0, 0.7]),
        min_p=st.sampled_from([0.0, 0.0, 0.1]),
        seed=st.integers(0, 2**64 - 1),
        choice_index=st.integers(0, 3),
    ),
    st.sampled_from(sorted(DRAFTERS)),
)


@settings(max_examples=40, deadline=None)
@given(
    sessions=st.lists(session, min_size=1, max_size=4),
    lookaheads=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=5), min_size=4, max_size=4),
)
def test_speculation_changes_no_token(
    sessions: list[tuple[Context, SamplingParams, str]], lookaheads: list[list[int]]
) -> None:
    contexts, _ = speculate(sessions, lookaheads, num_tokens=8)
    for context, (prompt, params, _) in zip(contexts, sessions, strict=True):
        assert context == plain(prompt, params, len(context) - len(prompt))


def test_a_perfect_drafter_is_always_accepted_and_a_good_one_often() -> None:
    """With independent draws two samples of these distributions would agree far less often."""
    params = SamplingParams(temperature=1.0, seed=5)
    _, perfect = speculate([((1,), params, "perfect")], [[4]], num_tokens=25)
    _, good = speculate([((1,), params, "good")], [[4]], num_tokens=25)
    _, bad = speculate([((1,), params, "garbage")], [[4]], num_tokens=25)
    assert perfect == 100
    assert perfect > good > 25
    assert bad < good / 2
