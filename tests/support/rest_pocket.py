"""The REST service over real engines, routers and streams, all in the test's event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn

from deployments.drafter.engine import DrafterEngine
from deployments.drafter.token_engine import TokenDrafterEngine
from deployments.ingress.app import create_app
from deployments.ingress.context import IngressContext, load_context
from deployments.verifier.engine import VerifierEngine
from tests.support.pocket import TARGET
from tests.support.rig import running_rig


@asynccontextmanager
async def serving_pocket(
    verifier: VerifierEngine, drafters: Sequence[DrafterEngine], token_drafters: Sequence[TokenDrafterEngine] = ()
) -> AsyncIterator[tuple[str, IngressContext]]:
    """The service's address and context."""
    async with running_rig(verifiers=[verifier], drafters=drafters, token_drafters=token_drafters) as rig:
        context = load_context(Path(TARGET), "pocket", rig.client, max_model_len=1024)
        with socket.create_server(("127.0.0.1", 0)) as sock:
            config = uvicorn.Config(create_app(context), log_level="warning", lifespan="off")
            server = uvicorn.Server(config)
            server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
            running = asyncio.ensure_future(server.serve(sockets=[sock]))
            while not server.started and not running.done():
                await asyncio.sleep(0.005)
            try:
                yield f"http://127.0.0.1:{sock.getsockname()[1]}", context
            finally:
                server.should_exit = True
                await running
