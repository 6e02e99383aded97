"""Token ids to text, one at a time: no half characters, and nothing from a stop string onwards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from deployments.messages import Token

_REPLACEMENT = "\ufffd"
_MAX_PENDING_TOKENS = 8
_MAX_PARTIAL_BYTES = 3


class Decoder(Protocol):
    """What a detokenizer needs of a tokenizer."""

    @property
    def special_ids(self) -> Collection[Token]:
        """Ids that have no text."""

    def decode(self, token_ids: Sequence[Token]) -> str:
        """The text of the ids."""


class Detokenizer:
    """Turns one output's ids into text piece by piece: the pieces add up to `decode` of all ids.

    The end of the text is held back while it may be the beginning of a character (decoders show
    that as U+FFFD). Only a window of ids is decoded each time; it begins before the last piece, as
    decoders treat the very first token of a text differently (sentencepiece drops its space).
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._window: list[Token] = []
        self._num_context = 0  # ids at the window's head that are there for context only
        self._num_emitted = 0  # characters of the window's text that are out

    def push(self, token_id: Token) -> str:
        """The text that this id completes; "" for a special token or a part of a character."""
        if token_id in self._decoder.special_ids:
            return ""
        self._window.append(token_id)
        text = self._decoder.decode(self._window)
        complete = len(text.rstrip(_REPLACEMENT))
        if len(self._window) - self._num_context > _MAX_PENDING_TOKENS:
            # These bytes will never be characters; only the last of them may still begin one.
            complete = max(complete, len(text) - _MAX_PARTIAL_BYTES)
        return self._emit(text, complete)

    def finish(self) -> str:
        """What was still held back."""
        text = self._decoder.decode(self._window)
        return self._emit(text, len(text))

    def _emit(self, text: str, complete: int) -> str:
        piece = text[self._num_emitted : complete]
        self._num_emitted = max(self._num_emitted, complete)
        if complete == len(text):
            self._window = self._window[self._num_context :]
            self._num_context = len(self._window)
            self._num_emitted = len(self._decoder.decode(self._window))
        return piece


class StopFilter:
    """Passes text on up to the first stop string, and holds back what may be the beginning of one.

    First means: the one that ends first, and of those that end together the longest. So the
    output does not depend on how the text was cut into pieces. With `includes_stop` the stop string
    belongs to the output.
    """

    def __init__(self, stops: Sequence[str], *, includes_stop: bool = False) -> None:
        self._stops = tuple(stops)
        self._includes_stop = includes_stop
        self._held = ""
        self.met: str | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string was met; `met` is that string."""
        return self.met is not None

    def push(self, text: str, *, can_stop: bool = True) -> str:
        """The text that is certain to belong to the output; nothing once a stop string was met.

        A stop string that is complete while `can_stop` is False is text like any other.
        """
        if self.is_stopped:
            return ""
        held = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found and can_stop:
            self._held = ""
            end, start = min(found)
            self.met = held[start:end]
            return held[: end if self._includes_stop else start]
        num_held = max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - num_held :]
        return held[: len(held) - num_held]

    def finish(self) -> str:
        """What was held back for a stop string that never came."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop` without completing it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
