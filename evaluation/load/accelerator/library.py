"""The same step through the library's own model: what a user has without this engine."""

from __future__ import annotations

import random

import torch
from transformers import DynamicCache, PreTrainedModel

from deployments.models.loading import cache_keyword
from evaluation.load.stopwatch import timed_ms


class LibrarySteps:
    """One sequence that stands at a context in the library's own cache, stepped again and again from there."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._keyword = cache_keyword(model)
        self._rng = random.Random(0)
        # Without a configuration it keeps every entry, so that a step can be undone anywhere.
        self._cache = DynamicCache()

    def open(self, context: int, prompt_tokens: int) -> None:
        """Begin anew, with so many entries."""
        self._cache = DynamicCache()
        for start in range(0, context, prompt_tokens):
            self._run(min(prompt_tokens, context - start))

    def step_ms(self, lookahead: int) -> float:
        """A verification of random tokens, greedy, undone afterwards."""
        elapsed_ms = timed_ms(lambda: self._run(1 + lookahead))
        self._cache.crop(-(1 + lookahead))
        return elapsed_ms

    @torch.inference_mode()
    def _run(self, num_tokens: int) -> list[int]:
        vocab_size = self._model.config.get_text_config().vocab_size
        tokens = [self._rng.randrange(6, vocab_size) for _ in range(num_tokens)]
        ids = torch.tensor([tokens], device=self._model.device)
        logits = self._model(input_ids=ids, use_cache=True, **{self._keyword: self._cache}).logits
        chosen: list[int] = logits[0].argmax(-1).tolist()
        return chosen
