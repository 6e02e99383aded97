"""What an engine must hold wherever it runs: checked on a CPU's in tests/integration, on a GPU's in tests/gpu."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.messages import SamplingParams, Token
from deployments.verifier.paged_engine import PagedEngine
from tests.support.driving import Drive
from tests.support.equality import Reference, Tally
from tests.support.proposals import garbage

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, seed=11)
WARPED = SamplingParams(temperature=1.1, top_k=40, top_p=0.9, min_p=0.02, seed=2**63 + 5, choice_index=1)


def check_alone_or_among_others(
    engine: PagedEngine, reference: Reference, prompts: Sequence[list[Token]], num_tokens: int
) -> None:
    """Sessions of three kinds of parameters, with wrong proposals, decide together what each decides alone."""
    params = [(GREEDY, SAMPLED, WARPED)[i % 3] for i in range(len(prompts))]
    together = Drive(engine).generate(prompts, params, num_tokens, garbage(engine.vocab_size, 3))
    tally = Tally(reference)
    for i, prompt in enumerate(prompts):
        (alone,) = Drive(engine).generate([prompt], [params[i]], num_tokens, lambda _s, _t: ())
        tally.check(prompt, params[i], alone, together[i])
    tally.close()
