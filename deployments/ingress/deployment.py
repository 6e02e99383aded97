"""The ingress on Ray Serve: the REST app, and its links to the routers on the same loop."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.discovery import Lessors, own_name
from cluster.exporter import RayExporter
from cluster.logs import own_rank, replica_handlers
from deployments.config import IngressConfig, OutriderConfig, parse
from deployments.ingress.access import Access
from deployments.ingress.admission import Admission, AdmissionLimits
from deployments.ingress.app import create_app
from deployments.ingress.context import ApiLimits, Measuring, load_context
from deployments.ingress.generation import RouterClient
from deployments.link import Identity
from deployments.live_config import parse_user_config
from deployments.logs import set_up
from deployments.messages import Sample
from deployments.metering import Meter
from deployments.peers import Member, PeerSet
from deployments.replica import export_regularly, follow, link_settings, quicken, settle
from deployments.reporting import PERIOD_S, Reporter
from deployments.signals import ingress_reader


@serve.ingress()
class Ingress:
    """One replica of the ingress; `config` is a resolved configuration."""

    def __init__(self, config: dict[str, Any], router: DeploymentHandle[Any]) -> None:
        quicken()
        settings = parse(config)
        identity = Identity(own_name(), "ingress")
        set_up(settings.logs, identity, own_rank(), replica_handlers())
        lessors = Lessors(router)
        meter = Meter()
        client = RouterClient(meter=meter)
        reporter = Reporter(client, identity, meter)
        context_len = settings.model.max_context_tokens
        context = load_context(
            Path(settings.model.model_source),
            settings.model.model_id,
            client,
            max_model_len=context_len if isinstance(context_len, int) else None,
            limits=ApiLimits(
                max_num_speculative_tokens=settings.speculation.max_speculative_tokens,
                drafters=settings.drafters,
                acceptances=settings.acceptances,
                max_body_bytes=settings.ingress.max_body_bytes,
                max_prompt_tokens=settings.ingress.max_prompt_tokens,
                max_output_tokens=settings.ingress.max_output_tokens,
                max_request_s=settings.ingress.max_request_s,
                reports_speculation=settings.ingress.report_speculation,
            ),
            measuring=Measuring(meter=meter, totals=reporter.totals),
        )

        self._context = replace(context, model=replace(context.model, paced=settings.paced))
        self._settings = settings
        self._access, self._admission = access_of(settings.ingress), admission_of(settings)

        async def acquire(member: Member) -> Any:
            return await lessors.acquire(member.identity.peer, *identity)

        self._peers = PeerSet(reporter, identity, acquire, settings=link_settings(settings.streams), meter=meter)
        loop = asyncio.get_running_loop()
        follow(lessors, self._peers, loop)

        async def read() -> tuple[Sample, ...]:
            return meter.samples()

        exporting = export_regularly(read, RayExporter().export)
        self._meter, self._signals = meter, ingress_reader(settings.autoscaling)
        sharing = share_regularly(self._admission, reporter)
        self._tasks = [loop.create_task(work) for work in (reporter.report_regularly(), exporting, sharing)]
        settle()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Serve every few seconds where it autoscales; its policy reads them (autoscaling/)."""
        return self._signals.read(self._meter.samples())

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Called by Serve at the start and whenever `user_config` has changed; nothing restarts. ValueError."""
        live = parse_user_config(user_config, self._settings)
        self._context.metrics.prepare(live.variants)
        self._context.variants.replace(live.variants)
        self._admission.run_at_most(live.max_running_requests)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve after the constructor."""
        return create_app(
            self._context,
            access=self._access,
            admission=self._admission,
            allowed_origins=self._settings.ingress.allowed_origins,
            has_proxy=True,
        )

    async def __del__(self) -> None:
        """Awaited by Serve when the replica has drained."""
        for task in getattr(self, "_tasks", ()):
            task.cancel()
        if (peers := getattr(self, "_peers", None)) is not None:
            await peers.close()


def access_of(ingress: IngressConfig) -> Access:
    """Who may ask; OSError or ValueError if the keys file cannot be used."""
    file = None if ingress.keys_file is None else Path(ingress.keys_file)
    return Access.load(file, num_replicas=ingress.num_replicas, metrics_need_key=ingress.metrics_need_key)


def admission_of(config: OutriderConfig) -> Admission:
    """How much one replica of the ingress takes in."""
    ingress = config.ingress
    return Admission(
        AdmissionLimits(
            max_running=config.max_running_requests,
            max_waiting=ingress.max_waiting_requests,
            max_wait_s=ingress.max_wait_s,
            num_replicas=ingress.num_replicas,
        )
    )


async def share_regularly(admission: Admission, reporter: Reporter) -> None:
    """Let the front door know how many replicas share its bounds, until cancelled."""
    while True:
        await asyncio.sleep(PERIOD_S)
        if (num_replicas := reporter.num_replicas("ingress")) is not None:
            admission.share_among(num_replicas)
