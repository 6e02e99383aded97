"""Shows that no case was trained on: by hash, and by the words that a case shares with any one training text.

    python -m evaluation.quality.builtin.overlap [--texts 60000]

A shingle is a run of five words. `containment` is the share of a case's shingles that a single training text has; it is
never less than their Jaccard similarity, and finds a case inside a longer text as well. It is computed exactly: the
cases are few, so the training texts stream past an index of the cases' shingles, and nothing needs to be estimated.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median

import numpy as np
from numpy.typing import NDArray

from evaluation.pocket.corpus import training_examples
from evaluation.pocket.records import Example
from evaluation.quality.drift import input_texts
from evaluation.quality.families.facts import leaves_of
from evaluation.quality.loading import load_suite
from evaluation.quality.suite import Case

SHINGLE_WORDS = 5
NEAR_DUPLICATE = 0.8
# The shipped target saw 6.2 million tokens of the stream with seed 0; this many texts are a few more than that.
NUM_TRAINING_TEXTS = 60_000
TRAINING_SEED = 0
SUITES = ("extraction", "code", "open_ended", "adversarial")

Shingle = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """A case beside the training text that has most of it."""

    case_id: str
    containment: float
    jaccard: float
    is_copy: bool

    @property
    def is_near_duplicate(self) -> bool:
        return self.is_copy or self.containment >= NEAR_DUPLICATE


def text_of(case: Case) -> str:
    """Return all that a model would have seen of a case in training: the input and the expected answer."""
    answers = [str(leaf) for _, leaf in leaves_of(case.expected)]
    return "\n".join((*input_texts(case.input), *answers))


def plain(text: str) -> str:
    """Return the words of a text, so that case, punctuation and layout hide no copy."""
    return " ".join(re.findall(r"\w+", text.lower()))


def shingles_of(text: str) -> set[Shingle]:
    words = plain(text).split()
    return {tuple(words[start : start + SHINGLE_WORDS]) for start in range(max(1, len(words) - SHINGLE_WORDS + 1))}


class OverlapIndex:
    """The shingles of some cases; training texts stream past it."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._cases = cases
        sets = [shingles_of(text_of(case)) for case in cases]
        self._sizes = np.array([len(shingles) for shingles in sets], dtype=np.float64)
        places: dict[Shingle, list[int]] = {}
        for place, shingles in enumerate(sets):
            for shingle in shingles:
                places.setdefault(shingle, []).append(place)
        self._places: dict[Shingle, NDArray[np.int64]] = {
            shingle: np.array(found, dtype=np.int64) for shingle, found in places.items()
        }
        self._copies: dict[str, list[int]] = {}
        for place, case in enumerate(cases):
            self._copies.setdefault(plain(text_of(case)), []).append(place)
        self._is_copy = [False] * len(cases)
        self._containment = np.zeros(len(cases))
        self._jaccard = np.zeros(len(cases))

    def pass_text(self, text: str) -> None:
        """Compare one training text with all cases."""
        for place in self._copies.get(plain(text), ()):
            self._is_copy[place] = True
        shingles = shingles_of(text)
        hits = [found for shingle in shingles if (found := self._places.get(shingle)) is not None]
        if not hits:
            return
        shared = np.bincount(np.concatenate(hits), minlength=len(self._cases))
        np.maximum(self._containment, shared / self._sizes, out=self._containment)
        np.maximum(self._jaccard, shared / (self._sizes + len(shingles) - shared), out=self._jaccard)

    def overlaps(self) -> list[Overlap]:
        """Return the strongest overlap of every case with the texts passed so far."""
        return [
            Overlap(case_id=case.id, containment=float(containment), jaccard=float(jaccard), is_copy=is_copy)
            for case, containment, jaccard, is_copy in zip(
                self._cases, self._containment, self._jaccard, self._is_copy, strict=True
            )
        ]


def training_texts(count: int) -> Iterator[str]:
    """Yield what the target was trained on, in its order."""
    return texts_of(islice(training_examples(TRAINING_SEED), count))


def texts_of(examples: Iterable[Example]) -> Iterator[str]:
    """Yield the question and the answer of each training document."""
    for example in examples:
        turns = [message["content"] for message in example.prompt_messages]
        yield "\n".join((*turns, example.raw_prompt + example.reference))


def find_overlaps(cases: Sequence[Case], texts: Iterable[str]) -> list[Overlap]:
    """Compare all cases with all texts."""
    index = OverlapIndex(cases)
    for text in texts:
        index.pass_text(text)
    return index.overlaps()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evaluation.quality.builtin.overlap", description=__doc__)
    parser.add_argument("--texts", type=int, default=NUM_TRAINING_TEXTS, help="how many training texts to compare with")
    options = parser.parse_args(arguments)
    suites = {name: load_suite(name).cases for name in SUITES}
    cases = [case for found in suites.values() for case in found]
    overlaps = iter(find_overlaps(cases, training_texts(options.texts)))
    print(f"{options.texts} training texts; a near-duplicate shares {NEAR_DUPLICATE:.0%} of its five-word shingles")
    print("| suite | cases | copies | near-duplicates | containment: median, most | Jaccard, most |")
    print("|---|---|---|---|---|---|")
    num_bad = 0
    for name, own in suites.items():
        found = list(islice(overlaps, len(own)))
        bad = [overlap for overlap in found if overlap.is_near_duplicate]
        num_bad += len(bad)
        shares = [overlap.containment for overlap in found]
        print(
            f"| {name} | {len(own)} | {sum(o.is_copy for o in found)} | {len(bad)} | {median(shares):.2f}, "
            f"{max(shares):.2f} | {max(o.jaccard for o in found):.2f} |"
        )
        for overlap in bad[:10]:
            print(f"  {overlap.case_id}: {overlap.containment:.2f}")
    return 1 if num_bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
