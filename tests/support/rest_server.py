"""The REST service on a real port, behind a fake router on a real stream, all on the test's event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from deployments.ingress.access import Access
from deployments.ingress.admission import Admission
from deployments.ingress.app import create_app
from deployments.ingress.context import ApiLimits, IngressContext
from deployments.ingress.fake_router import FakeRouter
from deployments.ingress.generation import FlowLimits, RouterClient
from deployments.link import Identity, Invitation, Listener, TokenBook, dial, listen
from tests.support.rest import make_context, plain_ids
from tests.support.tiny_tokenizer import END_OF_TURN_ID

INGRESS = Identity("ingress-0", "ingress")
PORTS = range(26000, 27000)


@dataclass
class RestServer:
    """A running service. `routers` may be added, and lost, at any time."""

    url: str
    client: RouterClient
    context: IngressContext
    routers: list[FakeRouter] = field(default_factory=list)
    listeners: list[Listener] = field(default_factory=list)

    async def add(self, router: FakeRouter) -> FakeRouter:
        """Start a router and link the ingress to it."""
        identity, book = Identity(f"router-{len(self.routers)}", "router"), TokenBook()
        listener = await listen(router, identity, book, "127.0.0.1", PORTS)
        invitation = Invitation(identity, "127.0.0.1", listener.port, book.issue(INGRESS))
        await dial(self.client, INGRESS, invitation, timeout_s=5)
        self.routers.append(router)
        self.listeners.append(listener)
        return router


def answering(server: RestServer, text: str, **options: float) -> FakeRouter:
    """A router that answers everything with this text."""
    tokens = [*plain_ids(server.context, text), END_OF_TURN_ID]
    return FakeRouter(reply=lambda generate: tokens, **options)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it, ten seconds at most."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come about within 10 s")


@asynccontextmanager
async def serve(
    folder: Path,
    flow: FlowLimits | None = None,
    access: Access | None = None,
    admission: Admission | None = None,
    allowed_origins: Sequence[str] = (),
    **limits: int | float,
) -> AsyncIterator[RestServer]:
    """Serve the tiny model on a free port of 127.0.0.1, without any router yet."""
    client = RouterClient(flow)
    context = make_context(folder, client, ApiLimits(max_num_speculative_tokens=8, **limits), max_model_len=4096)  # type: ignore[arg-type]
    app = create_app(context, access=access, admission=admission, allowed_origins=allowed_origins)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)  # a slow reader shall be felt soon
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        running = asyncio.ensure_future(server.serve(sockets=[sock]))
        for _ in range(2000):
            if server.started:
                break
            await asyncio.sleep(0.005)
        rest = RestServer(f"http://127.0.0.1:{sock.getsockname()[1]}", client, context)
        try:
            yield rest
        finally:
            for listener in rest.listeners:
                listener.close()
            server.should_exit = True
            await running
