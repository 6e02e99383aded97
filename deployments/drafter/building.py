"""From a configuration to a drafter's service, of either kind; torch is loaded here and not before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.config import DrafterConfig, DraftModelConfig, OutriderConfig
from deployments.distributions import DistributionStore
from deployments.drafter.engine import DrafterEngine
from deployments.drafter.rank_engines import PROTOCOLS, Caller, MtpRankEngine, TokenRankEngine
from deployments.drafter.service import DrafterService, DrafterSettings
from deployments.drafter.token_engine import TokenDrafterEngine
from deployments.drafter.token_service import TokenDrafterService, TokenDrafterSettings
from deployments.memory import MemoryUse
from deployments.messages import DrafterKind
from deployments.metering import Meter
from deployments.pacing import Pace, PacedService
from deployments.policy.hardware import pairs
from deployments.service_host import Service

if TYPE_CHECKING:
    from deployments.drafter.draft_model_engine import DraftCacheLimits, DraftModelEngine
    from deployments.drafter.mtp_engine import MtpEngine
    from deployments.models.loading import Target


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
        return _mtp_service(config, load_mtp(config, meter, store), meter, store)
    return _draft_model_service(config, load_draft_model(config, meter, store), meter, store)


def hold_engine(config: OutriderConfig, kind: DrafterKind) -> tuple[object, type]:
    """Load what this kind drafts with into a rank's process; the engine, and the Protocol that it implements.

    What tokens were drawn from leaves the process, so it is truncated as a remote drafter's is. What the engine takes
    of memory stands in the rank's log alone.
    """
    meter = Meter()
    engine = load_mtp(config, meter, None) if kind == "mtp" else load_draft_model(config, meter, None)
    return engine, PROTOCOLS[kind]


def service_over(config: OutriderConfig, kind: DrafterKind, meter: Meter, ranks: Caller) -> Service:
    """A service over the engine that the first rank holds."""
    call = ranks(kind, PROTOCOLS[kind])
    if kind == "mtp":
        return _mtp_service(config, MtpRankEngine(call), meter, None)
    return _draft_model_service(config, TokenRankEngine(call), meter, None)


def load_mtp(config: OutriderConfig, meter: Meter, store: DistributionStore | None) -> DrafterEngine:
    """Load the assistant, and of the target its embedding alone."""
    import torch

    from deployments.drafter.mtp_engine import load_mtp_engine
    from deployments.paged.footprint import decision_bytes, tensor_bytes

    before = tensor_bytes()
    engine = load_mtp_engine(
        config.model.model_source,
        config.model.assistant_source,
        dtype=getattr(torch, config.model.dtype),
        shadow_bytes=config.drafter.max_shadow_bytes,
        device=_device(config, config.drafter),
        kernels=config.kernels_for(config.drafter),
    )
    MemoryUse(
        weights_bytes=tensor_bytes() - before,
        cache_bytes=config.drafter.max_shadow_bytes,
        workspace_bytes=decision_bytes(config.drafter.max_batch_sessions, engine.vocab_size),
    ).report(meter, "mtp")
    _equip(engine, config, store)
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


def load_draft_model(config: OutriderConfig, meter: Meter, store: DistributionStore | None) -> TokenDrafterEngine:
    """Load the draft model, with a cache of its own; of the target only the size of its vocabulary is read."""
    import torch

    from deployments.drafter.draft_model_engine import build_draft_model_engine
    from deployments.models.loading import load_target
    from deployments.paged.footprint import tensor_bytes

    section, source = config.draft_model, config.model.draft_model_source
    assert source is not None
    before = tensor_bytes()
    model = load_target(source, dtype=getattr(torch, config.model.dtype), device=_device(config, section))
    workspace_bytes, limits = _draft_limits(config, model)
    engine = build_draft_model_engine(model, config.model.model_source, limits, config.kernels_for(section))
    del model  # the kernels keep weights of their own
    MemoryUse(
        weights_bytes=tensor_bytes() - before - engine.cache_bytes,
        cache_bytes=engine.cache_bytes,
        workspace_bytes=workspace_bytes,
    ).report(meter, "draft_model")
    _equip(engine, config, store)
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


def _draft_limits(config: OutriderConfig, model: Target) -> tuple[int, DraftCacheLimits]:
    """The workspace of the largest batch, and a cache that its section has room for."""
    from deployments.drafter.draft_model_engine import DraftCacheLimits
    from deployments.paged.footprint import CacheBudget, Needs, StepSize, layer_bytes, workspace_bytes

    section, context = config.draft_model, config.model.max_context_tokens
    assert isinstance(context, int)
    cache = section.kv_cache
    needs = Needs(entry_bytes=sum(layer_bytes(model)), longest_tokens=context, block_size=cache.block_size)
    num_tokens = section.prompt_tokens + section.max_sessions
    limits = DraftCacheLimits(
        max_context_tokens=context,
        num_kv_tokens=CacheBudget("draft_model", cache.memory_bytes).num_tokens(cache.num_tokens, needs),
        max_sessions=section.max_sessions,
        block_size=cache.block_size,
    )
    return workspace_bytes(model, StepSize(num_tokens=num_tokens, num_rows=section.max_sessions)), limits


def _device(config: OutriderConfig, role: DrafterConfig | DraftModelConfig) -> str:
    return role.device if role.placement == "remote" else config.verifier.device


def _equip(engine: MtpEngine | DraftModelEngine, config: OutriderConfig, store: DistributionStore | None) -> None:
    """Say how an engine draws, and which grammars it knows. With a store, what it drew from is kept whole."""
    from deployments.decoding.drawing import Drawer
    from deployments.grammars import Grammars

    engine.draw = Drawer(None if store is not None else config.speculation.max_distribution_tokens)
    engine.grammars = Grammars.load_if_possible(Path(config.model.model_source))
