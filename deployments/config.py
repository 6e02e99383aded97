"""The configuration: one tree, frozen, every field with a default that serves the pocket models.

"auto" means that a field follows from others; `resolve` returns a new tree without any "auto".
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from deployments import strict_yaml
from deployments.cache_config import KvCacheConfig
from deployments.checkpoint import (
    POCKET,
    ConfigError,
    check_shares,
    draft_model_folder,
    folder_of,
    max_positions,
    own_dtype,
    tensor_parallel_sizes,
)
from deployments.config_checks import CHECKS, as_line, least_ongoing
from deployments.config_parts import (
    AutoscalingConfig,
    KernelsConfig,
    LogsConfig,
    Name,
    Origin,
    Part,
    Port,
    SpeculationConfig,
    StreamsConfig,
)
from deployments.kernels.library import Kernels, usable_cores
from deployments.messages import Acceptance, DrafterKind, DrafterName

__all__ = ["POCKET", "ConfigError", "OutriderConfig", "load", "parse", "tensor_parallel_sizes"]

_MAX_CONTEXT_TOKENS_BY_DEFAULT = 32_768
_FEWEST_ONGOING = 512
_HANDING_OVER_S, _DRAIN_MARGIN_S = 10.0, 30.0

Auto = Literal["auto"]
Placement = Literal["remote", "colocated"]


class ModelConfig(Part):
    """What is served, under the name `model_id`.

    Sources are folders as `save_pretrained` writes them, or "pocket" for the embedded pair. The
    assistant's "auto" is the model source with "-assistant" behind it; a draft model must be
    named, unless the target is the pocket one.
    """

    model_id: Name = POCKET
    model_source: Name = POCKET
    assistant_source: Name = "auto"
    draft_model_source: Name | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_context_tokens: PositiveInt | Auto = "auto"


class RoleConfig(Part):
    """What every role's deployment has: resources for Ray, and how Serve looks after it.

    `num_cpus` only reserves; `num_threads` is what the role computes with (None: one, but every core for
    a verifier's compiled kernels). `max_leases` bounds the
    peers that may link to one replica. `accelerator_type` and the values of `node_labels` are label
    selectors in Ray's syntax. `max_gpu_bytes` is what a process may allocate of its GPU's memory, and
    no byte more: a process with a fraction of a GPU must have one.
    """

    num_replicas: PositiveInt = 1
    num_cpus: PositiveFloat = 0.1
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    accelerator_type: Name | None = None
    node_labels: dict[Name, Name] = Field(default_factory=dict)
    max_gpu_bytes: PositiveInt | None = None
    num_threads: PositiveInt | None = None
    max_leases: PositiveInt = 64
    health_check_period_s: PositiveFloat = 2.0
    health_check_timeout_s: PositiveFloat = 30.0
    graceful_shutdown_timeout_s: PositiveFloat | None = None

    @property
    def drain_s(self) -> float:
        """How long a replica may drain; without a bound of its own what others need to take its sessions over."""
        return self.graceful_shutdown_timeout_s or _HANDING_OVER_S

    @property
    def device(self) -> str:
        """Where the role's models run."""
        return "cuda" if self.num_gpus > 0 else "cpu"

    @property
    def num_ranks(self) -> int:
        """How many processes compute for one replica."""
        return 1


class VerifierConfig(RoleConfig):
    """The target's side. Of a step's tokens `prompt_tokens` are kept for prompts that wait.

    `warm_up_s` bounds the time in which a replica that starts measures what steps cost, `max_memory_bytes` weights,
    cache and activations in each process that computes. `paced` names the hardware (policy/pairs.json) whose step
    times are kept, for trials without it.
    """

    num_cpus: PositiveFloat = 0.4
    tensor_parallel_size: PositiveInt = 1
    rank_timeout_s: PositiveFloat = 60.0
    warm_up_s: PositiveFloat = 3.0
    max_sessions: PositiveInt = 64
    max_step_tokens: PositiveInt = 512
    prompt_tokens: PositiveInt = 128
    prefix_reuse: bool = True
    max_memory_bytes: PositiveInt | None = None
    paced: Name | None = None
    kv_cache: KvCacheConfig = KvCacheConfig()

    @property
    def num_ranks(self) -> int:
        """One per share of the target."""
        return self.tensor_parallel_size


class DrafterConfig(RoleConfig):
    """The assistant's side. `placement` colocated puts it into the verifiers' processes; `paced` as the verifier's."""

    placement: Placement = "remote"
    num_cpus: PositiveFloat = 0.3
    max_batch_sessions: PositiveInt = 64
    max_shadow_bytes: PositiveInt = 1 << 30
    paced: Name | None = None


class DraftModelConfig(RoleConfig):
    """An independent draft model's side. `prompt_tokens` bounds what one batch reads of prompts.

    With `drafts_ahead` it goes on guessing while the verifier works. `placement` colocated puts it
    into the verifiers' processes, where it cannot draft ahead.
    """

    placement: Placement = "remote"
    num_cpus: PositiveFloat = 0.3
    max_sessions: PositiveInt = 64
    prompt_tokens: PositiveInt = 128
    drafts_ahead: bool = True
    kv_cache: KvCacheConfig = KvCacheConfig()


class RouterConfig(RoleConfig):
    """Sessions and rounds. A missing proposal ends at its timeout in a round with lookahead 0."""

    max_sessions: PositiveInt = 256
    proposal_timeout_s: PositiveFloat = 1.0
    verify_timeout_s: PositiveFloat = 30.0
    placement_timeout_s: PositiveFloat = 30.0


class IngressConfig(RoleConfig):
    """The REST side. Serve's proxies listen on `host` and `port`.

    A request that takes longer than `max_request_s` ends in an error, so that a drain has a known
    end. `report_speculation` puts `metrics.speculative_decoding` into responses. Without `keys_file`
    everybody may ask; from within a browser pages of `allowed_origins` ("*" for all), and the endpoint's own.
    `max_running_requests` and `max_waiting_requests` bound the deployment: every replica enforces its share, and so
    for what the keys file says of tenants.
    """

    host: str = "127.0.0.1"
    port: Port = 8000
    max_ongoing_requests: PositiveInt | Auto = "auto"
    keys_file: Name | None = None
    metrics_need_key: bool = False
    allowed_origins: tuple[Origin, ...] = ()
    max_running_requests: PositiveInt | Auto = "auto"
    max_waiting_requests: Annotated[int, Field(ge=0)] = 256
    max_wait_s: PositiveFloat = 30.0
    max_body_bytes: PositiveInt = 4 << 20
    max_prompt_tokens: PositiveInt | None = None
    max_output_tokens: PositiveInt | None = None
    max_request_s: PositiveFloat = 600.0
    report_speculation: bool = True

    @property
    def drain_s(self) -> float:
        """Nobody can take a client's connection over: as long as the longest request."""
        return self.graceful_shutdown_timeout_s or self.max_request_s + _DRAIN_MARGIN_S


class OutriderConfig(Part):
    """Everything. `OutriderConfig()` serves the embedded pocket pair on two CPU cores."""

    model: ModelConfig = ModelConfig()
    speculation: SpeculationConfig = SpeculationConfig()
    ingress: IngressConfig = IngressConfig()
    router: RouterConfig = RouterConfig()
    verifier: VerifierConfig = VerifierConfig()
    drafter: DrafterConfig = DrafterConfig()
    draft_model: DraftModelConfig = DraftModelConfig()
    autoscaling: AutoscalingConfig = AutoscalingConfig()
    streams: StreamsConfig = StreamsConfig()
    kernels: KernelsConfig = KernelsConfig()
    logs: LogsConfig = LogsConfig()

    @property
    def max_running_requests(self) -> int:
        """What the deployment runs at once; "auto" is what verifiers and routers have sessions for."""
        asked, verifier, router = self.ingress.max_running_requests, self.verifier, self.router
        if asked != "auto":
            return asked
        num_verifiers = self.most_replicas("verifier", verifier)
        return min(num_verifiers * verifier.max_sessions, router.num_replicas * router.max_sessions)

    @property
    def max_ongoing_requests(self) -> int:
        """What Serve hands to one replica of the ingress; "auto" is its share of all requests, and room to refuse."""
        asked = self.ingress.max_ongoing_requests
        return max(_FEWEST_ONGOING, least_ongoing(self)) if asked == "auto" else asked

    def most_replicas(self, name: str, role: RoleConfig) -> int:
        """How many replicas a role may come to have."""
        scaling = self.autoscaling
        if not scaling.enabled or name in ("ingress", "router"):
            return role.num_replicas
        return scaling.max_verifiers if name == "verifier" else scaling.max_drafters

    def kernels_for(self, role: RoleConfig) -> Kernels:
        """How a role's engine computes on a CPU."""
        # A drafter's passes are too small to share, and its helpers would take cores from the verifier's steps.
        num_threads = usable_cores() if isinstance(role, VerifierConfig) else 1
        return Kernels(
            compiled=self.kernels.compiled,
            cache_folder=self.kernels.folder,
            num_threads=role.num_threads or num_threads,
        )

    @property
    def drafter_kinds(self) -> tuple[DrafterKind, ...]:
        """What is loaded to draft with."""
        speculation = self.speculation
        if speculation.drafters != "auto":
            return speculation.drafters
        named: DrafterName = "mtp" if speculation.drafter == "auto" else speculation.drafter
        return (named,) if named in ("mtp", "draft_model") else ()

    @property
    def drafter_roles(self) -> dict[DrafterKind, DrafterConfig | DraftModelConfig]:
        """The sections of the drafters that have replicas of their own."""
        return {kind: role for kind, role in self._sections.items() if role.placement == "remote"}

    @property
    def colocated_kinds(self) -> tuple[DrafterKind, ...]:
        """The drafters that are inside the verifiers."""
        return tuple(kind for kind, role in self._sections.items() if role.placement == "colocated")

    @property
    def _sections(self) -> dict[DrafterKind, DrafterConfig | DraftModelConfig]:
        return {kind: self.drafter if kind == "mtp" else self.draft_model for kind in self.drafter_kinds}

    @property
    def paced(self) -> dict[str, str]:
        """By role, the hardware that its steps last as on: nothing, unless this is a trial."""
        found = {"verifier": self.verifier.paced, "drafter": self.drafter.paced}
        return {role: hardware for role, hardware in found.items() if hardware is not None}

    @property
    def gpu_roles(self) -> dict[str, RoleConfig]:
        """The sections of the roles that compute with a model."""
        return {"verifier": self.verifier, "drafter": self.drafter, "draft_model": self.draft_model}

    @property
    def drafters(self) -> tuple[DrafterName, ...]:
        """What a request may ask for here."""
        return ("auto", *self.drafter_kinds, "prompt_lookup", "none")

    @property
    def acceptances(self) -> tuple[Acceptance, ...]:
        """What a request may ask for here, first what it gets if it leaves it open."""
        return tuple(dict.fromkeys((self.speculation.acceptance, *self.speculation.acceptances)))

    @model_validator(mode="after")
    def _check(self) -> OutriderConfig:
        problems = [problem for check in CHECKS if (problem := check(self))]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def resolve(self) -> OutriderConfig:
        """A new tree without "auto", checked against the model's own config.json; ConfigError if that does not fit.

        What a cache bounded in bytes holds is known when its model is loaded, and stays "auto".
        """
        model = self.model
        source, assistant = folder_of(model.model_source, "model_source"), ""
        if "mtp" in self.drafter_kinds:
            if model.assistant_source != "auto":
                assistant = folder_of(model.assistant_source, "assistant_source")
            else:
                assistant = folder_of(
                    POCKET if model.model_source == POCKET else f"{source}-assistant", "assistant_source", "assistant"
                )
        draft_model = (
            draft_model_folder(model.draft_model_source, model.model_source, source)
            if "draft_model" in self.drafter_kinds
            else ""
        )
        own_context = max_positions(source, _MAX_CONTEXT_TOKENS_BY_DEFAULT)
        check_shares(self.verifier.tensor_parallel_size, source)
        on_cpu = all(role.device == "cpu" for role in (self.verifier, *self.drafter_roles.values()))
        own_type = "float32" if on_cpu else own_dtype(source, "bfloat16")
        asked, verifier = model.max_context_tokens, self.verifier
        context = asked if isinstance(asked, int) else min(own_context, _MAX_CONTEXT_TOKENS_BY_DEFAULT)
        if context > own_context:
            raise ConfigError(f"model.max_context_tokens: {context} is over the model's own {own_context}; lower it")
        longest, is_bounded = context + self.speculation.max_speculative_tokens, verifier.max_memory_bytes is not None
        return self.with_changes(
            model={
                "model_source": source,
                "assistant_source": assistant or model.assistant_source,
                "draft_model_source": draft_model or model.draft_model_source,
                "dtype": own_type if model.dtype == "auto" else model.dtype,
                "max_context_tokens": context,
            },
            speculation={"drafters": self.drafter_kinds},
            verifier={"kv_cache": {"num_tokens": verifier.kv_cache.resolved(longest, is_bounded=is_bounded)}},
            draft_model={"kv_cache": {"num_tokens": self.draft_model.kv_cache.resolved(context)}},
            ingress={name: getattr(self, name) for name in ("max_running_requests", "max_ongoing_requests")},
        )

    def with_changes(self, **changes: Any) -> OutriderConfig:
        """A new, checked tree with some fields replaced, given as nested mappings; ConfigError if it does not fit."""
        return parse(_merged(self.model_dump(), changes))


def parse(fields: Any) -> OutriderConfig:
    """Check fields as YAML or Serve hands them over; ConfigError names each field that is wrong."""
    try:
        return OutriderConfig.model_validate(fields if fields is not None else {})
    except ValidationError as error:
        raise ConfigError("\n".join(as_line(detail) for detail in error.errors())) from None


def load(path: Path | None) -> OutriderConfig:
    """Read a YAML file (none: all defaults). Relative paths are relative to the file. ConfigError, OSError."""
    if path is None:
        return OutriderConfig()
    try:
        fields = strict_yaml.read(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {error}") from None
    try:
        config = parse(fields)
    except ConfigError as error:
        raise ConfigError(f"in {path}:\n{error}") from None
    sources = {
        name: str((path.parent / source).resolve())
        for name in ("model_source", "assistant_source", "draft_model_source")
        if (source := getattr(config.model, name)) not in (POCKET, "auto", None)
    }
    secrets = {name: _beside(path, file) for name, file in config.streams.tls.model_dump().items()}
    keys_file = _beside(path, config.ingress.keys_file)
    return config.with_changes(model=sources, streams={"tls": secrets}, ingress={"keys_file": keys_file})


def _beside(path: Path, file: str | None) -> str | None:
    # Links stay links: Kubernetes replaces a mounted Secret by turning one.
    return None if file is None else str((path.parent / file).absolute())


def _merged(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(fields)
    for name, change in changes.items():
        merged[name] = _merged(merged[name], change) if isinstance(change, dict) else change
    return merged
