"""Many requests of one prompt under rejection sampling: do their texts follow the target's distribution?

    trial = Trial(reference, prompt, params)
    texts = await trial.texts(rig, drafter)
    assert trial.fit(texts) > SIGNIFICANCE

The first of three tokens comes from the prompt, the others from a round with two drafted tokens. Bans
leave four tokens to choose from, so that 64 texts are possible, and a random drafter is right at times.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from msgspec.structs import replace

from deployments.ingress.generation import GenerateRequest
from deployments.messages import DrafterName, SamplingParams, Token
from tests.property.decoding.test_sampling_distribution import fit
from tests.support import decoding_reference
from tests.support.equality import Reference
from tests.support.rig import Rig
from tests.support.shapes import VOCAB_SIZE

ALLOWED = (7, 20, 41, 90)
NUM_CHOSEN, AT_ONCE = 3, 32
PROMPT = tuple(range(30, 50))
"""Past the sliding window of the miniatures."""
PARAMS = SamplingParams(
    temperature=1.5,
    num_prompt_tokens=len(PROMPT),
    banned_token_ids=tuple(sorted(set(range(VOCAB_SIZE)) - set(ALLOWED))),
    banned_before=1000,
    acceptance="rejection",
)


@dataclass
class Trial:
    """A prompt and parameters; `num_accepted` counts drafted tokens that held."""

    reference: Reference
    params: SamplingParams = PARAMS
    num_requests: int = 600
    num_accepted: int = field(default=0, init=False)

    @cached_property
    def expected(self) -> dict[tuple[Token, ...], float]:
        """The probability of each text, by the slow reference."""
        chances: dict[tuple[Token, ...], float] = {(): 1.0}
        for _ in range(NUM_CHOSEN):
            longer: dict[tuple[Token, ...], float] = {}
            for text, chance in chances.items():
                known = [*PROMPT, *text]
                logits = self.reference.logits(known)[-1].tolist()
                after = decoding_reference.distribution(
                    decoding_reference.adjust(logits, self.params, known), self.params
                )
                longer |= {(*text, token): chance * after[token] for token in ALLOWED}
            chances = longer
        return chances

    async def texts(self, rig: Rig, drafter: DrafterName) -> list[tuple[Token, ...]]:
        """The first tokens of many requests, each with a seed of its own, some at a time."""
        seeds = itertools.count()
        texts: list[tuple[Token, ...]] = []

        async def ask() -> None:
            while (seed := next(seeds)) < self.num_requests:
                request = GenerateRequest(
                    id=f"trial-{seed}",
                    prompt=PROMPT,
                    max_context_tokens=len(PROMPT) + NUM_CHOSEN + 1,
                    params=replace(self.params, seed=seed),
                    num_speculative_tokens=NUM_CHOSEN - 1,
                    drafter=drafter,
                )
                tokens: list[Token] = []
                async for commit in rig.client.generate(request):
                    tokens.extend(commit.tokens)
                    self.num_accepted += commit.num_accepted
                texts.append(tuple(tokens[:NUM_CHOSEN]))

        await asyncio.wait_for(asyncio.gather(*(ask() for _ in range(AT_ONCE))), 240)
        return texts

    def fit(self, texts: Sequence[tuple[Token, ...]]) -> float:
        """How likely texts of the target are to be this far from its distribution."""
        cells = {text: i for i, text in enumerate(self.expected)}
        return fit(np.array([cells[text] for text in texts]), np.array(list(self.expected.values())))
