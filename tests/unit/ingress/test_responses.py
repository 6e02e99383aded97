"""The routes over a scripted client: what responses say besides the text, with vLLM's fields and meanings."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from deployments.ingress.context import IngressContext
from tests.support.rest import ANSWER, CHAT, COMPLETION, HELLO, MODEL, ScriptedClient, events_of
from tests.support.tiny_tokenizer import END_OF_TURN_ID

CHATS = ("chat/completions", CHAT)
IDS: dict[str, Any] = {"return_token_ids": True, "return_tokens_as_token_ids": True}


def named(names: list[str]) -> list[int]:
    return [int(name.removeprefix("token_id:")) for name in names]


async def test_token_ids_are_the_answers_and_the_prompts_stand_beside_them(
    http: httpx.AsyncClient, client: ScriptedClient
) -> None:
    for echo in (False, True):
        asked = {**COMPLETION, **IDS, "echo": echo, "logprobs": 0, "n": 2}
        whole = (await http.post("/v1/completions", json=asked)).json()
        *chunks, _ = events_of(await http.post("/v1/completions", json={**asked, "stream": True}))
        for index, choice in enumerate(whole["choices"]):
            assert choice["token_ids"] == client.tokens[:16]
            assert choice["prompt_token_ids"] == list(client.requests[0].prompt)
            parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
            assert [token for part in parts for token in part["token_ids"]] == choice["token_ids"]
            assert ["prompt_token_ids" in part for part in parts] == [True] + [False] * (len(parts) - 1)
            assert parts[0]["prompt_token_ids"] == choice["prompt_token_ids"]
    only_prompt = {**COMPLETION, **IDS, "echo": True, "max_tokens": 0}
    (choice,) = (await http.post("/v1/completions", json=only_prompt)).json()["choices"]
    assert (choice["token_ids"], choice["prompt_token_ids"]) == ([], list(client.requests[-1].prompt))


async def test_a_chats_prompt_is_told_once(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    whole = (await http.post("/v1/chat/completions", json={**CHAT, **IDS, "n": 2})).json()
    assert whole["prompt_token_ids"] == list(client.requests[0].prompt)
    assert [choice["token_ids"] for choice in whole["choices"]] == [client.tokens, client.tokens]
    *chunks, _ = events_of(await http.post("/v1/chat/completions", json={**CHAT, **IDS, "stream": True}))
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert not any("prompt_token_ids" in chunk for chunk in chunks[1:])
    assert [token for chunk in chunks[1:] for token in chunk["choices"][0]["token_ids"]] == client.tokens


async def test_what_is_not_asked_for_is_null_in_whole_responses_and_absent_in_chunks(http: httpx.AsyncClient) -> None:
    completion = (await http.post("/v1/completions", json=COMPLETION)).json()
    chat = (await http.post("/v1/chat/completions", json=CHAT)).json()
    for holder, names in (
        (completion["choices"][0], ("token_ids", "prompt_token_ids", "prompt_logprobs")),
        (chat["choices"][0], ("token_ids",)),
        (chat, ("prompt_token_ids", "prompt_logprobs")),
    ):
        for name in names:
            assert holder[name] is None
    for path, body in (("completions", COMPLETION), ("chat/completions", CHAT)):
        *chunks, _ = events_of(await http.post(f"/v1/{path}", json={**body, "stream": True}))
        for chunk in chunks:
            assert not {"prompt_token_ids", "prompt_logprobs"} & {*chunk, *chunk["choices"][0]}
            assert "token_ids" not in chunk["choices"][0]


async def test_usage_so_far_counts_what_a_stream_has_said(http: httpx.AsyncClient) -> None:
    options = {**IDS, "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    for path, body in (("completions", {**COMPLETION, "echo": True}), ("completions", COMPLETION), CHATS):
        for n in (1, 3):
            *chunks, last, _ = events_of(await http.post(f"/v1/{path}", json={**body, **options, "n": n}))
            num_said = 0
            for chunk in chunks:
                num_said += len(chunk["choices"][0].get("token_ids", []))
                assert chunk["usage"]["completion_tokens"] == num_said
                assert chunk["usage"]["total_tokens"] == num_said + chunk["usage"]["prompt_tokens"]
            assert last["usage"]["completion_tokens"] == num_said > 0


async def test_usage_so_far_comes_only_with_the_usage(http: httpx.AsyncClient) -> None:
    options = {"stream": True, "stream_options": {"continuous_usage_stats": True}}
    for path, body in (("completions", COMPLETION), CHATS):
        *chunks, done = events_of(await http.post(f"/v1/{path}", json={**body, **options}))
        assert done == "[DONE]"
        assert not any("usage" in chunk for chunk in chunks)
        assert all(chunk["choices"] for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("skips", [True, False], ids=["special hidden", "special shown"])
@pytest.mark.parametrize("prompt", ["the quick", "grüße 🙂 the fox", "a <eos> the fox", [0, 93, 72, 1, 304], [93, 72]])
async def test_offsets_point_into_the_text(
    http: httpx.AsyncClient, context: IngressContext, prompt: str | list[int], skips: bool, stream: bool
) -> None:
    asked = {**COMPLETION, **IDS, "prompt": prompt, "skip_special_tokens": skips, "include_stop_str_in_output": True}
    asked |= {"stream": stream, "logprobs": 0, "max_tokens": 60}
    for echo in (False, True):
        response = await http.post("/v1/completions", json={**asked, "echo": echo})
        parts = [one["choices"][0] for one in (events_of(response)[:-1] if stream else [response.json()])]
        text = "".join(part["text"] for part in parts)
        ids = [token for part in parts for token in named(part["logprobs"]["tokens"])]
        offsets = [offset for part in parts for offset in part["logprobs"]["text_offset"]]
        assert offsets == sorted(offsets)
        special = context.tokenizer.special_ids
        for token, offset, end in zip(ids, offsets, [*offsets[1:], len(text)], strict=True):
            shown = context.tokenizer.token_texts.text(token)
            if "\ufffd" not in shown:
                assert text[offset:end] == shown or (token in special and offset == end)


async def test_what_ended_an_answer_is_told(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    cases: list[tuple[dict[str, Any], str, str | int | None]] = [
        ({"max_tokens": 3}, "length", None),
        ({"max_tokens": 60}, "stop", None),
        ({"max_tokens": 60, "stop": ["walls", "raze", "graze 🙂"]}, "stop", "raze"),
        ({"max_tokens": 60, "stop": "raze", "include_stop_str_in_output": True}, "stop", "raze"),
        ({"max_tokens": 60, "stop_token_ids": [END_OF_TURN_ID]}, "stop", END_OF_TURN_ID),
        ({"max_tokens": 60, "stop_token_ids": [END_OF_TURN_ID], "ignore_eos": True}, "stop", END_OF_TURN_ID),
    ]
    for asked, reason, ended_by in cases:
        for path, body in (("completions", COMPLETION), CHATS):
            (choice,) = (await http.post(f"/v1/{path}", json={**body, **asked})).json()["choices"]
            assert (choice["finish_reason"], choice["stop_reason"]) == (reason, ended_by)
            *chunks, _ = events_of(await http.post(f"/v1/{path}", json={**body, **asked, "stream": True}))
            *others, last = [chunk["choices"][0] for chunk in chunks]
            assert (last["finish_reason"], last["stop_reason"]) == (reason, ended_by)
            assert not any("stop_reason" in other for other in others)


async def test_the_only_model_need_not_be_named(http: httpx.AsyncClient) -> None:
    for path, body in (("completions", COMPLETION), CHATS):
        unnamed = {name: value for name, value in body.items() if name != "model"}
        for asked in (unnamed, {**unnamed, "model": None}):
            response = await http.post(f"/v1/{path}", json=asked)
            assert (response.status_code, response.json()["model"]) == (200, MODEL), response.text


async def test_a_chat_may_begin_with_what_it_goes_on_with(http: httpx.AsyncClient, client: ScriptedClient) -> None:
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "quick "}]
    for content in ("the quick ", parts):
        begun = {**CHAT, "messages": [*HELLO, {"role": "assistant", "content": content}], "echo": True, "n": 2}
        for fields in ({"continue_final_message": True}, {}):
            whole = (await http.post("/v1/chat/completions", json={**begun, **fields, **IDS})).json()
            assert [choice["message"]["content"] for choice in whole["choices"]] == ["the quick " + ANSWER] * 2
            assert whole["choices"][0]["token_ids"] == client.tokens
            *chunks, _ = events_of(await http.post("/v1/chat/completions", json={**begun, **fields, "stream": True}))
            texts = ["", ""]
            for chunk in chunks:
                texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["delta"].get("content", "")
            assert texts == ["the quick " + ANSWER] * 2
    scored = {**begun, "logprobs": True}
    assert (await http.post("/v1/chat/completions", json=scored)).status_code == 200
    nothing_begun = (await http.post("/v1/chat/completions", json={**CHAT, "echo": True})).json()
    assert nothing_begun["choices"][0]["message"]["content"] == ANSWER


def scored_prompt(context: IngressContext, prompt: tuple[int, ...], num_top: int) -> list[dict[str, Any] | None]:
    """As the scripted client scores it: the prompt's own tokens have -1, and 7, 8, … are the likeliest."""
    texts = context.tokenizer.token_texts
    expected: list[dict[str, Any] | None] = [None]
    for token in prompt[1:]:
        top = {7 + i: (-2.0 - i, i + 1) for i in range(num_top)}
        entries = {token: (-1.0, None), **top}
        expected.append(
            {
                str(one): {"logprob": logprob, "rank": rank, "decoded_token": texts.text(one)}
                for one, (logprob, rank) in entries.items()
            }
        )
    return expected


@pytest.mark.parametrize("num_top", [0, 2])
async def test_a_prompts_scores_stand_beside_the_choices(
    http: httpx.AsyncClient, client: ScriptedClient, context: IngressContext, num_top: int
) -> None:
    scored = {"prompt_logprobs": num_top, "n": 2}
    prompts = ["the quick", [0, 20, 21]]
    plain = (await http.post("/v1/completions", json={**COMPLETION, **scored, "prompt": prompts})).json()
    assert [request.params.scores_prompt for request in client.requests] == [True, False, True, False]
    for choice, request in zip(plain["choices"], client.requests, strict=True):
        assert choice["prompt_logprobs"] == scored_prompt(context, request.prompt, num_top)
        assert choice["logprobs"] is None
    for k, names in ((0, 1), (4, 5)):
        more = {**COMPLETION, **scored, "prompt": "the quick", "logprobs": k, "echo": True}
        choice = (await http.post("/v1/completions", json=more)).json()["choices"][1]
        assert choice["prompt_logprobs"] == scored_prompt(context, client.requests[-1].prompt, num_top)
        assert {len(top) for top in choice["logprobs"]["top_logprobs"][1:]} == {names}
    begun = {**CHAT, **scored, "messages": [*HELLO, {"role": "assistant", "content": "z"}], "echo": True}
    for asked, num_entries in ({}, None), ({"logprobs": True, "top_logprobs": 3}, len(client.tokens)):
        chat = (await http.post("/v1/chat/completions", json={**begun, **asked})).json()
        assert chat["prompt_logprobs"] == scored_prompt(context, client.requests[-1].prompt, num_top)
        logprobs = chat["choices"][0]["logprobs"]
        assert (None if logprobs is None else len(logprobs["content"])) == num_entries
        assert logprobs is None or {len(entry["top_logprobs"]) for entry in logprobs["content"]} == {3}
