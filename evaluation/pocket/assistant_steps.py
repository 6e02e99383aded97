"""The assistant's drafting steps, for many anchors at once.

An anchor is a position p that holds the last known token (p = L - 1 for L known tokens). Its query stays at p for every
step; it sees the target's keys and values at 0..p-1, in a sliding layer the last window of them, and starts from the
target's hidden state at p-1. Step j feeds the token at p + j and predicts the one at p + j + 1.

B rows, T tokens in a row, A anchors in a row, K steps, H hidden size of the target, V vocabulary.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import Gemma4AssistantForCausalLM, Gemma4ForCausalLM

from evaluation.pocket.packing import Batch, causal_masks
from evaluation.pocket.shapes import FULL, SLIDING, SLIDING_WINDOW

NUM_STEPS = 6
ALIVE_FLOOR = 0.15
HARD_SHARE = 0.4
MIN_ANCHOR_WEIGHT = 0.2

SharedStates = Mapping[str, tuple[Tensor, Tensor]]
StepFunction = Callable[..., tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the target made of a batch."""

    states_BTH: Tensor
    logits_BTV: Tensor
    shared: SharedStates


@torch.no_grad()
def read(target: Gemma4ForCausalLM, batch: Batch) -> Reading:
    """Run the target over a batch and keep what its assistant needs."""
    with torch.autocast("cpu", torch.bfloat16):
        output = target.model(
            input_ids=batch.tokens_BT,
            position_ids=batch.positions_BT,
            attention_mask=causal_masks(batch),
            use_cache=False,
            return_shared_kv_states=True,
        )
        logits_BTV = target.lm_head(output.last_hidden_state)
    softcap: float = target.config.final_logit_softcapping
    logits_BTV = softcap * torch.tanh(logits_BTV / softcap)
    shared = {kind: (keys, values) for kind, (keys, values) in output.shared_kv_states.items()}
    return Reading(states_BTH=output.last_hidden_state, logits_BTV=logits_BTV, shared=shared)


def choose_anchors(batch: Batch, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` anchors per row among places that have a predecessor and a full run of successors, [B, A]."""
    documents, weights = batch.documents_BT, batch.weights_BT
    length = documents.shape[1]
    last = (torch.arange(length) + NUM_STEPS).clamp(max=length - 1)
    is_whole = (documents == documents[:, last]) & (torch.arange(length) + NUM_STEPS < length)
    fits = (documents > 0) & (batch.positions_BT > 0) & is_whole
    answers = fits & (weights[:, (torch.arange(length) + 1).clamp(max=length - 1)] > MIN_ANCHOR_WEIGHT)
    scores = torch.rand(documents.shape, generator=generator) + 2.0 * answers + 1.0 * fits
    return scores.topk(count, dim=1).indices.sort(dim=1).values


def anchor_masks(batch: Batch, anchors_BA: Tensor) -> dict[str, Tensor]:
    """Return the boolean [B, 1, A, T] mask of each layer type."""
    positions, documents = batch.positions_BT, batch.documents_BT
    at, document = positions.gather(1, anchors_BA), documents.gather(1, anchors_BA)
    distance = at[:, :, None] - positions[:, None, :]
    seen = (document[:, :, None] == documents[:, None, :]) & (distance > 0)
    return {FULL: seen[:, None], SLIDING: (seen & (distance <= SLIDING_WINDOW))[:, None]}


def draft_loss(
    assistant: Gemma4AssistantForCausalLM,
    embeddings_BTH: Tensor,
    reading: Reading,
    batch: Batch,
    anchors_BA: Tensor,
    step_function: StepFunction,
) -> tuple[Tensor, Tensor]:
    """Return the loss and, per step, the share of anchors whose drafts all equal the target's greedy tokens so far."""
    positions_BA = batch.positions_BT.gather(1, anchors_BA)
    masks = anchor_masks(batch, anchors_BA)
    states_BAH = pick(reading.states_BTH, anchors_BA - 1)
    alive_BA = torch.ones_like(anchors_BA, dtype=torch.float32)
    total, weight = torch.zeros(()), torch.zeros(())
    hits: list[Tensor] = []
    for step in range(NUM_STEPS):
        at_BA = anchors_BA + step
        inputs = torch.cat([pick(embeddings_BTH, at_BA), states_BAH], dim=-1)
        with torch.autocast("cpu", torch.bfloat16):
            logits_BAV, states_BAH, losses_BA = step_function(
                assistant, inputs, positions_BA, masks, reading.shared, pick(reading.logits_BTV, at_BA)
            )
        # Once a draft has missed, what follows counts little: verification would have stopped there.
        counts_BA = alive_BA.clamp(min=ALIVE_FLOOR)
        total = total + (counts_BA * losses_BA).sum()
        weight = weight + counts_BA.sum()
        drafted_BA = logits_BAV.argmax(-1)
        alive_BA = alive_BA * (drafted_BA == pick(reading.logits_BTV, at_BA).argmax(-1))
        hits.append(alive_BA.mean())
        # The next step is fed the text's token: the branch lives on only where the draft is that token.
        alive_BA = alive_BA * (drafted_BA == batch.tokens_BT.gather(1, at_BA + 1))
    return total / weight, torch.stack(hits)


def judged_step(
    assistant: Gemma4AssistantForCausalLM,
    inputs: Tensor,
    positions_BA: Tensor,
    masks: Mapping[str, Tensor],
    shared: SharedStates,
    wanted_BAV: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draft once and return (logits, projected states, losses): mostly against the target's whole distribution."""
    logits_BAV, states_BAH = draft_once(assistant, inputs, positions_BA, masks, shared)
    log_draft_BAV = log_softmax(logits_BAV.float(), dim=-1)
    wanted_BAV = wanted_BAV.float()
    soft_BA = -(wanted_BAV.softmax(-1) * log_draft_BAV).sum(-1)
    hard_BA = -log_draft_BAV.gather(-1, wanted_BAV.argmax(-1, keepdim=True)).squeeze(-1)
    return logits_BAV.detach(), states_BAH, (1 - HARD_SHARE) * soft_BA + HARD_SHARE * hard_BA


def draft_once(
    assistant: Gemma4AssistantForCausalLM,
    inputs: Tensor,
    positions_BA: Tensor,
    masks: Mapping[str, Tensor],
    shared: SharedStates,
) -> tuple[Tensor, Tensor]:
    """Run one step and return (logits, projected states); the class's own forward builds masks for one query only."""
    output = assistant.model(
        inputs_embeds=assistant.pre_projection(inputs),
        position_ids=positions_BA,
        attention_mask=masks,
        shared_kv_states=shared,
        use_cache=False,
    )
    return assistant.lm_head(output.last_hidden_state), assistant.post_projection(output.last_hidden_state)


def pick(values_BTX: Tensor, index_BA: Tensor) -> Tensor:
    """Take rows of the second axis, [B, A, X]."""
    return values_BTX.gather(1, index_BA[:, :, None].expand(-1, -1, values_BTX.shape[-1]))
