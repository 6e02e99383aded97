"""What the router decides from what it hears: lookaheads, survivals, and which drafters to leave alone."""

from __future__ import annotations

from deployments.messages import Attach, Costs, Detach, Verify
from deployments.timing import StepShape, StepTiming
from tests.support.router_rig import Rig

LONG = {"max_context_tokens": 4000}


def play(rig: Rig, rounds: int, *, accepted: int) -> list[tuple[int, int]]:
    """Answer so many rounds of one session; (drafted, lookahead asked for next) of each."""
    asked, context_len, played = rig.opened(), 4, []
    rig.verdict(asked, 0, 11)
    for _ in range(rounds):
        if asked.lookahead:
            rig.now_s += 0.002
            rig.propose(asked, context_len, tuple(range(20, 20 + asked.lookahead)))
        (verify,) = rig.verifiers[0].take(Verify)
        (asked,) = verify.items
        held = min(accepted, len(asked.tokens))
        played.append((len(asked.tokens), asked.lookahead))
        rig.now_s += 0.005
        rig.verdict(asked, held, 99)
        context_len += held + 1
    return played


def flat_steps(rig: Rig, step_ms: float) -> None:
    """The verifier says that tokens cost nothing and steps do."""
    timings = tuple(
        StepTiming(shape=StepShape(num_sequences=n, num_tokens=n * (1 + k)), step_ms=step_ms)
        for n in (1, 2, 4, 8)
        for k in (0, 1, 2, 4, 8)
    )
    rig.router.received(rig.verifiers[0], Costs(timings=timings, max_step_tokens=512))


def test_a_text_that_is_guessed_well_is_looked_ahead_far():
    rig = Rig(policy="adaptive")
    flat_steps(rig, 30.0)
    rig.generate(**LONG)
    played = play(rig, 40, accepted=16)
    assert max(lookahead for _, lookahead in played[-10:]) >= 8


def test_a_text_that_is_never_guessed_is_not_drafted_for_but_now_and_then():
    rig = Rig(policy="adaptive")
    flat_steps(rig, 5.0)
    rig.generate(**LONG)
    played = play(rig, 400, accepted=0)
    late = [drafted for drafted, _ in played[100:]]
    assert 0 < sum(late) <= len(late) / 20


def test_an_explicit_lookahead_is_honoured_and_its_tokens_are_not_to_be_trimmed():
    rig = Rig(policy="adaptive")
    rig.generate(num_speculative_tokens=3, **LONG)
    opened = rig.opened()
    assert opened.lookahead == 3
    rig.verdict(opened, 0, 11)
    rig.propose(opened, 4, (21, 22, 23))
    assert rig.asked().survival_percent == ()


def test_an_open_one_tells_how_likely_each_token_holds():
    rig = Rig(policy="adaptive")
    flat_steps(rig, 30.0)
    rig.generate(request_class="structured", **LONG)
    opened = rig.opened()
    rig.verdict(opened, 0, 11)
    rig.propose(opened, 4, tuple(range(20, 20 + opened.lookahead)))
    survival = rig.asked().survival_percent
    assert len(survival) == opened.lookahead
    assert 100 >= survival[0] > 80
    assert list(survival) == sorted(survival, reverse=True)


def test_the_heuristic_is_that_of_transformers():
    rig = Rig(policy="heuristic")
    rig.generate(**LONG)
    played = play(rig, 8, accepted=5)
    # 4 is accepted whole, and so is no more than that.
    assert [lookahead for _, lookahead in played] == [4, 6, 8, 7, 6, 5, 4, 6]


def test_a_drafter_of_which_nothing_holds_is_left_for_another():
    rig = Rig(num_drafters=2)
    rig.generate(**LONG)
    play(rig, 60, accepted=0)
    assert not rig.drafters[1].take(Attach)
    rig.tick(0.1)
    assert rig.drafters[0].take(Detach)
    assert rig.drafters[1].take(Attach)


def test_the_only_drafter_is_tried_again_after_a_while():
    rig = Rig(num_drafters=1)
    rig.generate(**LONG)
    play(rig, 60, accepted=0)
    rig.tick(0.1)
    rig.drafters[0].take(Attach)
    rig.verifiers[0].take(Verify)
    rig.generate("another", **LONG)
    assert rig.opened().drafter == ""
    rig.tick(6.0)
    rig.generate("third", **LONG)
    assert rig.opened().drafter == "drafter-0"
