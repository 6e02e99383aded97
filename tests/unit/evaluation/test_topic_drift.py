"""Topic drift: spliced sentences are found, whole ones are not, and the method says when it cannot judge."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from evaluation.pocket.essays import SUBJECTS, paragraph
from evaluation.quality.drift import TopicDrift, TopicDriftScorer, fit_drift
from evaluation.quality.drift_errors import error_rates, essays, notes_and_essays, splice
from evaluation.quality.suite import Case
from evaluation.quality.topic_space import co_occurrence, fit_space, information, sentences_of, words_of


def texts(seed: int, count: int = 300) -> list[str]:
    random = Random(seed)
    return [paragraph(random.choice(sorted(SUBJECTS)), random) for _ in range(count)]


@pytest.fixture(scope="module")
def judge() -> TopicDrift:
    return fit_drift(texts(0))


def test_spliced_sentences_are_found_and_whole_ones_pass(judge: TopicDrift) -> None:
    rates = error_rates(judge, essays(1), 600, seed=3)
    assert rates.found > 0.5
    assert rates.false_alarms < 0.1
    assert rates.judged_whole > 0.4


def test_text_of_two_kinds_is_told_apart_better() -> None:
    topics = notes_and_essays(0)
    wide = fit_drift([text for found in topics.values() for text in found])
    rates = error_rates(wide, notes_and_essays(1), 400, seed=3)
    assert rates.found > 0.7
    assert rates.false_alarms < 0.1


def test_broken_grammar_alone_is_no_drift(judge: TopicDrift) -> None:
    """Sentences spliced within one topic read as badly as the others, and keep their focus."""
    assert error_rates(judge, essays(1), 600, seed=3).false_alarms_spliced < 0.1


def test_the_same_texts_in_any_order_give_the_same_judge(judge: TopicDrift) -> None:
    other = fit_drift(texts(0)[::-1])
    assert other.threshold == pytest.approx(judge.threshold, abs=1e-9)
    assert other.space.index == judge.space.index


def test_words_of_every_text_carry_no_topic(judge: TopicDrift) -> None:
    assert {"they", "and", "the"}.isdisjoint(judge.space.index)
    assert {"pier", "anchor", "flour"} <= judge.space.index.keys()


def test_words_of_one_subject_lie_together(judge: TopicDrift) -> None:
    def similarity(first: str, second: str) -> float:
        rows = judge.space.rows([first, second])
        vectors = judge.space.vectors_KD[rows]
        return float(vectors[0] @ vectors[1])

    assert similarity("mast", "anchor") > similarity("mast", "crumb") + 0.2


def test_words_of_one_sentence_are_no_company() -> None:
    index = {"red": 0, "ship": 1, "sail": 2}
    counts_VV = co_occurrence([[["red", "ship"], ["ship", "sail"]]], index)
    assert counts_VV.tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


def test_information_of_the_average_word_is_nothing() -> None:
    counts_VV = np.array([[0.0, 4.0, 4.0], [4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    found_V = information(counts_VV)
    assert (found_V >= 0).all()
    assert information(np.ones((3, 3))) == pytest.approx(np.zeros(3))
    assert information(np.zeros((2, 2))) == pytest.approx(np.zeros(2))


def test_short_sentences_are_counted_and_not_judged(judge: TopicDrift) -> None:
    drift = judge.judge("They do. Ships carry grain and catch fish with a hull, a mast and an anchor in every port.")
    assert drift.num_sentences == 2
    assert [focus.sentence[:5] for focus in drift.judged] == ["Ships"]
    assert judge.judge("They do.").rate == 0.0


def test_texts_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="topic_drift"):
        fit_space(["one two three"])
    with pytest.raises(ValueError, match="topic_drift: only 0 sentences"):
        fit_drift([f"{text} {text}" for text in ("red ship", "blue house") for _ in range(40)] + texts(0, 12))


def test_sentences_end_at_stops_and_blank_lines() -> None:
    assert sentences_of('He said "stop." Then 3.5 left. Why?\n\nA title\n\nEnd') == [
        'He said "stop.',
        "Then 3.5 left.",
        "Why?",
        "A title",
        "End",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [("Bridges' piers", ["bridge", "pier"]), ("cities, glass; bus", ["city", "glass", "bus"]), ("x1 2", ["x"])],
)
def test_words_are_cut_to_their_stems(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_splice_takes_a_half_of_each() -> None:
    assert splice("a b c d", "e f g h") == "a b g h"


CASES = tuple(Case(id=str(number), input="Continue.", expected=text) for number, text in enumerate(texts(0)))


@pytest.fixture(scope="module")
def scorer() -> TopicDriftScorer:
    made = TopicDriftScorer()
    made.fit(CASES)
    return made


def test_an_answer_full_of_splices_scores_lower(scorer: TopicDriftScorer) -> None:
    random = Random(4)
    whole = " ".join(texts(4, 12))
    found = sentences_of(whole)
    spliced = " ".join(splice(random.choice(found), random.choice(found)) for _ in found)
    assert scorer(CASES[0], whole).value > scorer(CASES[0], spliced).value + 0.2


def test_an_empty_answer_scores_nothing(scorer: TopicDriftScorer) -> None:
    assert scorer(CASES[0], " \n").value == 0.0


def test_an_answer_too_short_to_judge_says_so(scorer: TopicDriftScorer) -> None:
    score = scorer(CASES[0], "Yes.")
    assert score.value == 1.0
    assert score.details["num_judged"] == 0


def test_the_option_is_checked() -> None:
    with pytest.raises(ValueError, match="false_alarm_share"):
        TopicDriftScorer(false_alarm_share=1.5)
