"""From commits to text: stop strings and tokens, kinds, and independence from how tokens are bunched."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.ingress.answer import Answer, Segment, pieces
from deployments.ingress.generation import GenerateRequest
from deployments.ingress.metrics import IngressMetrics
from deployments.ingress.speculation import kinds_of
from deployments.ingress.tokenizer import Tokenizer
from deployments.messages import Commit, SamplingParams
from tests.support.rest import ScriptedClient, commits_of
from tests.support.tiny_tokenizer import END_OF_TURN_ID, byte_level_tokenizer

TOKENIZER = Tokenizer(byte_level_tokenizer(), None)
REQUEST = GenerateRequest(
    id="a", prompt=(1, 2), max_context_tokens=500, params=SamplingParams(), stop_token_ids=(1, END_OF_TURN_ID)
)


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text)[1:]


def read(tokens: list[int], bunches: list[int], stops: list[str]) -> tuple[str, str | None, int]:
    answer = Answer(REQUEST, TOKENIZER, stops)
    text = ""
    for commit in commits_of("a", 2, tokens, bunches):
        piece = answer.take(commit)
        assert "".join(segment.text for segment in piece.segments) == piece.text
        text += piece.text
        if piece.finish_reason is not None:
            return text, piece.finish_reason, answer.num_tokens
    return text, None, answer.num_tokens


@settings(max_examples=200, deadline=None)
@given(
    st.text("ab 🙂é.", min_size=1, max_size=20),
    st.lists(st.integers(1, 7), max_size=12),
    st.lists(st.text("ab 🙂é.", min_size=1, max_size=3), max_size=3),
)
def test_text_end_and_count_do_not_depend_on_the_bunching(text: str, bunches: list[int], stops: list[str]) -> None:
    tokens = [*ids_of(text), END_OF_TURN_ID]
    assert read(tokens, bunches, stops) == read(tokens, [], stops)


def test_a_stop_string_over_several_tokens_ends_before_it() -> None:
    tokens = [*ids_of("the answer.\n\nUser: what?"), END_OF_TURN_ID]
    for bunch in (1, 2, 3, 100):
        text, finish_reason, num_tokens = read(tokens, [bunch] * 100, ["\n\nUser:"])
        assert (text, finish_reason) == ("the answer.", "stop")
        assert num_tokens == len(ids_of("the answer.\n\nUser:"))


def test_a_held_back_beginning_of_a_stop_string_comes_out_at_the_end() -> None:
    tokens = [*ids_of("one STO"), END_OF_TURN_ID]
    assert read(tokens, [3, 3], ["STOP"])[:2] == ("one STO", "stop")


def test_the_stop_token_is_counted_but_not_shown_even_if_it_has_text() -> None:
    (letter,) = ids_of("z")
    request = GenerateRequest(
        id="a", prompt=(1,), max_context_tokens=50, params=SamplingParams(), stop_token_ids=(letter,)
    )
    answer = Answer(request, TOKENIZER, [])
    tokens = (*ids_of("a"), letter)
    piece = answer.take(
        Commit(request="a", context_len=1, tokens=tokens, num_drafted=0, num_accepted=0, finish_reason="stop")
    )
    assert (piece.text, answer.num_tokens) == ("a", 2)


def test_segments_tell_where_the_text_came_from() -> None:
    answer = Answer(REQUEST, TOKENIZER, [])
    a, b, c, d = (ids_of(letter)[0] for letter in "abcd")
    commit = Commit(request="a", context_len=2, tokens=(a, b, c), num_drafted=4, num_accepted=2)
    assert answer.take(commit).segments == (Segment("ab", "accepted"), Segment("c", "recovered"))
    commit = Commit(request="a", context_len=5, tokens=(a, b), num_drafted=1, num_accepted=1)
    assert answer.take(commit).segments == (Segment("a", "accepted"), Segment("b", "bonus"))
    commit = Commit(request="a", context_len=7, tokens=(d,), num_drafted=0, num_accepted=0)
    assert answer.take(commit).segments == (Segment("d", "plain"),)


def test_an_output_cut_within_its_proposal_has_only_accepted_tokens() -> None:
    commit = Commit(request="a", context_len=2, tokens=(7, 8), num_drafted=5, num_accepted=2, finish_reason="length")
    assert kinds_of(commit) == ["accepted", "accepted"]


def test_the_acceptance_histogram_counts_steps_by_accepted_tokens() -> None:
    answer = Answer(REQUEST, TOKENIZER, [])
    for num_drafted, num_accepted in ((0, 0), (3, 0), (3, 3), (3, 3), (2, 1)):
        tokens = tuple(ids_of("a")) * (num_accepted + 1)
        answer.take(
            Commit(request="a", context_len=2, tokens=tokens, num_drafted=num_drafted, num_accepted=num_accepted)
        )
    assert answer.speculation.as_json() == {
        "mean_acceptance_length": 1 + 7 / 4,
        "draft_acceptance_rate": 7 / 11,
        "acceptance_histogram": [1, 1, 0, 2],
        "num_spec_steps": 4,
        "num_draft_tokens": 11,
        "num_accepted_draft_tokens": 7,
    }


async def test_a_stop_string_closes_the_generation() -> None:
    client = ScriptedClient(tokens=ids_of("one two three four five"), hangs_after=20)
    answer = Answer(REQUEST, TOKENIZER, [" three"])
    parts = [piece async for piece in pieces(client, answer, IngressMetrics())]
    assert "".join(piece.text for piece in parts) == "one two"
    assert [piece.finish_reason for piece in parts if piece.finish_reason] == ["stop"]
    assert client.num_open == 0


def test_cached_tokens_are_those_of_the_prompt_and_not_of_a_later_placement() -> None:
    answer = Answer(REQUEST, TOKENIZER, [])
    first, second = ids_of("ab")
    for context_len, token, num_cached in ((2, first, 1), (3, second, 3)):
        commit = Commit(
            request="a", context_len=context_len, tokens=(token,), num_drafted=0, num_accepted=0, num_cached=num_cached
        )
        answer.take(commit)
    assert answer.num_cached_tokens == 1
