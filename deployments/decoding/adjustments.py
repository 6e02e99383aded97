"""What changes logits before they are warped: biases, penalties, bans and grammars, on both sides of a round.

In this order: a bias is added; the logit of a token that occurs before is divided by the repetition
penalty if positive, else multiplied by it; the frequency penalty, times the token's count in the
output, and the presence penalty, if it occurs there, are subtracted; a banned token gets -inf, and so
do one that would complete a bad word of the output, one that is not among the allowed ones, and one that
the output's grammar does not allow next. The semantics are those of OpenAI's API, of vLLM's and, for
repetition, of Keskar et al. 2019 (arXiv 1909.05858).

Every row sees exactly the tokens before its own position, drafted ones included, so that a penalised
output is a function of target, parameters and seed like any other. The work grows with the distinct
tokens of a context, not with the vocabulary, but where few tokens are allowed; rows that ask for nothing cost
nothing.

Shapes: R = rows of a batch, V = vocabulary, N = (row, token) pairs, P = rows of one session,
D = distinct tokens that one session has met, B = biased or banned tokens of one session, Q = bytes of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deployments.messages import SamplingParams, Token

if TYPE_CHECKING:  # an engine that follows no grammar does without llguidance
    from deployments.grammars import Grammars, GrammarState

_FIRST_CAPACITY = 64


class Adjuster:
    """One session's adjustments, with the token counts of its known context, and where its output is in a grammar.

    They are kept token by token: `extend` as the context grows, `truncate` when it shrinks. Without the `grammar` that
    its parameters name the output is not held to it: for a drafter, whose guesses are as good as they are.
    """

    def __init__(self, params: SamplingParams, grammar: GrammarState | None = None) -> None:
        self._params = params
        self.grammar = grammar
        self._forbidden_V: Tensor | None = None
        self._tokens: list[Token] = []
        self._slots: dict[Token, int] = {}
        self._token_D: NDArray[np.int64] = np.zeros(_FIRST_CAPACITY, dtype=np.int64)
        # Occurrences that the repetition penalty sees, and those that the other two see.
        self._num_seen_D: NDArray[np.int32] = np.zeros(_FIRST_CAPACITY, dtype=np.int32)
        self._num_output_D: NDArray[np.int32] = np.zeros(_FIRST_CAPACITY, dtype=np.int32)
        bias = params.logit_bias
        self.bias_token_B: NDArray[np.int64] = np.array([token for token, _ in bias], dtype=np.int64)
        self.bias_B: NDArray[np.float32] = np.array([value for _, value in bias], dtype=np.float32)
        self.banned_B: NDArray[np.int64] = np.array(sorted(set(params.banned_token_ids)), dtype=np.int64)

    @property
    def params(self) -> SamplingParams:
        return self._params

    @property
    def num_known(self) -> int:
        """How many tokens of the context are known; always 0 where nothing needs them."""
        return len(self._tokens)

    def extend(self, start: int, tokens: Sequence[Token]) -> None:
        """Make the context's tokens from position `start` on these; ValueError where that leaves a gap."""
        if not self._params.needs_tokens:
            return
        if start > len(self._tokens):
            raise ValueError(f"tokens at {start} leave a gap after the {len(self._tokens)} that are known")
        self.truncate(start)
        if self._params.has_penalties:
            for position, token in enumerate(tokens, start):
                self._count(token, position, 1)
        if self.grammar is not None:
            self.grammar.extend(tokens[self._num_prompt(start, len(tokens)) :])
        self._tokens.extend(tokens)

    def truncate(self, length: int) -> None:
        """Forget the tokens from position `length` on. Idempotent."""
        if self._params.has_penalties:
            for position in range(length, len(self._tokens)):
                self._count(self._tokens[position], position, -1)
        if self.grammar is not None:
            self.grammar.truncate(max(0, length - self._params.num_prompt_tokens))
        del self._tokens[length:]

    def penalties(
        self, following: Sequence[Token], num_rows: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Tokens [D] that meet a penalty, and per row what divides and what lowers their logits, both [P, D].

        The rows decide after the last `num_rows` prefixes of known tokens plus `following`.
        """
        first_at = len(self._tokens)
        slots = [self._slot(token) if self._counts(first_at + i) else -1 for i, token in enumerate(following)]
        size = len(self._slots)
        num_seen_PD = np.repeat(self._num_seen_D[None, :size], num_rows, axis=0)
        num_output_PD = np.repeat(self._num_output_D[None, :size], num_rows, axis=0)
        for i, slot in enumerate(slots):
            if slot < 0:
                continue
            first_row = max(0, i + num_rows - len(following))
            num_seen_PD[first_row:, slot] += 1
            num_output_PD[first_row:, slot] += first_at + i >= self._params.num_prompt_tokens
        divisor_PD = np.where(num_seen_PD > 0, np.float32(self._params.repetition_penalty), np.float32(1))
        reduction_PD = (
            self._params.frequency_penalty * num_output_PD + self._params.presence_penalty * (num_output_PD > 0)
        ).astype(np.float32)
        return self._token_D[:size], divisor_PD, reduction_PD

    def bad_ends(self, following: Sequence[Token], num_rows: int) -> list[tuple[int, Token]]:
        """Of the same rows, which of them (0 .. P - 1) may not choose which token, as it would complete a bad word."""
        known, longest = len(self._tokens), max(len(word) for word in self._params.bad_words)
        start = max(self._params.num_prompt_tokens, known - longest)
        output = [*self._tokens[start:], *following[max(0, start - known) :]]
        num_skipped = len(output) + 1 - num_rows
        return [
            (row, word[-1])
            for row in range(num_rows)
            for word in self._params.bad_words
            if len(word) == 1 or _ends_with(output[: max(0, num_skipped + row)], word[:-1])
        ]

    def forbidden(self, size: int, device: torch.device) -> Tensor:
        """Which of so many tokens are not among the allowed ones, bool [V]."""
        if self._forbidden_V is None or len(self._forbidden_V) != size:
            self._forbidden_V = torch.ones(size, dtype=torch.bool, device=device)
            allowed_B = np.array([token for token in self._params.allowed_token_ids if token < size], dtype=np.int64)
            self._forbidden_V[torch.from_numpy(allowed_B).to(device)] = False
        return self._forbidden_V

    def masks(self, following: Sequence[Token], num_rows: int) -> NDArray[np.uint8]:
        """The grammar's masks [P, Q] of the same rows."""
        assert self.grammar is not None
        skipped = self._num_prompt(len(self._tokens), len(following))
        mask_PQ = np.full((num_rows, self.grammar.num_mask_bytes), 0xFF, dtype=np.uint8)
        num_output_rows = min(num_rows, len(following) - skipped + 1)
        mask_PQ[num_rows - num_output_rows :] = self.grammar.masks(following[skipped:], num_output_rows)
        return mask_PQ

    def _num_prompt(self, start: int, num_tokens: int) -> int:
        """How many of so many tokens from position `start` on are the prompt's."""
        return min(num_tokens, max(0, self._params.num_prompt_tokens - start))

    def _counts(self, position: int) -> bool:
        """Whether the token at this position matters: the prompt's do to the repetition penalty alone."""
        return self._params.repetition_penalty != 1 or position >= self._params.num_prompt_tokens

    def _count(self, token: Token, position: int, change: int) -> None:
        if self._counts(position):
            slot = self._slot(token)
            self._num_seen_D[slot] += change
            self._num_output_D[slot] += change if position >= self._params.num_prompt_tokens else 0

    def _slot(self, token: Token) -> int:
        slot = self._slots.get(token)
        if slot is None:
            slot = self._slots[token] = len(self._slots)
            if slot == len(self._token_D):
                self._token_D, self._num_seen_D, self._num_output_D = (
                    np.concatenate([column, np.zeros_like(column)])
                    for column in (self._token_D, self._num_seen_D, self._num_output_D)
                )
            self._token_D[slot] = token
        return slot


def adjuster_for(params: SamplingParams, grammars: Grammars | None) -> Adjuster | None:
    """What adjusts a new session's logits, if anything does."""
    if not params.adjusts_logits:
        return None
    return Adjuster(params, grammars.begin(params.grammar) if params.grammar and grammars is not None else None)


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Consecutive rows of a batch that belong to one session.

    The first of the `num_rows` decides the token at `position`; `following` are the tokens after the
    adjuster's known ones, up to the last row's own position.
    """

    adjuster: Adjuster
    first_row: int
    num_rows: int
    position: int
    following: Sequence[Token]


def adjust(logits_RV: Tensor, groups: Sequence[RowGroup]) -> Tensor:
    """The logits after biases, penalties, bans and grammars, float32 [R, V]; the given ones stay as they are.

    Tokens beyond V are left out: a drafter's vocabulary may be the shorter one.
    """
    adjusted_RV = logits_RV.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    flat = adjusted_RV.view(-1)
    size = logits_RV.shape[1]
    if biases := [_biases(group, size) for group in groups if len(group.adjuster.bias_B)]:
        pair_N, bias_N = _joined(biases, flat.device)
        flat.index_add_(0, pair_N, bias_N)
    if penalties := [_penalties(group, size) for group in groups if group.adjuster.params.has_penalties]:
        pair_N, divisor_N, reduction_N = _joined(penalties, flat.device)
        logit_N = flat[pair_N]
        flat[pair_N] = torch.where(logit_N > 0, logit_N / divisor_N, logit_N * divisor_N).sub_(reduction_N)
    if bans := [_bans(group, size) for group in groups if group.position < group.adjuster.params.banned_before]:
        (pair_N,) = _joined(bans, flat.device)
        flat.index_fill_(0, pair_N, -torch.inf)
    if words := [_bad_words(group, size) for group in groups if group.adjuster.params.bad_words]:
        (pair_N,) = _joined(words, flat.device)
        flat.index_fill_(0, pair_N, -torch.inf)
    for group in groups:
        if group.adjuster.params.allowed_token_ids:
            rows_PV = adjusted_RV[group.first_row : group.first_row + group.num_rows]
            rows_PV.masked_fill_(group.adjuster.forbidden(size, flat.device), -torch.inf)
    if held := [group for group in groups if group.adjuster.grammar is not None]:
        _hold_to_grammars(adjusted_RV, held)
    return adjusted_RV


def _hold_to_grammars(logits_RV: Tensor, groups: Sequence[RowGroup]) -> None:
    """Give -inf to every token that a row's grammar does not allow next."""
    allowed_NQ = np.concatenate([group.adjuster.masks(group.following, group.num_rows) for group in groups])
    is_forbidden_NV = _unpacked(~allowed_NQ, logits_RV.device)[:, : logits_RV.shape[1]]
    first = 0
    for group in groups:
        rows_PV = logits_RV[group.first_row : group.first_row + group.num_rows]
        rows_PV.masked_fill_(is_forbidden_NV[first : first + group.num_rows], -torch.inf)
        first += group.num_rows


def _unpacked(bits_NQ: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Bool, [N, 8 Q]. A GPU gets the bits alone; on a CPU numpy is the faster one to unpack them."""
    if device.type == "cpu":
        return torch.from_numpy(np.unpackbits(bits_NQ, axis=1, bitorder="little").view(np.bool_))
    return _unpacked_on(bits_NQ, device)


def _unpacked_on(bits_NQ: NDArray[np.uint8], device: torch.device) -> Tensor:
    shift_8 = torch.arange(8, dtype=torch.uint8, device=device)
    bits_NQ1 = torch.from_numpy(bits_NQ).to(device)[:, :, None]
    return (bits_NQ1 >> shift_8).bitwise_and_(1).view(len(bits_NQ), -1).bool()


Columns = tuple[NDArray[np.int64] | NDArray[np.float32], ...]


def _biases(group: RowGroup, vocab_size: int) -> Columns:
    adjuster = group.adjuster
    is_known_B = adjuster.bias_token_B < vocab_size
    pair_N = _pairs(group, group.num_rows, adjuster.bias_token_B[is_known_B], vocab_size)
    return pair_N, np.tile(adjuster.bias_B[is_known_B], group.num_rows)


def _penalties(group: RowGroup, vocab_size: int) -> Columns:
    token_D, divisor_PD, reduction_PD = group.adjuster.penalties(group.following, group.num_rows)
    if len(token_D) and token_D.max() >= vocab_size:
        is_known_D = token_D < vocab_size
        token_D, divisor_PD, reduction_PD = token_D[is_known_D], divisor_PD[:, is_known_D], reduction_PD[:, is_known_D]
    return _pairs(group, group.num_rows, token_D, vocab_size), divisor_PD.ravel(), reduction_PD.ravel()


def _bans(group: RowGroup, vocab_size: int) -> Columns:
    num_rows = min(group.num_rows, group.adjuster.params.banned_before - group.position)
    banned_B = group.adjuster.banned_B
    return (_pairs(group, num_rows, banned_B[banned_B < vocab_size], vocab_size),)


def _bad_words(group: RowGroup, vocab_size: int) -> Columns:
    ends = group.adjuster.bad_ends(group.following, group.num_rows)
    pairs = [(group.first_row + row) * vocab_size + token for row, token in ends if token < vocab_size]
    return (np.array(pairs, dtype=np.int64),)


def _ends_with(tokens: Sequence[Token], end: Sequence[Token]) -> bool:
    return len(tokens) >= len(end) and tuple(tokens[len(tokens) - len(end) :]) == tuple(end)


def _pairs(group: RowGroup, num_rows: int, token_D: NDArray[np.int64], vocab_size: int) -> NDArray[np.int64]:
    """Where the logits of these tokens stand in a flattened [R, V], row after row."""
    rows_P = np.arange(group.first_row, group.first_row + num_rows, dtype=np.int64)
    return (rows_P[:, None] * vocab_size + token_D[None, :]).ravel()


def _joined(parts: Sequence[Columns], device: torch.device) -> list[Tensor]:
    return [torch.from_numpy(np.concatenate(column)).to(device) for column in zip(*parts, strict=True)]
