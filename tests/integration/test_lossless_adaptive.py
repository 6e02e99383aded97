"""The adaptive policy never changes the output: real engines and streams, whatever it chooses for each round."""

from __future__ import annotations

import pytest

from deployments.ingress.generation import GenerateRequest
from deployments.messages import Proposal, SamplingParams, Verdict, VerdictItem
from tests.support.equality import Reference, Tally
from tests.support.pocket import TARGET, chat_prompts, drafter_engine, make_request, outputs, verifier_engine
from tests.support.rig import Rig, running_rig

NUM_TOKENS = 64
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, seed=2**63 + 11)
CLASSES = ("structured", "code", "prose", None)


def make(index: int, prompt: tuple[int, ...], params: SamplingParams, **changes: object) -> GenerateRequest:
    return make_request(
        index, prompt, params, NUM_TOKENS, **{"request_class": CLASSES[index % len(CLASSES)], **changes}
    )


def lookaheads(rig: Rig) -> set[int]:
    """How many drafted tokens the rounds of the rig have verified."""
    verdicts = [m for _, m in rig.of("router")[0].tap.messages if isinstance(m, Verdict)]
    items: list[VerdictItem] = [item for verdict in verdicts for item in verdict.items]
    return {item.num_drafted for item in items}


def has_ended_early(rig: Rig) -> bool:
    """Whether a batch ran fewer steps than it was asked for."""
    proposals = [m for _, m in rig.of("router")[0].tap.messages if isinstance(m, Proposal)]
    return any(0 < proposal.longest < proposal.lookahead for proposal in proposals)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_auto_equals_off_alone_and_among_others(params):
    reference = Reference(TARGET)
    stop = reference.eos_token_ids
    prompts = chat_prompts(8, seed=3)
    expected = [reference.generate(prompt, params, NUM_TOKENS, stop=stop) for prompt in prompts]
    tally = Tally(reference)
    engine = verifier_engine()
    async with running_rig(verifiers=[engine], drafters=[drafter_engine()], router={"policy": "adaptive"}) as rig:
        for index, prompt in enumerate(prompts):
            tally.check(prompt, params, expected[index], await rig.generate(make(index, prompt, params)))
        alone, ended_early = lookaheads(rig), has_ended_early(rig)
        for index, prompt in enumerate(prompts[:2]):
            off = make(100 + index, prompt, params, num_speculative_tokens=0)
            tally.check(prompt, params, expected[index], await rig.generate(off))
        crowd = [make(200 + i, prompt, SAMPLED) for i, prompt in enumerate(chat_prompts(16, seed=4))]
        made = [make(300 + i, prompt, params) for i, prompt in enumerate(prompts)]
        together = (await outputs(rig, [*made, *crowd]))[: len(prompts)]
        for prompt, wanted, got in zip(prompts, expected, together, strict=True):
            tally.check(prompt, params, wanted, got)
    # It has looked ahead and it has not, as it tries both at once: else this would show nothing.
    assert min(alone) == 0
    assert max(alone) > 0
    assert ended_early
    tally.close()
    engine.check_integrity()
