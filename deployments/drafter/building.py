"""From a configuration to a drafter's service, of either kind; torch is loaded here and not before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deployments.config import DrafterConfig, DraftModelConfig, OutriderConfig
from deployments.distributions import DistributionStore
from deployments.drafter.engine import DrafterEngine
from deployments.drafter.rank_engines import PROTOCOLS, Caller, MtpRankEngine, TokenRankEngine
from deployments.drafter.service import DrafterService, DrafterSettings
from deployments.drafter.token_engine import TokenDrafterEngine
from deployments.drafter.token_service import TokenDrafterService, TokenDrafterSettings
from deployments.messages import DrafterKind
from deployments.metering import Meter
from deployments.pacing import Pace, PacedService
from deployments.policy.hardware import pairs
from deployments.service_host import Service

if TYPE_CHECKING:
    from deployments.decoding.drawing import Drawer


def build_service(
    config: OutriderConfig, kind: DrafterKind, meter: Meter, store: DistributionStore | None = None
) -> Service:
    """Load what this kind drafts with and put a service around it; `store` is that of the verifier around it."""
    # Here, not above: the process that builds the application never loads torch.
    import torch

    from deployments.models.devices import bound_gpu_memory

    role = config.drafter if kind == "mtp" else config.draft_model
    if role.placement == "remote":  # else the process is the verifier's
        bound_gpu_memory(role.max_gpu_bytes if role.device == "cuda" else None)
        torch.set_num_threads(role.num_threads or 1)
    store = store if role.placement == "colocated" else None
    if kind == "mtp":
        return _mtp_service(config, load_mtp(config, store), meter, store)
    return _draft_model_service(config, load_draft_model(config, store), meter, store)


def hold_engine(config: OutriderConfig, kind: DrafterKind) -> tuple[object, type]:
    """Load what this kind drafts with into a rank's process; the engine, and the Protocol that it implements.

    What tokens were drawn from leaves the process, so it is truncated as a remote drafter's is.
    """
    engine = load_mtp(config, None) if kind == "mtp" else load_draft_model(config, None)
    return engine, PROTOCOLS[kind]


def service_over(config: OutriderConfig, kind: DrafterKind, meter: Meter, ranks: Caller) -> Service:
    """A service over the engine that the first rank holds."""
    call = ranks(kind, PROTOCOLS[kind])
    if kind == "mtp":
        return _mtp_service(config, MtpRankEngine(call), meter, None)
    return _draft_model_service(config, TokenRankEngine(call), meter, None)


def load_mtp(config: OutriderConfig, store: DistributionStore | None) -> DrafterEngine:
    """Load the assistant, and of the target its embedding alone."""
    import torch

    from deployments.drafter.mtp_engine import load_mtp_engine

    engine = load_mtp_engine(
        config.model.model_source,
        config.model.assistant_source,
        dtype=getattr(torch, config.model.dtype),
        shadow_bytes=config.drafter.max_shadow_bytes,
        device=_device(config, config.drafter),
        kernels=config.kernels_for(config.drafter),
    )
    engine.draw = _drawer(config, store)
    return engine


def _mtp_service(
    config: OutriderConfig, engine: DrafterEngine, meter: Meter, store: DistributionStore | None
) -> Service:
    settings = DrafterSettings(max_batch_sessions=config.drafter.max_batch_sessions)
    hardware = config.drafter.paced
    if hardware is None:
        return DrafterService(engine, settings, meter, store)
    pace: Pace[Sequence[int]] = Pace(hardware, "drafter", pairs()[hardware].draft.predict, meter)
    return PacedService(DrafterService(engine, settings, meter, store, pace), pace)


def load_draft_model(config: OutriderConfig, store: DistributionStore | None) -> TokenDrafterEngine:
    """Load the draft model, with a cache of its own; of the target only the size of its vocabulary is read."""
    import torch

    from deployments.drafter.draft_model_engine import DraftCacheLimits, load_draft_model_engine

    section, context = config.draft_model, config.model.max_context_tokens
    num_kv_tokens = section.kv_cache.num_tokens
    assert isinstance(context, int)
    assert config.model.draft_model_source is not None
    assert isinstance(num_kv_tokens, int)
    engine = load_draft_model_engine(
        config.model.model_source,
        config.model.draft_model_source,
        DraftCacheLimits(
            max_context_tokens=context,
            num_kv_tokens=num_kv_tokens,
            max_sessions=section.max_sessions,
            block_size=section.kv_cache.block_size,
        ),
        dtype=getattr(torch, config.model.dtype),
        device=_device(config, section),
        kernels=config.kernels_for(section),
    )
    engine.draw = _drawer(config, store)
    return engine


def _draft_model_service(
    config: OutriderConfig, engine: TokenDrafterEngine, meter: Meter, store: DistributionStore | None
) -> TokenDrafterService:
    section = config.draft_model
    settings = TokenDrafterSettings(
        max_batch_sessions=section.max_sessions,
        prompt_tokens=section.prompt_tokens,
        drafts_ahead=section.drafts_ahead and section.placement == "remote",
    )
    return TokenDrafterService(engine, settings, meter, store)


def _device(config: OutriderConfig, role: DrafterConfig | DraftModelConfig) -> str:
    return role.device if role.placement == "remote" else config.verifier.device


def _drawer(config: OutriderConfig, store: DistributionStore | None) -> Drawer:
    """With a store, what was drawn from meets no wire and is kept whole."""
    from deployments.decoding.drawing import Drawer

    return Drawer(None if store is not None else config.speculation.max_distribution_tokens)
