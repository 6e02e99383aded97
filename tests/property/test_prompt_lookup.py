"""Prompt lookup against a slow search of the whole text, whatever the order in which tokens come."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.router.prompt_lookup import PromptLookup

RUN, MAX_MATCH, MAX_CANDIDATES = 3, 32, 8


def reference(tokens: list[int], lookahead: int, window: int) -> tuple[int, ...]:
    """The latest of the longest matches among the eight latest places where the last three tokens stood."""
    stop = len(tokens)
    ends = [end for end in range(stop - 1, RUN - 1, -1) if tokens[end - RUN : end] == tokens[stop - RUN :]]
    ends = [end for end in ends if end >= stop - window][:MAX_CANDIDATES]
    if not ends or stop <= RUN:
        return ()
    lengths = {
        end: max(n for n in range(RUN, min(MAX_MATCH, end) + 1) if tokens[end - n : end] == tokens[stop - n :])
        for end in ends
    }
    longest = max(lengths.values())
    best = next(end for end in ends if lengths[end] == longest)
    text = list(tokens)
    for _ in range(lookahead):
        text.append(text[best + len(text) - stop])
    return tuple(text[stop:])


@settings(deadline=None, max_examples=300)
@given(
    pieces=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=20),
    lookahead=st.integers(0, 6),
    window=st.sampled_from((8, 20, 1000)),
)
def test_it_proposes_what_a_search_of_the_text_would(pieces: list[list[int]], lookahead: int, window: int) -> None:
    lookup, tokens = PromptLookup(window), list[int]()
    for piece in pieces:
        tokens += piece
        expected = reference(tokens, lookahead, window) if lookahead else ()
        assert lookup.propose(tokens, lookahead) == expected
    assert len(lookup._latest) <= window


def test_a_long_text_costs_no_more_memory_than_the_window() -> None:
    lookup, tokens = PromptLookup(64), list(range(500))
    for token in range(500, 2000):
        tokens.append(token)
        assert lookup.propose(tokens, 4) == ()
    assert len(lookup._latest) <= 64
    assert len(lookup._previous) == 64


def test_a_long_prompt_is_entered_over_several_calls() -> None:
    lookup, tokens = PromptLookup(), list(range(1500)) * 2
    proposals = [lookup.propose(tokens, 2) for _ in range(4)]
    assert proposals == [(), (), (0, 1), (0, 1)]
