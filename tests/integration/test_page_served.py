"""The page at `/` of the whole deployment, in a real browser: the target's own text, coloured by where it came from."""

from __future__ import annotations

import re
from pathlib import Path

import openai
import pytest

from evaluation.pocket.prompts import held_out
from tests.support.browser import open_page, require_chromium, run_chromium
from tests.support.serve_process import Server

pytestmark = pytest.mark.system

SPANS = "[...document.querySelectorAll('#answer span')].map((span) => [span.className, span.textContent])"


async def test_the_page_shows_the_deployments_answer(pocket_server: Server, tmp_path: Path) -> None:
    (example,) = held_out("structured", 1, 5)
    message = example.prompt_messages[-1]
    async with openai.AsyncOpenAI(base_url=f"{pocket_server.url}/v1", api_key="none", timeout=300) as client:
        whole = await client.chat.completions.create(model="pocket", messages=[message], temperature=0)
    with run_chromium(require_chromium(), tmp_path) as address:
        async with open_page(address, f"{pocket_server.url}/") as page:
            await page.type(message["content"])
            await page.press("Enter")
            await page.until("!document.getElementById('send').disabled")
            spans = await page.evaluate(SPANS)
            summary = await page.evaluate("document.getElementById('summary').innerText")
            errors = page.errors
    assert "".join(text for _, text in spans) == whole.choices[0].message.content
    assert {kind for kind, _ in spans} >= {"accepted", "bonus"}
    length = re.search(r"acceptance length ([0-9.]+)", summary)
    assert length is not None
    assert float(length[1]) > 2
    assert errors == []
