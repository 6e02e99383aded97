"""Places words by the company they keep: PPMI of co-occurrence, reduced by an eigendecomposition (LSA).

Only words in different sentences of one passage count as company. Inside a sentence words stand together for the sake
of grammar; across sentences they do so for the sake of the topic.

Shapes: V words of the vocabulary, K of them kept because they carry a topic, D dimensions, S sentences of a passage, U
different words in it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

MAX_VOCABULARY = 1500
MIN_PASSAGES = 2
DIMENSIONS = 48
# Rare contexts get a larger share than their count, else PPMI favours them (Levy et al. 2015).
CONTEXT_SMOOTHING = 0.75
# A word's neighbours are mixed with this many of the average word's, so that two odd neighbours do not make a topic.
PRIOR_NEIGHBOURS = 60
# A word whose neighbours differ less than this from the average word's, in nats, carries no topic.
MIN_INFORMATION_NATS = 0.2

WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
PASSAGE_END = re.compile(r"\n\s*\n")
SENTENCE_END = re.compile(r"(?<=[.!?])[\"'\u201d\u2019)]?\s+|\n\s*\n")


@dataclass(frozen=True, kw_only=True)
class TopicSpace:
    """Unit vectors of the words that carry a topic, and how much each does, in nats; other words have no say."""

    index: dict[str, int]
    vectors_KD: Matrix
    weights_K: Matrix

    def rows(self, words: Sequence[str]) -> list[int]:
        """Return the places of those words that carry a topic, in their order."""
        return [self.index[word] for word in words if word in self.index]


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, plurals and possessives cut to their stem."""
    return [stem(word.lower()) for word in WORD.findall(text)]


def stem(word: str) -> str:
    word = re.sub(r"['\u2019]s?$", "", word)
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def sentences_of(text: str) -> list[str]:
    """Cut a text after full stops, question and exclamation marks that a space follows, and at blank lines."""
    return [piece.strip() for piece in SENTENCE_END.split(text) if piece and piece.strip()]


def passages_of(texts: Iterable[str]) -> list[list[list[str]]]:
    """Cut texts at blank lines and return, for every passage, the words of each of its sentences."""
    pieces = (piece for text in texts for piece in PASSAGE_END.split(text))
    found = ([words_of(sentence) for sentence in sentences_of(piece)] for piece in pieces)
    return [passage for sentences in found if (passage := [words for words in sentences if words])]


def fit_space(texts: Iterable[str]) -> TopicSpace:
    """Fit word vectors on texts; the same texts give the same space, up to rounding.

    Raises ValueError where the texts are too few or too alike to tell topics apart.
    """
    passages = passages_of(texts)
    num_passages = Counter(word for passage in passages for word in {word for words in passage for word in words})
    words = sorted(
        (word for word, count in num_passages.items() if count >= MIN_PASSAGES),
        key=lambda word: (-num_passages[word], word),
    )[:MAX_VOCABULARY]
    counts_VV = co_occurrence(passages, {word: row for row, word in enumerate(words)})
    information_V = information(counts_VV)
    kept_K = np.flatnonzero(information_V >= MIN_INFORMATION_NATS)
    if len(kept_K) < 2:
        raise ValueError(
            f"topic_drift: {len(passages)} passages share no words by which topics could be told apart: "
            "give the suite more cases, or leave the scorer out"
        )
    vectors_KD = reduced(ppmi(counts_VV[np.ix_(kept_K, kept_K)]))
    index = {words[row]: place for place, row in enumerate(kept_K)}
    return TopicSpace(index=index, vectors_KD=vectors_KD, weights_K=information_V[kept_K])


def co_occurrence(passages: Sequence[Sequence[Sequence[str]]], index: dict[str, int]) -> Matrix:
    """Count the pairs of sentences of one passage of which one has the first word, and the other the second."""
    counts_VV = np.zeros((len(index), len(index)))
    for passage in passages:
        sentences = [{index[word] for word in words if word in index} for words in passage]
        rows = sorted(set().union(*sentences))
        has_SU = np.array([[row in sentence for row in rows] for sentence in sentences], dtype=np.float64)
        num_U = has_SU.sum(axis=0)
        counts_VV[np.ix_(rows, rows)] += np.outer(num_U, num_U) - has_SU.T @ has_SU
    np.fill_diagonal(counts_VV, 0.0)
    return counts_VV


def information(counts_VV: Matrix) -> Matrix:
    """Return how far each word's neighbours are from the average word's: the divergence of the two, in nats."""
    total = counts_VV.sum()
    if total == 0:
        return np.zeros(len(counts_VV))
    average_V = counts_VV.sum(axis=0) / total
    num_V1 = counts_VV.sum(axis=1, keepdims=True)
    near_VV = (counts_VV + PRIOR_NEIGHBOURS * average_V) / (num_V1 + PRIOR_NEIGHBOURS)
    # A word that never stands near another has an average of 0, and 0 log 0 is 0.
    logs_VV = np.log(near_VV, out=np.zeros_like(near_VV), where=near_VV > 0)
    logs_V = np.log(average_V, out=np.zeros_like(average_V), where=average_V > 0)
    divergence_V: Matrix = (near_VV * (logs_VV - logs_V)).sum(axis=1)
    return divergence_V


def ppmi(counts_VV: Matrix) -> Matrix:
    """Return positive pointwise mutual information; a word that stands alone has a row of zeros."""
    total = max(counts_VV.sum(), 1.0)
    share_V = counts_VV.sum(axis=1) / total
    context_V = share_V**CONTEXT_SMOOTHING
    context_V /= max(context_V.sum(), 1e-12)
    expected_VV = np.outer(share_V, context_V)
    # Where the words never meet the ratio is taken as 1, whose logarithm is 0.
    ratio_VV = np.divide(counts_VV / total, expected_VV, out=np.ones_like(counts_VV), where=counts_VV > 0)
    positive_VV = np.maximum(np.log(ratio_VV), 0.0)
    # Smoothing made it one-sided; the decomposition wants it symmetric.
    symmetric_VV: Matrix = (positive_VV + positive_VV.T) / 2
    return symmetric_VV


def reduced(matrix_KK: Matrix) -> Matrix:
    """Return each word's unit vector in the strongest directions, these scaled by the root of their strength."""
    values, vectors = np.linalg.eigh(matrix_KK)
    chosen = np.argsort(-values, kind="stable")[:DIMENSIONS]
    chosen = chosen[values[chosen] > 0]
    scaled_KD = vectors[:, chosen] * np.sqrt(values[chosen])
    lengths_K1 = np.linalg.norm(scaled_KD, axis=1, keepdims=True)
    unit_KD: Matrix = scaled_KD / np.maximum(lengths_K1, 1e-12)
    return unit_KD
