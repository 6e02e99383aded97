"""Step now or wait: by what a common step saves, and by who has less to lose."""

from __future__ import annotations

from deployments.policy.waiting import Group, is_worth_waiting


def flat(num_sequences: int, num_tokens: int, /) -> float:
    """Reading the weights is all that a step costs."""
    return 12.0


def by_token(num_sequences: int, num_tokens: int, /) -> float:
    """Every token costs the same, on its own or with others."""
    return 1.0 * num_tokens


def test_a_memory_bound_verifier_waits_for_the_other_half():
    half = Group(4, 20, 16.0, 14.0)
    assert is_worth_waiting(half, half, 3.0, flat)


def test_a_compute_bound_verifier_goes_on_and_so_hides_the_drafts():
    half = Group(4, 20, 16.0, 14.0)
    assert not is_worth_waiting(half, half, 3.0, by_token)


def test_many_that_are_ready_do_not_wait_for_one_that_has_just_left():
    assert not is_worth_waiting(Group(7, 35, 28.0, 14.0), Group(1, 5, 4.0, 14.0), 13.0, flat)
    assert is_worth_waiting(Group(1, 5, 4.0, 14.0), Group(7, 35, 28.0, 14.0), 13.0, flat)


def test_sessions_without_drafts_do_not_wait_for_a_probe():
    plain, probe = Group(15, 15, 15.0, 0.5), Group(1, 2, 2.0, 10.0)
    assert not is_worth_waiting(plain, probe, 5.0, flat)


def test_one_that_reads_its_prompt_does_not_step_just_before_the_others_are_back():
    prompt, others = Group(1, 106, 1.0, 1.0), Group(7, 42, 21.0, 16.0)
    assert is_worth_waiting(prompt, others, 2.0, flat)
    assert not is_worth_waiting(prompt, others, 15.0, flat), "its step is over before they come"
    assert not is_worth_waiting(prompt, others, 2.0, by_token), "their step would be the longer by its prompt"
