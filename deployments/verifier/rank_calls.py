"""Engines' calls as bytes, between the process that schedules and those that hold a share of the target.

A frame is a 4-byte little-endian length and that many bytes of msgpack: [engine, method, arguments] one way, [error,
result] the other. Besides the target's engine a rank may hold drafters' ones. Types are those of the engine's Protocol,
and nothing else is decoded. The sockets are Unix sockets in a
folder that only this user can enter.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from deployments.memory import MemoryUse
from deployments.verifier.engine import VerifierEngine

TARGET = "target"
"""The name of the verifier's own engine."""
_REFUSED = "refused: "
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
    num_kv_tokens: int
    memory: MemoryUse
    follows_grammars: bool = False


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


@dataclass(frozen=True, slots=True)
class Held:
    """An engine and the Protocol whose methods may be called on it."""

    engine: object
    protocol: type


def encode_call(name: str, arguments: Sequence[object], engine: str = TARGET) -> bytes:
    """One call as a frame's content."""
    return _encoder.encode((engine, name, arguments))


def perform(engines: Mapping[str, Held], data: bytes) -> bytes:
    """Make one call and encode what came of it: a drafter's ValueError is a refusal, all else that fails a fault."""
    engine, name, arguments = msgspec.msgpack.decode(data, type=tuple[str, str, msgspec.Raw])
    try:
        return _encoder.encode(("", _call(engines, engine, name, arguments)))
    except Exception as error:
        is_refusal = engine != TARGET and isinstance(error, ValueError)
        return _encoder.encode((f"{_REFUSED if is_refusal else type(error).__name__ + ': '}{error}", None))


def _call(engines: Mapping[str, Held], engine: str, name: str, arguments: msgspec.Raw) -> object:
    held = engines.get(engine)
    if held is None or name.startswith("_") or not hasattr(held.protocol, name):
        raise RuntimeError(f"there is no {name!r} of an engine {engine!r} here")
    member = getattr(held.engine, name)
    if isinstance(getattr(held.protocol, name), property):
        return member
    result: object = member(*msgspec.msgpack.decode(arguments, type=_types(held.protocol, name)[0]))
    return result


def decode_result(name: str, data: bytes, protocol: type = VerifierEngine) -> Any:
    """What the named method returned; ValueError when a drafter has refused, RankLost when the call failed."""
    error, result = msgspec.msgpack.decode(data, type=tuple[str, msgspec.Raw])
    if error.startswith(_REFUSED):
        raise ValueError(error.removeprefix(_REFUSED))
    if error:
        raise RankLost(error)
    return msgspec.msgpack.decode(result, type=_types(protocol, name)[1])


@cache
def _types(protocol: type, name: str) -> tuple[Any, Any]:
    """(tuple of the arguments' types, the result's type) as the Protocol has them."""
    member = getattr(protocol, name)
    hints = get_type_hints(member.fget if isinstance(member, property) else member)
    result = hints.pop("return")
    return tuple[tuple(hints.values())] if hints else tuple[()], result  # type: ignore[misc]
