"""The routes over a scripted client: shapes, parameters, request ids, metrics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from deployments.ingress.app import create_app
from deployments.ingress.context import ApiLimits, IngressContext, ModelCard
from evaluation.load.metrics import parse_sums
from tests.support.rest import (
    ANSWER,
    CHAT,
    COMPLETION,
    HELLO,
    MODEL,
    ScriptedClient,
    events_of,
    make_context,
)
from tests.support.tiny_tokenizer import END_OF_TURN_ID


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
    (choice,) = body["choices"]
    assert choice["text"] == ANSWER[: len(choice["text"])]
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "length")
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
    assert all(chunk["object"] == "text_completion" and chunk["usage"] is None for chunk in chunks)
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


OFF: dict[str, Any] = {
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "logit_bias": {},
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "min_tokens": 0,
    "ignore_eos": False,
    "include_stop_str_in_output": False,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "return_tokens_as_token_ids": False,
    "return_token_ids": False,
    "prompt_logprobs": None,
    "truncate_prompt_tokens": None,
    "use_beam_search": False,
    "best_of": 1,
    "seed": None,
    "stop": None,
    "stop_token_ids": None,
    "bad_words": [],
    "allowed_token_ids": None,
    "response_format": {"type": "text"},
    "structured_outputs": {},
    "user": "me",
    "priority": 0,
    "watermarking": False,
    "vllm_xargs": {},
    "thinking_token_budget": None,
    "speculation": {"drafter": None, "variant": None},
}
OFF_CHAT: dict[str, Any] = {
    **OFF,
    "logprobs": False,
    "top_logprobs": None,
    "tools": [],
    "tool_choice": "none",
    "parallel_tool_calls": True,
    "functions": None,
    "function_call": None,
    "store": False,
    "metadata": {},
    "service_tier": "auto",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "modalities": ["text"],
    "audio": None,
    "prediction": None,
    "reasoning_effort": "none",
    "verbosity": "medium",
    "web_search_options": None,
    "max_completion_tokens": None,
    "add_special_tokens": False,
    "add_generation_prompt": True,
    "continue_final_message": False,
    "chat_template": None,
    "chat_template_kwargs": {},
    "mm_processor_kwargs": None,
    "include_reasoning": True,
    "echo": False,
}
OFF_COMPLETION: dict[str, Any] = {**OFF, "echo": False, "suffix": None, "logprobs": None, "add_special_tokens": True}


async def test_what_clients_send_with_its_default_changes_nothing(http: httpx.AsyncClient) -> None:
    for path, body, off in (("chat/completions", CHAT, OFF_CHAT), ("completions", COMPLETION, OFF_COMPLETION)):
        plain, full = [(await http.post(f"/v1/{path}", json={**body, **given})) for given in ({}, off)]
        assert full.status_code == 200, full.text
        assert full.json()["choices"] == plain.json()["choices"]
    earlier = {
        "role": "assistant",
        "content": "hi",
        "refusal": None,
        "tool_calls": [],
        "audio": None,
        "annotations": [],
    }
    response = await http.post("/v1/chat/completions", json={**CHAT, "messages": [*HELLO, earlier, *HELLO]})
    assert response.status_code == 200, response.text
    options = {"include_usage": None, "include_obfuscation": False, "continuous_usage_stats": None}
    stream = await http.post("/v1/chat/completions", json={**CHAT, "stream": True, "stream_options": options})
    assert stream.status_code == 200, stream.text
    assert not any("usage" in chunk for chunk in events_of(stream)[:-1])


async def test_a_chats_chunks_say_that_the_usage_is_yet_to_come(http: httpx.AsyncClient) -> None:
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, done = events_of(await http.post("/v1/chat/completions", json=body))
    assert done == "[DONE]"
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 0


async def test_a_conversation_may_end_where_the_client_wants_it_to(
    http: httpx.AsyncClient, client: ScriptedClient, context: IngressContext
) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "the quick"}]
    given: list[dict[str, Any]] = [
        {"continue_final_message": True},
        {"continue_final_message": True, "add_generation_prompt": False},
        {"add_generation_prompt": False},
        {},
    ]
    for fields in given:
        response = await http.post("/v1/chat/completions", json={**CHAT, "messages": begun, **fields})
        assert response.status_code == 200, response.text
        counted = (await http.post("/tokenize", json={"messages": begun, **fields})).json()
        assert tuple(counted["tokens"]) == client.requests[-1].prompt
    gone_on, same, ended, usual = (context.tokenizer.verbatim.decode(request.prompt) for request in client.requests)
    assert gone_on == same
    assert gone_on.endswith("the quick")
    assert ended == f"{gone_on}<turn|>\n"
    assert usual.startswith(ended)
    assert len(usual) > len(ended)


async def test_a_templates_own_variables_reach_it(tmp_path: Path, client: ScriptedClient) -> None:
    template = (
        "{% if enable_thinking %}think {% endif %}{% for i in range(turns or 0) %}so {% endfor %}"
        "{% if turns is not defined %}{% set effort = effort or 'low' %}{% endif %}{{ messages[0].content }}"
    )
    transport = httpx.ASGITransport(create_app(make_context(tmp_path, client, chat_template=template)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:

        async def ask(variables: Any) -> httpx.Response:
            return await http.post("/v1/chat/completions", json={**CHAT, "chat_template_kwargs": variables})

        for variables in ({}, {"enable_thinking": False, "thinking": False}, {"enable_thinking": True}):
            await ask(variables)
        plain, off, on = (request.prompt for request in client.requests)
        assert plain == off != on
        for variables, said in (
            ({"thinking": True}, "no variable 'thinking' (it has: enable_thinking, turns)"),
            ({"messages": []}, "no variable 'messages'"),
            ({"turns": "many"}, "cannot use these values"),
            ([], "dictionary"),
        ):
            response = await ask(variables)
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (400, "chat_template_kwargs"), error
            assert said in error["message"]
    assert len(client.requests) == 3


async def test_a_name_is_the_templates_business(tmp_path: Path, client: ScriptedClient) -> None:
    template = "{% for m in messages %}{{ m.name if m.name is defined else 'nobody' }} {{ m.content }}{% endfor %}"
    context = make_context(tmp_path, client, chat_template=template)
    transport = httpx.ASGITransport(create_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for name in ({"name": "quick"}, {"name": None}, {}):
            await http.post("/v1/chat/completions", json={**CHAT, "messages": [{**HELLO[0], **name}]})
    named, null, plain = (request.prompt for request in client.requests)
    assert named != null == plain
    assert named == tuple(context.tokenizer.encode(f"quick {HELLO[0]['content']}", add_special_tokens=False))


async def test_a_temperature_that_float32_takes_for_zero_is_zero(
    http: httpx.AsyncClient, client: ScriptedClient
) -> None:
    for temperature in (1e-50, 1e-30):
        await http.post("/v1/completions", json={**COMPLETION, "temperature": temperature})
    assert [request.params.temperature for request in client.requests] == [0.0, 1e-30]


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
    assert int(not_ready.headers["retry-after"]) >= 1
    assert f'request_failure_total{{model_name="{MODEL}",status="503"}} 0.0' in (await http.get("/metrics")).text
    assert (await http.get("/health")).status_code == 200
    assert "version" in (await http.get("/version")).json()
    page = await http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text  # no asset from anywhere else
    assert "https://" not in page.text


async def test_metrics_have_both_spellings(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    await http.post("/v1/chat/completions", json=CHAT)
    await http.post("/v1/chat/completions", json={**CHAT, "n": 0})
    text = (await http.get("/metrics")).text
    sums = parse_sums(text)
    for prefix in ("outrider_", "vllm:"):
        num_steps = sums[f"{prefix}spec_decode_num_drafts_total"]
        assert num_steps > 0
        assert sums[f"{prefix}generation_tokens_total"] == len(client.tokens)
        assert sums[f"{prefix}num_requests_running"] == sums[f"{prefix}num_requests_waiting"] == 0
        assert sums[f"{prefix}e2e_request_latency_seconds_count"] == 1
        assert sums[f"{prefix}inter_token_latency_seconds_count"] == num_steps
        assert sums[f"{prefix}spec_decode_num_accepted_tokens_per_pos_total"] > 0
        assert f'{prefix}request_success_total{{finished_reason="stop",model_name="{MODEL}"}} 1.0' in text
    assert f'outrider_request_failure_total{{model_name="{MODEL}",status="400"}} 1.0' in text


def test_a_model_that_is_served_at_the_speed_of_a_table_says_so() -> None:
    plain = ModelCard(id="pocket", max_model_len=8, vocab_size=4)
    paced = replace(plain, paced={"verifier": "h100x2-l4-31b"})
    assert "paced" not in plain.as_json()
    assert paced.as_json()["paced"] == {"verifier": "h100x2-l4-31b"}


async def test_a_salt_parts_a_tenants_requests(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    for path, body in (("chat/completions", CHAT), ("completions", COMPLETION)):
        for given in ({}, {"cache_salt": "a"}, {"cache_salt": "b"}, {"cache_salt": None}):
            assert (await http.post(f"/v1/{path}", json={**body, **given})).status_code == 200
    plain, first, second, null = (request.salt for request in client.requests[:4])
    assert plain == null
    assert len({plain, first, second}) == 3
    assert [request.salt for request in client.requests[4:]] == [plain, first, second, null]


async def test_a_salt_that_is_none_is_refused(http: httpx.AsyncClient) -> None:
    for salt in ("", "a" * 257, 7):
        response = await http.post("/v1/completions", json={**COMPLETION, "cache_salt": salt})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "cache_salt"
    lone = b'{"model": "m", "prompt": "x", "cache_salt": "\\ud800"}'
    assert (await http.post("/v1/completions", content=lone)).status_code == 400
