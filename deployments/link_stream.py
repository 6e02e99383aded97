"""One end of one stream: handshake, dispatch and the bounded send."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

import msgspec

from deployments.link_frames import HEADER_BYTES, FrameBuffer, to_frame
from deployments.link_tls import StreamTls
from deployments.link_tokens import Identity
from deployments.messages import Message, Role
from deployments.traffic import TRAFFIC

logger = logging.getLogger("outrider.link")

MAX_HELLO_BYTES = 4096
_decoders = {direction: msgspec.msgpack.Decoder(records) for direction, records in TRAFFIC.items()}


class LinkClosed(ConnectionError):
    """The link is closed: nothing can be sent on it, or it never came to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """Mutual TLS or None, and bounds that keep a faulty or absent peer from costing more than its own link.

    `handshake_timeout_s` is for TLS and Hello together. `max_buffer_bytes` bounds what waits for a
    peer that does not read. `silence_timeout_s` bounds how long a peer's machine may leave bytes or
    probes unacknowledged (the kernel watches that).
    """

    tls: StreamTls | None = None
    max_frame_bytes: int = 64 << 20
    max_buffer_bytes: int = 256 << 20
    handshake_timeout_s: float = 10.0
    close_timeout_s: float = 2.0
    silence_timeout_s: int = 12
    max_unproven: int = 64


class Endpoint(Protocol):
    """Whoever owns links. All three are called on the loop and must not block.

    Every `link_opened` is followed by exactly one `link_closed`, never from within `send` or
    `close`. If a peer dials again, the old link's `link_closed` comes before the new `link_opened`.
    An exception from `link_opened` or `received` is logged and closes that link only.
    """

    def link_opened(self, link: Link) -> None:
        """The handshake is done; the link can be sent on."""

    def received(self, link: Link, message: Message) -> None:
        """One record has arrived, in the order of sending."""

    def link_closed(self, link: Link) -> None:
        """The link is gone, for whatever reason; what was sent last may not have arrived."""


class Link:
    """One open stream to one peer. Closed once means closed for good: a redial makes a new Link."""

    is_local: ClassVar[bool] = False
    """Whether both ends are in one process, on one loop."""

    __slots__ = (
        "_loop",
        "_settings",
        "_transport",
        "_wire",
        "close_reason",
        "is_closed",
        "num_received_bytes",
        "num_sent_bytes",
        "peer",
        "role",
    )

    def __init__(
        self, peer: Identity, transport: asyncio.Transport, wire: asyncio.Transport, settings: LinkSettings
    ) -> None:
        self.peer = peer.peer
        self.role: Role = peer.role
        self.is_closed = False
        self.close_reason = ""
        self.num_sent_bytes = 0
        self.num_received_bytes = 0
        self._transport = transport
        self._wire = wire
        self._settings = settings
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<Link {self.role} {self.peer}{' closed' if self.is_closed else ''}>"

    @property
    def buffered_bytes(self) -> int:
        """How many sent bytes the kernel has not taken yet: what a bulk sender paces itself by."""
        num_bytes = self._transport.get_write_buffer_size()
        # A TLS transport does not count what it has passed on to the connection below it.
        return num_bytes if self._wire is self._transport else num_bytes + self._wire.get_write_buffer_size()

    def send(self, message: Message) -> None:
        """Send one record, without ever blocking.

        Raises LinkClosed on a closed link, ValueError for a record over the frame limit. A peer that
        does not read, and so lets the bounded buffer overflow, loses the link.
        """
        if self.is_closed:
            raise LinkClosed(f"the link to {self.role} {self.peer} is closed: {self.close_reason}")
        frame = to_frame(message, self._settings.max_frame_bytes)
        if self.buffered_bytes + len(frame) > self._settings.max_buffer_bytes:
            self.fail(f"the peer left {self.buffered_bytes} bytes unread")
            return
        self.num_sent_bytes += len(frame)
        self._transport.write(frame)

    def close(self) -> None:
        """Send what is buffered, then close. Idempotent."""
        if self.is_closed:
            return
        self.is_closed, self.close_reason = True, "closed on this side"
        self._transport.close()
        self._loop.call_later(self._settings.close_timeout_s, self._transport.abort)

    def fail(self, reason: str) -> None:
        """Drop the link at once, with a logged reason. Idempotent."""
        if self.is_closed:
            return
        self.is_closed, self.close_reason = True, reason
        logger.warning("dropping the link to %s %s: %s", self.role, self.peer, reason)
        self._transport.abort()


def send_or_drop(link: Link, message: Message) -> None:
    """Send, or leave it where the link is closed: its endpoint acts on the loss when `link_closed` comes."""
    try:
        link.send(message)
    except LinkClosed:
        logger.debug("%s is gone, %s not sent", link.peer, type(message).__name__)


class Stream(asyncio.BufferedProtocol):
    """Frames, handshake and dispatch of one connection; the two subclasses differ in the handshake.

    `_wire` is the TCP connection, `_transport` what frames travel on: the same, or TLS inside of it.
    """

    _is_listening: bool

    def __init__(self, endpoint: Endpoint, identity: Identity, settings: LinkSettings) -> None:
        self.link: Link | None = None
        self._endpoint = endpoint
        self._identity = identity
        self._settings = settings
        self._max_frame_bytes = MAX_HELLO_BYTES
        self._received = FrameBuffer()
        self._transport: asyncio.Transport
        self._wire: asyncio.Transport
        self._securing: asyncio.Task[None] | None = None
        self._decoder: msgspec.msgpack.Decoder[Message]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio.Transport.
        self._transport = self._wire = cast(asyncio.Transport, transport)
        _tune(transport.get_extra_info("socket"), self._settings.silence_timeout_s)
        if self._settings.tls is None:
            self._begin()
        else:
            self._wire.pause_reading()  # until TLS is there to read
            self._securing = asyncio.get_running_loop().create_task(self._secure(self._settings.tls))

    async def _secure(self, tls: StreamTls) -> None:
        if self._wire.is_closing():  # dropped in the same moment
            return
        timeout_s = self._settings.handshake_timeout_s
        try:
            self._transport, early = await tls.wrap(self._wire, is_listening=self._is_listening, timeout_s=timeout_s)
        except OSError as error:
            logger.warning("%s has no mutual TLS with the other side: %s", self._identity.peer, error)
            self._wire.abort()
            self.connection_lost(error)
            return
        self._transport.set_protocol(self)
        self._begin()
        self.feed(early.received)
        if early.is_lost:
            self.connection_lost(None)

    def _begin(self) -> None:
        """Frames can be sent from now on."""

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._received.room()

    def buffer_updated(self, nbytes: int) -> None:
        self._received.add(nbytes)
        try:
            while not self._is_over() and (frame := self._received.next(self._max_frame_bytes)) is not None:
                self._handle(frame)
        except ValueError as error:
            self.drop(str(error))
        self._received.settle()

    def feed(self, data: bytes | bytearray) -> None:
        """Take bytes that somebody else has read."""
        start = 0
        while start < len(data) and not self._is_over():
            room = self._received.room()
            num_bytes = min(len(room), len(data) - start)
            room[:num_bytes] = data[start : start + num_bytes]
            start += num_bytes
            self.buffer_updated(num_bytes)

    def _handle(self, frame: memoryview) -> None:
        link = self.link
        try:
            if link is None:
                self._shake_hands(frame)
                return
            link.num_received_bytes += HEADER_BYTES + len(frame)
            message = self._decoder.decode(frame)
        except Exception as error:
            # Whatever the decoder says of bytes from outside, it costs this connection and no more.
            self.drop(f"a frame that cannot be read: {error}")
            return
        try:
            self._endpoint.received(link, message)
        except Exception:
            logger.exception("%s failed on a %s from %s", self._identity.peer, type(message).__name__, link)
            self.drop("its message could not be handled")

    def _shake_hands(self, frame: memoryview) -> None:
        raise NotImplementedError

    def _open(self, peer: Identity) -> Link:
        self._decoder = _decoders[peer.role, self._identity.role]
        self._max_frame_bytes = self._settings.max_frame_bytes
        self.link = Link(peer, self._transport, self._wire, self._settings)
        return self.link

    def _announce(self, link: Link) -> None:
        try:
            self._endpoint.link_opened(link)
        except Exception:
            logger.exception("%s failed to open %s", self._identity.peer, link)
            self.drop("it could not be opened")

    def drop(self, reason: str) -> None:
        """Close this connection at once."""
        if self.link is not None:
            self.link.fail(reason)
        elif not self._transport.is_closing():
            logger.warning("%s refuses a connection: %s", self._identity.peer, reason)
            self._transport.abort()

    def forget(self) -> None:
        """Tell the endpoint, once, that an announced link is gone."""
        link, self.link = self.link, None
        if link is None:
            return
        try:
            self._endpoint.link_closed(link)
        except Exception:
            logger.exception("%s failed to close %s", self._identity.peer, link)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.link is not None and not self.link.is_closed:
            self.link.is_closed, self.link.close_reason = True, f"closed by the peer ({exc or 'end of stream'})"
        self.forget()

    def _is_over(self) -> bool:
        return self._transport.is_closing()


def _tune(sock: socket.socket, silence_timeout_s: int) -> None:
    """No delay for small records; the kernel notices a peer whose machine has gone silent."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    probes = {
        "TCP_KEEPIDLE": max(1, silence_timeout_s // 3),
        "TCP_KEEPINTVL": max(1, silence_timeout_s // 6),
        "TCP_KEEPCNT": 4,
        "TCP_USER_TIMEOUT": 1000 * silence_timeout_s,
    }
    for name, value in probes.items():
        if hasattr(socket, name):  # names differ between systems; keepalive itself exists on all
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
