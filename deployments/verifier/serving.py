"""From an engine and a resolved configuration to a verifier's service."""

from __future__ import annotations

from deployments.config import OutriderConfig
from deployments.distributions import DistributionStore
from deployments.metering import Meter
from deployments.pacing import Pace, PacedService
from deployments.policy.hardware import pairs, timings
from deployments.service_host import Service
from deployments.verifier.engine import VerifierEngine
from deployments.verifier.service import VerifierService, VerifierSettings
from deployments.verifier.warm_up import time_steps


def build_service(config: OutriderConfig, engine: VerifierEngine, meter: Meter, store: DistributionStore) -> Service:
    """Time a few steps, unless named hardware says what they take, and put a service around the engine."""
    engine.memory.report(meter, "verifier")
    verifier = config.verifier
    settings = VerifierSettings(
        max_step_tokens=verifier.max_step_tokens,
        prompt_tokens=verifier.prompt_tokens,
        max_lookahead=config.speculation.max_speculative_tokens,
        reuses_prefixes=verifier.prefix_reuse,
        # Drafts inside this process do not run beside its steps.
        can_split=not config.colocated_kinds,
    )
    if verifier.paced is not None:
        pair = pairs()[verifier.paced]
        pace = Pace(verifier.paced, "verifier", pair.verify.predict, meter)
        known = timings(pair, settings.max_lookahead, settings.prompt_tokens)
        return PacedService(VerifierService(engine, settings, meter, known, store, pace), pace)
    measured = time_steps(engine, settings.budget, max_lookahead=settings.max_lookahead, budget_s=verifier.warm_up_s)
    return VerifierService(engine, settings, meter, measured, store)
