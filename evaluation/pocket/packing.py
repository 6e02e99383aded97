"""Packs documents into rows of fixed length, each document seeing only itself and counting positions from zero.

B rows, T tokens in a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from evaluation.pocket.records import Example
from evaluation.pocket.shapes import FULL, SLIDING, SLIDING_WINDOW
from evaluation.pocket.tokenizer import PAD

PROMPT_WEIGHT = {"structured": 0.15, "summary": 0.3, "code": 1.0, "prose": 1.0}
MIN_TAIL_TOKENS = 48


@dataclass(frozen=True, kw_only=True)
class Batch:
    tokens_BT: Tensor
    positions_BT: Tensor
    documents_BT: Tensor  # 0 where nothing is
    weights_BT: Tensor  # how much predicting this token counts


@dataclass(frozen=True, kw_only=True)
class Document:
    tokens: list[int]
    weights: list[float]


def encode(example: Example, tokenizer: PreTrainedTokenizerFast) -> Document:
    """Encode a document the way it will be met: a chat answer starts a token of its own, a raw text runs on."""
    if not example.prompt_messages:
        tokens = tokenizer.encode(example.text, add_special_tokens=False)
        return Document(tokens=tokens, weights=[1.0] * len(tokens))
    prompt = tokenizer.encode(example.chat, add_special_tokens=False)
    answer = tokenizer.encode(example.reference + "<turn|>", add_special_tokens=False)
    weights = [PROMPT_WEIGHT[example.task]] * len(prompt) + [1.0] * len(answer)
    return Document(tokens=prompt + answer, weights=weights)


def rows(documents: Iterator[Document], length: int) -> Iterator[list[Document]]:
    """Fill rows greedily; a document that does not fit is cut, unless what is left of the row is too short for it."""
    row: list[Document] = []
    space = length
    for document in documents:
        row.append(Document(tokens=document.tokens[:space], weights=document.weights[:space]))
        space -= len(row[-1].tokens)
        if space < MIN_TAIL_TOKENS:
            yield row
            row, space = [], length


def batches(documents: Iterator[Document], num_rows: int, length: int) -> Iterator[Batch]:
    stream = rows(documents, length)
    while True:
        yield collate([next(stream) for _ in range(num_rows)], length)


def collate(packed: list[list[Document]], length: int) -> Batch:
    shape = (len(packed), length)
    tokens_BT = torch.full(shape, PAD)
    positions_BT, documents_BT = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    weights_BT = torch.zeros(shape)
    for index, row in enumerate(packed):
        start = 0
        for number, document in enumerate(row, start=1):
            size = len(document.tokens)
            span = slice(start, start + size)
            tokens_BT[index, span] = torch.tensor(document.tokens)
            positions_BT[index, span] = torch.arange(size)
            documents_BT[index, span] = number
            weights_BT[index, span] = torch.tensor(document.weights)
            weights_BT[index, start] = 0.0
            start += size
    return Batch(tokens_BT=tokens_BT, positions_BT=positions_BT, documents_BT=documents_BT, weights_BT=weights_BT)


def causal_masks(batch: Batch) -> dict[str, Tensor]:
    """Return the boolean [B, 1, T, T] mask of each layer type; an empty place sees itself, so no row is empty."""
    positions, documents = batch.positions_BT, batch.documents_BT
    length = positions.shape[1]
    same = documents[:, :, None] == documents[:, None, :]
    causal = same & torch.ones(length, length, dtype=torch.bool).tril()
    near = causal & (positions[:, :, None] - positions[:, None, :] < SLIDING_WINDOW)
    return {FULL: causal[:, None], SLIDING: near[:, None]}
