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
_MAX_ENTERED_AT_ONCE = 1024
"""Takes under a millisecond, in which no other session's round moves; a longer prompt takes a few rounds."""
_NOWHERE = -1


class PromptLookup:
    """The index of one session's tokens, of which it sees more with every call.

    The window bounds what is remembered, a few hundred bytes per token of it. A long prompt is entered
    over several calls, which propose nothing.
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
        distance = self._best_distance(tokens) if self._index(tokens) else 0
        if distance == 0:
            return ()
        stop = len(tokens)
        return tuple(tokens[stop - distance + step % distance] for step in range(lookahead))

    def _index(self, tokens: Sequence[Token]) -> bool:
        """Enter runs that have a token behind them, so many at once at most; whether all are entered."""
        first = self._num_seen or max(_RUN, len(tokens) - self._window)
        stop = min(len(tokens), first + _MAX_ENTERED_AT_ONCE)
        latest, previous, window = self._latest, self._previous, self._window
        new = tokens[first - _RUN : stop - 1]
        for end, run in enumerate(zip(new, new[1:], new[2:], strict=False), first):
            if (leaving := end - window) >= _RUN and latest.get(old := _run(tokens, leaving)) == leaving:
                del latest[old]
            previous[end % window] = latest.get(run, _NOWHERE)
            latest[run] = end
        self._num_seen = stop
        return stop == len(tokens)

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
