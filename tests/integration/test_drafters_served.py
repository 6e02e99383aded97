"""`outrider serve` with drafters of both kinds: a request chooses, and the text stays the library's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from deployments.messages import SamplingParams
from tests.support.equality import Reference
from tests.support.pocket import TARGET, safe_prompts, tokenizer
from tests.support.serve_process import Server, running_server

pytestmark = pytest.mark.system

NUM_TOKENS = 48
CHOICES = ("mtp", "draft_model", "prompt_lookup", "none", "auto")
BOTH = {"speculation": {"drafter": "draft_model", "drafters": ["mtp", "draft_model"]}}
INSIDE = {**BOTH, "drafter": {"placement": "colocated"}, "draft_model": {"placement": "colocated"}}


ON_TWO_RANKS = {**INSIDE, "model": {"max_context_tokens": 512}, "verifier": {"tensor_parallel_size": 2}}
SETTINGS = {"remote": BOTH, "colocated": INSIDE, "colocated-ranks": ON_TWO_RANKS}


@pytest.fixture(scope="module", params=SETTINGS)
def two_drafters(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(request.param)
    yield from running_server(folder, SETTINGS[request.param])


def complete(
    server: Server, prompt: list[int], params: SamplingParams, drafter: str, lookahead: int | str
) -> dict[str, Any]:
    body = {
        "model": "pocket",
        "prompt": prompt,
        "max_tokens": NUM_TOKENS,
        "temperature": params.temperature,
        "seed": params.seed,
        "speculation": {"drafter": drafter, "num_speculative_tokens": lookahead},
    }
    response = httpx.post(f"{server.url}/v1/completions", json=body, timeout=300)
    assert response.status_code == httpx.codes.OK, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_every_drafter_gives_the_librarys_text(two_drafters: Server) -> None:
    params = [SamplingParams(), SamplingParams(temperature=0.8, seed=2**40 + 3)]
    drafted = dict.fromkeys(CHOICES, 0)
    for index, (prompt, chosen, output) in enumerate(safe_prompts(Reference(TARGET), params, 6, NUM_TOKENS)):
        # Every drafter has to draft, which is sure where the lookahead is told: the search may find that none pays.
        lookahead = 4 if index % 4 < 2 else "auto"
        expected = tokenizer().decode(output, skip_special_tokens=True)
        for drafter in CHOICES:
            answer = complete(two_drafters, list(prompt), chosen, drafter, lookahead)
            assert answer["choices"][0]["text"] == expected, drafter
            drafted[drafter] += answer["metrics"]["speculative_decoding"]["num_draft_tokens"]
    assert [drafter for drafter in CHOICES if drafted[drafter] == 0] == ["none"]
    is_inside = "colocated" in two_drafters.folder.name
    for deployment in ("drafter", "draft_model"):
        assert len(two_drafters.replicas(deployment)) == (0 if is_inside else 1)
