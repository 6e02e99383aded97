"""What must hold across the sections of a configuration; each check returns what is wrong and the way out.

And how it is told what is wrong within one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deployments.config_parts import StreamsTlsConfig
from deployments.policy.hardware import pairs

if TYPE_CHECKING:
    from deployments.config import OutriderConfig

_ROOM_TO_REFUSE = 64
"""Serve must hand requests over even when the ingress is full: only the ingress refuses them as clients expect."""


def as_line(detail: Any) -> str:
    """One of pydantic's errors: the field, what is wrong with it, and what was given."""
    where = ".".join(str(part) for part in detail["loc"] if part not in ("constrained-int", "literal['auto']"))
    if detail["type"] == "extra_forbidden":
        return f"{where}: there is no such field; see docs/configuration.md for those there are"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] in ("model_type", "dict_type"):
        message = "fields are expected here, as `name: value` each; see docs/configuration.md"
    if not where:  # a check across roles names its fields itself
        return str(message)
    return f"{where}: {message} (got {detail['input']!r})"


def _lookahead(config: OutriderConfig) -> str | None:
    asked, most = config.speculation.num_speculative_tokens, config.speculation.max_speculative_tokens
    if asked > most:
        return (
            f"speculation.num_speculative_tokens: {asked} is over max_speculative_tokens {most}; raise that or lower it"
        )
    return None


def _step(config: OutriderConfig) -> str | None:
    room, longest = config.verifier.max_step_tokens, config.speculation.max_speculative_tokens + 1
    if room - config.verifier.prompt_tokens < longest:
        return (
            f"verifier.max_step_tokens: {room} less prompt_tokens {config.verifier.prompt_tokens} leaves no room for "
            f"a proposal of {longest - 1} tokens; raise it"
        )
    return None


def _cache(config: OutriderConfig) -> str | None:
    held, context = config.verifier.kv_cache.num_tokens, config.model.max_context_tokens
    if held == "auto" or context == "auto":
        return None
    needed = context + config.speculation.max_speculative_tokens
    if held < needed:
        return f"verifier.kv_cache.num_tokens: {held} does not hold one session of {needed} tokens; raise it"
    return None


def _streams(config: OutriderConfig) -> str | None:
    streams = config.streams
    given = [name for name in StreamsTlsConfig.model_fields if getattr(streams.tls, name) is not None]
    if streams.tls.files is None and given:
        return f"streams.tls: {' and '.join(given)} alone will not do; give ca_file, cert_file and key_file"
    if not streams.is_loopback and not streams.insecure_streams and not given:
        return (
            f"streams.host: {streams.host!r} is reachable from other machines; give streams.tls the cluster's "
            "certificates (`outrider certificates` makes a set for a trial), use 127.0.0.1, or set "
            "streams.insecure_streams: true on a network you trust"
        )
    replicas = config.router.num_replicas + config.most_replicas("verifier", config.verifier)
    replicas += sum(config.most_replicas(kind, role) for kind, role in config.drafter_roles.items())
    if not streams.ports:
        first, last = streams.port_range
        return f"streams.port_range: {first} is behind {last}; name the lower port first"
    if len(streams.ports) < replicas:
        return f"streams.port_range: {len(streams.ports)} ports for {replicas} replicas; widen it (first, last)"
    return None


def _gpu_shares(config: OutriderConfig) -> str | None:
    for name, role in config.gpu_roles.items():
        if 0 < role.num_gpus < 1 and role.max_gpu_bytes is None:
            return (
                f"{name}.max_gpu_bytes: it shares its GPU (num_gpus {role.num_gpus}) and could take its neighbours' "
                "memory; set what it may allocate"
            )
        if role.num_gpus > 1 and role.num_gpus != int(role.num_gpus):
            return f"{name}.num_gpus: {role.num_gpus} is neither a share of one GPU nor a number of GPUs; round it"
    return None


def _drafters(config: OutriderConfig) -> str | None:
    drafter, kinds = config.speculation.drafter, config.drafter_kinds
    if drafter in ("mtp", "draft_model") and drafter not in kinds:
        return f"speculation.drafters: {list(kinds)} lacks speculation.drafter {drafter!r}; add it"
    if len(set(kinds)) < len(kinds):
        return f"speculation.drafters: {list(kinds)} names a drafter twice; name each once"
    return None


def _paced(config: OutriderConfig) -> str | None:
    for role, hardware in config.paced.items():
        if hardware not in pairs():
            return f"{role}.paced: there is no cost table {hardware!r}; there are {', '.join(pairs())}"
    if config.paced and config.colocated_kinds:
        section = "drafter" if "mtp" in config.colocated_kinds else "draft_model"
        what = "steps and drafts of one device cannot be paced apart; set it to remote, or paced to null"
        return f"{section}.placement: {what}"
    return None


def _autoscaling(config: OutriderConfig) -> str | None:
    scaling = config.autoscaling
    for name in ("verifiers", "drafters"):
        least, most = getattr(scaling, f"min_{name}"), getattr(scaling, f"max_{name}")
        if least > most:
            return f"autoscaling.min_{name}: {least} is over autoscaling.max_{name} {most}; lower it"
    if scaling.look_back_s <= scaling.period_s:
        return f"autoscaling.look_back_s: {scaling.look_back_s:g} holds no two readings; raise it over period_s"
    return None


def _acceptance(config: OutriderConfig) -> str | None:
    acceptance, served = config.speculation.acceptance, config.speculation.acceptances
    if acceptance not in served:
        return f"speculation.acceptances: {list(served)} lacks speculation.acceptance {acceptance!r}; add it"
    return None


def _variants(config: OutriderConfig) -> str | None:
    speculation = config.speculation
    variants, most = speculation.variants, speculation.max_speculative_tokens
    for name, variant in variants.items():
        field = f"speculation.variants.{name}"
        for asked, served in ((variant.drafter, config.drafters), (variant.acceptance, speculation.acceptances)):
            if asked is not None and asked not in served:
                kind = "drafter" if asked == variant.drafter else "acceptance"
                return f"{field}.{kind}: {asked!r} is not served; one of {', '.join(served)} is"
        if isinstance(variant.num_speculative_tokens, int) and variant.num_speculative_tokens > most:
            given = variant.num_speculative_tokens
            return f"{field}.num_speculative_tokens: {given} is over max_speculative_tokens {most}"
    if variants and not any(variant.weight > 0.0 for variant in variants.values()):
        return "speculation.variants: none has a weight above 0; give one, or leave variants out"
    return None


def least_ongoing(config: OutriderConfig) -> int:
    """What one replica of the ingress must be handed for its share of running and waiting requests to be full, and more
    to be refused in its own words.
    """
    most = config.max_running_requests + config.ingress.max_waiting_requests
    return most // config.ingress.num_replicas + _ROOM_TO_REFUSE


def _admission(config: OutriderConfig) -> str | None:
    ingress, running = config.ingress, config.max_running_requests
    if running < ingress.num_replicas:
        return (
            f"ingress.max_running_requests: {running} leaves nothing for some of {ingress.num_replicas} replicas; "
            "raise it"
        )
    if config.max_ongoing_requests < (needed := least_ongoing(config)):
        return (
            f"ingress.max_ongoing_requests: {config.max_ongoing_requests} is less than a replica's share of running "
            f"and waiting requests and {_ROOM_TO_REFUSE} to be refused; raise it to {needed}"
        )
    return None


CHECKS = (
    _lookahead,
    _drafters,
    _acceptance,
    _step,
    _cache,
    _streams,
    _gpu_shares,
    _paced,
    _autoscaling,
    _variants,
    _admission,
)
