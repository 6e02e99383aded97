"""Prompt lookup: a text that begins to repeat itself is proposed to go on as it did before.

The index is that of LZ77 compressors: for every run of a few tokens the last place it stood, and from
each place the one before it. So a token costs the same to add whatever the length of the text, and
both tables hold no more than a window of the latest tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from deployments.messages import Token

WINDOW_TOKENS = 8192
_RUN = 3
_MAX_CANDIDATES = 8
_MAX_MATCH = 32
_NOWHERE = -1


class PromptLookup:
    """The index of one session's tokens, of which it sees more with every call.

    The window bounds what is remembered, a few hundred bytes per token of it.
    """

    def __init__(self, window_tokens: int = WINDOW_TOKENS) -> None:
        self._window = window_tokens
        self._latest: dict[tuple[Token, ...], int] = {}
        self._previous = array("q", [_NOWHERE]) * window_tokens
        self._num_seen = 0

    def propose(self, tokens: Sequence[Token], lookahead: int) -> tuple[Token, ...]:
        """Up to `lookahead` tokens that followed the longest earlier match of the text's end; often none.

        `tokens` are those of the last call and what was committed since. A match that reaches into the
        end itself repeats with its period, so that a proposal has its full length or none.
        """
        if lookahead <= 0 or len(tokens) <= _RUN:
            return ()
        self._index(tokens)
        distance = self._best_distance(tokens)
        if distance == 0:
            return ()
        stop = len(tokens)
        return tuple(tokens[stop - distance + step % distance] for step in range(lookahead))

    def _index(self, tokens: Sequence[Token]) -> None:
        """Enter every run that has a token behind it."""
        stop = len(tokens)
        for end in range(self._num_seen or max(_RUN, stop - self._window), stop):
            if (leaving := end - self._window) >= _RUN:
                run = _run(tokens, leaving)
                if self._latest.get(run) == leaving:
                    del self._latest[run]
            run = _run(tokens, end)
            self._previous[end % self._window] = self._latest.get(run, _NOWHERE)
            self._latest[run] = end
        self._num_seen = stop

    def _best_distance(self, tokens: Sequence[Token]) -> int:
        """How far back the longest match of the last tokens ends, of a few candidates; 0 without any."""
        stop = len(tokens)
        candidate = self._latest.get(_run(tokens, stop), _NOWHERE)
        best_distance = best_length = 0
        for _ in range(_MAX_CANDIDATES):
            if candidate < max(_RUN, stop - self._window):
                break
            length = _match_length(tokens, candidate)
            if length > best_length:
                best_distance, best_length = stop - candidate, length
            candidate = self._previous[candidate % self._window]
        return best_distance


def _run(tokens: Sequence[Token], end: int) -> tuple[Token, ...]:
    """The run of tokens before position `end`."""
    return tuple(tokens[end - _RUN : end])


def _match_length(tokens: Sequence[Token], end: int) -> int:
    """How many tokens before `end` equal those at the text's end; the run itself is known to."""
    stop = len(tokens)
    length = _RUN
    most = min(_MAX_MATCH, end)
    while length < most and tokens[end - 1 - length] == tokens[stop - 1 - length]:
        length += 1
    return length
