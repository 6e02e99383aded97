"""From a resolved configuration to a router's service."""

from __future__ import annotations

import secrets

from deployments.config import OutriderConfig
from deployments.metering import Meter
from deployments.router.service import RouterService, RouterSettings


def build_service(config: OutriderConfig, meter: Meter) -> RouterService:
    """A router with no session yet; its instance number is drawn, so that no two epochs are alike."""
    router, speculation = config.router, config.speculation
    settings = RouterSettings(
        max_sessions=router.max_sessions,
        drafter=speculation.drafter,
        policy=speculation.policy,
        num_speculative_tokens=speculation.num_speculative_tokens,
        max_speculative_tokens=speculation.max_speculative_tokens,
        proposal_timeout_s=router.proposal_timeout_s,
        verify_timeout_s=router.verify_timeout_s,
        placement_timeout_s=router.placement_timeout_s,
    )
    return RouterService(settings, instance=secrets.randbits(31), meter=meter)
