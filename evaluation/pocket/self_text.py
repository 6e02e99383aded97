"""Text written by the target itself, greedily and sampled: what its drafters will have to predict."""

from collections.abc import Iterator
from itertools import islice
from random import Random

import torch
from transformers import Gemma4ForCausalLM, PreTrainedTokenizerFast

from evaluation.pocket.code_text import code
from evaluation.pocket.optimisation import Budget
from evaluation.pocket.packing import Document
from evaluation.pocket.prose import prose
from evaluation.pocket.tokenizer import EOS, PAD, TURN_END

BATCH_SIZE = 64
MAX_NEW_TOKENS = 80
MAX_PROMPT_TOKENS = 110
TEMPERATURES = (0.0, 0.0, 0.0, 0.7)
PROMPT_WEIGHT = 0.1


@torch.no_grad()
def write(target: Gemma4ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, budget: Budget) -> list[Document]:
    """Let the target continue training prompts of code and prose until the budget is spent.

    Contracts and notes are left out: there the target says what the data says.
    """
    prompts = short_prompts(tokenizer, seed)
    documents: list[Document] = []
    torch.manual_seed(seed)
    while budget.progress < 1.0:
        temperature = TEMPERATURES[len(documents) // BATCH_SIZE % len(TEMPERATURES)]
        documents += continue_prompts(target, list(islice(prompts, BATCH_SIZE)), temperature)
    return documents


def short_prompts(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[list[int]]:
    random = Random(f"own/{seed}")
    streams = (code(seed, held_out=False), prose(seed, held_out=False))
    while True:
        example = next(random.choices(streams, (0.6, 0.4))[0])
        prompt = tokenizer.encode(example.chat, add_special_tokens=False)
        if len(prompt) <= MAX_PROMPT_TOKENS:
            yield prompt


def continue_prompts(target: Gemma4ForCausalLM, prompts: list[list[int]], temperature: float) -> list[Document]:
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
