"""Topic drift: the rate of sentences whose focus shifts between their beginning and their end.

A sentence is cut in two at every place between words that carry a topic; the similarity of the parts at the worst cut
is compared with what whole sentences of the suite's own texts have. Half of those texts place the words, the other half
set the threshold, so that a sentence is never judged by vectors that were fitted on it. docs/drift.md has the method's
error rates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.quality.scoring import Score, register
from evaluation.quality.suite import Case, ChatMessage, JsonValue
from evaluation.quality.topic_space import Matrix, TopicSpace, fit_space, sentences_of, words_of

# Each part keeps at least a quarter of the topic words, as a single word can stray without a change of topic.
MIN_SIDE_SHARE = 0.25
MIN_TOPIC_WORDS = 2
# Of undrifted sentences, about this share falls under the threshold: the price of finding the others.
FALSE_ALARM_SHARE = 0.05
MIN_CALIBRATION_SENTENCES = 20


@dataclass(frozen=True, kw_only=True)
class Focus:
    """One judged sentence: how alike its halves are at the worst cut, from -1 to 1."""

    sentence: str
    similarity: float
    num_topic_words: int
    is_drifted: bool


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What was found in a text; sentences with too few topic words are counted and not judged."""

    num_sentences: int
    judged: tuple[Focus, ...]

    @property
    def num_drifted(self) -> int:
        return sum(focus.is_drifted for focus in self.judged)

    @property
    def rate(self) -> float:
        """Drifted sentences among those judged; 0 where none could be judged."""
        return self.num_drifted / len(self.judged) if self.judged else 0.0


@dataclass(frozen=True, kw_only=True)
class TopicDrift:
    """Judges sentences against one set of texts."""

    space: TopicSpace
    threshold: float
    num_calibration_sentences: int

    def judge(self, text: str) -> Drift:
        """Judge every sentence of a text."""
        sentences = sentences_of(text)
        judged = []
        for sentence in sentences:
            rows = self.space.rows(words_of(sentence))
            similarity = worst_similarity(rows, self.space)
            if similarity is not None:
                judged.append(
                    Focus(
                        sentence=sentence,
                        similarity=similarity,
                        num_topic_words=len(rows),
                        is_drifted=similarity < self.threshold,
                    )
                )
        return Drift(num_sentences=len(sentences), judged=tuple(judged))


def fit_drift(texts: Sequence[str], *, false_alarm_share: float = FALSE_ALARM_SHARE) -> TopicDrift:
    """Fit on a suite's own texts, assumed to be undrifted; the same texts in any order give the same judge.

    Raises ValueError where they hold too few sentences for a threshold.
    """
    distinct = sorted(set(texts))
    space = fit_space(text for text in distinct if is_for_fitting(text))
    similarities = [
        similarity
        for text in distinct
        if not is_for_fitting(text)
        for sentence in sentences_of(text)
        if (similarity := worst_similarity(space.rows(words_of(sentence)), space)) is not None
    ]
    if len(similarities) < MIN_CALIBRATION_SENTENCES:
        raise ValueError(
            f"topic_drift: only {len(similarities)} sentences to set the threshold by, of at least "
            f"{MIN_CALIBRATION_SENTENCES}: give the suite more or longer texts, or leave the scorer out"
        )
    threshold = float(np.quantile(similarities, false_alarm_share))
    return TopicDrift(space=space, threshold=threshold, num_calibration_sentences=len(similarities))


def is_for_fitting(text: str) -> bool:
    """Say by hash which half of the texts one belongs to."""
    return hashlib.sha256(text.encode()).digest()[0] % 2 == 0


def worst_similarity(rows: Sequence[int], space: TopicSpace) -> float | None:
    """Return the cosine between the two parts of a sentence at the cut where it is lowest; None if too short."""
    if len(rows) < MIN_TOPIC_WORDS:
        return None
    side = max(1, round(len(rows) * MIN_SIDE_SHARE))
    weighted_ND: Matrix = space.vectors_KD[rows] * space.weights_K[rows][:, None]
    left_ND = np.cumsum(weighted_ND, axis=0)[side - 1 : len(rows) - side]
    right_ND = weighted_ND.sum(axis=0) - left_ND
    lengths_N = np.linalg.norm(left_ND, axis=1) * np.linalg.norm(right_ND, axis=1)
    cosines_N = (left_ND * right_ND).sum(axis=1) / np.maximum(lengths_N, 1e-12)
    return float(cosines_N.min())


@register("topic_drift")
class TopicDriftScorer:
    """Scores the share of an answer's sentences that keep their focus; an empty answer scores 0.

    Fitted on the suite's own inputs and expected texts. An answer none of whose sentences is long enough to be judged
    scores 1, with `num_judged` 0 among the details.
    """

    def __init__(self, false_alarm_share: float = FALSE_ALARM_SHARE) -> None:
        if not 0 < false_alarm_share < 1:
            raise ValueError(f"false_alarm_share: {false_alarm_share} is not between 0 and 1")
        self._false_alarm_share = false_alarm_share
        self._judge: TopicDrift | None = None

    def fit(self, cases: Sequence[Case]) -> None:
        texts = [text for case in cases for text in (*input_texts(case.input), case.expected) if isinstance(text, str)]
        self._judge = fit_drift(texts, false_alarm_share=self._false_alarm_share)

    def __call__(self, case: Case, answer: str) -> Score:
        assert self._judge is not None, "fit comes first"
        if not answer.strip():
            return Score(0.0, {"num_sentences": 0, "num_judged": 0, "num_drifted": 0})
        drift = self._judge.judge(answer)
        drifted: list[JsonValue] = [focus.sentence for focus in drift.judged if focus.is_drifted]
        details: dict[str, JsonValue] = {
            "num_sentences": drift.num_sentences,
            "num_judged": len(drift.judged),
            "num_drifted": drift.num_drifted,
            "drifted": drifted,
        }
        return Score(1.0 - drift.rate, details)


def input_texts(asked: str | Sequence[ChatMessage]) -> tuple[str, ...]:
    """Return the texts of a case's input, one a message."""
    return (asked,) if isinstance(asked, str) else tuple(message.content for message in asked)
