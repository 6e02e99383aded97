"""Trains the target on the corpus by next-token prediction, within a budget of wall time."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Gemma4ForCausalLM, PreTrainedTokenizerFast

from evaluation.pocket.corpus import GENERATORS, training_examples
from evaluation.pocket.optimisation import Budget, Optimiser
from evaluation.pocket.packing import Batch, batches, causal_masks, encode
from evaluation.pocket.records import Example
from evaluation.pocket.shapes import FULL, SLIDING

NUM_ROWS = 16
ROW_TOKENS = 384
REPORT_STEPS = 50
CHECKPOINT_S = 240.0

LossFunction = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
Checkpoint = Callable[[int, str], None]


def make_loss(model: Gemma4ForCausalLM) -> LossFunction:
    """Return the weighted next-token loss of a batch, compiled: fusing the norms doubles the speed on CPUs."""
    softcap: float = model.config.final_logit_softcapping

    def loss(tokens_BT: Tensor, positions_BT: Tensor, weights_BT: Tensor, full: Tensor, sliding: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            states = model.model(
                input_ids=tokens_BT,
                position_ids=positions_BT,
                attention_mask={FULL: full, SLIDING: sliding},
                use_cache=False,
            ).last_hidden_state
            logits = model.lm_head(states[:, :-1])
        logits = softcap * torch.tanh(logits.float() / softcap)
        losses = cross_entropy(logits.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="none")
        weights = weights_BT[:, 1:].flatten()
        return (losses * weights).sum() / weights.sum()

    compiled: LossFunction = torch.compile(loss)
    return compiled


def batch_loss(loss: LossFunction, batch: Batch) -> Tensor:
    masks = causal_masks(batch)
    return loss(batch.tokens_BT, batch.positions_BT, batch.weights_BT, masks[FULL], masks[SLIDING])


def held_out_batches(tokenizer: PreTrainedTokenizerFast) -> dict[str, Batch]:
    """Return one fixed batch per task, none of it in training, of the shape used in training."""
    found: dict[str, Batch] = {}
    for task, generate in GENERATORS.items():
        documents = (encode(example, tokenizer) for example in generate(7, held_out=True))
        found[task] = next(batches(documents, NUM_ROWS, ROW_TOKENS))
    return found


def train(
    model: Gemma4ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    budget: Budget,
    checkpoint: Checkpoint,
) -> int:
    """Train until the budget is spent and return the number of steps; `checkpoint` is called every few minutes."""
    model.train()
    loss, optimiser = make_loss(model), Optimiser(model)
    stream = batches((encode(example, tokenizer) for example in training_examples(seed)), NUM_ROWS, ROW_TOKENS)
    held_out = held_out_batches(tokenizer)
    step, last_checkpoint, recent = 0, time.monotonic(), torch.zeros(())
    while budget.progress < 1.0:
        value = batch_loss(loss, next(stream))
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step(budget.progress)
        step += 1
        recent += value.detach() / REPORT_STEPS
        if step % REPORT_STEPS == 0:
            print(f"step {step} progress {budget.progress:.3f} loss {recent.item():.3f}", flush=True)
            recent.zero_()
        if time.monotonic() - last_checkpoint > CHECKPOINT_S:
            checkpoint(step, describe(loss, held_out))
            last_checkpoint = time.monotonic()
    checkpoint(step, describe(loss, held_out))
    return step


@torch.no_grad()
def describe(loss: LossFunction, held_out: dict[str, Batch]) -> str:
    return " ".join(f"{task} {batch_loss(loss, batch).item():.3f}" for task, batch in held_out.items())


@torch.no_grad()
def answer(model: Gemma4ForCausalLM, tokenizer: PreTrainedTokenizerFast, examples: list[Example]) -> list[str]:
    """Answer chat prompts greedily, all in one left-padded batch."""
    was_training = model.training
    model.eval()
    inputs = tokenizer(
        [example.chat for example in examples], add_special_tokens=False, padding=True, return_tensors="pt"
    )
    output = model.generate(**inputs, max_new_tokens=140, do_sample=False)
    model.train(was_training)
    width = inputs["input_ids"].shape[1]
    texts: list[str] = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
    return texts


def exact_match(model: Gemma4ForCausalLM, tokenizer: PreTrainedTokenizerFast, examples: list[Example]) -> float:
    """Return the share of answers equal to the reference, character by character."""
    answers = [
        text for start in range(0, len(examples), 20) for text in answer(model, tokenizer, examples[start : start + 20])
    ]
    return sum(text == example.reference for text, example in zip(answers, examples, strict=True)) / len(examples)
