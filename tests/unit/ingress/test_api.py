"""The routes over a scripted client: shapes, errors, request ids, failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.ingress import errors
from deployments.ingress.app import create_app
from deployments.ingress.context import ApiLimits, IngressContext
from tests.support.rest import MODEL, ScriptedClient, make_context, plain_ids
from tests.support.tiny_tokenizer import END_OF_TURN_ID

ANSWER = "zebras graze 🙂 behind quartz walls."
HELLO = [{"role": "user", "content": "hello"}]
CHAT = {"model": MODEL, "messages": HELLO}
COMPLETION = {"model": MODEL, "prompt": "the quick"}


@pytest.fixture
def client() -> ScriptedClient:
    return ScriptedClient(bunches=[1, 3, 2, 4])


@pytest.fixture
def context(tmp_path: Path, client: ScriptedClient) -> IngressContext:
    made = make_context(tmp_path, client, ApiLimits(max_num_speculative_tokens=8, max_body_bytes=10_000))
    client.tokens = [*plain_ids(made, ANSWER), END_OF_TURN_ID]
    return made


@pytest.fixture
async def http(context: IngressContext) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


def events_of(response: httpx.Response) -> list[Any]:
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [data if data == "[DONE]" else json.loads(data) for data in (block[6:] for block in blocks)]


async def test_a_chat_answer(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    body = (await http.post("/v1/chat/completions", json=CHAT)).json()
    num_prompt = len(client.requests[0].prompt)
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == MODEL
    assert body["system_fingerprint"].startswith("fp_")
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": ANSWER, "refusal": None}
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert body["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": len(client.tokens),
        "total_tokens": num_prompt + len(client.tokens),
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    speculation = body["metrics"]["speculative_decoding"]
    assert sum(speculation["acceptance_histogram"]) == speculation["num_spec_steps"] > 0


async def test_a_completion(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    body = (await http.post("/v1/completions", json=COMPLETION)).json()
    assert (body["object"], body["id"][:5]) == ("text_completion", "cmpl-")
    assert body["choices"] == [
        {"index": 0, "text": ANSWER[: len(body["choices"][0]["text"])], "logprobs": None, "finish_reason": "length"}
    ]
    assert body["usage"]["completion_tokens"] == 16  # OpenAI's default for this endpoint


async def test_streams_add_up_to_the_whole_answer(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events_of(response)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == ANSWER
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons[-1] == "stop"
    assert set(reasons[:-1]) == {None}
    assert not any("usage" in chunk or "outrider" in chunk for chunk in chunks)


async def test_a_streamed_completion_ends_with_its_usage_and_metrics(http: httpx.AsyncClient) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 5}
    *chunks, last, done = events_of(await http.post("/v1/completions", json={**COMPLETION, **options}))
    assert done == "[DONE]"
    assert all(chunk["object"] == "text_completion" and "usage" not in chunk for chunk in chunks)
    assert ANSWER.startswith("".join(chunk["choices"][0]["text"] for chunk in chunks))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 5
    assert last["metrics"]["speculative_decoding"]["num_spec_steps"] > 0


async def test_token_kinds_come_only_if_asked_for(http: httpx.AsyncClient) -> None:
    options = {"stream": True, "stream_options": {"include_token_kinds": True}}
    _, *chunks, _ = events_of(await http.post("/v1/chat/completions", json={**CHAT, **options}))
    segments = [segment for chunk in chunks for segment in chunk["outrider"]["segments"]]
    assert "".join(segment["text"] for segment in segments) == ANSWER
    assert {segment["kind"] for segment in segments} == {"plain", "accepted", "recovered", "bonus"}


async def test_metrics_can_be_left_out_of_responses(tmp_path: Path, client: ScriptedClient) -> None:
    context = make_context(tmp_path, client, ApiLimits(reports_speculation=False))
    client.tokens = [END_OF_TURN_ID]
    transport = httpx.ASGITransport(create_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert "metrics" not in (await http.post("/v1/chat/completions", json=CHAT)).json()


async def test_parameters_reach_the_router(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    asked = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "seed": -1,
        "max_completion_tokens": 9,
        "speculation": {"num_speculative_tokens": 3, "drafter": "mtp"},
    }
    await http.post("/v1/chat/completions", json={**CHAT, **asked})
    (request,) = client.requests
    params = request.params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 40, 0.05)
    assert params.seed == 2**64 - 1
    assert (request.num_speculative_tokens, request.drafter) == (3, "mtp")
    assert request.max_context_tokens == len(request.prompt) + 9
    assert set(request.stop_token_ids) == {1, END_OF_TURN_ID}


async def test_what_is_not_given_follows_the_model(tmp_path: Path) -> None:
    client = ScriptedClient(tokens=[END_OF_TURN_ID])
    context = make_context(tmp_path, client, generation={"temperature": 0.3, "top_k": 64, "top_p": 0.95})
    transport = httpx.ASGITransport(create_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for _ in range(2):
            await http.post("/v1/chat/completions", json={**CHAT, "top_k": -1, "temperature": None})
    first, second = (request.params for request in client.requests)
    assert (first.temperature, first.top_k, first.top_p, first.min_p) == (0.3, 0, 0.95, 0.0)
    assert first.seed != second.seed
    assert client.requests[0].num_speculative_tokens is None
    assert client.requests[0].max_context_tokens == 512


async def test_neutral_values_of_other_parameters_are_accepted(http: httpx.AsyncClient) -> None:
    neutral = {
        "n": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logprobs": False,
        "top_logprobs": None,
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "none",
        "logit_bias": {},
        "repetition_penalty": 1.0,
        "ignore_eos": False,
        "user": "me",
        "stop": None,
    }
    earlier = [{"role": "assistant", "content": "hi", "refusal": None, "tool_calls": []}, *HELLO]
    response = await http.post("/v1/chat/completions", json={**CHAT, **neutral, "messages": [*HELLO, *earlier]})
    assert response.status_code == 200, response.text


async def test_a_prompt_may_be_text_parts_ids_or_a_list_of_one(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    for messages in (HELLO, [{"role": "user", "content": parts}]):
        await http.post("/v1/chat/completions", json={**CHAT, "messages": messages})
    assert client.requests[0].prompt == client.requests[1].prompt
    for prompt in ("the quick", ["the quick"], [0, 9, 8], [[0, 9, 8]]):
        response = await http.post("/v1/completions", json={**COMPLETION, "prompt": prompt})
        assert response.status_code == 200
    assert client.requests[2].prompt == client.requests[3].prompt
    assert client.requests[4].prompt == client.requests[5].prompt == (0, 9, 8)


async def test_system_and_developer_are_the_same(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    for role in ("system", "developer"):
        await http.post("/v1/chat/completions", json={**CHAT, "messages": [{"role": role, "content": "x"}, *HELLO]})
    assert client.requests[0].prompt == client.requests[1].prompt


SPECULATION = "speculation."
BAD_CHATS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"model": "other"}, 404, "model", "model_not_found"),
    ({"model": None}, 400, "model", "invalid_value"),
    ({"messages": None}, 400, "messages", "invalid_value"),
    ({"messages": []}, 400, "messages", "invalid_value"),
    ({"messages": "hello"}, 400, "messages", "invalid_value"),
    ({"messages": [3]}, 400, "messages.0", "invalid_value"),
    ({"messages": [{"role": "user"}]}, 400, "messages.0.content", "invalid_value"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages.0.role", "invalid_value"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role", "unsupported_parameter"),
    ({"messages": [{**HELLO[0], "name": "me"}]}, 400, "messages.0.name", "unsupported_parameter"),
    ({"messages": [{**HELLO[0], "mood": "good"}]}, 400, "messages.0.mood", "unknown_parameter"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400,
        "messages.0.content.0.type",
        "unsupported_content",
    ),
    ({"messages": [{"role": "user", "content": "word " * 600}]}, 400, "messages", "context_length_exceeded"),
    ({"max_tokens": 5000}, 400, "max_tokens", "context_length_exceeded"),
    ({"max_completion_tokens": 5000}, 400, "max_completion_tokens", "context_length_exceeded"),
    ({"max_tokens": -1}, 400, "max_tokens", "invalid_value"),
    ({"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
    ({"max_tokens": "10"}, 400, "max_tokens", "invalid_value"),
    ({"max_tokens": 1.5}, 400, "max_tokens", "invalid_value"),
    ({"temperature": -0.1}, 400, "temperature", "invalid_value"),
    ({"temperature": 2.1}, 400, "temperature", "invalid_value"),
    ({"temperature": "hot"}, 400, "temperature", "invalid_value"),
    ({"top_p": 0}, 400, "top_p", "invalid_value"),
    ({"top_p": 1.1}, 400, "top_p", "invalid_value"),
    ({"top_k": -2}, 400, "top_k", "invalid_value"),
    ({"min_p": 2}, 400, "min_p", "invalid_value"),
    ({"seed": 2**64}, 400, "seed", "invalid_value"),
    ({"seed": True}, 400, "seed", "invalid_value"),
    ({"stream": "yes"}, 400, "stream", "invalid_value"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", ""),
    ({"stream": True, "stream_options": {"x": 1}}, 400, "stream_options.x", "unknown_parameter"),
    ({"stop": [""]}, 400, "stop.0", "invalid_value"),
    ({"stop": ["a", "b", "c", "d", "e"]}, 400, "stop", "invalid_value"),
    ({"stop": 3}, 400, "stop", "invalid_value"),
    ({"n": 2}, 400, "n", "unsupported_parameter"),
    ({"presence_penalty": 0.5}, 400, "presence_penalty", "unsupported_parameter"),
    ({"logprobs": True}, 400, "logprobs", "unsupported_parameter"),
    ({"logprobs": 0}, 400, "logprobs", "unsupported_parameter"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format", "unsupported_parameter"),
    ({"tools": [{"type": "function"}]}, 400, "tools", "unsupported_parameter"),
    ({"tool_choice": "required"}, 400, "tool_choice", "unsupported_parameter"),
    ({"logit_bias": {"5": 1}}, 400, "logit_bias", "unsupported_parameter"),
    ({"ignore_eos": True}, 400, "ignore_eos", "unsupported_parameter"),
    ({"reasoning_effort": "high"}, 400, "reasoning_effort", "unsupported_parameter"),
    ({"temprature": 0.5}, 400, "temprature", "unknown_parameter"),
    ({"prompt": "x"}, 400, "prompt", "unknown_parameter"),
    ({"speculation": 3}, 400, "speculation", "invalid_value"),
    ({"speculation": {"k": 3}}, 400, SPECULATION + "k", "unknown_parameter"),
    ({"speculation": {"num_speculative_tokens": -1}}, 400, SPECULATION + "num_speculative_tokens", "invalid_value"),
    ({"speculation": {"num_speculative_tokens": 9}}, 400, SPECULATION + "num_speculative_tokens", "invalid_value"),
    ({"speculation": {"num_speculative_tokens": "5"}}, 400, SPECULATION + "num_speculative_tokens", "invalid_value"),
    ({"speculation": {"drafter": "prompt_lookup"}}, 400, SPECULATION + "drafter", "invalid_value"),
    ({"speculation": {"priority": "batch"}}, 400, SPECULATION + "priority", "unsupported_parameter"),
    ({"speculation": {"request_class": "code"}}, 400, SPECULATION + "request_class", "unsupported_parameter"),
]
BAD_COMPLETIONS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"prompt": None}, 400, "prompt", "invalid_value"),
    ({"prompt": []}, 400, "prompt", "invalid_value"),
    ({"prompt": [[]]}, 400, "prompt", "invalid_value"),
    ({"prompt": ["a", "b"]}, 400, "prompt", "unsupported_parameter"),
    ({"prompt": [1, "a"]}, 400, "prompt.1", "invalid_value"),
    ({"prompt": [-1]}, 400, "prompt.0", "invalid_value"),
    ({"prompt": [100000]}, 400, "prompt", "invalid_value"),
    ({"prompt": "word " * 600}, 400, "prompt", "context_length_exceeded"),
    ({"prompt": [9] * 512, "max_tokens": 1}, 400, "prompt", "context_length_exceeded"),
    ({"prompt": [9] * 511, "max_tokens": 2}, 400, "max_tokens", "context_length_exceeded"),
    ({"echo": True}, 400, "echo", "unsupported_parameter"),
    ({"best_of": 4}, 400, "best_of", "unsupported_parameter"),
    ({"suffix": "end"}, 400, "suffix", "unsupported_parameter"),
    ({"logprobs": 1}, 400, "logprobs", "unsupported_parameter"),
    ({"messages": HELLO}, 400, "messages", "unknown_parameter"),
    ({"max_completion_tokens": 4}, 400, "max_completion_tokens", "unknown_parameter"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("path", "bad", "status", "param", "code"),
    [("/v1/chat/completions", *case) for case in BAD_CHATS] + [("/v1/completions", *case) for case in BAD_COMPLETIONS],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None,
)
async def test_bad_input_is_refused_by_name(
    http: httpx.AsyncClient,
    client: ScriptedClient,
    path: str,
    bad: dict[str, Any],
    status: int,
    param: str,
    code: str,
    stream: bool,
) -> None:
    good = CHAT if path.startswith("/v1/chat") else COMPLETION
    if stream and "stream_options" in bad and "stream" not in bad:
        bad = {**bad, "stream": False}
    response = await http.post(path, json={**good, "stream": stream, **bad})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert code in ("", error["code"])
    assert param in error["message"]
    assert client.requests == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b'{"model": NaN}', b"\xff", b"[" * 9000])
async def test_what_is_no_json_object_is_refused(http: httpx.AsyncClient, body: bytes) -> None:
    response = await http.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_json"


async def test_a_template_may_refuse_messages(http: httpx.AsyncClient, context: IngressContext) -> None:
    template = context.tokenizer._chat_template
    assert template is not None
    with pytest.raises(ValueError, match="no critics"):
        template.render([{"role": "critic", "content": "boo"}])
    context.tokenizer._chat_template = None
    error = (await http.post("/v1/chat/completions", json=CHAT)).json()["error"]
    assert (error["param"], "no chat template" in error["message"]) == ("messages", True)


async def test_a_body_that_is_too_large_is_refused(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/completions", content=b" " * 10_001)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nothing", 404), ("GET", "/v1/completions", 405), ("PUT", "/", 405)]
)
async def test_wrong_paths_and_methods_have_the_same_shape(
    http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await http.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_refusals_before_the_first_token_are_ordinary_responses(
    http: httpx.AsyncClient, client: ScriptedClient, stream: bool
) -> None:
    for error, status in ((errors.overloaded("full", 1.2), 429), (errors.unavailable("none", 1), 503)):
        client.error = error
        response = await http.post("/v1/chat/completions", json={**CHAT, "stream": stream})
        assert response.status_code == status
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["code"] in ("overloaded", "unavailable")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_nobody_expected_is_a_500_that_tells_nothing(
    http: httpx.AsyncClient, client: ScriptedClient, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    client.error = RuntimeError("secret path /srv/x")
    headers = {"x-request-id": "find-me"}
    response = await http.post("/v1/chat/completions", json={**CHAT, "stream": stream}, headers=headers)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["x-request-id"] == "find-me"
    assert "find-me" in caplog.text
    assert "secret" in caplog.text


async def test_a_failure_in_mid_stream_is_the_last_event(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    client.error, client.num_before_error = errors.unavailable("router gone", 1), 2
    response = await http.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert response.status_code == 200
    *chunks, last = events_of(response)
    assert all("choices" in chunk for chunk in chunks)
    assert last["error"]["code"] == "unavailable"
    client.error = RuntimeError("secret")
    last = events_of(await http.post("/v1/chat/completions", json={**CHAT, "stream": True}))[-1]
    assert last["error"]["code"] == "internal_error"
    assert "secret" not in json.dumps(last)


async def test_every_response_has_a_request_id(http: httpx.AsyncClient) -> None:
    given = await http.get("/health", headers={"x-request-id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    made = [(await http.get(path)).headers["x-request-id"] for path in ("/health", "/nothing", "/ready")]
    assert len(set(made)) == 3
    for unusable in ("x" * 300, ""):
        replaced = await http.get("/health", headers={"x-request-id": unusable})
        assert replaced.headers["x-request-id"] not in ("", unusable)
    streamed = await http.post(
        "/v1/chat/completions", json={**CHAT, "stream": True}, headers={"x-request-id": "mine-2"}
    )
    assert streamed.headers["x-request-id"] == "mine-2"


async def test_models_health_ready_version_and_page(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    (model,) = (await http.get("/v1/models")).json()["data"]
    assert set(model) == {"id", "object", "created", "owned_by", "root", "parent", "max_model_len"}
    assert (model["id"], model["max_model_len"]) == (MODEL, 512)
    assert (await http.get(f"/v1/models/{MODEL}")).json() == model
    missing = await http.get("/v1/models/org/other")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert (await http.get("/health")).status_code == 200
    assert (await http.get("/ready")).status_code == 200
    client.is_ready = False
    not_ready = await http.get("/ready")
    assert (not_ready.status_code, not_ready.json()["error"]["code"]) == (503, "unavailable")
    assert (await http.get("/health")).status_code == 200
    assert "version" in (await http.get("/version")).json()
    page = await http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text  # no asset from anywhere else
    assert "https://" not in page.text


async def test_metrics_have_both_spellings(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    await http.post("/v1/chat/completions", json=CHAT)
    await http.post("/v1/chat/completions", json={**CHAT, "n": 2})
    text = (await http.get("/metrics")).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    num_steps = 0
    for prefix in ("outrider_", "vllm:"):
        label = f'{{model_name="{MODEL}"}}'
        num_steps = float(values[f"{prefix}spec_decode_num_drafts_total{label}"])
        assert num_steps > 0
        assert float(values[f"{prefix}generation_tokens_total{label}"]) == len(client.tokens)
        assert float(values[f"{prefix}num_requests_running{label}"]) == 0
        assert float(values[f"{prefix}num_requests_waiting{label}"]) == 0
        assert float(values[f"{prefix}e2e_request_latency_seconds_count{label}"]) == 1
        assert float(values[f"{prefix}inter_token_latency_seconds_count{label}"]) == num_steps
        assert f'{prefix}spec_decode_num_accepted_tokens_per_pos_total{{model_name="{MODEL}",position="0"}}' in values
        assert float(values[f'{prefix}request_success_total{{finished_reason="stop",model_name="{MODEL}"}}']) == 1
        assert float(values[f'{prefix}request_failure_total{{model_name="{MODEL}",status="400"}}']) == 1


async def test_good_requests_finish_unchanged_among_bad_ones(http: httpx.AsyncClient) -> None:
    good = [http.post("/v1/chat/completions", json={**CHAT, "stream": i % 2 == 0}) for i in range(16)]
    bad = [http.post("/v1/chat/completions", json={**CHAT, **case}) for case, *_ in BAD_CHATS]
    responses = await asyncio.gather(*good, *bad)
    for response in responses[:16]:
        if "event-stream" in response.headers["content-type"]:
            chunks = events_of(response)[:-1]
            text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        else:
            text = response.json()["choices"][0]["message"]["content"]
        assert text == ANSWER
    assert all(400 <= response.status_code < 500 for response in responses[16:])
