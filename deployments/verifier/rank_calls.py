"""A verifier engine's calls as bytes, between the process that schedules and those that hold a share of the target.

A frame is a 4-byte little-endian length and that many bytes of msgpack: [method, arguments] one way, [error, result]
the other. Types are those of the engine's Protocol, and nothing else is decoded. The sockets are Unix sockets in a
folder that only this user can enter.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from deployments.verifier.engine import VerifierEngine

METHODS = ("can_open", "open", "grow", "close", "rollback", "step", "shadow", "hidden")
PROPERTIES = ("kv_usage",)
MAX_FRAME_BYTES = 1 << 30
_HEADER = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()


class RankLost(RuntimeError):
    """A rank is gone, silent, or failed: the shares that are left are no target."""


class Ready(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """First record of a rank, once its share is loaded."""

    rank: int
    vocab_size: int
    max_context_tokens: int


class Connection:
    """One end of one rank's socket; every call blocks until it is done or its deadline has passed."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.name = name
        self._sock = sock

    def fileno(self) -> int:
        """The socket's descriptor, for a loop that watches it."""
        return self._sock.fileno()

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()

    def send(self, data: bytes) -> None:
        """One frame; RankLost when the other end is gone."""
        try:
            self._sock.sendall(_HEADER.pack(len(data)) + data)
        except OSError as error:
            raise RankLost(f"{self.name} is gone ({error})") from error

    def receive(self, timeout_s: float | None) -> bytes:
        """The next frame; RankLost when none came in time or the other end is gone."""
        self._sock.settimeout(timeout_s)
        try:
            (length,) = _HEADER.unpack(self._exactly(_HEADER.size))
            if length > MAX_FRAME_BYTES:
                raise RankLost(f"{self.name} announces a frame of {length} bytes")
            return self._exactly(length)
        except TimeoutError as error:
            raise RankLost(f"{self.name} has not answered for {timeout_s} s") from error
        except OSError as error:
            raise RankLost(f"{self.name} is gone ({error})") from error

    def _exactly(self, num_bytes: int) -> bytes:
        data = bytearray(num_bytes)
        view, received = memoryview(data), 0
        while received < num_bytes:
            count = self._sock.recv_into(view[received:])
            if count == 0:
                raise ConnectionResetError("end of stream")
            received += count
        return bytes(data)


def socket_path(folder: Path) -> str:
    """Where the ranks of one replica are listened for."""
    return str(folder / "calls")


def encode_call(name: str, arguments: Sequence[object]) -> bytes:
    """One call as a frame's content."""
    return _encoder.encode((name, arguments))


def encode_result(result: object) -> bytes:
    """What a call returned."""
    return _encoder.encode(("", result))


def encode_error(error: BaseException) -> bytes:
    """Why a call failed."""
    return _encoder.encode((f"{type(error).__name__}: {error}", None))


def perform(engine: VerifierEngine, data: bytes) -> object:
    """Decode one call and make it; ValueError when it is none of an engine's."""
    name, arguments = msgspec.msgpack.decode(data, type=tuple[str, msgspec.Raw])
    if name in PROPERTIES:
        return getattr(engine, name)
    if name not in METHODS:
        raise ValueError(f"an engine has no method {name!r}")
    return getattr(engine, name)(*msgspec.msgpack.decode(arguments, type=_types(name)[0]))


def decode_result(name: str, data: bytes) -> Any:
    """What the named method returned; RankLost when it failed."""
    error, result = msgspec.msgpack.decode(data, type=tuple[str, msgspec.Raw])
    if error:
        raise RankLost(error)
    return msgspec.msgpack.decode(result, type=_types(name)[1])


@cache
def _types(name: str) -> tuple[Any, Any]:
    """(tuple of the arguments' types, the result's type) as the Protocol has them."""
    member = getattr(VerifierEngine, name)
    hints = get_type_hints(member.fget if isinstance(member, property) else member)
    result = hints.pop("return")
    return tuple[tuple(hints.values())] if hints else tuple[()], result  # type: ignore[misc]
