"""Trains the MTP assistant to draft what the target would say next, several tokens deep."""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers import Gemma4AssistantForCausalLM, Gemma4ForCausalLM

from evaluation.pocket.assistant_steps import NUM_STEPS, choose_anchors, draft_loss, judged_step, read
from evaluation.pocket.optimisation import Budget, Optimiser
from evaluation.pocket.packing import Document, batches

NUM_ROWS = 12
ROW_TOKENS = 384
NUM_ANCHORS = 160
REPORT_STEPS = 50
CHECKPOINT_S = 240.0


def start_from_target(assistant: Gemma4AssistantForCausalLM, target: Gemma4ForCausalLM) -> None:
    """Start the assistant's embedding, which is also its head, as the principal directions of the target's."""
    with torch.no_grad():
        table_VH = target.model.embed_tokens.weight
        directions, _, _ = torch.svd_lowrank(table_VH, q=assistant.hidden_size, niter=4)
        scale = assistant.hidden_size**-0.5 / directions.std()
        assistant.model.embed_tokens.weight.copy_(directions * scale)


def train(
    assistant: Gemma4AssistantForCausalLM,
    target: Gemma4ForCausalLM,
    documents: Iterator[Document],
    budget: Budget,
    checkpoint: Callable[[int], None],
) -> int:
    """Train until the budget is spent and return the number of steps; the target stays as it is."""
    start_from_target(assistant, target)
    assistant.train()
    target.eval()
    generator = torch.Generator().manual_seed(0)
    optimiser, compiled_read, compiled_step = Optimiser(assistant), torch.compile(read), torch.compile(judged_step)
    stream = batches(documents, NUM_ROWS, ROW_TOKENS)
    step, last_checkpoint, recent = 0, time.monotonic(), torch.zeros(NUM_STEPS + 1)
    while budget.progress < 1.0:
        batch = next(stream)
        reading = compiled_read(target, batch)
        anchors_BA = choose_anchors(batch, NUM_ANCHORS, generator)
        embeddings_BTH = target.model.embed_tokens(batch.tokens_BT).detach()
        loss, hits = draft_loss(assistant, embeddings_BTH, reading, batch, anchors_BA, compiled_step)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step(budget.progress)
        step += 1
        recent += torch.cat([loss.detach()[None], hits.detach()]) / REPORT_STEPS
        if step % REPORT_STEPS == 0:
            report(step, budget, recent)
            recent.zero_()
        if time.monotonic() - last_checkpoint > CHECKPOINT_S:
            checkpoint(step)
            last_checkpoint = time.monotonic()
    checkpoint(step)
    return step


def report(step: int, budget: Budget, recent: Tensor) -> None:
    hits = " ".join(f"{hit:.2f}" for hit in recent[1:].tolist())
    print(f"step {step} progress {budget.progress:.3f} loss {recent[0].item():.3f} alive {hits}", flush=True)
