"""Which of the pocket pair's tokens a grammar allows next, slow and obvious: a new parser for every question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from llguidance import LLMatcher, LLTokenizer

import deployments.models

TARGET = Path(deployments.models.__file__).parent / "pocket" / "target"
ENDS: list[int] = json.loads((TARGET / "generation_config.json").read_text("utf-8"))["eos_token_id"]


@cache
def vocabulary() -> LLTokenizer:
    return LLTokenizer(str(TARGET / "tokenizer.json"), eos_token=ENDS)


def allowed(grammar: str, output: Sequence[int]) -> set[int]:
    """The tokens that may follow this output, those that end it among them where it may end."""
    matcher = LLMatcher(vocabulary(), grammar)
    assert matcher.consume_tokens(list(output)), f"{grammar} does not allow {list(output)}"
    bits = int.from_bytes(matcher.compute_bitmask(), "little")
    return {token for token in range(vocabulary().vocab_size) if bits >> token & 1}
