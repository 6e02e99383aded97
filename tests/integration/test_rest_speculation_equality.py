"""Every sampling parameter over HTTP: the same response with speculation as without, whole as streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from tests.support.pocket import chat_prompts, draft_model_engine, drafter_engine, stop_token_ids, verifier_engine
from tests.support.rest_pocket import serving_pocket

CODE = "Finish the code below.\n\ndef mean(values):\n"
WORDS = "Grüße aus Köln 🙂 und 日本: 🙂🙂 Grüße"
EOS = {str(token): 100 for token in stop_token_ids()}
NO_EOS = {str(token): -100 for token in stop_token_ids()}
CHOICE: dict[str, dict[str, Any]] = {
    "presence": {"presence_penalty": 1.9},
    "frequency": {"frequency_penalty": -1.7},
    "repetition": {"repetition_penalty": 1.6},
    "logit_bias": {"logit_bias": {"200": 14, "35": -100}},
    "allowed_token_ids": {"allowed_token_ids": [*range(60, 700), *stop_token_ids()]},
    "bad_words": {"bad_words": ["return", "sum", "values", "the ", "len(values)"]},
    "min_tokens": {"min_tokens": 18, "logit_bias": EOS},
    "min_tokens and stop_token_ids": {"min_tokens": 9, "stop_token_ids": [200, 35], "logit_bias": {"200": 100}},
    "stop_token_ids": {"stop_token_ids": [200], "logit_bias": {"200": 7}, "include_stop_str_in_output": True},
    "ignore_eos": {"ignore_eos": True},
    "never an end": {"logit_bias": NO_EOS},
    "an end at once": {"logit_bias": EOS, "skip_special_tokens": False, "include_stop_str_in_output": True},
    "stop": {"stop": ["urn s", "\n\n", "    "]},
    "stop kept": {"stop": ["(", "n v"], "include_stop_str_in_output": True, "min_tokens": 3},
    "one token": {"max_tokens": 1},
    "n": {"n": 3},
    "top_k 1": {"top_k": 1},
    "top_p 0": {"top_p": 0},
    "tiny top_p": {"top_p": 1e-9},
    "min_p 1": {"min_p": 1.0},
    "cold": {"temperature": 1e-6},
    "hot": {"temperature": 2.0, "top_p": 1.0, "top_k": 0, "ignore_eos": True, "seed": 7},
    "large seed": {"seed": 2**64 - 3, "temperature": 1.0},
}
BOTH: dict[str, Any] = {"n": 3, "presence_penalty": 0.5, "stop": ["s)", "\n    "], "repetition_penalty": 1.1}
CHAT: dict[str, dict[str, Any]] = {
    **CHOICE,
    "logprobs": {"logprobs": True},
    "top_logprobs": {"logprobs": True, "top_logprobs": 20, "return_tokens_as_token_ids": True},
    "together": {**BOTH, "logprobs": True, "top_logprobs": 3},
}
COMPLETION: dict[str, dict[str, Any]] = {
    **CHOICE,
    "no logprobs but the chosen": {"logprobs": 0},
    "logprobs": {"logprobs": 5},
    "echo": {"echo": True},
    "echo with logprobs": {"echo": True, "logprobs": 2},
    "only an echo": {"echo": True, "logprobs": 2, "max_tokens": 0},
    "together": {**BOTH, "logprobs": 2, "echo": True},
    "several prompts": {"prompt": [CODE, WORDS, [5, 6, 7]], "n": 2, "echo": True, "logprobs": 1},
    "no prompt but its first token": {"prompt": ""},
}
BASES: dict[str, dict[str, Any]] = {"greedy": {"temperature": 0}, "sampled": {"temperature": 0.9, "seed": 2**63 + 5}}
OFF: dict[str, Any] = {"num_speculative_tokens": 0}
DRAFTING: tuple[dict[str, Any], ...] = (
    {"drafter": "mtp", "num_speculative_tokens": 3},
    {"drafter": "draft_model", "num_speculative_tokens": 5},
    {"drafter": "prompt_lookup", "num_speculative_tokens": 8},
)


@pytest.fixture(scope="module")
def engines() -> tuple[Any, Any, Any]:
    return verifier_engine(), drafter_engine(), draft_model_engine()


@pytest.fixture
async def http(engines: tuple[Any, Any, Any]) -> AsyncIterator[httpx.AsyncClient]:
    verifier, mtp, draft_model = engines
    async with (
        serving_pocket(verifier, [mtp], token_drafters=[draft_model]) as (url, _),
        httpx.AsyncClient(base_url=f"{url}/v1/", timeout=200) as client,
    ):
        yield client


def joined(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The choices of a stream as a whole response has them."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for part in chunk["choices"]:
            known = choices.setdefault(
                part["index"], {"text": "", "token_ids": [], "finish_reason": None, "logprobs": {}}
            )
            assert known["finish_reason"] is None, "nothing follows the end of a choice"
            known["text"] += part["text"] if "text" in part else part["delta"].get("content", "")
            known["token_ids"] += part.get("token_ids", [])
            known["finish_reason"] = part["finish_reason"]
            for name, entries in (part["logprobs"] or {}).items():
                known["logprobs"].setdefault(name, []).extend(entries or [])
    return [choices[index] for index in sorted(choices)]


async def ask(http: httpx.AsyncClient, path: str, body: dict[str, Any], speculation: dict[str, Any]) -> dict[str, Any]:
    """What a response says, told in one way for both endpoints, whole and streamed."""
    body = {"return_token_ids": True, **body, "model": "pocket", "speculation": speculation}
    if body.get("stream"):
        body["stream_options"] = {"include_usage": True}
    response = await http.post(path, json=body)
    assert response.status_code == httpx.codes.OK, response.text
    if body.get("stream"):
        *events, done = response.text.removesuffix("\n\n").split("\n\n")
        assert done == "data: [DONE]"
        chunks = [msgspec.json.decode(event.removeprefix("data: ")) for event in events]
        assert all(chunk["usage"] is None for chunk in chunks[:-1]), "as OpenAI writes it"
        whole, choices = chunks[-1], joined(chunks)
    else:
        whole = response.json()
        choices = [
            {
                "text": choice["text"] if "text" in choice else choice["message"]["content"],
                "token_ids": choice["token_ids"],
                "finish_reason": choice["finish_reason"],
                "logprobs": {name: entries or [] for name, entries in (choice["logprobs"] or {}).items()},
            }
            for choice in whole["choices"]
        ]
    usage = {name: whole["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    return {"choices": choices, "usage": usage, "drafted": whole["metrics"]["speculative_decoding"]["num_draft_tokens"]}


def check_same(got: Any, expected: Any) -> None:
    """Equal, but for the rounding of log-probabilities."""
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for name in expected:
            check_same(got[name], expected[name])
    elif isinstance(expected, list):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            check_same(one, other)
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, abs=1e-4)
    else:
        assert got == expected


async def check_all(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    """With each drafter and without one, whole and streamed; alone first, then all at once."""
    expected = await ask(http, path, body, OFF)
    assert expected.pop("drafted") == 0
    ways = [(speculation, stream) for speculation in (OFF, *DRAFTING) for stream in (False, True)]
    answers = await asyncio.gather(*(ask(http, path, {**body, "stream": stream}, one) for one, stream in ways))
    num_drafted = sum(got.pop("drafted") for got in answers)
    for got in answers:
        check_same(got, expected)
    assert num_drafted > 0 or expected["usage"]["completion_tokens"] <= 3 * len(expected["choices"])


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", CHAT)
async def test_chat(http: httpx.AsyncClient, name: str, base: str) -> None:
    messages = [{"role": "user", "content": CODE}]
    await check_all(http, "chat/completions", {"messages": messages, "max_tokens": 20, **BASES[base], **CHAT[name]})


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", COMPLETION)
async def test_completions(http: httpx.AsyncClient, name: str, base: str) -> None:
    await check_all(http, "completions", {"prompt": WORDS, "max_tokens": 20, **BASES[base], **COMPLETION[name]})


@pytest.mark.parametrize("base", BASES)
async def test_a_prompt_that_leaves_room_for_one_token(http: httpx.AsyncClient, base: str) -> None:
    prompt = (list(chat_prompts(1, seed=1)[0]) * 200)[:1023]
    await check_all(http, "completions", {"prompt": prompt, "max_tokens": 1, "logprobs": 1, **BASES[base]})
    await check_all(http, "completions", {"prompt": prompt[:1010], "max_tokens": 14, **BASES[base]})
