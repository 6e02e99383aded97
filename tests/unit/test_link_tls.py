"""Streams with certificates: who has none of the cluster's own is refused, and costs the others nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from pathlib import Path

import pytest
import uvloop

from deployments.link import LinkClosed, LinkSettings, StreamTls, TlsFiles
from deployments.messages import Cancel, Commit, Commits, Generate, SamplingParams
from tests.support.certificates import Issued, issue, make_authority, settings_with, write_files
from tests.unit.test_link import CANCEL, INGRESS, House, Recorder, hello, house, raw

AUTHORITY = make_authority(1)
OWN = issue(AUTHORITY, 1)
OTHER_AUTHORITY = make_authority(1)


@pytest.fixture
def tls(tmp_path: Path) -> LinkSettings:
    return settings_with(tmp_path / "good", AUTHORITY, OWN)


async def check_that_others_go_on(h: House, tls: LinkSettings) -> None:
    client = Recorder()
    link = await h.dial(client, settings=tls)
    link.send(CANCEL)
    await h.router.until(lambda: h.router.messages[-1:] == [CANCEL])
    assert not h.listener.unproven


async def test_messages_arrive_in_order_both_ways(tls: LinkSettings) -> None:
    async with house(tls) as h:
        client = Recorder()
        link = await h.dial(client, settings=tls)
        large = Generate(
            request="r",
            tokens=tuple(range(300_000)),
            num_prompt_tokens=1,
            max_context_tokens=400_000,
            params=SamplingParams(),
        )
        for number in range(300):
            link.send(Cancel(request=str(number)))
        link.send(large)
        await h.router.until(lambda: len(h.router.messages) == 301)
        assert [m.request for m in h.router.messages if isinstance(m, Cancel)] == [str(n) for n in range(300)]
        assert h.router.messages[-1] == large
        h.router.links[0].send(Commits(items=()))
        await client.until(lambda: client.messages == [Commits(items=())])


def test_tls_works_on_the_loop_that_ray_installs(tls: LinkSettings) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_messages_arrive_in_order_both_ways(tls))


@pytest.mark.parametrize(
    ("own", "trusted", "said"),
    [
        pytest.param(issue(OTHER_AUTHORITY, 1), AUTHORITY, "certificate verify failed", id="another authority's"),
        pytest.param(issue(AUTHORITY, -0.01), AUTHORITY, "certificate has expired", id="expired"),
        pytest.param(OTHER_AUTHORITY, AUTHORITY, "certificate verify failed", id="self-signed"),
    ],
)
async def test_a_dialler_with_a_bad_certificate_is_refused_and_the_others_go_on(
    tmp_path: Path, tls: LinkSettings, own: Issued, trusted: Issued, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = settings_with(tmp_path / "bad", trusted, own)
    async with house(tls) as h:
        earlier = await h.dial(Recorder(), settings=tls)
        with pytest.raises(LinkClosed):
            await h.dial(Recorder(), settings=bad)
        assert said in caplog.text
        assert h.router.events == [("opened", INGRESS.peer)]
        assert not earlier.is_closed
        await check_that_others_go_on(h, tls)


@pytest.mark.parametrize("own", [issue(OTHER_AUTHORITY, 1), issue(AUTHORITY, -0.01)], ids=["another's", "expired"])
async def test_a_listener_with_a_bad_certificate_is_refused_by_whoever_dials(
    tmp_path: Path, tls: LinkSettings, own: Issued
) -> None:
    async with house(settings_with(tmp_path / "bad", AUTHORITY, own)) as h:
        with pytest.raises(LinkClosed, match="certificate"):
            await h.dial(Recorder(), settings=tls)
        assert h.router.events == []


async def test_a_dialler_without_a_certificate_is_refused(
    tmp_path: Path, tls: LinkSettings, caplog: pytest.LogCaptureFixture
) -> None:
    trusting = ssl.create_default_context(cafile=write_files(tmp_path / "ca", AUTHORITY, OWN).ca_file)
    trusting.check_hostname = False
    async with house(tls) as h:
        reader, writer = await asyncio.open_connection("127.0.0.1", h.listener.port, ssl=trusting)
        writer.write(hello(h.tokens.issue(INGRESS)))
        with contextlib.suppress(ssl.SSLError, ConnectionError):  # the refusal, or an end where it comes too late
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.transport.abort()
        assert "did not return a certificate" in caplog.text
        assert h.router.events == []
        await check_that_others_go_on(h, tls)


async def test_plain_tcp_and_tls_do_not_mix(tls: LinkSettings) -> None:
    async with house(tls) as h:
        assert hello("x") not in await raw(h.listener.port, hello(h.tokens.issue(INGRESS)))
        with pytest.raises(LinkClosed):
            await h.dial(Recorder(), settings=LinkSettings())
        assert h.router.events == []
        await check_that_others_go_on(h, tls)
    async with house() as h:
        with pytest.raises(LinkClosed):
            await h.dial(Recorder(), settings=tls)
        assert h.router.events == []


async def test_older_versions_of_tls_are_refused(tmp_path: Path, tls: LinkSettings) -> None:
    files = write_files(tmp_path / "old", AUTHORITY, OWN)
    old = ssl.create_default_context(cafile=files.ca_file)
    old.check_hostname = False
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.load_cert_chain(files.cert_file, files.key_file)
    async with house(tls) as h:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", h.listener.port, ssl=old)


async def test_silence_in_the_handshake_ends_at_the_deadline_and_is_bounded(tmp_path: Path) -> None:
    files = write_files(tmp_path / "good", AUTHORITY, OWN)
    slow = LinkSettings(tls=StreamTls(files), handshake_timeout_s=2.0, max_unproven=2)
    async with house(slow) as h, asyncio.timeout(60):
        held = [await asyncio.open_connection("127.0.0.1", h.listener.port) for _ in range(2)]
        while len(h.listener.unproven) < 2:
            await asyncio.sleep(0.01)
        assert await raw(h.listener.port, b"") == b""  # one too many: at once
        assert len(h.listener.unproven) == 2
        for reader, writer in held:
            assert await reader.read() == b""
            writer.close()
        await check_that_others_go_on(h, slow)


async def test_a_peer_that_does_not_read_loses_its_link(tmp_path: Path) -> None:
    files = write_files(tmp_path / "good", AUTHORITY, OWN)
    bounded = LinkSettings(tls=StreamTls(files), max_buffer_bytes=4 << 20)
    async with house(bounded) as h:
        client = await h.dial(Recorder(), settings=bounded)
        client._wire.pause_reading()
        link = h.router.links[0]
        commit = Commit(request="x" * 200_000, context_len=1, tokens=(), num_drafted=0, num_accepted=0)
        for _ in range(1000):
            if link.is_closed:
                break
            link.send(Commits(items=(commit,)))
            assert link.buffered_bytes <= 4 << 20
            await asyncio.sleep(0)
        assert "unread" in link.close_reason
        client.fail("over")


async def test_what_waits_below_tls_is_counted(tls: LinkSettings) -> None:
    async with house(tls) as h:
        client = await h.dial(Recorder(), settings=tls)
        client._wire.pause_reading()
        commit = Commit(request="x" * (32 << 20), context_len=1, tokens=(), num_drafted=0, num_accepted=0)
        h.router.links[0].send(Commits(items=(commit,)))
        assert h.router.links[0].buffered_bytes > 16 << 20
        client.fail("over")


async def test_close_sends_what_is_buffered(tls: LinkSettings) -> None:
    async with house(tls) as h:
        client = Recorder()
        link = await h.dial(client, settings=tls)
        for _ in range(1000):
            link.send(CANCEL)
        link.close()
        await h.router.until(lambda: ("closed", INGRESS.peer) in h.router.events)
        await client.until(lambda: ("closed", "router-1") in client.events)
        assert len(h.router.messages) == 1000


async def test_renewed_certificates_serve_new_links_without_a_restart(tmp_path: Path) -> None:
    files = write_files(tmp_path / "own", AUTHORITY, issue(AUTHORITY, -0.01))
    ours = StreamTls(files)
    ours._watched._period_s = 0.0
    peer = settings_with(tmp_path / "peer", AUTHORITY, OWN)
    async with house(LinkSettings(tls=ours)) as h:
        with pytest.raises(LinkClosed):
            await h.dial(Recorder(), settings=peer)
        write_files(tmp_path / "own", AUTHORITY, OWN)
        link = await h.dial(Recorder(), settings=peer)
        files.key_file.write_text("half written")
        assert not link.is_closed
        await h.dial(Recorder(), settings=peer)  # what was good stays in force


@pytest.mark.parametrize("name", ["ca_file", "cert_file", "key_file"])
@pytest.mark.parametrize("content", [None, b"", b"nonsense", OTHER_AUTHORITY.key_pem])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    files = write_files(tmp_path, AUTHORITY, OWN)
    file: Path = getattr(files, name)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"streams\.tls\..*{file.name}"):
        StreamTls(TlsFiles(files.ca_file, files.cert_file, files.key_file))


@pytest.fixture(autouse=True)
def _show_link_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="outrider.link")
