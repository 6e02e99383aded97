"""Every sampling parameter through HTTP with the official client: what arrives is what the library says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import openai
import pytest

from deployments.ingress.context import IngressContext
from deployments.messages import SamplingParams
from tests.support.equality import Reference
from tests.support.pocket import TARGET, chat_prompts, drafter_engine, stop_token_ids, verifier_engine
from tests.support.rest_pocket import serving_pocket

MESSAGES = [{"role": "user", "content": "Finish the code below.\n\ndef mean(values):\n"}]
MAX_TOKENS = 20
ASKED: dict[str, dict[str, Any]] = {
    "presence": {"presence_penalty": 1.9},
    "frequency": {"frequency_penalty": 1.7},
    "repetition": {"repetition_penalty": 1.6},
    "bias": {"logit_bias": {"200": 14, "35": -100}},
    "min_tokens": {"min_tokens": 18},
    "ignore_eos": {"ignore_eos": True},
    "stop_token_ids": {"stop_token_ids": [200], "logit_bias": {"200": 9}},
}


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(TARGET)


@pytest.fixture(scope="module")
def engines():
    return verifier_engine(), drafter_engine()


@pytest.fixture
async def server(engines) -> AsyncIterator[tuple[openai.AsyncOpenAI, IngressContext, str]]:
    async with (
        serving_pocket(engines[0], [engines[1]]) as (url, context),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=200) as api,
    ):
        yield api, context, url


def expected_ids(
    reference: Reference, prompt: list[int], asked: dict[str, Any], base: SamplingParams, choice: int = 0
) -> list[int]:
    """What the library generates with these parameters, one token at a time."""
    stop = (*(() if asked.get("ignore_eos") else stop_token_ids()), *asked.get("stop_token_ids", ()))
    named = {
        name: asked[name] for name in ("presence_penalty", "frequency_penalty", "repetition_penalty") if name in asked
    }
    params = msgspec.structs.replace(
        base,
        **named,
        choice_index=choice,
        num_prompt_tokens=len(prompt),
        logit_bias=tuple((int(key), float(value)) for key, value in asked.get("logit_bias", {}).items()),
        banned_token_ids=stop if "min_tokens" in asked else (),
        banned_before=len(prompt) + asked.get("min_tokens", 0),
    )
    return reference.generate(prompt, params, MAX_TOKENS, stop=stop)


@pytest.mark.parametrize("base", [SamplingParams(), SamplingParams(temperature=0.7, seed=5)], ids=["greedy", "sampled"])
async def test_chat_honours_every_parameter_streamed_and_whole(
    server, reference: Reference, base: SamplingParams
) -> None:
    api, context, _ = server
    prompt = context.tokenizer.encode_chat(MESSAGES)
    for asked in ASKED.values():
        ids = expected_ids(reference, prompt, asked, base)
        known: dict[str, Any] = {
            "model": "pocket",
            "messages": MESSAGES,
            "max_tokens": MAX_TOKENS,
            "temperature": base.temperature,
            "seed": base.seed,
            "extra_body": {**asked, "return_token_ids": True, "speculation": {"num_speculative_tokens": 3}},
        }
        whole = await api.chat.completions.create(**known)
        assert whole.choices[0].token_ids == ids  # type: ignore[attr-defined]
        assert whole.usage is not None
        assert whole.usage.completion_tokens == len(ids)
        stream = await api.chat.completions.create(**known, stream=True)
        chunks = [chunk async for chunk in stream]
        assert [token for chunk in chunks for token in getattr(chunk.choices[0], "token_ids", [])] == ids
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == whole.choices[0].message.content
        ended_early = len(ids) < MAX_TOKENS or ids[-1] in stop_token_ids()
        assert whole.choices[0].finish_reason == ("stop" if ended_early else "length")


async def test_chat_logprobs_are_the_targets(server, reference: Reference) -> None:
    api, context, _ = server
    prompt = context.tokenizer.encode_chat(MESSAGES)
    known: dict[str, Any] = {
        "model": "pocket",
        "messages": MESSAGES,
        "max_tokens": MAX_TOKENS,
        "temperature": 0.9,
        "seed": 3,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 4,
        "extra_body": {"return_token_ids": True, "presence_penalty": 0.4},
    }
    whole = await api.chat.completions.create(**known)
    for index, choice in enumerate(whole.choices):
        ids = choice.token_ids  # type: ignore[attr-defined]
        base = SamplingParams(temperature=0.9, seed=3)
        assert ids == expected_ids(reference, prompt, {"presence_penalty": 0.4}, base, index)
        expected_TV = reference.logits([*prompt, *ids]).log_softmax(-1)[len(prompt) - 1 :]
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert len(choice.logprobs.content) == len(ids)
        for token, entry, expected_V in zip(ids, choice.logprobs.content, expected_TV, strict=False):
            assert entry.logprob == pytest.approx(float(expected_V[token]), abs=1e-4)
            assert bytes(entry.bytes or []) == context.tokenizer.token_texts.utf8(token)
            values = [top.logprob for top in entry.top_logprobs]
            assert values == pytest.approx(expected_V.topk(4).values.tolist(), abs=1e-4)
        text = choice.message.content or ""
        assert b"".join(bytes(entry.bytes or []) for entry in choice.logprobs.content).startswith(text.encode())
    assert whole.choices[0].message.content != whole.choices[1].message.content
    streamed: list[list[Any]] = [[], []]
    async for chunk in await api.chat.completions.create(**known, stream=True):
        choice = chunk.choices[0]
        if choice.logprobs is not None:
            streamed[choice.index] += choice.logprobs.content or []
    for choice, entries in zip(whole.choices, streamed, strict=True):
        assert choice.logprobs is not None
        assert [(one.token, one.bytes) for one in entries] == [
            (one.token, one.bytes) for one in choice.logprobs.content or []
        ]


async def test_several_prompts_and_choices_are_requests_of_their_own(server) -> None:
    api, context, _ = server
    prompts = ["def add(a, b):", context.tokenizer.encode("The weather is"), "{"]
    known: dict[str, Any] = {"model": "pocket", "max_tokens": 9, "temperature": 1.0, "seed": 11, "n": 3}
    together = await api.completions.create(prompt=prompts, **known)  # type: ignore[call-overload]
    assert [choice.index for choice in together.choices] == list(range(9))
    texts = [choice.text for choice in together.choices]
    num_prompt = num_output = 0
    for i, prompt in enumerate(prompts):
        alone = await api.completions.create(prompt=prompt, **known)  # type: ignore[call-overload]
        assert [choice.text for choice in alone.choices] == texts[3 * i : 3 * i + 3]
        num_prompt += alone.usage.prompt_tokens
        num_output += alone.usage.completion_tokens
    assert (together.usage.prompt_tokens, together.usage.completion_tokens) == (num_prompt, num_output)
    streamed = [""] * 9
    async for chunk in await api.completions.create(prompt=prompts, stream=True, **known):  # type: ignore[call-overload]
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("max_tokens", [0, 1, 6])
async def test_an_echo_scores_the_prompt(server, reference: Reference, max_tokens: int, stream: bool) -> None:
    api, context, _ = server
    texts = ["def mean(values):\n    return sum(values)", "It was a cold day"]
    prompts = [context.tokenizer.encode(text) for text in texts]
    answer = await api.completions.create(
        model="pocket",
        prompt=prompts if max_tokens != 6 else texts,
        max_tokens=max_tokens,
        echo=True,
        logprobs=2,
        stream=stream,
        temperature=0,
        extra_body={"return_token_ids": True},
    )
    choices: list[dict[str, Any]] = [
        {"text": "", "prompt": [], "ids": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for _ in prompts
    ]
    for chunk in [one async for one in answer] if stream else [answer]:
        for choice in chunk.choices:
            known = choices[choice.index]
            known["text"] += choice.text
            known["ids"] += choice.token_ids
            known["prompt"] += getattr(choice, "prompt_token_ids", [])
            if choice.logprobs is not None:
                for name in ("token_logprobs", "top_logprobs", "text_offset"):
                    known[name] += getattr(choice.logprobs, name)
    for text, prompt, known in zip(texts, prompts, choices, strict=True):
        ids = [*prompt, *known["ids"]]
        assert known["text"].startswith(text)
        assert known["prompt"] == prompt
        assert len(known["ids"]) <= max_tokens
        assert (len(known["ids"]) > 0) == (max_tokens > 0)
        assert len(known["token_logprobs"]) == len(known["top_logprobs"]) == len(known["text_offset"]) == len(ids)
        assert known["token_logprobs"][0] is known["top_logprobs"][0] is None
        expected_TV = reference.logits(ids).log_softmax(-1)
        for i, (token, logprob, top) in enumerate(
            zip(ids, known["token_logprobs"], known["top_logprobs"], strict=True)
        ):
            if i > 0:
                assert logprob == pytest.approx(float(expected_TV[i - 1][token]), abs=1e-4)
                assert (logprob == max(top.values())) == (int(expected_TV[i - 1].argmax()) == token)
                assert top[context.tokenizer.token_texts.text(token)] == logprob
        offset = known["text_offset"][3]
        assert known["text"][offset:].startswith(context.tokenizer.token_texts.text(ids[3])) or ids[0] == 2


async def test_a_prompt_is_scored_beside_its_choices(server, reference: Reference) -> None:
    api, context, _ = server
    prompt = "def mean(values):\n    return sum(values)"
    known: dict[str, Any] = {"model": "pocket", "max_tokens": 4, "temperature": 0, "n": 2}
    asked = {"prompt_logprobs": 3, "return_token_ids": True}
    texts = await api.completions.create(prompt=[prompt, "It was"], logprobs=1, extra_body=asked, **known)
    chat = await api.chat.completions.create(messages=MESSAGES, extra_body=asked, **known)
    scored = [(choice.prompt_token_ids, choice.prompt_logprobs) for choice in texts.choices]  # type: ignore[attr-defined]
    scored.append((chat.prompt_token_ids, chat.prompt_logprobs))  # type: ignore[attr-defined]
    assert [ids for ids, _ in scored][::2] == [
        context.tokenizer.encode(prompt),
        context.tokenizer.encode("It was"),
        context.tokenizer.encode_chat(MESSAGES),
    ]
    for ids, scores in scored:
        expected_TV = reference.logits(ids).log_softmax(-1)
        assert scores[0] is None
        assert len(scores) == len(ids)
        for token, entry, expected_V in zip(ids[1:], scores[1:], expected_TV[:-1], strict=True):
            ranked = sorted((one["rank"], one["logprob"]) for one in entry.values() if one["rank"] is not None)
            assert [rank for rank, _ in ranked] == [1, 2, 3]
            assert [value for _, value in ranked] == pytest.approx(expected_V.topk(3).values.tolist(), abs=1e-4)
            assert entry[str(token)]["logprob"] == pytest.approx(float(expected_V[token]), abs=1e-4)
            assert entry[str(token)]["decoded_token"] == context.tokenizer.token_texts.text(token)
    assert {len(top) for choice in texts.choices for top in choice.logprobs.top_logprobs} <= {1, 2}


async def test_stop_strings_and_special_tokens_can_be_shown(server) -> None:
    api, _, _ = server
    known: dict[str, Any] = {"model": "pocket", "messages": MESSAGES, "max_tokens": 40, "temperature": 0}
    plain = (await api.chat.completions.create(**known)).choices[0].message.content
    assert len(plain) > 12
    stop = plain[6:9]
    cut = await api.chat.completions.create(**known, stop=stop)
    kept = await api.chat.completions.create(**known, stop=stop, extra_body={"include_stop_str_in_output": True})
    assert cut.choices[0].message.content == plain[: plain.index(stop)]
    assert kept.choices[0].message.content == plain[: plain.index(stop) + 3]
    ending: dict[str, Any] = {
        "model": "pocket",
        "prompt": list(chat_prompts(2, seed=5)[1]),
        "max_tokens": 40,
        "temperature": 0,
    }
    hidden = (await api.completions.create(**ending)).choices[0]
    assert hidden.finish_reason == "stop"
    special = {"include_stop_str_in_output": True, "skip_special_tokens": False}
    shown = (await api.completions.create(**ending, extra_body=special)).choices[0]
    assert shown.text in (hidden.text + "<turn|>", hidden.text + "<eos>")
    late = await api.chat.completions.create(**known, stop=stop, extra_body={"min_tokens": 12})
    assert late.choices[0].message.content.startswith(plain[: plain.index(stop) + 3])


async def test_what_vllms_suites_ask_for(server) -> None:
    """Requests in the manner of the other servers' own tests, and what these assert."""
    _, context, url = server
    begun = [*MESSAGES, {"role": "assistant", "content": "    total ="}]
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with httpx.AsyncClient(base_url=f"{url}/v1/", timeout=200) as http:

        async def ask(path: str, **body: Any) -> Any:
            response = await http.post(path, json={"temperature": 0, "max_tokens": 12, **body})
            assert response.status_code == 200, response.text
            if not body.get("stream"):
                return response.json()
            return [msgspec.json.decode(block[6:]) for block in response.text.split("\n\n")[:-2]]

        plain = (await ask("chat/completions", messages=begun, continue_final_message=True))["choices"][0]
        echoed = await ask("chat/completions", messages=begun, continue_final_message=True, echo=True)
        assert echoed["choices"][0]["message"]["content"] == "    total =" + plain["message"]["content"]
        stop = plain["message"]["content"][2:4]
        stopped = await ask("chat/completions", messages=begun, continue_final_message=True, stop=[stop])
        assert [stopped["choices"][0][name] for name in ("finish_reason", "stop_reason")] == ["stop", stop]
        ids = context.tokenizer.encode("def mean(values):")
        kept = await ask("completions", prompt=ids, truncate_prompt_tokens=3, return_token_ids=True)
        assert kept["choices"][0]["prompt_token_ids"] == ids[-3:]
        (ended,) = (await ask("completions", prompt=ids, stop_token_ids=[200], logit_bias={"200": 100}))["choices"]
        assert (ended["stop_reason"], ended["text"]) == (200, "")
        chunks = await ask("chat/completions", messages=MESSAGES, stream=True, stream_options=options, min_tokens=12)
        counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert counts == [*sorted(set(counts)), 12]  # each chunk says more, and the last one sums up
        assert counts[0] == 0
        form = {"content-type": "application/x-www-form-urlencoded"}
        assert (await http.post("completions", content=b'{"prompt": "x"}', headers=form)).status_code == 415


async def test_tokens_for_clients_without_a_tokenizer(server) -> None:
    _, context, url = server
    async with httpx.AsyncClient(base_url=url) as http:
        text = "Grüße 🙂 <eos>"
        made = (await http.post("/tokenize", json={"prompt": text, "add_special_tokens": False})).json()
        assert made["count"] == len(made["tokens"])
        assert made["max_model_len"] == 1024
        back = (await http.post("/detokenize", json={"model": "pocket", "tokens": made["tokens"]})).json()
        assert back == {"prompt": text}
        chat = (await http.post("/tokenize", json={"messages": MESSAGES, "return_token_strs": True})).json()
        assert chat["tokens"] == context.tokenizer.encode_chat(MESSAGES)
        assert len(chat["token_strs"]) == chat["count"]
        off = {"tools": [], "continue_final_message": False, "chat_template_kwargs": {}, "chat_template": None}
        assert (await http.post("/tokenize", json={"messages": MESSAGES, **off})).json()["tokens"] == chat["tokens"]
        info = (await http.get("/tokenizer_info")).json()
        assert (info["eos_token"], info["tokenizer_class"]) == ("<eos>", "PreTrainedTokenizerFast")
        assert "message" in info["chat_template"]
        for body, param in (
            ({}, "prompt"),
            ({"prompt": "a", "messages": MESSAGES}, "prompt"),
            ({"prompt": 3}, "prompt"),
            ({"prompt": "a", "model": "other"}, "model"),
            ({"prompt": "a", "mood": 1}, "mood"),
            ({"messages": MESSAGES, "chat_template": "x"}, "chat_template"),
        ):
            response = await http.post("/tokenize", json=body)
            assert response.status_code in (400, 404)
            assert response.json()["error"]["param"] == param
        response = await http.post("/detokenize", json={"tokens": [10**6]})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "tokens")


async def test_what_load_tools_always_send_is_accepted(server) -> None:
    """The bodies of vllm bench, guidellm and AIPerf, and OpenAI's fields that change nothing."""
    _, _, url = server
    options = {"include_usage": True, "continuous_usage_stats": True}
    completion = {"model": "pocket", "prompt": "def f(", "max_tokens": 5, "stream": True, "stream_options": options}
    chat = {"model": "pocket", "messages": MESSAGES, "stream": True, "stream_options": options}
    bodies = [
        ("completions", {**completion, "repetition_penalty": 1.0, "logprobs": None, "ignore_eos": True}),
        ("completions", {**completion, "stop": None, "ignore_eos": True, "min_tokens": 5, "temperature": 0.0, "n": 1}),
        ("chat/completions", {**chat, "max_completion_tokens": 5, "stop": None, "ignore_eos": True}),
        (
            "chat/completions",
            {
                **chat,
                "max_completion_tokens": 5,
                "min_tokens": 5,
                "ignore_eos": True,
                "user": "u",
                "metadata": {"a": "b"},
                "store": False,
                "safety_identifier": "s",
                "prompt_cache_key": "k",
                "service_tier": "auto",
                "logprobs": False,
                "presence_penalty": 0,
            },
        ),
    ]
    async with httpx.AsyncClient(base_url=f"{url}/v1/", timeout=200) as http:
        for path, body in bodies:
            response = await http.post(path, json=body)
            assert response.status_code == 200, response.text
            chunks = [msgspec.json.decode(block[6:]) for block in response.text.split("\n\n")[:-2]]
            counts = [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")]
            assert counts == sorted(counts)
            assert counts[-1] == 5
            assert len(counts) >= 2
