"""The whole recipe, step by step: tokenizer, target, the target's own text, assistant, draft model."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from evaluation.pocket import folders, self_text, train_assistant, train_draft_model, train_target
from evaluation.pocket.corpus import tokenizer_texts, training_examples
from evaluation.pocket.optimisation import Budget
from evaluation.pocket.packing import Document, encode
from evaluation.pocket.prompts import held_out_contracts
from evaluation.pocket.tokenizer import train_tokenizer

TOKENIZER_EXAMPLES = 20_000
WATCHED_CONTRACTS = 20
OWN_SHARE = 0.6


@dataclass(frozen=True, kw_only=True)
class Minutes:
    """Wall time of each part, for a machine with two cores and little else to do."""

    target: float = 30.0
    own_text: float = 6.0
    assistant: float = 20.0
    draft_model: float = 6.0


def make(root: Path, minutes: Minutes, seed: int) -> None:
    """Train all three models into `root`, replacing what is there."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(tokenizer_texts(seed, TOKENIZER_EXAMPLES))
    make_target(root, tokenizer, minutes, seed)
    make_drafters(root, minutes, seed)


def make_target(root: Path, tokenizer: PreTrainedTokenizerFast, minutes: Minutes, seed: int) -> None:
    model = folders.new_target(seed)
    watched = held_out_contracts("standard", WATCHED_CONTRACTS, seed + 1)

    def checkpoint(step: int, losses: str) -> None:
        folders.save(model, root / folders.TARGET, tokenizer)
        match = train_target.exact_match(model, tokenizer, watched)
        print(f"{time.strftime('%H:%M:%S')} step {step}: held-out loss {losses}, exact match {match:.2f}", flush=True)

    train_target.train(model, tokenizer, seed, Budget(seconds=60 * minutes.target), checkpoint)


def make_drafters(root: Path, minutes: Minutes, seed: int) -> None:
    """Train the assistant and the draft model for the target stored in `root`, as it is stored."""
    tokenizer, target = folders.load_tokenizer(root), folders.load_target(root)
    own = self_text.write(target, tokenizer, seed + 1, Budget(seconds=60 * minutes.own_text))
    print(f"{len(own)} texts of {sum(len(document.tokens) for document in own)} tokens by the target", flush=True)

    def documents(offset: int) -> Iterator[Document]:
        fresh = (encode(example, tokenizer) for example in training_examples(seed + offset))
        return self_text.mixed(own, fresh, seed + offset, OWN_SHARE)

    assistant = folders.new_assistant(seed)
    folder = root / folders.ASSISTANT
    train_assistant.train(
        assistant,
        target,
        documents(2),
        Budget(seconds=60 * minutes.assistant),
        lambda _: folders.save(assistant, folder),
    )
    draft_model = folders.new_draft_model(seed)
    train_draft_model.train(draft_model, target, documents(3), Budget(seconds=60 * minutes.draft_model))
    folders.save(draft_model, root / folders.DRAFT_MODEL, tokenizer)
