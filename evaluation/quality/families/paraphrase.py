"""Paraphrase invariance: the same question in other words and another order."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

from evaluation.quality.families.anatomy import (
    Question,
    dissect,
    looks_like_code,
    looks_like_json,
    protected_words,
    sentences,
)
from evaluation.quality.families.family import Refused, Rewrite
from evaluation.quality.families.synonyms import PHRASES, VERBS, WORDS
from evaluation.quality.suite import JsonValue

# {i} is the instruction with a small initial and no final stop.
FRAMES = (
    "Please {i}.",
    "Here is what I need: {i}.",
    "I have a task for you: {i}.",
    "Your task is this: {i}.",
    "Be so kind and {i}.",
    "Kindly {i}. Thank you.",
)
# A sentence with one of these leans on the one before it; neither is moved. An "It" at its beginning is another matter:
# such sentences speak of one thing, and may change places among themselves.
LEANING = re.compile(
    r"(?i:\b(?:that|this|these|those|such|which|then|thus|hence|next|however|therefore|also|too|first|second|finally|"
    r"later|afterwards?|before|since|instead|otherwise|former|latter|same|another|other|still|it turned)\b)"
    r"|\b(?:it|its|he|she|him|her|his|they|them|their)\b|^(?:He|She|They|We|I|You|His|Her|Their|But|And|Or|So|Of)\b"
)
# An instruction with one of these says where the material is.
POINTING = re.compile(r"\b(?:above|below|following|follows|next|underneath)\b|:$", flags=re.IGNORECASE)
MIN_SENTENCES_TO_MOVE = 3

Step = Callable[[Question, JsonValue, Random], Question]


class Paraphrase:
    """Says it in other words: another wording of the instruction, synonyms, sentences in another order."""

    name = "paraphrase"
    invariant = (
        "Every fact, every word that the expected answer takes from the question, and the expected answer itself."
    )

    def rewrite(self, text: str, expected: JsonValue, random: Random) -> Rewrite:
        question = dissect(text)
        steps: list[tuple[str, Step]] = [("instruction", reword_instruction)]
        if not looks_like_code(question.material) and not looks_like_json(question.material):
            steps += [("synonyms", reword_material), ("order", reorder)]
            if question.instruction and "\n\n" not in question.material and question.gap == "\n\n":
                steps.append(("place of the instruction", move_instruction))
        done = []
        for name, step in steps:
            changed = step(question, expected, random)
            if changed != question:
                done.append(name)
            question = changed
        if not done:
            raise Refused("no instruction and no words known to the thesaurus")
        return Rewrite(text=question.text, expected=expected, change=", ".join(done))


def reword_instruction(question: Question, expected: JsonValue, random: Random) -> Question:
    """Exchange the words of asking and frame the request; a question without an instruction stays as it is."""
    if not question.instruction:
        return question
    protected = protected_words(question.instruction, expected)
    reworded = exchange_words(question.instruction, PHRASES, protected, random, share=0.7)
    first, *others = (reworded_verb(sentence, protected, random) for sentence in sentences(reworded))
    if first.endswith(".") and first[0].isupper():
        stem = first[0].lower() + first[1:-1]
        first = random.choice(FRAMES).format(i=stem)
    return question.but(instruction=" ".join((first, *others)))


def reworded_verb(sentence: str, protected: frozenset[str], random: Random) -> str:
    """Exchange what a sentence begins with."""
    for verb in sorted(VERBS, key=len, reverse=True):
        if re.match(rf"{verb}\b", sentence, flags=re.IGNORECASE):
            return exchange_words(sentence[: len(verb)], VERBS, protected, random, share=1.0) + sentence[len(verb) :]
    return sentence


def reword_material(question: Question, expected: JsonValue, random: Random) -> Question:
    """Exchange about two words of three that the thesaurus knows and the expected answer does not take over."""
    protected = protected_words(question.material, expected)
    return question.but(material=exchange_words(question.material, WORDS, protected, random, share=0.7))


def exchange_words(
    text: str, thesaurus: dict[str, tuple[str, ...]], protected: frozenset[str], random: Random, *, share: float
) -> str:
    """Exchange known phrases, the longest first, keeping a capital initial; one with a protected word stays."""
    known = "|".join(re.escape(phrase) for phrase in sorted(thesaurus, key=len, reverse=True))

    def other(match: re.Match[str]) -> str:
        phrase = match[0]
        if protected & set(phrase.lower().split()) or random.random() >= share:
            return phrase
        chosen = random.choice(thesaurus[phrase.lower()])
        return chosen[0].upper() + chosen[1:] if phrase[0].isupper() else chosen

    return re.sub(rf"(?<![\w-])(?:{known})(?![\w-])", other, text, flags=re.IGNORECASE)


def reorder(question: Question, expected: JsonValue, random: Random) -> Question:
    """Shuffle, within each paragraph, runs of sentences that do not lean on each other; the first one stays."""
    paragraphs = question.material.split("\n\n")
    return question.but(material="\n\n".join(reordered(paragraph, random) for paragraph in paragraphs))


def reordered(paragraph: str, random: Random) -> str:
    if "\n" in paragraph:
        return paragraph
    found = sentences(paragraph)
    if len(found) < MIN_SENTENCES_TO_MOVE:
        return paragraph
    for start, end in movable_runs(found):
        run = found[start:end]
        random.shuffle(run)
        found[start:end] = run
    return " ".join(found)


def movable_runs(found: Sequence[str]) -> list[tuple[int, int]]:
    """Return [start, end) of neighbouring sentences that may change places.

    Not the first sentence, none that leans on another, none that another leans on, and only such as begin alike where
    one begins with a pronoun.
    """
    free = [
        index > 0 and not LEANING.search(sentence) and not (index + 1 < len(found) and LEANING.search(found[index + 1]))
        for index, sentence in enumerate(found)
    ]
    runs: list[tuple[int, int]] = []
    start = 0
    for index in range(1, len(found) + 1):
        if index < len(found) and free[index] and free[start] and is_pronoun(found[index]) == is_pronoun(found[start]):
            continue
        if free[start] and index - start > 1:
            runs.append((start, index))
        start = index
    return runs


def is_pronoun(sentence: str) -> bool:
    return sentence.startswith(("It ", "Its "))


def move_instruction(question: Question, expected: JsonValue, random: Random) -> Question:
    """Ask after the material instead of before it, or the other way round, every other time."""
    if random.random() < 0.5 or POINTING.search(question.instruction):
        return question
    return question.but(is_instruction_first=not question.is_instruction_first)
