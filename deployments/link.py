"""The data plane: persistent streams between two roles, and how they are opened.

Whoever dials says Hello with the one-time token that its lease handed out; whoever listens
answers Welcome; where LinkSettings have `tls`, both happens inside of it. From then on a link
carries only what TRAFFIC allows between the two roles, in each direction; anything else closes
that one link and touches no other. Nothing is unpickled.

Everything here runs on one event loop and is not thread-safe, but for the TokenBook.
"""

from __future__ import annotations

import asyncio

import msgspec

from deployments.link_frames import to_frame
from deployments.link_stream import (
    MAX_HELLO_BYTES,
    Endpoint,
    Link,
    LinkClosed,
    LinkSettings,
    Stream,
    send_or_drop,
)
from deployments.link_tls import StreamTls, TlsFiles
from deployments.link_tokens import Identity, Invitation, TokenBook
from deployments.messages import PROTOCOL_VERSION, Hello, Welcome
from deployments.traffic import TRAFFIC

__all__ = [
    "Endpoint",
    "Identity",
    "Invitation",
    "Link",
    "LinkClosed",
    "LinkSettings",
    "Listener",
    "StreamTls",
    "TlsFiles",
    "TokenBook",
    "dial",
    "listen",
    "send_or_drop",
]

_hello_decoder = msgspec.msgpack.Decoder(Hello)
_welcome_decoder = msgspec.msgpack.Decoder(Welcome)


class Listener:
    """Accepts links on one port, one per peer, until it is closed."""

    def __init__(self, endpoint: Endpoint, identity: Identity, tokens: TokenBook, settings: LinkSettings) -> None:
        self.endpoint = endpoint
        self.identity = identity
        self.tokens = tokens
        self.settings = settings
        self.port = 0
        self.streams: dict[str, Stream] = {}
        self.unproven: set[_AcceptedStream] = set()
        self._server: asyncio.Server | None = None

    async def bind(self, host: str, ports: range) -> None:
        """Listen on the first free port of the range; OSError if all are taken."""
        loop = asyncio.get_running_loop()
        for port in ports:
            try:
                self._server = await loop.create_server(lambda: _AcceptedStream(self), host, port)
            except OSError as error:
                last = error
                continue
            self.port = self._server.sockets[0].getsockname()[1]
            return
        raise OSError(f"no free port in {ports.start}-{ports.stop - 1} on {host} (widen streams.port_range): {last}")

    def close(self) -> None:
        """Stop accepting and close every link that was accepted. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for stranger in list(self.unproven):
            stranger.drop("this side is closing")
        for stream in list(self.streams.values()):
            if stream.link is not None:
                stream.link.close()


async def listen(
    endpoint: Endpoint,
    identity: Identity,
    tokens: TokenBook,
    host: str,
    ports: range,
    settings: LinkSettings | None = None,
) -> Listener:
    """Accept links on the first free port of the range, from peers that bring a token of this book."""
    listener = Listener(endpoint, identity, tokens, settings or LinkSettings())
    await listener.bind(host, ports)
    return listener


async def dial(
    endpoint: Endpoint,
    identity: Identity,
    invitation: Invitation,
    *,
    timeout_s: float,
    settings: LinkSettings | None = None,
) -> Link:
    """Open a link to the peer that gave the invitation; raises LinkClosed, OSError or TimeoutError."""
    loop = asyncio.get_running_loop()
    stream = _DialledStream(endpoint, identity, invitation, settings or LinkSettings())
    async with asyncio.timeout(timeout_s):
        transport, _ = await loop.create_connection(lambda: stream, invitation.host, invitation.port)
        try:
            return await stream.opened
        except asyncio.CancelledError:
            transport.abort()
            raise


class _AcceptedStream(Stream):
    _is_listening = True

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener.endpoint, listener.identity, listener.settings)
        self._listener = listener
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listener.unproven.add(self)
        timeout_s = self._settings.handshake_timeout_s
        self._deadline = asyncio.get_running_loop().call_later(timeout_s, self.drop, f"no Hello within {timeout_s} s")
        if len(self._listener.unproven) > self._settings.max_unproven:
            self.drop("too many connections without a Hello")

    def _settle(self) -> None:
        self._listener.unproven.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()

    def _shake_hands(self, frame: memoryview) -> None:
        hello = _hello_decoder.decode(frame)
        peer = Identity(hello.peer, hello.role)
        if hello.protocol_version != PROTOCOL_VERSION:
            raise ValueError(f"it speaks protocol version {hello.protocol_version}, not {PROTOCOL_VERSION}")
        if (peer.role, self._identity.role) not in TRAFFIC:
            raise ValueError(f"a {peer.role} has no business with a {self._identity.role}")
        if not self._listener.tokens.redeem(peer, hello.token):
            raise ValueError(f"its token is not good for {peer.role} {peer.peer!r}")
        self._settle()
        if (older := self._listener.streams.get(peer.peer)) is not None:
            older.drop("the peer has dialled again")
            older.forget()
        link = self._open(peer)
        self._listener.streams[peer.peer] = self
        welcome = Welcome(protocol_version=PROTOCOL_VERSION, peer=self._identity.peer, role=self._identity.role)
        link.send(welcome)
        self._announce(link)

    def forget(self) -> None:
        if self.link is not None and self._listener.streams.get(self.link.peer) is self:
            del self._listener.streams[self.link.peer]
        super().forget()

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        super().connection_lost(exc)


class _DialledStream(Stream):
    _is_listening = False

    def __init__(self, endpoint: Endpoint, identity: Identity, invitation: Invitation, settings: LinkSettings) -> None:
        super().__init__(endpoint, identity, settings)
        self._invitation = invitation
        self.opened: asyncio.Future[Link] = asyncio.get_running_loop().create_future()

    def _begin(self) -> None:
        hello = Hello(
            protocol_version=PROTOCOL_VERSION,
            token=self._invitation.token,
            peer=self._identity.peer,
            role=self._identity.role,
        )
        self._transport.write(to_frame(hello, MAX_HELLO_BYTES))

    def _shake_hands(self, frame: memoryview) -> None:
        welcome = _welcome_decoder.decode(frame)
        if Identity(welcome.peer, welcome.role) != self._invitation.peer:
            raise ValueError(f"{welcome.role} {welcome.peer!r} answered in place of {self._invitation.peer}")
        if self.opened.done():  # the dial was given up in the meantime
            raise ValueError("the Welcome came too late")
        link = self._open(self._invitation.peer)
        self.opened.set_result(link)
        self._announce(link)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.opened.done():
            self.opened.set_exception(LinkClosed(f"{self._invitation.peer} did not accept the link ({exc})"))
