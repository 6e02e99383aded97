"""The Serve application:  ingress -> router -> verifier -> drafter, and router -> drafter of every kind.

`deployments.app:build` is the import path that Serve's configuration files name.
"""

from __future__ import annotations

import warnings
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from cluster.discovery import request_router_config
from deployments.config import OutriderConfig, RoleConfig, parse
from deployments.drafter import building
from deployments.drafter.deployment import Drafter
from deployments.ingress.deployment import Ingress
from deployments.live_config import arguments_of, user_config
from deployments.roles import DEPLOYMENT_OF_KIND, replica_of, scale_of
from deployments.router.deployment import Router
from deployments.verifier.deployment import Verifier

APP_NAME = "outrider"
_MAX_QUEUED_AT_PROXY = 4096
"""Requests on their way through one proxy; Serve counts those that it is just handing over, so bursts are high."""


def build(args: dict[str, Any]) -> Application:
    """The application of a configuration, given as the fields of an OutriderConfig; ConfigError if they are wrong."""
    config = parse(args).resolve()
    # What may change without a restart is no part of what the replicas are made from.
    live = user_config(config)
    fields = arguments_of(config).model_dump(mode="json")
    drafters = {
        kind: serve.deployment(**_options(DEPLOYMENT_OF_KIND[kind], role, config))(Drafter).bind(fields, kind)
        for kind, role in config.drafter_roles.items()
    }
    verifier_options = _options("verifier", config.verifier, config)
    verifier = serve.deployment(**verifier_options)(Verifier).bind(fields, drafters.get("mtp"), building)
    router_options = _options("router", config.router, config)
    router = serve.deployment(**router_options)(Router).bind(fields, verifier, *drafters.values())
    return serve.deployment(**_ingress_options(config))(Ingress).options(user_config=live).bind(fields, router)


def _options(name: str, role: RoleConfig, config: OutriderConfig) -> dict[str, Any]:
    # No runtime_env: it would keep replicas from using the processes that Ray starts ahead.
    return {
        "name": name,
        **_replicas(name, config),
        **replica_of(role).serve_options(),
        "max_ongoing_requests": role.max_leases,
        "request_router_config": request_router_config(),
        "health_check_period_s": role.health_check_period_s,
        "health_check_timeout_s": role.health_check_timeout_s,
        "graceful_shutdown_timeout_s": role.drain_s,
        "graceful_shutdown_wait_loop_s": 0.2,
        # For the few lines that Serve writes before the replica sets up its own.
        "logging_config": {"encoding": "JSON" if config.logs.format == "json" else "TEXT"},
    }


def _replicas(name: str, config: OutriderConfig) -> dict[str, Any]:
    """A fixed number, or bounds for the policy that Serve's application has (cli/config_cmd.py names it)."""
    scaling, scale = config.autoscaling, scale_of(name, config)
    if not scaling.enabled:
        return {"num_replicas": scale.first}
    with warnings.catch_warnings():
        # Of the period, for which Serve 2.60 has no other option yet: the variable that it names has no effect.
        warnings.simplefilter("ignore", DeprecationWarning)
        made = AutoscalingConfig(
            min_replicas=scale.least,
            initial_replicas=scale.first,
            max_replicas=scale.most,
            metrics_interval_s=scaling.period_s,
            look_back_period_s=scaling.look_back_s,
            # Delays and cool-downs are the policy's own.
            upscale_delay_s=0.0,
            downscale_delay_s=0.0,
        )
    return {"autoscaling_config": made}


def _ingress_options(config: OutriderConfig) -> dict[str, Any]:
    options = _options("ingress", config.ingress, config)
    del options["request_router_config"]  # its caller is Serve's proxy
    return {
        **options,
        "max_ongoing_requests": config.max_ongoing_requests,
        # The ingress refuses what is too much, in OpenAI's shape; Serve only what even that has no time for.
        "max_queued_requests": _MAX_QUEUED_AT_PROXY,
        "backpressure_config": BackpressureConfig(status_code=503, retry_after_s=1),
    }
