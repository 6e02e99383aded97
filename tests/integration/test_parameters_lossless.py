"""Penalties, biases, bans, grammars and log-probabilities under speculation: the tokens are those of the library."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
import torch
from llguidance import LLMatcher

from deployments.drafter.token_service import TokenDrafterService, TokenDrafterSettings
from deployments.ingress.generation import GenerateRequest
from deployments.ingress.structured_output import ResponseFormat, output_grammar
from deployments.messages import Commit, DeltaItem, SamplingParams
from deployments.verifier.scheduler import StepBudget
from tests.support.equality import Reference, Tally
from tests.support.pocket import (
    TARGET,
    chat_prompts,
    draft_model_engine,
    drafter_engine,
    make_request,
    stop_token_ids,
    verifier_engine,
)
from tests.support.rig import Rig, running_rig


def grammar_of(schema: dict[str, object]) -> str:
    wanted = {"type": "json_schema", "json_schema": {"name": "wanted", "schema": schema}}
    made = output_grammar(ResponseFormat.model_validate(wanted), None)
    assert made is not None
    return made.text


NUM_TOKENS = 28
MIN_TOKENS = 25
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=2**63 + 11)
BIAS = ((11, 8.0), (200, 13.0), (35, -100.0), (1000, -3.0))
JSON = grammar_of(
    {
        "type": "object",
        "properties": {
            "names": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
            "age": {"type": "integer"},
        },
        "required": ["names", "age"],
    }
)
CAPITALS = LLMatcher.grammar_from_regex(r"[A-Z ]{30,60}[.]")
ASKED: dict[str, dict[str, object]] = {
    "presence": {"presence_penalty": 2.0},
    "frequency": {"frequency_penalty": 1.6},
    "negative": {"presence_penalty": -2.0, "frequency_penalty": -1.0},
    "repetition": {"repetition_penalty": 1.6},
    "bias": {"logit_bias": BIAS},
    "min_tokens": {"banned_token_ids": stop_token_ids()},
    "allowed": {"allowed_token_ids": tuple(range(60, 900))},
    "bad words": {"bad_words": ((11,), (200, 35), *((token, other) for token in range(60, 90) for other in (17, 226)))},
    "grammar": {"grammar": JSON},
    "penalised grammar": {"grammar": CAPITALS, "presence_penalty": 1.5, "logit_bias": BIAS},
    "everything": {
        "presence_penalty": 0.4,
        "frequency_penalty": 0.3,
        "repetition_penalty": 1.15,
        "logit_bias": BIAS,
        "banned_token_ids": stop_token_ids(),
    },
}


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(TARGET)


@pytest.fixture(scope="module")
def engines():
    return verifier_engine(), drafter_engine()


def asking(params: SamplingParams, asked: dict[str, object], num_prompt: int) -> SamplingParams:
    banned_before = num_prompt + MIN_TOKENS if "banned_token_ids" in asked else 0
    return msgspec.structs.replace(params, **asked, num_prompt_tokens=num_prompt, banned_before=banned_before)


def make(index: int, prompt: tuple[int, ...], params: SamplingParams, lookahead: int) -> GenerateRequest:
    return make_request(index, prompt, params, NUM_TOKENS, num_speculative_tokens=lookahead)


async def commits(rig: Rig, request: GenerateRequest) -> list[Commit]:
    async with asyncio.timeout(200):
        return [commit async for commit in rig.client.generate(request)]


async def generate(rig: Rig, request: GenerateRequest) -> list[int]:
    return [token for commit in await commits(rig, request) for token in commit.tokens]


@pytest.mark.parametrize("base", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_every_parameter_alone_and_in_mixed_company(engines, reference: Reference, base: SamplingParams) -> None:
    """Each parameter by itself; then all of them, and plain requests, in one batch at every lookahead."""
    one, other = chat_prompts(7, seed=5)[1::5]  # code, which ends early: the parameters show
    prompts = [*[one] * len(ASKED), other, one]
    wanted = [asking(base, asked, len(prompt)) for asked, prompt in zip(ASKED.values(), prompts, strict=False)]
    wanted += [base, msgspec.structs.replace(SAMPLED, seed=3)]
    stop = reference.eos_token_ids
    cases = list(zip(prompts, wanted, strict=True))
    expected = [reference.generate(prompt, params, NUM_TOKENS, stop=stop) for prompt, params in cases]
    plain = [reference.generate(prompt, base, NUM_TOKENS, stop=stop) for prompt in prompts[: len(ASKED)]]
    assert sum(one != other for one, other in zip(expected, plain, strict=False)) >= len(ASKED) - 2, "they do nothing"
    tally = Tally(reference)
    async with running_rig(verifiers=[engines[0]], drafters=[engines[1]]) as rig:
        for i, (prompt, params) in enumerate(cases[: len(ASKED)]):
            tally.check(prompt, params, expected[i], await generate(rig, make(i, prompt, params, 3)))
        for lookaheads in ((0,), (1,), (3,), (8,), (0, 8, 1, 3)):
            made = [make(i, *case, lookaheads[i % len(lookaheads)]) for i, case in enumerate(cases)]
            got = await asyncio.gather(*(generate(rig, one) for one in made))
            for (prompt, params), one, other in zip(cases, expected, got, strict=True):
                tally.check(prompt, params, one, other)
    tally.close()
    engines[0].check_integrity()


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({"repetition_penalty": 1.6}, {"repetition_penalty": 1.6}),
        ({"logit_bias": BIAS}, {"sequence_bias": {(token,): value for token, value in BIAS}}),
        ({"banned_token_ids": stop_token_ids()}, {"min_new_tokens": MIN_TOKENS}),
        (
            {"repetition_penalty": 1.2, "logit_bias": BIAS, "banned_token_ids": stop_token_ids()},
            {
                "repetition_penalty": 1.2,
                "sequence_bias": {(token,): value for token, value in BIAS},
                "min_new_tokens": MIN_TOKENS,
            },
        ),
    ],
    ids=["repetition", "bias", "min_tokens", "together"],
)
async def test_where_the_library_has_the_parameter_its_generate_says_the_same(
    engines, reference: Reference, asked: dict[str, object], options: dict[str, object]
) -> None:
    tally = Tally(reference)
    async with running_rig(verifiers=[engines[0]], drafters=[engines[1]]) as rig:
        for i, prompt in enumerate(chat_prompts(4, seed=5)):
            params = asking(GREEDY, asked, len(prompt))
            expected = reference.generate_greedy_by_library(prompt, NUM_TOKENS, **options)
            tally.check(prompt, params, expected, await generate(rig, make(i, prompt, params, 4)))
    tally.close()


@pytest.mark.parametrize("place", ["remote", "colocated"])
async def test_a_draft_model_applies_every_parameter(engines, reference: Reference, place: str) -> None:
    """All of them in one batch, greedy and sampled, each with a lookahead of its own."""
    prompts = chat_prompts(2 * len(ASKED), seed=5)
    cases = [
        (prompt, asking(GREEDY if i % 2 else SAMPLED, asked, len(prompt)))
        for i, (prompt, asked) in enumerate(zip(prompts, [*ASKED.values()] * 2, strict=True))
    ]
    drafter = draft_model_engine()
    options: dict[str, object] = {"token_drafters": [drafter]}
    if place == "colocated":
        inside = TokenDrafterService(drafter, TokenDrafterSettings(drafts_ahead=False))
        options = {"inside": lambda: {"draft_model": inside}}
    tally, num_accepted = Tally(reference), 0
    async with running_rig(verifiers=[engines[0]], router={"drafter": "draft_model"}, **options) as rig:  # type: ignore[arg-type]
        made = [make(i, *case, (3, 8, 1)[i % 3]) for i, case in enumerate(cases)]
        runs = await asyncio.gather(*(commits(rig, one) for one in made))
    for (prompt, params), run in zip(cases, runs, strict=True):
        expected = reference.generate(prompt, params, NUM_TOKENS, stop=reference.eos_token_ids)
        tally.check(prompt, params, expected, [token for commit in run for token in commit.tokens])
        num_accepted += sum(commit.num_accepted for commit in run if commit.drafter == "draft_model")
    tally.close()
    assert num_accepted > 50


async def test_a_drafter_applies_what_the_verifier_applies(engines, reference: Reference) -> None:
    """The drafter's guesses hold more often than those of one that is not told of the penalties."""

    async def num_accepted(is_told: bool) -> int:
        async with running_rig(verifiers=[engines[0]], drafters=[engines[1]]) as rig:
            total = 0
            for i, prompt in enumerate(chat_prompts(6, seed=9)):
                params = asking(GREEDY, {"repetition_penalty": 1.6, "logit_bias": BIAS}, len(prompt))
                if not is_told:
                    rig.of("drafter")[0].tap.bend = without_adjustments
                total += sum(commit.num_accepted for commit in await commits(rig, make(i, prompt, params, 3)))
            return total

    told, untold = await num_accepted(True), await num_accepted(False)
    assert told > untold


def without_adjustments(_link: object, message: object) -> object:
    params = getattr(message, "params", None)
    if params is None:
        return message
    return msgspec.structs.replace(
        message, params=msgspec.structs.replace(params, repetition_penalty=1, logit_bias=(), grammar="")
    )


async def test_a_drafter_that_is_told_wrong_tokens_changes_no_output(engines, reference: Reference) -> None:
    def bend(_link: object, message: object) -> object:
        if type(message).__name__ != "Delta":
            return message
        return msgspec.structs.replace(message, items=tuple(spoiled(i, item) for i, item in enumerate(message.items)))  # type: ignore[attr-defined]

    def spoiled(i: int, item: DeltaItem) -> DeltaItem:
        wrong = tuple(10**9 for _ in item.tokens) if i % 2 else item.tokens[1:]
        return msgspec.structs.replace(item, tokens=wrong)

    prompt = chat_prompts(1, seed=2)[0]
    params = asking(GREEDY, ASKED["everything"], len(prompt))
    tally = Tally(reference)
    async with running_rig(
        verifiers=[engines[0]], drafters=[drafter_engine()], router={"proposal_timeout_s": 0.1}
    ) as rig:
        rig.of("drafter")[0].tap.bend = bend
        got = await generate(rig, make(0, prompt, params, 4))
    tally.check(prompt, params, reference.generate(prompt, params, NUM_TOKENS, stop=stop_token_ids()), got)
    tally.close()


@pytest.mark.parametrize("lookahead", [0, 3])
async def test_logprobs_are_those_of_the_librarys_raw_logits(engines, reference: Reference, lookahead: int) -> None:
    """Of output and prompt, alone and beside sessions that ask for other numbers of them, or for none."""
    prompts = chat_prompts(5, seed=6)
    nums = [0, 1, 20, None, 3]
    made = []
    for i, (prompt, num) in enumerate(zip(prompts, nums, strict=True)):
        params = asking(SAMPLED, ASKED["everything"] if i % 2 else {}, len(prompt))
        params = msgspec.structs.replace(params, num_logprobs=num, scores_prompt=i in (1, 2))
        made.append(make(i, prompt, params, lookahead))
    async with running_rig(verifiers=[engines[0]], drafters=[engines[1]]) as rig:
        rig.of("verifier")[0].service._budget = StepBudget(  # type: ignore[union-attr]
            max_step_tokens=64, prompt_tokens=32, max_step_sessions=8, max_scored_tokens=24
        )
        together = await asyncio.gather(*(commits(rig, request) for request in made))
        alone = [await commits(rig, request) for request in made]
    for request, num, runs in zip(made, nums, zip(together, alone, strict=True), strict=True):
        for run in runs:
            check_logprobs(reference, request, num, run)


def check_logprobs(reference: Reference, request: GenerateRequest, num: int | None, run: list[Commit]) -> None:
    tokens = [token for commit in run for token in commit.tokens]
    found = [entry for commit in run for entry in commit.logprobs]
    if num is None:
        assert not found
        return
    known = [*request.prompt, *tokens]
    expected_TV = reference.logits(known).log_softmax(-1)
    first = len(request.prompt)
    if request.params.scores_prompt:
        assert not any(commit.prompt_logprobs for commit in run[1:])
        found, first = [*run[0].prompt_logprobs, *found], 1
    assert [entry.token for entry in found] == known[first:]
    for position, entry in enumerate(found, first):
        expected_V = expected_TV[position - 1]
        assert entry.logprob == pytest.approx(float(expected_V[entry.token]), abs=1e-4)
        values = [value for _, value in entry.top]
        torch.testing.assert_close(torch.tensor(values), expected_V.topk(num).values, rtol=0, atol=1e-4)
        for token, value in entry.top:
            assert value == pytest.approx(float(expected_V[token]), abs=1e-4)


@pytest.mark.parametrize("when", [3, 6])
async def test_faults_change_no_penalised_output(reference: Reference, when: int) -> None:
    """A drafter, then a verifier, die in mid-output: counts are rebuilt, the prompt is not scored twice."""
    prompts = chat_prompts(4, seed=8)
    made = [
        make(i, prompt, msgspec.structs.replace(asking(GREEDY, asked, len(prompt)), num_logprobs=1), 4)
        for i, (prompt, asked) in enumerate(zip(prompts, list(ASKED.values())[-4:], strict=True))
    ]
    tally = Tally(reference)
    verifiers, drafters = [verifier_engine(), verifier_engine()], [drafter_engine(), drafter_engine()]
    async with running_rig(verifiers=verifiers, drafters=drafters) as rig:
        running = asyncio.gather(*(commits(rig, request) for request in made))
        for role in ("drafter", "verifier"):
            while rig.of("verifier")[0].service.num_steps < when and not running.done():  # type: ignore[union-attr]
                await asyncio.sleep(0.001)
            rig.of(role)[0].kill()  # type: ignore[arg-type]
        runs = await asyncio.wait_for(running, 200)
    for request, run in zip(made, runs, strict=True):
        tokens = [token for commit in run for token in commit.tokens]
        expected = reference.generate(request.prompt, request.params, NUM_TOKENS, stop=stop_token_ids())
        tally.check(request.prompt, request.params, expected, tokens)
        check_logprobs(reference, request, 1, run)
    tally.close()


async def test_a_prompt_found_in_the_cache_is_counted_and_one_that_is_scored_is_read(
    engines, reference: Reference
) -> None:
    prompt = chat_prompts(1, seed=11)[0]
    params = asking(GREEDY, {"repetition_penalty": 1.6}, len(prompt))
    scored = msgspec.structs.replace(params, num_logprobs=1, scores_prompt=True)
    async with running_rig(verifiers=[engines[0]], drafters=[engines[1]]) as rig:
        first, again, last = [
            await commits(rig, make(i, prompt, one, 3)) for i, one in enumerate((params, params, scored))
        ]
    expected = reference.generate(prompt, params, NUM_TOKENS, stop=stop_token_ids())
    tally = Tally(reference)
    for run in (first, again, last):
        tally.check(prompt, params, expected, [token for commit in run for token in commit.tokens])
    tally.close()
    assert again[0].num_cached > 0
    assert last[0].num_cached == 0
    check_logprobs(reference, make(2, prompt, scored, 3), 1, last)
