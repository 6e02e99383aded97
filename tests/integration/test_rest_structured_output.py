"""Answers that follow a grammar, over HTTP and real engines: valid, and the same with every drafter as with none."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from evaluation.pocket.prompts import held_out
from tests.support.pocket import draft_model_engine, drafter_engine, tokenizer, verifier_engine
from tests.support.rest_pocket import serving_pocket

CITY = {
    "type": "object",
    "properties": {"city": {"const": "Köln"}},
    "required": ["city"],
    "additionalProperties": False,
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 3},
        "address": {"anyOf": [{"type": "null"}, CITY]},
    },
    "required": ["name", "age", "tags", "address"],
    "additionalProperties": False,
}
ASKED: dict[str, dict[str, Any]] = {
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}},
    "schema without blanks": {"structured_outputs": {"json": json.dumps(PERSON), "disable_any_whitespace": True}},
    "choice": {"structured_outputs": {"choice": ["yes", "no", 'maybe "so"']}},
    "regex": {"structured_outputs": {"regex": r"[A-Z][a-z]{2,8}, [0-9]{2}[.]"}},
    "grammar": {"structured_outputs": {"grammar": 'root ::= ("a" | "bc"){2,6} "!"'}},
    "penalised": {"structured_outputs": {"regex": "[a-f]{12,20}"}, "presence_penalty": 1.5, "top_p": 0.9},
}
MATCHES = {
    "choice": r'yes|no|maybe "so"',
    "regex": r"[A-Z][a-z]{2,8}, [0-9]{2}[.]",
    "grammar": "(a|bc){2,6}!",
    "penalised": "[a-f]{12,20}",
}
DRAFTING: tuple[dict[str, Any], ...] = (
    {"drafter": "mtp", "num_speculative_tokens": 3},
    {"drafter": "draft_model", "num_speculative_tokens": 5},
    {"drafter": "prompt_lookup", "num_speculative_tokens": 8},
    {"drafter": "mtp", "num_speculative_tokens": 6, "acceptance": "rejection"},
)
BASES = {"greedy": {"temperature": 0}, "sampled": {"temperature": 1.0, "seed": 2**63 + 5}}
MESSAGES: Any = [{"role": "user", "content": "Write down one person as JSON."}]


@pytest.fixture(scope="module")
def engines() -> tuple[Any, Any, Any]:
    return verifier_engine(), drafter_engine(), draft_model_engine()


@pytest.fixture
async def url(engines: tuple[Any, Any, Any]) -> AsyncIterator[str]:
    verifier, mtp, draft_model = engines
    async with serving_pocket(verifier, [mtp], token_drafters=[draft_model]) as (url, _):
        yield f"{url}/v1"


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{url}/", timeout=200) as client:
        yield client


async def texts(http: httpx.AsyncClient, asked: dict[str, Any], speculation: dict[str, Any]) -> list[str]:
    """The whole answers of two choices."""
    body = {"model": "pocket", "messages": MESSAGES, "n": 2, "max_tokens": 240, **asked, "speculation": speculation}
    response = await http.post("chat/completions", json=body)
    assert response.status_code == httpx.codes.OK, response.text
    choices = response.json()["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["stop", "stop"]
    return [choice["message"]["content"] for choice in choices]


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("name", ASKED)
async def test_every_drafter_gives_the_answer_that_none_gives_and_it_is_valid(
    http: httpx.AsyncClient, name: str, base: dict[str, Any]
) -> None:
    expected = await texts(http, {**ASKED[name], **base}, {"num_speculative_tokens": 0})
    for speculation in DRAFTING:
        got = await texts(http, {**ASKED[name], **base}, speculation)
        if speculation.get("acceptance") != "rejection" or base["temperature"] == 0:
            assert got == expected
        for text in (*expected, *got):
            if name in MATCHES:
                assert re.fullmatch(MATCHES[name], text)
            else:
                jsonschema.validate(json.loads(text), PERSON)
                assert name == "schema" or not re.search(r'[\s](?=(?:[^"]*"[^"]*")*[^"]*$)', text)


class Person(BaseModel):
    name: str = Field(max_length=10)
    kind: Literal["human", "robot"]
    parts: list[int] = Field(min_length=2, max_length=3)


async def test_the_official_client_parses_what_it_asked_for_whole_and_streamed(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as api:
        options: Any = {"model": "pocket", "messages": MESSAGES, "response_format": Person, "temperature": 0}
        whole = (await api.chat.completions.parse(**options, max_tokens=120)).choices[0].message.parsed
        assert isinstance(whole, Person)
        async with api.chat.completions.stream(**options, max_tokens=120) as stream:
            streamed = (await stream.get_final_completion()).choices[0].message.parsed
        assert streamed == whole
        completion = await api.completions.create(
            model="pocket", prompt="x", max_tokens=30, extra_body={"structured_outputs": {"choice": ["left", "right"]}}
        )
        assert completion.choices[0].text in ("left", "right")


async def test_an_answer_that_is_valid_anyway_is_left_as_it_is(http: httpx.AsyncClient) -> None:
    """Held-out contracts, whose JSON the pair was trained to write: any JSON object may come, and the same one does."""
    num_valid = 0
    for example in held_out("structured", 4, 3):
        free, held = [
            (await http.post("chat/completions", json=body)).json()["choices"][0]
            for body in (
                {"model": "pocket", "messages": example.prompt_messages, "temperature": 0, "max_tokens": 300, **more}
                for more in ({}, {"response_format": {"type": "json_object"}})
            )
        ]
        if free["finish_reason"] == "stop" and is_json(free["message"]["content"]):
            num_valid += 1
            assert held["message"]["content"] == free["message"]["content"]
    assert num_valid >= 2


def is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


async def test_an_answer_that_is_cut_off_says_so(http: httpx.AsyncClient) -> None:
    body = {"model": "pocket", "messages": MESSAGES, "max_tokens": 4, "temperature": 0, **ASKED["schema"]}
    choice = (await http.post("chat/completions", json=body)).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert len(tokenizer().encode(choice["message"]["content"], add_special_tokens=False)) == 4
