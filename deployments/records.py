"""What wire records are made of: their base, and how a token is chosen and reported. messages.py has the rest."""

from __future__ import annotations

from typing import Literal

import msgspec

Token = int
Acceptance = Literal["coupled", "rejection"]
"""Which drafted tokens hold: those that the verifier chooses itself, or as many as leave the target's distribution."""


class Record(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Base of every wire record: immutable, positional on the wire, tagged with its class name."""


class SamplingParams(Record):
    """How tokens are chosen from logits; the same values reach drafter and verifier.

    `temperature` 0 means greedy. `top_k` 0, `top_p` 1 and `min_p` 0 switch that warper off.
    `seed` is an unsigned 64-bit integer, `choice_index` the index of the choice within a request.

    `repetition_penalty` looks at prompt and output, `presence_penalty` and `frequency_penalty` at
    the output alone, which begins at position `num_prompt_tokens`. `banned_token_ids` are not
    chosen at positions below `banned_before`. The output follows `grammar` (grammars.py), if there is one, has no other
    tokens than `allowed_token_ids`, if there are some, and none of the sequences in `bad_words`.

    `num_logprobs` likeliest tokens are reported with every chosen one (None: no report), and with
    `scores_prompt` with those of the prompt: log-probabilities of the target, before anything above.

    `acceptance` says which drafted tokens hold.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    choice_index: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    num_prompt_tokens: int = 0
    logit_bias: tuple[tuple[Token, float], ...] = ()
    banned_token_ids: tuple[Token, ...] = ()
    banned_before: int = 0
    num_logprobs: int | None = None
    scores_prompt: bool = False
    acceptance: Acceptance = "coupled"
    grammar: str = ""
    allowed_token_ids: tuple[Token, ...] = ()
    bad_words: tuple[tuple[Token, ...], ...] = ()

    @property
    def draws_to_reject(self) -> bool:
        """Whether drafters draw by noise of their own and say from what; greedy requests go by equality anyway."""
        return self.acceptance == "rejection" and self.temperature > 0

    @property
    def has_penalties(self) -> bool:
        """Whether tokens that came before are chosen more, or less, often."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def needs_tokens(self) -> bool:
        """Whether a choice depends on which tokens came before it, beyond the logits."""
        return self.has_penalties or bool(self.grammar) or any(len(word) > 1 for word in self.bad_words)

    @property
    def named_tokens(self) -> tuple[Token, ...]:
        """The tokens that are named somewhere."""
        words = (token for word in self.bad_words for token in word)
        return (*self.banned_token_ids, *self.allowed_token_ids, *(token for token, _ in self.logit_bias), *words)

    @property
    def adjusts_logits(self) -> bool:
        """Whether logits are changed before they are warped."""
        has_bans = bool(self.banned_token_ids) and self.banned_before > 0
        is_limited = bool(self.allowed_token_ids) or bool(self.bad_words)
        return self.needs_tokens or bool(self.logit_bias) or has_bans or is_limited


class TokenLogprobs(Record):
    """A token's log-probability under the target's softmax, and the likeliest tokens there, likeliest first."""

    token: Token
    logprob: float
    top: tuple[tuple[Token, float], ...] = ()


class EarlyStop(Record):
    """A draft may end before its lookahead: when a further token is not worth what it costs.

    A further token counts `value` if it and all before it hold. For that the session has to bear `token_cost`, and all
    sessions of its batch together `step_cost`. `chances` says how likely a drafted token holds by the drafter's
    confidence in it (`policy/confidence.py` has the edges), `nexts` the same of one that is not drafted yet, by its
    index; both in 255ths.
    """

    value: float
    token_cost: float
    step_cost: float
    chances: bytes
    nexts: bytes
