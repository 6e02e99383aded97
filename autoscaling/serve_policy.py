"""The policy as Ray Serve calls it: contexts of an application's deployments in, replica counts out.

Serve makes one instance in its controller and calls it ten times a second; `AutoscalingContext` is read by attribute,
so nothing of ray is imported. What the policy remembers lies in the verifier deployment's policy state.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from autoscaling.fleet import Drafters, Fleet, Verifiers
from autoscaling.policy import Rules, State, decide
from deployments.config_parts import AutoscalingConfig
from deployments.policy.signals import DrafterSignals, IngressSignals, RouterSignals, Signals, VerifierSignals

# A child of Serve's logger, so that decisions stand in the controller's log beside what Serve made of them.
logger = logging.getLogger("ray.serve.outrider")

DRAFTERS = ("drafter", "draft_model")
"""The deployments that draft; as deployments/roles.py names them."""
_STATE = "outrider"
_PERIOD_S = 1.0

Kind = TypeVar("Kind", bound=Signals)


class Context(Protocol):
    """What is read of Serve's AutoscalingContext."""

    deployment_name: str
    target_num_replicas: int
    current_num_replicas: int
    policy_state: Mapping[str, Any]

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None:
        """By signal and replica, the mean over the look-back."""


class JointPolicy:
    """An application-level autoscaling policy; its arguments are the fields of the configuration's `autoscaling`."""

    def __init__(
        self, max_sessions: int, scaling: Mapping[str, Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rules = Rules(scaling=AutoscalingConfig.model_validate(scaling), max_sessions=max_sessions)
        # Here, as Serve pickles this module by value. Decisions are few, and worth a line whatever Serve's own level.
        logger.setLevel(logging.INFO)
        self._clock = clock
        self._decided_s: float | None = None

    def __call__(
        self, contexts: Mapping[Hashable, Context]
    ) -> tuple[dict[Hashable, int], dict[Hashable, dict[str, Any]]]:
        """Replicas and state by deployment; deployments that are not scaled are left out."""
        ids = {context.deployment_name: key for key, context in contexts.items()}
        named = {context.deployment_name: context for context in contexts.values()}
        if "verifier" not in named:
            return {}, {}
        remembered = dict(named["verifier"].policy_state.get(_STATE, {}))
        scaled = {name: context for name, context in named.items() if name == "verifier" or name in DRAFTERS}
        counts = {name: context.target_num_replicas for name, context in scaled.items()}
        now_s = self._clock()
        if self._decided_s is None or now_s - self._decided_s >= _PERIOD_S:
            self._decided_s = now_s
            fleet = fleet_of(named)
            if fleet.verifiers.signals:  # nobody has told anything yet: leave all as it is
                state, decision = decide(msgspec.convert(remembered, State), fleet, self._rules, now_s)
                wanted = {"verifier": decision.num_verifiers, **decision.num_drafters}
                if wanted != counts:
                    logger.info("outrider scales %s to %s: %s", counts, wanted, decision.reason)
                counts, remembered = wanted, msgspec.to_builtins(state)
        return {ids[name]: num for name, num in counts.items()}, {ids["verifier"]: {_STATE: remembered}}


def fleet_of(contexts: Mapping[str, Context]) -> Fleet:
    """What the policy sees, from Serve's contexts by deployment name."""
    verifier = contexts["verifier"]
    return Fleet(
        verifiers=Verifiers(
            target=verifier.target_num_replicas,
            running=verifier.current_num_replicas,
            signals=_signals(verifier, VerifierSignals),
        ),
        drafters={
            name: Drafters(
                target=contexts[name].target_num_replicas,
                running=contexts[name].current_num_replicas,
                signals=_signals(contexts[name], DrafterSignals),
            )
            for name in DRAFTERS
            if name in contexts
        },
        routers=_signals(contexts.get("router"), RouterSignals),
        ingresses=_signals(contexts.get("ingress"), IngressSignals),
    )


def _signals(context: Context | None, kind: type[Kind]) -> tuple[Kind, ...]:
    """One record per replica that has told anything; Serve's own metrics are left out."""
    by_replica: dict[Any, dict[str, float]] = {}
    for name, values in ((context.aggregated_metrics if context is not None else None) or {}).items():
        if name in kind.__struct_fields__:
            for replica, value in values.items():
                by_replica.setdefault(replica, {})[name] = value
    return tuple(msgspec.convert(fields, kind) for fields in by_replica.values())
