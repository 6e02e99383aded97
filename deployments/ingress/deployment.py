"""The ingress on Ray Serve: the REST app, and its links to the routers on the same loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.discovery import Lessors, own_name
from deployments.config import parse
from deployments.ingress.app import create_app
from deployments.ingress.context import ApiLimits, load_context
from deployments.ingress.generation import RouterClient
from deployments.link import Identity
from deployments.peers import Member, PeerSet
from deployments.replica import follow, link_settings, quicken, settle


@serve.ingress()
class Ingress:
    """One replica of the ingress; `config` is a resolved configuration."""

    def __init__(self, config: dict[str, Any], router: DeploymentHandle[Any]) -> None:
        quicken("ingress")
        settings = parse(config)
        identity = Identity(own_name(), "ingress")
        lessors = Lessors(router)
        client = RouterClient()
        context_len = settings.model.max_context_tokens
        self._context = load_context(
            Path(settings.model.model_source),
            settings.model.model_id,
            client,
            max_model_len=context_len if isinstance(context_len, int) else None,
            limits=ApiLimits(
                max_num_speculative_tokens=settings.speculation.max_speculative_tokens,
                drafters=settings.drafters,
                max_body_bytes=settings.ingress.max_body_bytes,
                max_request_s=settings.ingress.max_request_s,
                reports_speculation=settings.ingress.report_speculation,
            ),
        )

        async def acquire(member: Member) -> Any:
            return await lessors.acquire(member.identity.peer, *identity)

        self._peers = PeerSet(client, identity, acquire, settings=link_settings(settings.streams))
        follow(lessors, self._peers, asyncio.get_running_loop())
        settle()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve after the constructor."""
        return create_app(self._context, has_proxy=True)

    async def __del__(self) -> None:
        """Awaited by Serve when the replica has drained."""
        if (peers := getattr(self, "_peers", None)) is not None:
            await peers.close()
