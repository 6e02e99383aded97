"""What mutual TLS costs a stream: round trips between two processes, plain and with certificates, in turns.

    python -m evaluation.load.streams

A small trip is a Delta without a payload and its answer; the others carry what one round of a
remote MTP drafter carries for one session (24 and 96 KiB), and a slice of a prompt (1 MiB). The
shortest of many runs is what a shared machine disturbs least; CPU time is the sender's, the median.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from deployments.cli.certificates import issue, make_authority
from deployments.link import Identity, Invitation, Link, LinkSettings, StreamTls, TlsFiles, TokenBook, dial, listen
from deployments.messages import Delta, DeltaItem, KvRange, Message, Need

DRAFTER, VERIFIER = Identity("drafter", "drafter"), Identity("verifier", "verifier")
PORTS = range(23_900, 23_950)
SIZES_BYTES = (0, 24_576, 98_304, 1 << 20)
REPEATS = 30
SECONDS_PER_REPEAT = 0.12


class Echo:
    """A drafter that answers every Delta at once."""

    def link_opened(self, link: Link) -> None: ...

    def received(self, link: Link, message: Message) -> None:
        link.send(Need(session=1, epoch=(1, 1), have_len=0))

    def link_closed(self, link: Link) -> None: ...


class Caller:
    """A verifier that waits for the answer before it sends on."""

    def __init__(self) -> None:
        self.answered = asyncio.Event()

    def link_opened(self, link: Link) -> None: ...

    def received(self, link: Link, message: Message) -> None:
        self.answered.set()

    def link_closed(self, link: Link) -> None: ...


def settings_of(folder: Path | None) -> LinkSettings:
    """Plain without a folder of certificates."""
    if folder is None:
        return LinkSettings()
    return LinkSettings(tls=StreamTls(TlsFiles(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")))


def serve_echo(folder: Path | None, pipe: Connection) -> None:
    """The other process: tells its port and a token, then echoes until the pipe closes."""

    async def serve() -> None:
        tokens = TokenBook()
        listener = await listen(Echo(), DRAFTER, tokens, "127.0.0.1", PORTS, settings_of(folder))
        pipe.send((listener.port, tokens.issue(VERIFIER)))
        await asyncio.to_thread(pipe.poll, None)

    asyncio.run(serve())


async def trip_us(caller: Caller, link: Link, num_bytes: int) -> tuple[float, float]:
    """Mean round trip of one run, and this process's CPU time for it; microseconds."""
    ranges = (KvRange(layer_type="full_attention", start=0, stop=1, keys=os.urandom(num_bytes), values=b""),)
    item = DeltaItem(session=1, epoch=(1, 1), context_len=2, last_token=3, lookahead=4, ranges=ranges, hidden=b"")
    delta, num_trips = Delta(items=(item,)), 0
    begun_s, cpu_s = time.perf_counter(), time.process_time()
    while (taken_s := time.perf_counter() - begun_s) < SECONDS_PER_REPEAT:
        caller.answered.clear()
        link.send(delta)
        await caller.answered.wait()
        num_trips += 1
    return 1e6 * taken_s / num_trips, 1e6 * (time.process_time() - cpu_s) / num_trips


async def measure(folder: Path) -> None:
    """Print a table of medians."""
    calls: dict[str, tuple[Caller, Link]] = {}
    pipes = []  # a process ends with its pipe
    for name, certificates in (("plain", None), ("TLS", folder)):
        here, there = multiprocessing.get_context("spawn").Pipe()
        multiprocessing.get_context("spawn").Process(target=serve_echo, args=(certificates, there), daemon=True).start()
        pipes.append(here)
        port, token = await asyncio.to_thread(here.recv)
        caller = Caller()
        invitation = Invitation(DRAFTER, "127.0.0.1", port, token)
        begun_s = time.perf_counter()
        link = await dial(caller, VERIFIER, invitation, timeout_s=10, settings=settings_of(certificates))
        print(f"{name}: link opened in {1e3 * (time.perf_counter() - begun_s):.1f} ms")
        calls[name] = caller, link
    print("\n| payload, bytes | plain, us | TLS, us | plain, CPU us | TLS, CPU us |\n|---|---|---|---|---|")
    for num_bytes in SIZES_BYTES:
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for _ in range(REPEATS):
            for name, (caller, link) in calls.items():
                runs[name].append(await trip_us(caller, link, num_bytes))
        wall = [min(trip for trip, _ in runs[name]) for name in calls]
        cpu = [statistics.median(used for _, used in runs[name]) for name in calls]
        print(f"| {num_bytes} | " + " | ".join(f"{value:.0f}" for value in (*wall, *cpu)) + " |", flush=True)


def main() -> None:
    """Make certificates, measure, print."""
    with tempfile.TemporaryDirectory() as name:
        folder, authority = Path(name), make_authority(1)
        own = issue(authority, 1)
        for file, content in (("ca.crt", authority.pem), ("tls.crt", own.pem), ("tls.key", own.key_pem)):
            (folder / file).write_bytes(content)
        asyncio.run(measure(folder))


if __name__ == "__main__":
    main()
