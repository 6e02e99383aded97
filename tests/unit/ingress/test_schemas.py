"""Bodies that are wrong in many places, or in long ones: refused at once, in few words."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.ingress.app import create_app
from deployments.ingress.errors import ApiError
from deployments.ingress.schemas import parse_chat, parse_completion
from tests.support.rest import CHAT, COMPLETION, HELLO, ScriptedClient, make_context

MANY = 6000
MANY_AT_FAULT: list[tuple[Callable[[bytes], object], dict[str, Any], str | None]] = [
    (parse_completion, {**COMPLETION, "prompt": [1.5] * MANY}, "prompt.0"),
    (parse_completion, {**COMPLETION, "prompt": [-1] * MANY}, "prompt.0"),
    (parse_completion, {**COMPLETION, "prompt": [*["a"] * MANY, 1.5]}, f"prompt.{MANY}"),
    (parse_completion, {**COMPLETION, "stop": [1] * MANY}, "stop"),
    (parse_completion, {**COMPLETION, "logit_bias": {str(i): "x" for i in range(MANY)}}, None),
    (parse_completion, {**COMPLETION, **{f"k{i}": 1 for i in range(MANY)}}, None),
    (parse_chat, {**CHAT, "messages": [{}] * MANY}, "messages.0.role"),
    (parse_chat, {**CHAT, "messages": [{"role": "user", "content": [{}] * MANY}]}, "messages.0.content.0.type"),
    (parse_chat, {**CHAT, "messages": [{**HELLO[0], **{f"k{i}": 1 for i in range(MANY)}}]}, None),
]


@pytest.mark.parametrize(("parse", "body", "param"), MANY_AT_FAULT, ids=lambda value: str(value)[:50])
def test_many_faults_are_told_in_few_words_and_with_little_work(
    parse: Callable[[bytes], object], body: dict[str, Any], param: str | None
) -> None:
    """Nobody else is served meanwhile: work by the square of their number would be a thousand calls for each."""
    num_calls, refusal = refused(parse, json.dumps(body).encode())
    assert num_calls < 60 * MANY
    assert (refusal.param is None) == (param is None)
    assert param is None or f"'{param}'" in refusal.message
    assert len(refusal.message) <= 4000


def refused(parse: Callable[[bytes], object], body: bytes) -> tuple[int, ApiError]:
    """How many calls a refusal takes, those of built-in functions too, and the refusal."""
    num_calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal num_calls
        num_calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        with pytest.raises(ApiError) as refusal:
            parse(body)
    finally:
        sys.setprofile(None)
    return num_calls, refusal.value


def test_a_grammar_whose_translation_would_hold_up_everybody_is_refused() -> None:
    body = {**CHAT, "structured_outputs": {"grammar": "x" * 16_385}}
    with pytest.raises(ApiError) as refusal:
        parse_chat(json.dumps(body).encode())
    assert refusal.value.param == "structured_outputs.grammar"


LONG = "A" * 20_000
LONG_WORDS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {**CHAT, LONG: 1}),
    ("/v1/chat/completions", {**CHAT, "model": LONG}),
    ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": [{"type": LONG}]}]}),
    ("/v1/chat/completions", {**CHAT, "messages": [{**HELLO[0], LONG: 1}]}),
    ("/v1/chat/completions", {**CHAT, "chat_template_kwargs": {LONG: 1}}),
    ("/v1/chat/completions", {**CHAT, "logit_bias": {LONG: 1}}),
    ("/v1/chat/completions", {**CHAT, "logit_bias": {LONG: "x"}}),
    ("/v1/chat/completions", {**CHAT, "metadata": {LONG: 1}}),
    ("/v1/completions", {**COMPLETION, "speculation": {"variant": LONG}}),
    ("/v1/completions", {**COMPLETION, "prompt": [10**4000]}),
    ("/v1/completions", {**COMPLETION, "max_tokens": 10**4000}),
    ("/detokenize", {"tokens": [10**4000]}),
    ("/tokenize", {"prompt": "x", LONG: 1}),
]


@pytest.mark.parametrize(("path", "body"), LONG_WORDS, ids=lambda value: str(value)[:60])
async def test_a_refusal_is_short_whatever_it_quotes(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    context = make_context(tmp_path, ScriptedClient())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(context)), base_url="http://test") as http:
        response = await http.post(path, json=body)
    assert response.status_code in (400, 404)
    assert len(response.content) < 8000
    assert len(response.json()["error"]["param"]) < 300
