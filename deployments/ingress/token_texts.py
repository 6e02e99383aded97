"""Tokens as text, special ones included: one at a time for log-probabilities, or many as they are."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from tokenizers import Tokenizer as FastTokenizer

from deployments.messages import Token

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_REPLACEMENT = "\ufffd"
_MAX_KNOWN = 1 << 16


class Verbatim:
    """A Decoder to which no token is special."""

    special_ids: Collection[Token] = frozenset()

    def __init__(self, fast: FastTokenizer) -> None:
        self._fast = fast

    def decode(self, token_ids: Sequence[Token]) -> str:
        """The text of the ids, special tokens included."""
        return self._fast.decode(token_ids, skip_special_tokens=False)


class TokenTexts:
    """The text and the bytes of single tokens, as they stand within a text.

    A token that is a part of a character reads as U+FFFD and has its own bytes.
    """

    def __init__(self, fast: FastTokenizer) -> None:
        self._fast = fast
        # Decoders treat a text's first token differently (sentencepiece drops its space), so one stands before.
        self._before = next(iter(fast.encode("a", add_special_tokens=False).ids), None)
        self._num_before = len(self._decode([]))
        self._known: dict[Token, tuple[str, bytes]] = {}

    def text(self, token: Token) -> str:
        """The token's text."""
        return self._look_up(token)[0]

    def utf8(self, token: Token) -> bytes:
        """The token's bytes; joined over a text's tokens they are its UTF-8."""
        return self._look_up(token)[1]

    def name(self, token: Token) -> str:
        """The token as the vocabulary spells it; "" for an id that the tokenizer does not have."""
        return self._fast.id_to_token(token) or ""

    def _look_up(self, token: Token) -> tuple[str, bytes]:
        found = self._known.get(token)
        if found is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            text = self._decode([token])[self._num_before :]
            found = self._known[token] = (text, self._bytes(token, text))
        return found

    def _decode(self, tokens: list[Token]) -> str:
        before = [] if self._before is None else [self._before]
        return self._fast.decode([*before, *tokens], skip_special_tokens=False)

    def _bytes(self, token: Token, text: str) -> bytes:
        if _REPLACEMENT not in text:
            return text.encode()
        name = self.name(token)
        if (match := _BYTE.fullmatch(name)) is not None:
            return bytes([int(match[1], 16)])
        if name and all(character in _BYTE_OF for character in name):
            return bytes(_BYTE_OF[character] for character in name)
        return text.encode()


def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level vocabularies write for bytes: printable ones as they are, others from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
