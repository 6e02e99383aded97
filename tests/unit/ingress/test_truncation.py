"""Prompts that are cut to a length that the client names, and not refused."""

from __future__ import annotations

import httpx

from deployments.ingress.context import IngressContext
from tests.support.rest import CHAT, COMPLETION, HELLO, ScriptedClient

LONG = "word " * 600


async def test_a_prompt_is_cut_to_its_last_tokens_or_its_first(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    prompt = list(range(20, 30))
    for asked, kept in (
        ({"truncate_prompt_tokens": 4}, prompt[-4:]),
        ({"truncate_prompt_tokens": 4, "truncation_side": "left"}, prompt[-4:]),
        ({"truncate_prompt_tokens": 4, "truncation_side": "right"}, prompt[:4]),
        ({"truncate_prompt_tokens": 99}, prompt),
        ({"truncate_prompt_tokens": -1}, prompt),
        ({"truncation_side": "right"}, prompt),
    ):
        body = (await http.post("/v1/completions", json={**COMPLETION, **asked, "prompt": prompt})).json()
        assert list(client.requests[-1].prompt) == kept
        assert client.requests[-1].params.num_prompt_tokens == body["usage"]["prompt_tokens"] == len(kept)


async def test_a_prompt_may_be_cut_to_what_fits(
    http: httpx.AsyncClient, client: ScriptedClient, context: IngressContext
) -> None:
    messages = [*HELLO, {"role": "user", "content": LONG}]
    for path, body in (
        ("completions", {**COMPLETION, "prompt": LONG, "max_tokens": 12}),
        ("chat/completions", {**CHAT, "messages": messages, "max_tokens": 12}),
        ("chat/completions", {**CHAT, "messages": messages}),
    ):
        assert (await http.post(f"/v1/{path}", json=body)).status_code == 400
        response = await http.post(f"/v1/{path}", json={**body, "truncate_prompt_tokens": -1})
        assert response.status_code == 200, response.text
        request = client.requests[-1]
        assert len(request.prompt) == 512 - body.get("max_tokens", 1)
        assert request.max_context_tokens == 512
    whole = context.tokenizer.encode_chat(messages)
    assert list(client.requests[-1].prompt) == whole[-511:]


async def test_an_echo_is_of_what_was_kept(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    asked = {**COMPLETION, "prompt": "a b c", "echo": True, "max_tokens": 0}
    for kept, text in ((1, "c"), (3, "b c"), (99, "a b c")):
        body = (await http.post("/v1/completions", json={**asked, "truncate_prompt_tokens": kept})).json()
        assert body["choices"][0]["text"].strip() == text
    for given, param in (
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 2, "truncation_side": "middle"}, "truncation_side"),
    ):
        response = await http.post("/v1/completions", json={**COMPLETION, **given})
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
