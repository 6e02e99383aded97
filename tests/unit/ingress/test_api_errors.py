"""The routes over a scripted client: what is refused, and how failures look."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.ingress import errors
from deployments.ingress.app import create_app
from deployments.ingress.context import ApiLimits, IngressContext
from tests.support.rest import (
    ANSWER,
    CHAT,
    COMPLETION,
    HELLO,
    ScriptedClient,
    events_of,
    make_context,
    plain_ids,
)

SPECULATION = "speculation."
FORMAT = "response_format.json_schema"


def schema_format(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "wanted", **fields}}


BAD_CHATS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"model": "other"}, 404, "model", "model_not_found"),
    ({"model": ""}, 400, "model", "invalid_value"),
    ({"messages": None}, 400, "messages", "invalid_value"),
    ({"messages": []}, 400, "messages", "invalid_value"),
    ({"messages": "hello"}, 400, "messages", "invalid_value"),
    ({"messages": [3]}, 400, "messages.0", "invalid_value"),
    ({"messages": [{"role": "user"}]}, 400, "messages.0.content", "invalid_value"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages.0.role", "invalid_value"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role", "unsupported_parameter"),
    ({"messages": [{**HELLO[0], "name": ""}]}, 400, "messages.0.name", "invalid_value"),
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
    ({"top_p": -0.1}, 400, "top_p", "invalid_value"),
    ({"top_p": 1.1}, 400, "top_p", "invalid_value"),
    ({"top_k": -2}, 400, "top_k", "invalid_value"),
    ({"min_p": 2}, 400, "min_p", "invalid_value"),
    ({"seed": 2**64}, 400, "seed", "invalid_value"),
    ({"seed": True}, 400, "seed", "invalid_value"),
    ({"stream": "yes"}, 400, "stream", "invalid_value"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", ""),
    ({"stream": True, "stream_options": {"x": 1}}, 400, "stream_options.x", "unknown_parameter"),
    ({"stop": [""]}, 400, "stop.0", "invalid_value"),
    ({"stop": ["a"] * 17}, 400, "stop", "invalid_value"),
    ({"stop": 3}, 400, "stop", "invalid_value"),
    ({"n": 0}, 400, "n", "invalid_value"),
    ({"n": 129}, 400, "n", "invalid_value"),
    ({"best_of": 2}, 400, "best_of", "unsupported_parameter"),
    ({"presence_penalty": 2.5}, 400, "presence_penalty", "invalid_value"),
    ({"frequency_penalty": -2.1}, 400, "frequency_penalty", "invalid_value"),
    ({"frequency_penalty": "1"}, 400, "frequency_penalty", "invalid_value"),
    ({"repetition_penalty": 0}, 400, "repetition_penalty", "invalid_value"),
    ({"repetition_penalty": -1.2}, 400, "repetition_penalty", "invalid_value"),
    ({"logprobs": 0}, 400, "logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": -1}, 400, "top_logprobs", "invalid_value"),
    ({"top_logprobs": 3}, 400, "top_logprobs", ""),
    ({"allowed_token_ids": [-1]}, 400, "allowed_token_ids.0", "invalid_value"),
    ({"allowed_token_ids": [100000]}, 400, "allowed_token_ids", "invalid_value"),
    ({"allowed_token_ids": [2], "min_tokens": 3, "stop_token_ids": [2]}, 400, "allowed_token_ids", "invalid_value"),
    ({"bad_words": "x"}, 400, "bad_words", "invalid_value"),
    ({"bad_words": [""]}, 400, "bad_words.0", "invalid_value"),
    ({"bad_words": ["x"], "response_format": {"type": "json_object"}}, 400, "bad_words", "invalid_value"),
    ({"allowed_token_ids": [5], "structured_outputs": {"regex": "a"}}, 400, "allowed_token_ids", "invalid_value"),
    ({"min_tokens": -1}, 400, "min_tokens", "invalid_value"),
    ({"min_tokens": 9, "max_tokens": 8}, 400, "min_tokens", "invalid_value"),
    ({"min_tokens": 100000}, 400, "min_tokens", "invalid_value"),
    ({"stop_token_ids": 3}, 400, "stop_token_ids", "invalid_value"),
    ({"stop_token_ids": [-1]}, 400, "stop_token_ids.0", "invalid_value"),
    ({"stop_token_ids": [100000]}, 400, "stop_token_ids", "invalid_value"),
    ({"ignore_eos": 1}, 400, "ignore_eos", "invalid_value"),
    ({"include_stop_str_in_output": "yes"}, 400, "include_stop_str_in_output", "invalid_value"),
    ({"skip_special_tokens": 0}, 400, "skip_special_tokens", "invalid_value"),
    ({"metadata": "x"}, 400, "metadata", "invalid_value"),
    ({"user": 3}, 400, "user", "invalid_value"),
    ({"store": True}, 400, "store", "unsupported_parameter"),
    ({"echo": 1}, 400, "echo", "invalid_value"),
    ({"prompt_logprobs": -1}, 400, "prompt_logprobs", "invalid_value"),
    ({"prompt_logprobs": 21}, 400, "prompt_logprobs", "invalid_value"),
    ({"prompt_logprobs": 0, "stream": True}, 400, "prompt_logprobs", "invalid_value"),
    ({"response_format": {"type": "xml"}}, 400, "response_format.type", "invalid_value"),
    ({"response_format": "json"}, 400, "response_format", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, 400, FORMAT, "invalid_value"),
    ({"response_format": schema_format(name="a b")}, 400, FORMAT + ".name", "invalid_value"),
    ({"response_format": schema_format(schemas={})}, 400, FORMAT + ".schemas", "unknown_parameter"),
    ({"response_format": schema_format(schema=[])}, 400, FORMAT + ".schema", "invalid_value"),
    ({"response_format": schema_format(schema={"type": "strin"})}, 400, FORMAT + ".schema", "invalid_value"),
    ({"response_format": schema_format(schema={"$ref": "http://x/y"})}, 400, FORMAT + ".schema", "invalid_value"),
    ({"response_format": {"type": "json_object"}, "min_tokens": 2}, 400, "min_tokens", "invalid_value"),
    ({"response_format": {"type": "json_object"}, "ignore_eos": True}, 400, "ignore_eos", "invalid_value"),
    (
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
        400,
        "structured_outputs.regex",
        "invalid_value",
    ),
    ({"structured_outputs": {"regex": "(a"}}, 400, "structured_outputs.regex", "invalid_value"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, 400, "structured_outputs", "invalid_value"),
    ({"structured_outputs": {"choice": []}}, 400, "structured_outputs.choice", "invalid_value"),
    ({"structured_outputs": {"json": "{"}}, 400, "structured_outputs.json", "invalid_value"),
    ({"structured_outputs": {"json": "[]"}}, 400, "structured_outputs.json", "invalid_value"),
    ({"structured_outputs": {"grammar": "root ::= nothing"}}, 400, "structured_outputs.grammar", "invalid_value"),
    ({"structured_outputs": {"structural_tag": "x"}}, 400, "structured_outputs.structural_tag", "unknown_parameter"),
    ({"guided_json": {}}, 400, "guided_json", "unsupported_parameter"),
    ({"tools": [{"type": "function"}]}, 400, "tools", "unsupported_parameter"),
    ({"tool_choice": "required"}, 400, "tool_choice", "unsupported_parameter"),
    ({"tool_choice": "required", "tools": [{"type": "function"}]}, 400, "tools", "unsupported_parameter"),
    ({"logit_bias": {"5": 100.5}}, 400, "logit_bias.5", "invalid_value"),
    ({"logit_bias": {"five": 1}}, 400, "logit_bias", "invalid_value"),
    ({"logit_bias": {"-5": 1}}, 400, "logit_bias", "invalid_value"),
    ({"logit_bias": {"5": 1, "05": 2}}, 400, "logit_bias", "invalid_value"),
    ({"logit_bias": {"100000": 1}}, 400, "logit_bias", "invalid_value"),
    ({"logit_bias": [5]}, 400, "logit_bias", "invalid_value"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, 400, "logit_bias", "invalid_value"),
    ({"reasoning_effort": "high"}, 400, "reasoning_effort", "unsupported_parameter"),
    ({"include_reasoning": False}, 400, "include_reasoning", "unsupported_parameter"),
    ({"verbosity": "low"}, 400, "verbosity", "unsupported_parameter"),
    ({"watermarking": True}, 400, "watermarking", "unsupported_parameter"),
    ({"vllm_xargs": {"a": 1}}, 400, "vllm_xargs", "unsupported_parameter"),
    ({"mm_processor_kwargs": {"a": 1}}, 400, "mm_processor_kwargs", "unsupported_parameter"),
    (
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        400,
        "stream_options.include_obfuscation",
        "invalid_value",
    ),
    ({"stream_options": {"include_usage": None}}, 400, "stream_options", ""),
    ({"temprature": 0.5}, 400, "temprature", "unknown_parameter"),
    ({"prompt": "x"}, 400, "prompt", "unknown_parameter"),
    ({"speculation": 3}, 400, "speculation", "invalid_value"),
    ({"speculation": {"k": 3}}, 400, SPECULATION + "k", "unknown_parameter"),
    ({"speculation": {"num_speculative_tokens": -1}}, 400, SPECULATION + "num_speculative_tokens", "invalid_value"),
    ({"speculation": {"num_speculative_tokens": 9}}, 400, SPECULATION + "num_speculative_tokens", "invalid_value"),
    ({"speculation": {"num_speculative_tokens": "5"}}, 400, SPECULATION + "num_speculative_tokens", "invalid_value"),
    ({"speculation": {"drafter": "eagle"}}, 400, SPECULATION + "drafter", "invalid_value"),
    ({"speculation": {"acceptance": "typical"}}, 400, SPECULATION + "acceptance", "invalid_value"),
    ({"speculation": {"priority": "urgent"}}, 400, SPECULATION + "priority", "invalid_value"),
    ({"speculation": {"request_class": "verse"}}, 400, SPECULATION + "request_class", "invalid_value"),
]
BAD_COMPLETIONS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"prompt": None}, 400, "prompt", "invalid_value"),
    ({"prompt": []}, 400, "prompt", "invalid_value"),
    ({"prompt": [[]]}, 400, "prompt.0", "invalid_value"),
    ({"prompt": ["a", [100000]]}, 400, "prompt", "invalid_value"),
    ({"prompt": ["a"] * 65, "n": 2}, 400, "prompt", "invalid_value"),
    ({"prompt": [1, "a"]}, 400, "prompt.1", "invalid_value"),
    ({"prompt": [-1]}, 400, "prompt.0", "invalid_value"),
    ({"prompt": [100000]}, 400, "prompt", "invalid_value"),
    ({"prompt": "word " * 600}, 400, "prompt", "context_length_exceeded"),
    ({"prompt": [9] * 512, "max_tokens": 1}, 400, "prompt", "context_length_exceeded"),
    ({"prompt": [9] * 511, "max_tokens": 2}, 400, "max_tokens", "context_length_exceeded"),
    ({"echo": "yes"}, 400, "echo", "invalid_value"),
    ({"best_of": 4}, 400, "best_of", "unsupported_parameter"),
    ({"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
    ({"logprobs": True}, 400, "logprobs", "invalid_value"),
    ({"logprobs": 21}, 400, "logprobs", "invalid_value"),
    ({"top_logprobs": 2}, 400, "top_logprobs", "unknown_parameter"),
    ({"suffix": "end"}, 400, "suffix", "unsupported_parameter"),
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


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"null", b'{"model": NaN}', b"\xff", b"[" * 9000, b'{"a":' * 70 + b"1" + b"}" * 70],
)
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
    for error, status in ((errors.overloaded("full", 1.2), 503), (errors.unavailable("none", 1), 503)):
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
    assert "find-me failed unexpectedly: RuntimeError" in caplog.text
    assert "rest.py" in caplog.text  # where it was raised
    assert "secret" not in caplog.text  # what an error says may quote a prompt


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


async def test_a_drafter_that_is_not_served_is_refused_by_name(tmp_path: Path, client: ScriptedClient) -> None:
    context = make_context(tmp_path, client, ApiLimits(drafters=("auto", "prompt_lookup", "none")))
    client.tokens = plain_ids(context, ANSWER)
    transport = httpx.ASGITransport(app=create_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        refused = await http.post("/v1/chat/completions", json={**CHAT, "speculation": {"drafter": "mtp"}})
        taken = await http.post("/v1/chat/completions", json={**CHAT, "speculation": {"drafter": "prompt_lookup"}})
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "speculation.drafter")
    assert "one of auto, prompt_lookup, none is" in error["message"]
    assert taken.status_code == 200
    assert [request.drafter for request in client.requests] == ["prompt_lookup"]


async def test_a_request_chooses_how_drafts_are_accepted_among_what_is_served(tmp_path, client: ScriptedClient) -> None:
    for served, default in ((("rejection", "coupled"), "rejection"), (("coupled",), "coupled")):
        context = make_context(tmp_path, client, ApiLimits(acceptances=served))
        client.tokens, client.requests = plain_ids(context, ANSWER), []
        transport = httpx.ASGITransport(app=create_app(context))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            for body in ({}, {"acceptance": "auto"}, {"acceptance": "coupled"}):
                answer = await http.post("/v1/chat/completions", json={**CHAT, "speculation": body})
                assert answer.status_code == 200
            last = await http.post("/v1/chat/completions", json={**CHAT, "speculation": {"acceptance": "rejection"}})
        assert [request.params.acceptance for request in client.requests[:3]] == [default, default, "coupled"]
        if "rejection" in served:
            assert client.requests[3].params.acceptance == "rejection"
        else:
            assert (last.status_code, last.json()["error"]["param"]) == (400, "speculation.acceptance")
            assert "'rejection', which is not served here; one of coupled is" in last.json()["error"]["message"]


async def test_all_keys_at_fault_are_told(http: httpx.AsyncClient) -> None:
    for bias, told in (
        ({"bad1": 50.0, "bad2": 20.0, "5": 1}, ["bad1", "bad2"]),
        ({f"bad{i}": 1 for i in range(50)}, ["bad0", "bad7", "42 more"]),
    ):
        error = (await http.post("/v1/chat/completions", json={**CHAT, "logit_bias": bias})).json()["error"]
        assert error["param"] == "logit_bias"
        assert all(one in error["message"] for one in told), error
        assert "'5'" not in error["message"]


async def test_a_token_that_is_none_is_out_of_vocabulary(http: httpx.AsyncClient, context: IngressContext) -> None:
    size = context.model.vocab_size
    error = (await http.post("/v1/completions", json={**COMPLETION, "prompt": [size]})).json()["error"]
    assert f"{size}, which is out of vocabulary" in error["message"]


async def test_a_body_of_another_type_is_refused(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    body = json.dumps(CHAT).encode()
    for kind in ("application/x-www-form-urlencoded", "text/plain;charset=UTF-8", "multipart/form-data; boundary=a"):
        for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
            response = await http.post(path, content=body, headers={"content-type": kind})
            assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_media_type")
            assert "application/json" in response.json()["error"]["message"]
    assert client.requests == []
    for kind in ("application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"):
        response = await http.post("/v1/chat/completions", content=body, headers={"content-type": kind})
        assert response.status_code == 200
    assert (await http.post("/v1/chat/completions", content=body)).status_code == 200
