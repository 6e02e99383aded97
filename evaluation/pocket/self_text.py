"""Text written by the target itself, greedily and sampled: what its drafters will have to predict."""

from collections.abc import Iterator
from itertools import islice
from random import Random

import torch
from transformers import Gemma4ForCausalLM, PreTrainedTokenizerFast

from evaluation.pocket.corpus import training_examples
from evaluation.pocket.optimisation import Budget
from evaluation.pocket.packing import Document
from evaluation.pocket.tokenizer import EOS, PAD, TURN_END

BATCH_SIZE = 96
MAX_NEW_TOKENS = 120
MAX_PROMPT_TOKENS = 200
TEMPERATURES = (0.0, 0.0, 0.7, 1.0)
PROMPT_WEIGHT = 0.1


@torch.no_grad()
def write(target: Gemma4ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, budget: Budget) -> list[Document]:
    """Let the target continue training prompts until the budget is spent."""
    examples = (example for example in training_examples(seed) if example.task != "summary" or len(example.chat) % 2)
    documents: list[Document] = []
    torch.manual_seed(seed)
    for turn in range(1_000_000):
        if budget.progress >= 1.0:
            break
        prompts = [tokenizer.encode(e.chat, add_special_tokens=False) for e in islice(examples, BATCH_SIZE)]
        documents += continue_prompts(target, prompts, TEMPERATURES[turn % len(TEMPERATURES)])
    return documents


def continue_prompts(target: Gemma4ForCausalLM, prompts: list[list[int]], temperature: float) -> list[Document]:
    prompts = [prompt for prompt in prompts if len(prompt) <= MAX_PROMPT_TOKENS]
    width = max(map(len, prompts))
    tokens = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    with torch.autocast("cpu", torch.bfloat16):
        output = target.generate(input_ids=tokens, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, **sampling)
    return [
        Document(tokens=prompt + answer, weights=[PROMPT_WEIGHT] * len(prompt) + [1.0] * len(answer))
        for prompt, answer in zip(prompts, (cut(row) for row in output[:, width:].tolist()), strict=True)
    ]


def cut(tokens: list[int]) -> list[int]:
    """Keep an answer up to and with its end token."""
    for index, token in enumerate(tokens):
        if token in (EOS, TURN_END):
            return tokens[: index + 1]
    return tokens


def mixed(own: list[Document], fresh: Iterator[Document], seed: int, own_share: float) -> Iterator[Document]:
    """Yield documents forever, `own_share` of them the target's own."""
    random = Random(f"mixed/{seed}")
    while True:
        yield random.choice(own) if random.random() < own_share else next(fresh)
