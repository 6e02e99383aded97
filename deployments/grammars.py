"""Grammars that an answer has to follow, over a model's own tokens: which of them may come next.

llguidance does the parsing. A grammar is a string in its form, made by the ingress (structured_output.py), and travels
with the sampling parameters. What may come next depends on the answer's tokens so far and on nothing else, so the
verifier, its drafters and whoever takes a session over all come to the same. Neither torch nor transformers is needed.

A mask is a row of bits, one per token of the vocabulary and the lowest first. Shapes: P = rows, Q = bytes of a row.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from deployments.checkpoint import end_token_ids, vocab_size
from deployments.records import Token

logger = logging.getLogger(__name__)

MAX_GRAMMAR_CHARS = 1 << 17
_MAX_OBJECTION_CHARS = 300
_NUM_KEPT = 64
"""Compiled grammars that are kept: clients ask for the same few again and again."""
# A step of the verifier holds up everybody, so that no grammar may take long: llguidance has these as 1,000,000 and
# 500,000, at 50,000 a millisecond and with seconds for the largest grammars.
_MAX_LEXER_FUEL = 500_000
_MAX_SYMBOLS = 50_000


class Grammars:
    """The vocabulary of one model, and the grammars over it that were asked for lately."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._limits = LLParserLimits(
            initial_lexer_fuel=_MAX_LEXER_FUEL, max_grammar_size=_MAX_SYMBOLS, verbose_errors=False
        )
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()

    @classmethod
    def load(cls, folder: Path) -> Grammars:
        """Read a model's vocabulary; ValueError if it is of a kind that cannot be read, or has no token that ends."""
        ends = end_token_ids(folder)
        if not ends:
            raise ValueError(f"{folder} does not say which token ends an answer")
        return cls(LLTokenizer(str(folder / "tokenizer.json"), n_vocab=vocab_size(folder), eos_token=list(ends)))

    @classmethod
    def load_if_possible(cls, folder: Path) -> Grammars | None:
        """The same; None, and a warning in the log, where it cannot be."""
        try:
            return cls.load(folder)
        except Exception as error:  # llguidance's own kinds are not documented
            logger.warning("no structured outputs: %s", error)
            return None

    def objection(self, grammar: str) -> str | None:
        """Why this grammar cannot be followed, None if it can. Takes up to a tenth of a second."""
        if len(grammar) > MAX_GRAMMAR_CHARS:
            return f"it has {len(grammar)} characters, and at most {MAX_GRAMMAR_CHARS} are possible"
        matcher = self._compiled(grammar).deep_copy()
        matcher.compute_bitmask()
        return _on_one_line(matcher.get_error()) if matcher.is_error() else None

    def begin(self, grammar: str) -> GrammarState:
        """The state of an answer that has no tokens yet."""
        return GrammarState(self._compiled(grammar), self._tokenizer.eos_tokens, self._tokenizer.vocab_size)

    def _compiled(self, grammar: str) -> LLMatcher:
        """A matcher that has seen nothing, to be copied."""
        matcher = self._kept.pop(grammar, None)
        if matcher is None:
            matcher = LLMatcher(self._tokenizer, grammar, limits=self._limits, log_level=0)
        self._kept[grammar] = matcher
        if len(self._kept) > _NUM_KEPT:
            self._kept.popitem(last=False)
        return matcher


class GrammarState:
    """Where one answer stands in its grammar.

    Tokens that the grammar does not allow may come, where nobody asked for a mask before: what comes from there on is
    not looked at, until the answer is cut back before them.
    """

    def __init__(self, compiled: LLMatcher, ends: Sequence[Token], size: int) -> None:
        self._compiled = compiled
        self._matcher = compiled.deep_copy()
        self._tokens: list[Token] = []
        self._num_followed = 0
        self._everything_Q = np.full(-(-size // 32) * 4, 0xFF, dtype=np.uint8)
        self._ends = ends

    @property
    def num_mask_bytes(self) -> int:
        """Q, the length of a mask."""
        return len(self._everything_Q)

    def extend(self, tokens: Sequence[Token]) -> None:
        """The answer goes on with these."""
        if self._num_followed == len(self._tokens):
            self._num_followed += self._matcher.try_consume_tokens(list(tokens))
        self._tokens.extend(tokens)

    def truncate(self, num_tokens: int) -> None:
        """Forget what comes after the first so many tokens. Idempotent."""
        del self._tokens[num_tokens:]
        if num_tokens < self._num_followed:
            if self._matcher.is_error():  # it stays so, and what led to it is gone
                self._matcher = self._compiled.deep_copy()
                self._num_followed = self._matcher.try_consume_tokens(self._tokens)
            else:
                self._matcher.rollback(self._num_followed - num_tokens)
                self._num_followed = num_tokens

    def masks(self, following: Sequence[Token], num_rows: int) -> NDArray[np.uint8]:
        """What may come after each of the last `num_rows` prefixes of the answer plus `following`, [P, Q].

        All may where a prefix is no beginning of what the grammar describes: nobody will ask what comes after that.
        """
        known, mask_PQ = len(self._tokens), np.tile(self._everything_Q, (num_rows, 1))
        num_skipped = len(following) + 1 - num_rows
        self.extend(following[:num_skipped])
        for row, token in enumerate([*following[num_skipped:], None]):
            if self._num_followed < len(self._tokens):
                break
            mask_PQ[row] = self._mask()
            if token is not None:
                self.extend((token,))
        self.truncate(known)
        return mask_PQ

    def _mask(self) -> NDArray[np.uint8]:
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            # It is over the bounds on what parsing may take. The answer ends, as one does that has no room left.
            logger.warning("an answer ends, as its grammar cannot be followed: %s", self._matcher.get_error())
            return np.packbits(np.isin(np.arange(len(self._everything_Q) * 8), self._ends), bitorder="little")
        return np.frombuffer(mask, dtype=np.uint8)[: len(self._everything_Q)]  # it may have a bit more, for no token


def _on_one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_OBJECTION_CHARS]
