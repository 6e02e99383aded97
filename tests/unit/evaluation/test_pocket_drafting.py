"""The assistant's vectorised training steps against its own class, and the reference loop against plain decoding."""

import pytest
import torch
from transformers import Gemma4AssistantForCausalLM, Gemma4ForCausalLM

from evaluation.pocket import reference_loop
from evaluation.pocket.assistant_steps import NUM_STEPS, anchor_masks, choose_anchors, draft_once, pick
from evaluation.pocket.folders import new_assistant, new_target
from evaluation.pocket.packing import Batch, Document, causal_masks, collate
from evaluation.pocket.train_assistant import start_from_target

LENGTH = 340  # past the sliding window


@pytest.fixture(scope="module")
def target() -> Gemma4ForCausalLM:
    return new_target(0).eval()


@pytest.fixture(scope="module")
def assistant(target: Gemma4ForCausalLM) -> Gemma4AssistantForCausalLM:
    model = new_assistant(1).eval()
    start_from_target(model, target)
    return model


@pytest.fixture(scope="module")
def batch() -> Batch:
    tokens = torch.randint(6, 4096, (LENGTH,), generator=torch.Generator().manual_seed(0)).tolist()
    row = [Document(tokens=part, weights=[1.0] * len(part)) for part in (tokens[:40], tokens[40:])]
    return collate([row], LENGTH)


@pytest.mark.parametrize("anchor", [10, 45, 330])
@torch.no_grad()
def test_packed_steps_equal_the_assistants_own_forward(
    target: Gemma4ForCausalLM, assistant: Gemma4AssistantForCausalLM, batch: Batch, anchor: int
) -> None:
    start = 0 if anchor < 40 else 40
    known = batch.tokens_BT[:, start : anchor + 1]
    alone = target.model(known[:, :-1], use_cache=False, return_shared_kv_states=True)
    window = target.config.sliding_window
    shared = {
        kind: (keys[:, :, -window:], values[:, :, -window:]) for kind, (keys, values) in alone.shared_kv_states.items()
    }
    shared["full_attention"] = alone.shared_kv_states["full_attention"]
    embeddings = target.model.embed_tokens(batch.tokens_BT)
    expected = assistant(
        inputs_embeds=torch.cat([embeddings[:, [anchor]], alone.last_hidden_state[:, -1:]], dim=-1),
        position_ids=torch.tensor([[anchor - start]]),
        shared_kv_states=shared,
    )

    packed = target.model(
        input_ids=batch.tokens_BT,
        position_ids=batch.positions_BT,
        attention_mask=causal_masks(batch),
        use_cache=False,
        return_shared_kv_states=True,
    )
    anchors = torch.tensor([[anchor]])
    inputs = torch.cat([pick(embeddings, anchors), pick(packed.last_hidden_state, anchors - 1)], dim=-1)
    positions = batch.positions_BT.gather(1, anchors)
    logits, states = draft_once(assistant, inputs, positions, anchor_masks(batch, anchors), packed.shared_kv_states)

    torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(states, expected.last_hidden_state, atol=1e-4, rtol=1e-4)


def test_anchors_have_a_predecessor_and_a_full_run_of_successors(batch: Batch) -> None:
    anchors = choose_anchors(batch, 200, torch.Generator().manual_seed(0))
    assert (batch.positions_BT.gather(1, anchors) > 0).all()
    assert torch.equal(batch.documents_BT.gather(1, anchors), batch.documents_BT.gather(1, anchors + NUM_STEPS))


@torch.no_grad()
def test_reference_loop_is_lossless(target: Gemma4ForCausalLM, assistant: Gemma4AssistantForCausalLM) -> None:
    prompt = list(range(100, 120))
    plain = list(prompt)
    for _ in range(12):
        plain.append(int(target(torch.tensor([plain]), use_cache=False).logits[0, -1].argmax()))
    done = reference_loop.generate(target, assistant, prompt, lookahead=3, max_new_tokens=12)
    assert list(done.tokens[:12]) == plain[len(prompt) :]
    assert done.num_committed_tokens == len(done.tokens) - 1
