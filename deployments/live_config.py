"""What Serve changes without a restart: how many replicas a role has, and the `user_config` of the ingress.

The rest of a configuration is what replicas are made from. Serve compares an application's arguments as a whole, so
whatever stands there replaces all replicas of all roles when it changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deployments.config import ConfigError, OutriderConfig, parse
from deployments.config_parts import Variants
from deployments.roles import roles_of

_FIELDS = ("max_running_requests", "variants")


@dataclass(frozen=True, kw_only=True)
class LiveSettings:
    """What an ingress is told while it runs."""

    variants: Variants
    max_running_requests: int


def user_config(config: OutriderConfig) -> dict[str, Any]:
    """What Serve's `user_config` of the ingress holds."""
    variants = config.model_dump(mode="json", exclude_none=True)["speculation"]["variants"]
    return {"max_running_requests": config.max_running_requests, "variants": variants}


def parse_user_config(fields: Any, config: OutriderConfig) -> LiveSettings:
    """The `user_config` that Serve hands to an ingress of this configuration; ConfigError if it does not fit.

    What it leaves out is the configuration's, but for variants.
    """
    unknown = sorted(set(fields) - set(_FIELDS)) if isinstance(fields, dict) else [repr(fields)]
    if unknown:
        known = " and ".join(f"`{name}`" for name in _FIELDS)
        raise ConfigError(f"user_config: it has {known} and nothing else; leave {', '.join(unknown)} out")
    tree = config.model_dump()
    tree["speculation"]["variants"] = fields.get("variants", {})
    # Serve has its own bound beside it, from the same file.
    running = fields.get("max_running_requests", config.max_running_requests)
    tree["ingress"] |= {"max_running_requests": running, "max_ongoing_requests": "auto"}
    changed = parse(tree)
    return LiveSettings(variants=changed.speculation.variants, max_running_requests=changed.max_running_requests)


def arguments_of(config: OutriderConfig) -> OutriderConfig:
    """The configuration without what Serve can change without a restart."""
    fields = config.model_dump()
    fields["speculation"]["variants"] = {}
    for name in _replicas_of(config):
        fields[name]["num_replicas"] = 1
    return parse(fields)


def overrides_of(config: OutriderConfig) -> list[dict[str, Any]]:
    """What `arguments_of` has left out, as the `deployments` of a serveConfigV2."""
    numbers = {name: number for name, number in _replicas_of(config).items() if number > 1}
    if not numbers and not config.speculation.variants:
        return []
    bound = {"max_ongoing_requests": config.max_ongoing_requests} if numbers else {}
    ingress = {"name": "ingress", **bound, "user_config": user_config(config)}
    return [ingress, *({"name": name, "num_replicas": number} for name, number in numbers.items())]


def config_of(application: dict[str, Any]) -> OutriderConfig:
    """The configuration of an application in a serveConfigV2 that `outrider config` has printed."""
    fields = parse(application.get("args", {})).model_dump()
    for override in application.get("deployments", []):
        if override["name"] == "ingress":
            fields["speculation"]["variants"] = override["user_config"]["variants"]
        else:
            fields[override["name"]]["num_replicas"] = override["num_replicas"]
    return parse(fields)


def _replicas_of(config: OutriderConfig) -> dict[str, int]:
    """By deployment, the numbers that are only Serve's: not the policy's, nor the ingress's, which share bounds."""
    scaled = {"verifier", "drafter", "draft_model"} if config.autoscaling.enabled else set()
    fixed = {"ingress", *scaled}
    return {name: role.num_replicas for name, role in roles_of(config).items() if name not in fixed}
