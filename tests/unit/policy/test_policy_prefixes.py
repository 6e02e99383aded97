"""What a router takes a verifier to hold: whole blocks, by tenant, the latest, as many as its cache keeps."""

from __future__ import annotations

from deployments.policy.prefixes import BLOCK_TOKENS, PrefixMemory, beginnings, key_of


def text(num_tokens: int, first: int = 0) -> list[int]:
    return [first, *range(1, num_tokens)]


def memory(num_tokens: int = 10_000) -> PrefixMemory:
    made = PrefixMemory()
    made.has_room_for(num_tokens)
    return made


def test_texts_that_begin_alike_have_the_same_keys_up_to_where_they_part() -> None:
    one = beginnings(text(4 * BLOCK_TOKENS), "a")
    other = beginnings([*text(2 * BLOCK_TOKENS), *[5] * 2 * BLOCK_TOKENS], "a")
    assert len(one) == len(other) == 4
    assert [a == b for a, b in zip(one, other, strict=True)] == [True, True, False, False]


def test_the_first_token_and_the_tenant_are_in_every_key() -> None:
    keys = [*beginnings(text(200), "a"), *beginnings(text(200, 9), "a"), *beginnings(text(200), "b")]
    assert len(set(keys)) == 9
    assert beginnings(text(BLOCK_TOKENS - 1), "a") == []
    assert key_of((1, 2), "a") != key_of((1, 2), "b") != key_of((1, 3), "b")


def test_what_was_noted_is_held_in_whole_blocks() -> None:
    known = memory()
    assert known.num_held(beginnings(text(300), "a")) == 0
    known.note(beginnings(text(300), "a"))
    assert known.num_held(beginnings(text(300), "a")) == 4 * BLOCK_TOKENS
    assert known.num_held(beginnings(text(100), "a")) == BLOCK_TOKENS
    assert known.num_held(beginnings(text(300), "b")) == 0


def test_the_oldest_goes_first_and_of_a_text_its_end() -> None:
    known = memory(6 * BLOCK_TOKENS)
    old, new = beginnings(text(4 * BLOCK_TOKENS), "a"), beginnings(text(4 * BLOCK_TOKENS, 9), "a")
    known.note(old)
    known.note(new)
    assert known.num_held(new) == 4 * BLOCK_TOKENS
    assert known.num_held(old) == 2 * BLOCK_TOKENS
    known.note(old)
    assert known.num_held(old) == 4 * BLOCK_TOKENS
    assert known.num_held(new) == 2 * BLOCK_TOKENS


def test_a_verifier_that_reuses_nothing_holds_nothing() -> None:
    known = PrefixMemory()
    known.note(beginnings(text(300), "a"))
    assert known.num_held(beginnings(text(300), "a")) == 0


def test_a_text_of_any_length_is_looked_at_in_bounded_time() -> None:
    assert len(beginnings(text(100_000), "a")) == 256
