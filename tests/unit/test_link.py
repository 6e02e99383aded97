"""Links: handshake, order, bounds, and that a bad peer costs its own link and nothing else."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from deployments.link import (
    Endpoint,
    Identity,
    Invitation,
    Link,
    LinkClosed,
    LinkSettings,
    Listener,
    TokenBook,
    dial,
    listen,
)
from deployments.link_frames import to_frame
from deployments.messages import (
    PROTOCOL_VERSION,
    Cancel,
    Commit,
    Commits,
    Generate,
    Hello,
    Message,
    Need,
    SamplingParams,
)

ROUTER = Identity("router-1", "router")
INGRESS = Identity("ingress-1", "ingress")
ANY_PORT = range(1)
CANCEL = Cancel(request="r1")
GENERATE = Generate(request="r1", tokens=(1, 2, 3), num_prompt_tokens=3, max_context_tokens=64, params=SamplingParams())


class Recorder:
    """An endpoint that remembers what happened to it, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.messages: list[Message] = []
        self.links: list[Link] = []
        self.on_message: Callable[[Link, Message], None] | None = None
        self.changed = asyncio.Event()

    def _note(self, event: str, link: Link) -> None:
        self.events.append((event, link.peer))
        self.changed.set()

    def link_opened(self, link: Link) -> None:
        self.links.append(link)
        self._note("opened", link)

    def received(self, link: Link, message: Message) -> None:
        self.messages.append(message)
        self.changed.set()
        if self.on_message is not None:
            self.on_message(link, message)

    def link_closed(self, link: Link) -> None:
        self._note("closed", link)

    async def until(self, condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class House:
    """A router that listens, and what is needed to dial it as an ingress."""

    def __init__(self, router: Recorder, tokens: TokenBook, listener: Listener) -> None:
        self.router = router
        self.tokens = tokens
        self.listener = listener

    def invitation(self, identity: Identity = INGRESS, peer: Identity = ROUTER) -> Invitation:
        return Invitation(peer, "127.0.0.1", self.listener.port, self.tokens.issue(identity))

    async def dial(
        self, endpoint: Endpoint, identity: Identity = INGRESS, settings: LinkSettings | None = None
    ) -> Link:
        return await dial(endpoint, identity, self.invitation(identity), timeout_s=5, settings=settings)


@asynccontextmanager
async def house(settings: LinkSettings | None = None) -> AsyncIterator[House]:
    router, tokens = Recorder(), TokenBook()
    listener = await listen(router, ROUTER, tokens, "127.0.0.1", ANY_PORT, settings)
    try:
        yield House(router, tokens, listener)
    finally:
        listener.close()
        await asyncio.sleep(0.01)


async def raw(port: int, data: bytes) -> bytes:
    """Send bytes as a stranger; returns what comes back before the other side hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def hello(token: str, identity: Identity = INGRESS, version: int = PROTOCOL_VERSION) -> bytes:
    record = Hello(protocol_version=version, token=token, peer=identity.peer, role=identity.role)
    return bytes(to_frame(record, 4096))


async def test_messages_arrive_in_order_both_ways() -> None:
    async with house() as h:
        client = Recorder()
        link = await h.dial(client)
        assert (link.peer, link.role) == ROUTER
        for number in range(500):
            link.send(Cancel(request=str(number)))
        await h.router.until(lambda: len(h.router.messages) == 500)
        assert [m.request for m in h.router.messages if isinstance(m, Cancel)] == [str(n) for n in range(500)]
        commit = Commit(request="r1", context_len=3, tokens=(7,), num_drafted=0, num_accepted=0)
        h.router.links[0].send(Commits(items=(commit,)))
        await client.until(lambda: client.messages == [Commits(items=(commit,))])
        assert (h.router.links[0].peer, h.router.links[0].role) == INGRESS


def test_links_work_on_the_loop_that_ray_installs() -> None:
    # Ray runs async actors on uvloop, whose transports are no asyncio.Transport.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_messages_arrive_in_order_both_ways())


async def test_a_large_record_crosses_whole() -> None:
    async with house() as h:
        link = await h.dial(Recorder())
        large = Generate(
            request="r1",
            tokens=tuple(range(300_000)),
            num_prompt_tokens=1,
            max_context_tokens=400_000,
            params=SamplingParams(),
        )
        link.send(large)
        link.send(CANCEL)
        await h.router.until(lambda: len(h.router.messages) == 2)
        assert h.router.messages == [large, CANCEL]


async def test_frames_split_at_every_byte_are_reassembled() -> None:
    async with house() as h:
        token = h.tokens.issue(INGRESS)
        stream = hello(token) + bytes(to_frame(GENERATE, 4096)) + bytes(to_frame(CANCEL, 4096))
        _, writer = await asyncio.open_connection("127.0.0.1", h.listener.port)
        for offset in range(len(stream)):
            writer.write(stream[offset : offset + 1])
            await asyncio.sleep(0)
        await h.router.until(lambda: h.router.messages == [GENERATE, CANCEL])
        writer.close()


async def test_a_token_is_good_once() -> None:
    async with house() as h:
        invitation = h.invitation()
        await dial(Recorder(), INGRESS, invitation, timeout_s=5)
        with pytest.raises(LinkClosed):
            await dial(Recorder(), INGRESS, invitation, timeout_s=5)
        assert h.router.events == [("opened", INGRESS.peer)]


@pytest.mark.parametrize(
    "identity",
    [Identity("ingress-2", "ingress"), Identity("ingress-1", "verifier"), Identity("ingress-1", "drafter")],
)
async def test_a_token_is_good_for_the_peer_it_was_issued_to(identity: Identity) -> None:
    async with house() as h:
        stolen = h.tokens.issue(INGRESS)
        assert await raw(h.listener.port, hello(stolen, identity)) == b""
        assert h.router.events == []


async def test_a_role_without_business_here_is_refused() -> None:
    async with house() as h:
        stranger = Identity("router-2", "router")
        with pytest.raises(LinkClosed):
            await h.dial(Recorder(), stranger)


async def test_another_protocol_version_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with house() as h:
        token = h.tokens.issue(INGRESS)
        assert await raw(h.listener.port, hello(token, version=PROTOCOL_VERSION + 1)) == b""
        assert "protocol version" in caplog.text


async def test_whoever_says_nothing_is_dropped_at_the_deadline() -> None:
    async with house(LinkSettings(handshake_timeout_s=0.05)) as h:
        assert await raw(h.listener.port, b"") == b""
        assert not h.listener.unproven


async def test_a_hello_in_time_keeps_the_link_past_the_deadline() -> None:
    async with house(LinkSettings(handshake_timeout_s=0.05)) as h:
        link = await h.dial(Recorder())
        await asyncio.sleep(0.15)
        assert not link.is_closed
        assert h.router.events == [("opened", INGRESS.peer)]


async def test_unproven_connections_are_bounded() -> None:
    async with house(LinkSettings(max_unproven=2)) as h:
        held = [await asyncio.open_connection("127.0.0.1", h.listener.port) for _ in range(2)]
        await asyncio.sleep(0.02)
        assert await raw(h.listener.port, b"") == b""
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.02)
        await h.dial(Recorder())


async def test_a_dial_gives_up_at_its_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        invitation = Invitation(ROUTER, "127.0.0.1", silent.getsockname()[1], "token")
        with pytest.raises(TimeoutError):
            await dial(Recorder(), INGRESS, invitation, timeout_s=0.1)


async def test_whoever_answers_in_place_of_the_invited_peer_is_refused() -> None:
    async with house() as h:
        invitation = h.invitation(peer=Identity("router-9", "router"))
        with pytest.raises(LinkClosed):
            await dial(Recorder(), INGRESS, invitation, timeout_s=5)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"\xff\xff\xff\xff", id="oversized"),
        pytest.param(b"\x00\x00\x00\x00", id="empty"),
        pytest.param(b"\x04\x00\x00\x00\xc1\xc1\xc1\xc1", id="not msgpack"),
        pytest.param(b"\x05\x00\x00\x00\xdd\xff\xff\xff\xff", id="endless array"),
        pytest.param(b"\x02\x00\x00\x00\x91\xa0", id="no tag"),
        pytest.param(bytes(to_frame(Need(session=1, epoch=(1, 1), have_len=0), 99)), id="wrong direction"),
        pytest.param(
            bytes(to_frame(Hello(protocol_version=1, token="t", peer="p", role="router"), 99)), id="hello twice"
        ),
        pytest.param(b"\x0a\x00\x00\x00\x92\xa6Nobody\x01\x01", id="unknown tag"),
        pytest.param(b"\x09\x00\x00\x00\x92\xa6Cancel\x01", id="wrong type"),
        pytest.param(b"\x10\x27\x00\x00" + b"\x91" * 10_000, id="deep nesting"),
    ],
)
async def test_a_bad_frame_closes_its_link_and_no_other(bad: bytes) -> None:
    async with house() as h:
        good = await h.dial(Recorder())
        other = Identity("ingress-2", "ingress")
        await raw(h.listener.port, hello(h.tokens.issue(other), other) + bad)
        await h.router.until(lambda: ("closed", "ingress-2") in h.router.events)
        assert h.router.messages == []
        good.send(CANCEL)
        await h.router.until(lambda: h.router.messages == [CANCEL])


async def test_frames_before_a_bad_one_count_and_frames_after_it_do_not() -> None:
    async with house() as h:
        good = bytes(to_frame(CANCEL, 99))
        await raw(h.listener.port, hello(h.tokens.issue(INGRESS)) + good + b"\x01\x00\x00\x00\xc1" + good)
        await h.router.until(lambda: ("closed", INGRESS.peer) in h.router.events)
        assert h.router.messages == [CANCEL]


async def test_an_exception_in_the_endpoint_closes_that_link_only(caplog: pytest.LogCaptureFixture) -> None:
    async with house() as h:

        def explode(link: Link, message: Message) -> None:
            if message == GENERATE:
                raise RuntimeError("no")

        h.router.on_message = explode
        bad, good = await h.dial(Recorder()), await h.dial(Recorder(), Identity("ingress-2", "ingress"))
        bad.send(GENERATE)
        await h.router.until(lambda: ("closed", INGRESS.peer) in h.router.events)
        good.send(CANCEL)
        await h.router.until(lambda: CANCEL in h.router.messages)
        assert "RuntimeError: no" in caplog.text


async def test_a_peer_that_does_not_read_loses_its_link() -> None:
    async with house(LinkSettings(max_buffer_bytes=1 << 20)) as h:
        _, writer = await asyncio.open_connection("127.0.0.1", h.listener.port)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(hello(h.tokens.issue(INGRESS)))
        await h.router.until(lambda: h.router.links)
        link = h.router.links[0]
        commits = Commits(
            items=(Commit(request="x" * 100_000, context_len=1, tokens=(), num_drafted=0, num_accepted=0),)
        )
        while not link.is_closed:
            link.send(commits)
            assert link.buffered_bytes <= 1 << 20
        with pytest.raises(LinkClosed):
            link.send(commits)
        assert h.router.events == [("opened", INGRESS.peer)]
        await h.router.until(lambda: ("closed", INGRESS.peer) in h.router.events)
        assert "unread" in link.close_reason
        writer.transport.abort()


async def test_a_record_over_the_frame_limit_is_the_senders_error() -> None:
    async with house() as h:
        link = await h.dial(Recorder(), settings=LinkSettings(max_frame_bytes=10))
        with pytest.raises(ValueError, match="Generate of"):
            link.send(GENERATE)
        assert not link.is_closed


async def test_close_sends_what_is_buffered_and_tells_both_sides_once() -> None:
    async with house() as h:
        client = Recorder()
        link = await h.dial(client)
        for _ in range(1000):
            link.send(GENERATE)
        link.close()
        link.close()
        assert client.events == [("opened", ROUTER.peer)]
        with pytest.raises(LinkClosed):
            link.send(CANCEL)
        await h.router.until(lambda: ("closed", INGRESS.peer) in h.router.events)
        await client.until(lambda: ("closed", ROUTER.peer) in client.events)
        assert len(h.router.messages) == 1000
        assert h.router.links[0].is_closed
        assert client.events.count(("closed", ROUTER.peer)) == 1


async def test_a_peer_that_dials_again_replaces_its_link() -> None:
    async with house() as h:
        first = await h.dial(Recorder())
        second = await h.dial(Recorder())
        assert h.router.events == [("opened", INGRESS.peer), ("closed", INGRESS.peer), ("opened", INGRESS.peer)]
        second.send(CANCEL)
        await h.router.until(lambda: h.router.messages == [CANCEL])
        await asyncio.sleep(0.02)
        assert first.is_closed
        assert not second.is_closed
        assert len(h.router.events) == 3


async def test_a_closed_listener_drops_links_and_strangers() -> None:
    async with house() as h:
        client = Recorder()
        await h.dial(client)
        stranger, writer = await asyncio.open_connection("127.0.0.1", h.listener.port)
        await asyncio.sleep(0.02)
        h.listener.close()
        await client.until(lambda: ("closed", ROUTER.peer) in client.events)
        assert await stranger.read() == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await h.dial(Recorder())


async def test_the_first_free_port_of_the_range_is_taken() -> None:
    async with house() as h:
        taken = h.listener.port
        with pytest.raises(OSError, match=r"streams\.port_range"):
            await listen(Recorder(), ROUTER, TokenBook(), "127.0.0.1", range(taken, taken + 1))
        second = await listen(Recorder(), ROUTER, TokenBook(), "127.0.0.1", range(taken, taken + 20))
        assert taken < second.port < taken + 20
        second.close()


def test_tokens_expire_and_are_bounded() -> None:
    now = 0.0
    book = TokenBook(lifetime_s=10, clock=lambda: now)
    early = book.issue(INGRESS)
    now = 10.0
    assert not book.redeem(INGRESS, early)
    many = [book.issue(INGRESS) for _ in range(40)]
    assert not book.redeem(INGRESS, many[0])
    assert book.redeem(INGRESS, many[-1])
    assert not book.redeem(INGRESS, many[-1])
    assert len(set(many)) == 40


@pytest.fixture(autouse=True)
def _show_link_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="outrider.link")
