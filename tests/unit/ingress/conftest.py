"""A scripted client behind the routes, and an HTTP client in front of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from deployments.ingress.app import create_app
from deployments.ingress.context import ApiLimits, IngressContext
from tests.support.rest import ANSWER, ScriptedClient, make_context, plain_ids
from tests.support.tiny_tokenizer import END_OF_TURN_ID


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
