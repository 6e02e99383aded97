"""Router, verifier and drafter as plain processes of this machine, linked by real streams: a deployment without Ray.

    with running_roles() as roles:       # the caller is the ingress
        client, close = await roles.connect()

Each process serves what its deployment would serve for the same configuration. Ray's part (placement, health, leases)
is no part of a round, so the rounds are the same, and a start takes a few seconds.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from deployments.config import OutriderConfig, parse
from deployments.ingress.generation import RouterClient
from deployments.link import Identity, Invitation, Link, TokenBook, dial, listen
from deployments.messages import Role
from deployments.metering import Meter
from deployments.replica import quicken, settle
from deployments.service_host import Service

PORTS = range(23_600, 23_650)
HOST = "127.0.0.1"
READY_TIMEOUT_S = 180.0
INGRESS = Identity("ingress", "ingress")
DIALS: dict[Role, tuple[Role, ...]] = {"drafter": (), "verifier": ("drafter",), "router": ("verifier", "drafter")}
"""Whom each role dials, in the order in which they start."""


@dataclass(frozen=True, slots=True)
class Roles:
    """What is running, and the way in: for one ingress, as a token is good once."""

    router: Invitation

    async def connect(self) -> tuple[RouterClient, Link]:
        """The ingress's client and its link; the router has a verifier and a drafter."""
        client = RouterClient()
        return client, await dial(client, INGRESS, self.router, timeout_s=10.0)


@contextmanager
def running_roles(config: OutriderConfig | None = None) -> Iterator[Roles]:
    """Start the three roles of a configuration (the pocket pair's without one), and end them."""
    resolved = (config or OutriderConfig()).resolve()
    context = multiprocessing.get_context("spawn")
    processes = []
    pipes: dict[Role, Connection] = {}
    ports: dict[Role, int] = {}
    try:
        for role in DIALS:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(resolved.model_dump(mode="json"), role, there), daemon=True)
            process.start()
            processes.append(process)
            pipes[role] = here
        for role, pipe in pipes.items():
            if not pipe.poll(READY_TIMEOUT_S):
                raise TimeoutError(f"the {role} was not ready after {READY_TIMEOUT_S:.0f} s")
            ports[role] = pipe.recv()
        for role, peers in DIALS.items():
            for peer in peers:
                pipes[role].send(_invite(pipes, ports, peer, Identity(role, role)))
                pipes[role].recv()
        yield Roles(_invite(pipes, ports, "router", INGRESS))
    finally:
        for pipe in pipes.values():
            pipe.close()
        for process in processes:
            process.join(5)  # the closed pipe ends it
            process.terminate()


def _invite(pipes: dict[Role, Connection], ports: dict[Role, int], role: Role, guest: Identity) -> Invitation:
    pipes[role].send(guest)
    return Invitation(Identity(role, role), HOST, ports[role], pipes[role].recv())


def _serve(fields: dict[str, object], role: Role, pipe: Connection) -> None:
    """A role's process: tells its port, then issues tokens and dials as it is told, until the pipe closes."""
    quicken()
    # The selector loop, as a data plane has.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(_run(fields, role, pipe))


async def _run(fields: dict[str, object], role: Role, pipe: Connection) -> None:
    service = _service(parse(fields), role)
    settle()
    tokens, identity = TokenBook(), Identity(role, role)
    listener = await listen(service, identity, tokens, HOST, PORTS)
    work = asyncio.create_task(service.run())
    work.add_done_callback(_tell_and_end)
    pipe.send(listener.port)
    while True:
        try:
            asked = await asyncio.to_thread(pipe.recv)
        except EOFError:
            break
        if isinstance(asked, Identity):
            pipe.send(tokens.issue(asked))
        else:
            await dial(service, identity, asked, timeout_s=10.0)
            pipe.send(None)
    work.cancel()
    listener.close()


def _tell_and_end(work: asyncio.Task[None]) -> None:
    """A role whose work has failed is gone, as its replica would be: a thread that waits for the pipe would keep it."""
    if not work.cancelled():
        traceback.print_exception(work.exception())
        os._exit(1)


def _service(config: OutriderConfig, role: Role) -> Service:
    # Here: a process loads what its own role needs.
    if role == "router":
        from deployments.router.building import build_service as build_router

        return build_router(config, Meter())
    if role == "verifier":
        from deployments.distributions import DistributionStore
        from deployments.verifier.building import build_engine
        from deployments.verifier.serving import build_service as build_verifier

        return build_verifier(config, build_engine(config), Meter(), DistributionStore())
    from deployments.drafter.building import build_service as build_drafter

    return build_drafter(config, "mtp", Meter())
