"""What the last step left in a device's memory that drafters are told of, brought to the host in one copy.

A drafter that keeps up asks, after every step, for what that step added. Read session by session, each part of it would
be a copy of its own that waits for the device.

Shapes: N entries of all sessions of a step, S sessions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.messages import SessionId

MAX_ENTRIES = 1024
"""More than that are not steps of few tokens, and are read session by session."""

Spans = Callable[[SessionId, int, int], Sequence[slice]]
"""Where a session's entries [start, stop) lie in a layer's pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """A session's part of a step: entries [start, stop), and the state at the last of them, shape (H,)."""

    session: SessionId
    start: int
    stop: int
    hidden_H: torch.Tensor


class FreshCopies:
    """Copies of one step's entries in some layers and of its last states; made when one of them is first read.

    `layers` are pools by layer, each a pair of shape (slots, heads, dim), and where sessions' entries lie in them.
    """

    def __init__(
        self, fresh: Sequence[Fresh], layers: Mapping[int, tuple[tuple[torch.Tensor, torch.Tensor], Spans]]
    ) -> None:
        self._fresh = {one.session: one for one in fresh}
        self._layers = layers
        self._firsts: dict[SessionId, int] = {}
        self._states: dict[SessionId, bytes] | None = None
        self._entries: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}

    def forget(self, session: SessionId) -> None:
        """The session is closed: who comes under its number has other entries."""
        self._fresh.pop(session, None)

    def read(self, layer: int, session: SessionId, start: int, stop: int) -> tuple[bytes, bytes] | None:
        """Raw keys and values of these entries; None when they are not all of the last step."""
        one = self._fresh.get(session)
        if one is None or not one.start <= start < stop <= one.stop:
            return None
        self._bring()
        first = self._firsts[session] + start - one.start
        keys_NB, values_NB = (part_NB[first : first + stop - start] for part_NB in self._entries[layer])
        return keys_NB.tobytes(), values_NB.tobytes()

    def hidden(self, session: SessionId, stop: int) -> bytes | None:
        """The raw state at the last of the session's entries, if they end at `stop`; else None."""
        one = self._fresh.get(session)
        if one is None or one.stop != stop:
            return None
        return self._bring()[session]

    def _bring(self) -> dict[SessionId, bytes]:
        if self._states is None:
            self._states = self._copy(list(self._fresh.values()))
        return self._states

    def _copy(self, fresh: Sequence[Fresh]) -> dict[SessionId, bytes]:
        """One upload of slots, a gather for each pool, and one copy back of everything."""
        num_entries = 0
        for one in fresh:
            self._firsts[one.session] = num_entries
            num_entries += one.stop - one.start
        places = [
            np.concatenate(
                [np.arange(span.start, span.stop) for one in fresh for span in spans(one.session, one.start, one.stop)]
            )
            for _, spans in self._layers.values()
        ]
        states_SH = torch.stack([one.hidden_H for one in fresh])
        slots_LN = torch.from_numpy(np.stack(places)).to(states_SH.device)
        parts = [
            pool.index_select(0, slots_N)
            for (pools, _), slots_N in zip(self._layers.values(), slots_LN, strict=True)
            for pool in pools
        ]
        brought = torch.cat([part.view(torch.uint8).flatten() for part in (states_SH, *parts)]).cpu().numpy()
        first = states_SH.nbytes
        states_SB = brought[:first].reshape(len(fresh), -1)
        rows = []
        for part in parts:
            rows.append(brought[first : first + part.nbytes].reshape(num_entries, -1))
            first += part.nbytes
        self._entries = {layer: (rows[2 * i], rows[2 * i + 1]) for i, layer in enumerate(self._layers)}
        return {one.session: states_SB[i].tobytes() for i, one in enumerate(fresh)}
