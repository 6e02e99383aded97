"""Frames come out as they went in, however they are cut, and cost no more memory than has come."""

from __future__ import annotations

import random

import pytest

from deployments.link_frames import HEADER_BYTES, FrameBuffer

LIMIT = 4 << 20
FIRST = len(FrameBuffer().room())


def put(buffer: FrameBuffer, data: bytes) -> int:
    """Write what there is room for; how much that was."""
    room = buffer.room()
    num_bytes = min(len(room), len(data))
    assert num_bytes or not data
    room[:num_bytes] = data[:num_bytes]
    buffer.add(num_bytes)
    return num_bytes


def frame(record: bytes) -> bytes:
    return len(record).to_bytes(HEADER_BYTES, "little") + record


@pytest.mark.parametrize("seed", range(8))
def test_frames_of_any_size_come_out_whole_however_they_are_cut(seed: int) -> None:
    rng, buffer = random.Random(seed), FrameBuffer()
    records = [rng.randbytes(rng.choice([0, 1, 300, FIRST - HEADER_BYTES, FIRST, 700_000])) for _ in range(20)]
    data, received = b"".join(map(frame, records)), []
    while data:
        data = data[put(buffer, data[: rng.choice([1, 5, 1000, 1 << 20])]) :]
        while (record := buffer.next(LIMIT)) is not None:
            received.append(bytes(record))
        buffer.settle()
    assert received == records


def test_a_buffer_that_has_grown_large_is_not_kept() -> None:
    buffer = FrameBuffer()
    for num_bytes, kept in ((2 * FIRST, 4 * FIRST), (16 * FIRST, FIRST)):
        data = frame(bytes(num_bytes))
        while data:
            data = data[put(buffer, data) :]
            record = buffer.next(LIMIT)
            buffer.settle()
        assert record is not None
        assert len(buffer.room()) == kept


def test_a_promise_of_many_bytes_takes_no_memory() -> None:
    buffer = FrameBuffer()
    put(buffer, LIMIT.to_bytes(HEADER_BYTES, "little") + b"and no more")
    assert buffer.next(LIMIT) is None
    buffer.settle()
    assert len(buffer.room()) < FIRST


def test_a_frame_over_the_limit_is_refused_before_it_has_come() -> None:
    buffer = FrameBuffer()
    put(buffer, (LIMIT + 1).to_bytes(HEADER_BYTES, "little"))
    with pytest.raises(ValueError, match=f"a frame of {LIMIT + 1} bytes, over the limit of {LIMIT}"):
        buffer.next(LIMIT)
