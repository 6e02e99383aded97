"""Frames: a 4-byte little-endian length and that many bytes of msgpack, one record of messages.py.

What is received lies in one buffer that is read into and decoded from: a fresh one for every read costs more than
everything else that is done with a small record.
"""

from __future__ import annotations

import struct

import msgspec

from deployments.messages import Message

_HEADER = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
_FIRST_BYTES = 64 << 10
_KEPT_BYTES = 1 << 20
"""A buffer that has grown beyond this gives way to a new one when it is empty; at most so much is read at once."""
_encoder = msgspec.msgpack.Encoder()


def to_frame(message: Message, max_frame_bytes: int) -> bytearray:
    """One record as it goes on the wire; a fresh buffer, since the transport may keep it."""
    frame = bytearray(HEADER_BYTES)
    _encoder.encode_into(message, frame, HEADER_BYTES)
    length = len(frame) - HEADER_BYTES
    if length > max_frame_bytes:
        raise ValueError(f"a {type(message).__name__} of {length} bytes, over the limit of {max_frame_bytes}")
    _HEADER.pack_into(frame, 0, length)
    return frame


class FrameBuffer:
    """Received bytes until they are whole frames: `room`, `add` what was read, `next` while there is one, `settle`."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(_FIRST_BYTES))
        self._start = 0
        self._stop = 0

    def room(self) -> memoryview:
        """Where the next bytes go; never empty."""
        return self._memory[self._stop : self._stop + _KEPT_BYTES]

    def add(self, num_bytes: int) -> None:
        """So many bytes were written to `room`."""
        self._stop += num_bytes

    def next(self, max_frame_bytes: int) -> memoryview | None:
        """The next whole frame's record, valid until `settle`; None if there is none, ValueError if it is too long."""
        length = self._next_length()
        if length is None:
            return None
        if length > max_frame_bytes:
            raise ValueError(f"a frame of {length} bytes, over the limit of {max_frame_bytes}")
        first = self._start + HEADER_BYTES
        if first + length > self._stop:
            return None
        self._start = first + length
        return self._memory[first : self._start]

    def settle(self) -> None:
        """Make room again. The buffer grows with the bytes that come, not with those that a header promises."""
        num_left = self._stop - self._start
        capacity = len(self._memory)
        if not num_left and capacity > _KEPT_BYTES:
            self._memory = memoryview(bytearray(_FIRST_BYTES))
        elif num_left == capacity:
            larger = memoryview(bytearray(2 * capacity))
            larger[:num_left] = self._memory
            self._memory = larger
        elif self._start and num_left:
            self._memory[:num_left] = self._memory[self._start : self._stop]
        self._start, self._stop = 0, num_left

    def _next_length(self) -> int | None:
        if self._stop - self._start < HEADER_BYTES:
            return None
        length: int = _HEADER.unpack_from(self._memory, self._start)[0]
        return length
