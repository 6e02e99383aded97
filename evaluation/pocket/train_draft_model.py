"""Distils the target into the small independent draft model."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import Gemma4ForCausalLM

from evaluation.pocket.assistant_steps import read
from evaluation.pocket.optimisation import Budget, Optimiser
from evaluation.pocket.packing import Batch, Document, batches, causal_masks

NUM_ROWS = 16
ROW_TOKENS = 384
REPORT_STEPS = 50


def train(
    draft_model: Gemma4ForCausalLM,
    target: Gemma4ForCausalLM,
    documents: Iterator[Document],
    budget: Budget,
) -> int:
    """Train on the target's distributions until the budget is spent and return the number of steps."""
    draft_model.train()
    target.eval()
    optimiser, compiled_read, compiled_loss = Optimiser(draft_model), torch.compile(read), torch.compile(distillation)
    stream = batches(documents, NUM_ROWS, ROW_TOKENS)
    step, recent = 0, torch.zeros(())
    while budget.progress < 1.0:
        batch = next(stream)
        loss = compiled_loss(draft_model, compiled_read(target, batch).logits_BTV, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step(budget.progress)
        step += 1
        recent += loss.detach() / REPORT_STEPS
        if step % REPORT_STEPS == 0:
            print(f"step {step} progress {budget.progress:.3f} loss {recent.item():.3f}", flush=True)
            recent.zero_()
    return step


def distillation(draft_model: Gemma4ForCausalLM, target_logits_BTV: Tensor, batch: Batch) -> Tensor:
    """Return the cross-entropy to the target's distribution, each place weighted as the token that follows it."""
    with torch.autocast("cpu", torch.bfloat16):
        states = draft_model.model(
            input_ids=batch.tokens_BT,
            position_ids=batch.positions_BT,
            attention_mask=causal_masks(batch),
            use_cache=False,
        ).last_hidden_state[:, :-1]
        logits = draft_model.lm_head(states)
    softcap: float = draft_model.config.final_logit_softcapping
    log_draft = log_softmax(softcap * torch.tanh(logits.float() / softcap), dim=-1)
    losses = -(target_logits_BTV[:, :-1].float().softmax(-1) * log_draft).sum(-1)
    weights = batch.weights_BT[:, 1:]
    return (losses * weights).sum() / weights.sum()
