"""Log-probabilities as the two endpoints report them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from deployments.ingress.token_texts import TokenTexts
from deployments.messages import Token, TokenLogprobs

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON does not have."""

Entries = Sequence[TokenLogprobs | None]


class LogprobsWriter:
    """Writes the entries of one choice; `as_ids` names tokens `token_id:7`, which no two tokens share.

    An entry may have more of the likeliest tokens than the `num_top` that are asked for. `special` tokens are
    those that a text may leave out: the prompt's, in `prompt_text` or not, and the output's, if they are `hidden`.
    """

    def __init__(
        self,
        texts: TokenTexts,
        *,
        as_ids: bool,
        num_top: int,
        special: Collection[Token] = (),
        hidden: Collection[Token] = (),
        prompt_text: str | None = None,
    ) -> None:
        self._texts = texts
        self._as_ids = as_ids
        self._num_top = num_top
        self._special = special
        self._hidden = hidden
        self._prompt_text = prompt_text or ""
        self._offset = 0

    def chat(self, entries: Entries) -> dict[str, Any]:
        """The `logprobs` of a chat choice."""
        return {"content": [self._chat_entry(entry) for entry in entries if entry is not None], "refusal": None}

    def completion(self, tokens: Sequence[Token], entries: Entries, num_prompt_tokens: int = 0) -> dict[str, Any]:
        """The `logprobs` of a completion choice; offsets go on from the choice's earlier chunks.

        The first `num_prompt_tokens` repeat the prompt. The chosen token is among its `top_logprobs`; of tokens with
        the same text the likeliest is kept.
        """
        offsets = []
        for i, token in enumerate(tokens):
            offsets.append(self._offset)
            self._offset += self._num_characters(token, repeats_prompt=i < num_prompt_tokens)
        return {
            "tokens": [self._text(token) for token in tokens],
            "token_logprobs": [None if entry is None else _finite(entry.logprob) for entry in entries],
            "top_logprobs": [None if entry is None else self._top(entry) for entry in entries],
            "text_offset": offsets,
        }

    def _num_characters(self, token: Token, *, repeats_prompt: bool) -> int:
        """How many characters of the text begin with the token; one of several tokens counts with the first of them."""
        if token in self._special:
            text = self._texts.text(token)
            is_shown = self._prompt_text.startswith(text, self._offset) if repeats_prompt else token not in self._hidden
            return len(text) if is_shown else 0
        return sum(byte & 0xC0 != 0x80 for byte in self._texts.utf8(token))  # all but UTF-8's continuation bytes

    def _top(self, entry: TokenLogprobs) -> dict[str, float]:
        top: dict[str, float] = {}
        for token, logprob in (*entry.top[: self._num_top], (entry.token, entry.logprob)):
            top.setdefault(self._text(token), _finite(logprob))
        return top

    def _chat_entry(self, entry: TokenLogprobs) -> dict[str, Any]:
        top = [self._chat_token(token, logprob) for token, logprob in entry.top[: self._num_top]]
        return {**self._chat_token(entry.token, entry.logprob), "top_logprobs": top}

    def _chat_token(self, token: Token, logprob: float) -> dict[str, Any]:
        return {"token": self._text(token), "logprob": _finite(logprob), "bytes": list(self._texts.utf8(token))}

    def _text(self, token: Token) -> str:
        return f"token_id:{token}" if self._as_ids else self._texts.text(token)


def prompt_logprobs(entries: Sequence[TokenLogprobs], texts: TokenTexts, num_top: int) -> list[dict[str, Any] | None]:
    """A prompt's log-probabilities in vLLM's form, by token id; the first token has none.

    The rank is null for a token of the prompt that is none of the likeliest.
    """
    scores: list[dict[str, Any] | None] = [None]
    for entry in entries:
        ranked = {token: (logprob, rank) for rank, (token, logprob) in enumerate(entry.top[:num_top], start=1)}
        found = {entry.token: (entry.logprob, None), **ranked}
        scores.append(
            {
                str(token): {"logprob": _finite(logprob), "rank": rank, "decoded_token": texts.text(token)}
                for token, (logprob, rank) in found.items()
            }
        )
    return scores


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST)
