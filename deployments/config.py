"""The configuration: one tree, frozen, every field with a default that serves the pocket models.

"auto" means that a field follows from others; `resolve` returns a new tree without any "auto".
"""

from __future__ import annotations

import json
from importlib.resources import files
from math import gcd
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from deployments.config_parts import Name, Part, Port, StreamsConfig, StreamsTlsConfig
from deployments.messages import DrafterName

POCKET = "pocket"
_MAX_CONTEXT_TOKENS_BY_DEFAULT = 32_768

Auto = Literal["auto"]


class ConfigError(ValueError):
    """A configuration that cannot be used; the text names each field and says what would be right."""


class ModelConfig(Part):
    """What is served, under the name `model_id`.

    Sources are folders as `save_pretrained` writes them, or "pocket" for the embedded pair. The
    assistant's "auto" is the model source with "-assistant" behind it.
    """

    model_id: Name = POCKET
    model_source: Name = POCKET
    assistant_source: Name = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_context_tokens: PositiveInt | Auto = "auto"


class SpeculationConfig(Part):
    """Who drafts for requests that leave it open, and how far ahead."""

    drafter: Literal["mtp", "prompt_lookup", "none"] = "mtp"
    num_speculative_tokens: Annotated[int, Field(ge=0)] = 4
    max_speculative_tokens: Annotated[int, Field(ge=0, le=64)] = 16


class RoleConfig(Part):
    """What every role's deployment has: resources for Ray, and how Serve looks after it.

    `num_cpus` only reserves; `num_threads` is what the role computes with. `max_leases` bounds the
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
    num_threads: PositiveInt = 1
    max_leases: PositiveInt = 64
    health_check_period_s: PositiveFloat = 2.0
    health_check_timeout_s: PositiveFloat = 30.0
    graceful_shutdown_timeout_s: PositiveFloat = 10.0

    @property
    def device(self) -> str:
        """Where the role's models run."""
        return "cuda" if self.num_gpus > 0 else "cpu"

    @property
    def num_ranks(self) -> int:
        """How many processes compute for one replica."""
        return 1


class KvCacheConfig(Part):
    """The verifier's cache. "auto" holds 16 sessions of the longest context."""

    num_tokens: PositiveInt | Auto = "auto"
    block_size: PositiveInt = 16


class VerifierConfig(RoleConfig):
    """The target's side. Of a step's tokens `prompt_tokens` are kept for prompts that wait."""

    num_cpus: PositiveFloat = 0.4
    tensor_parallel_size: PositiveInt = 1
    max_sessions: PositiveInt = 64
    max_step_tokens: PositiveInt = 512
    prompt_tokens: PositiveInt = 128
    kv_cache: KvCacheConfig = KvCacheConfig()

    @property
    def num_ranks(self) -> int:
        """One per share of the target."""
        return self.tensor_parallel_size


class DrafterConfig(RoleConfig):
    """The assistant's side."""

    num_cpus: PositiveFloat = 0.3
    max_batch_sessions: PositiveInt = 64
    max_shadow_bytes: PositiveInt = 1 << 30


class RouterConfig(RoleConfig):
    """Sessions and rounds. A missing proposal ends at its timeout in a round with lookahead 0."""

    max_sessions: PositiveInt = 256
    proposal_timeout_s: PositiveFloat = 1.0
    verify_timeout_s: PositiveFloat = 30.0
    placement_timeout_s: PositiveFloat = 30.0


class IngressConfig(RoleConfig):
    """The REST side. Serve's proxies listen on `host` and `port`.

    A request that takes longer than `max_request_s` ends in an error, so that a drain has a known
    end. `report_speculation` puts `metrics.speculative_decoding` into responses.
    """

    host: str = "127.0.0.1"
    port: Port = 8000
    max_ongoing_requests: PositiveInt = 512
    max_body_bytes: PositiveInt = 4 << 20
    max_request_s: PositiveFloat = 600.0
    report_speculation: bool = True


class OutriderConfig(Part):
    """Everything. `OutriderConfig()` serves the embedded pocket pair on two CPU cores."""

    model: ModelConfig = ModelConfig()
    speculation: SpeculationConfig = SpeculationConfig()
    ingress: IngressConfig = IngressConfig()
    router: RouterConfig = RouterConfig()
    verifier: VerifierConfig = VerifierConfig()
    drafter: DrafterConfig = DrafterConfig()
    streams: StreamsConfig = StreamsConfig()

    @property
    def has_drafter(self) -> bool:
        """Whether a drafter is deployed."""
        return self.speculation.drafter == "mtp"

    @property
    def drafters(self) -> tuple[DrafterName, ...]:
        """What a request may ask for here."""
        replicas: tuple[DrafterName, ...] = ("mtp",) if self.has_drafter else ()
        return ("auto", *replicas, "prompt_lookup", "none")

    @model_validator(mode="after")
    def _check(self) -> OutriderConfig:
        problems = [problem for check in _CHECKS if (problem := check(self))]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def resolve(self) -> OutriderConfig:
        """A new tree without "auto", checked against the model's own config.json; ConfigError if that does not fit."""
        model = self.model
        source, assistant = _folder(model.model_source, "model_source"), ""
        if self.has_drafter:
            if model.assistant_source != "auto":
                assistant = _folder(model.assistant_source, "assistant_source")
            else:
                assistant = _folder(
                    POCKET if model.model_source == POCKET else f"{source}-assistant", "assistant_source", "assistant"
                )
        own_context = _max_positions(source)
        _check_shares(self.verifier.tensor_parallel_size, source)
        on_cpu = self.verifier.device == "cpu" and self.drafter.device == "cpu"
        dtype = ("float32" if on_cpu else "bfloat16") if model.dtype == "auto" else model.dtype
        asked, kept = model.max_context_tokens, self.verifier.kv_cache.num_tokens
        context = asked if isinstance(asked, int) else min(own_context, _MAX_CONTEXT_TOKENS_BY_DEFAULT)
        if context > own_context:
            raise ConfigError(f"model.max_context_tokens: {context} is over the model's own {own_context}; lower it")
        num_kv_tokens = kept if isinstance(kept, int) else 16 * (context + self.speculation.max_speculative_tokens)
        return self.with_changes(
            model={
                "model_source": source,
                "assistant_source": assistant or model.assistant_source,
                "dtype": dtype,
                "max_context_tokens": context,
            },
            verifier={"kv_cache": {"num_tokens": num_kv_tokens}},
        )

    def with_changes(self, **changes: Any) -> OutriderConfig:
        """A new, checked tree with some fields replaced, given as nested mappings; ConfigError if it does not fit."""
        return parse(_merged(self.model_dump(), changes))


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
    replicas = config.router.num_replicas + config.verifier.num_replicas
    replicas += config.drafter.num_replicas if config.has_drafter else 0
    if len(streams.ports) < replicas:
        return f"streams.port_range: {len(streams.ports)} ports for {replicas} replicas; widen it (first, last)"
    return None


def _gpu_shares(config: OutriderConfig) -> str | None:
    for name, role in (("verifier", config.verifier), ("drafter", config.drafter)):
        if 0 < role.num_gpus < 1 and role.max_gpu_bytes is None:
            return (
                f"{name}.max_gpu_bytes: it shares its GPU (num_gpus {role.num_gpus}) and could take its neighbours' "
                "memory; set what it may allocate"
            )
        if role.num_gpus > 1 and role.num_gpus != int(role.num_gpus):
            return f"{name}.num_gpus: {role.num_gpus} is neither a share of one GPU nor a number of GPUs; round it"
    return None


_CHECKS = (_lookahead, _step, _cache, _streams, _gpu_shares)


def parse(fields: Any) -> OutriderConfig:
    """Check fields as YAML or Serve hands them over; ConfigError names each field that is wrong."""
    try:
        return OutriderConfig.model_validate(fields if fields is not None else {})
    except ValidationError as error:
        raise ConfigError("\n".join(_as_line(detail) for detail in error.errors())) from None


def load(path: Path | None) -> OutriderConfig:
    """Read a YAML file (none: all defaults). Relative paths are relative to the file. ConfigError, OSError."""
    if path is None:
        return OutriderConfig()
    try:
        fields = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {error}") from None
    try:
        config = parse(fields)
    except ConfigError as error:
        raise ConfigError(f"in {path}:\n{error}") from None
    sources = {
        name: str((path.parent / source).resolve())
        for name in ("model_source", "assistant_source")
        if (source := getattr(config.model, name)) not in (POCKET, "auto")
    }
    certificates = {
        name: str((path.parent / file).absolute())
        for name, file in config.streams.tls.model_dump().items()
        if file is not None
    }
    return config.with_changes(model=sources, streams={"tls": certificates})


def _as_line(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"] if part not in ("constrained-int", "literal['auto']"))
    if detail["type"] == "extra_forbidden":
        return f"{where}: there is no such field; see docs/configuration.md for those there are"
    message = detail["msg"].removeprefix("Value error, ")
    if not where:  # a check across roles names its fields itself
        return str(message)
    return f"{where}: {message} (got {detail['input']!r})"


def _merged(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(fields)
    for name, change in changes.items():
        merged[name] = _merged(merged[name], change) if isinstance(change, dict) else change
    return merged


def _folder(source: str, field: str, pocket_part: str = "target") -> str:
    folder = Path(str(files("deployments.models"))) / POCKET / pocket_part if source == POCKET else Path(source)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.{field}: {str(folder)!r} holds no config.json; give the folder of a downloaded checkpoint "
            "(`hf download <model> --local-dir <folder>`)"
        )
    return str(folder.resolve())


def _text_fields(folder: str) -> dict[str, Any]:
    fields = json.loads((Path(folder) / "config.json").read_text("utf-8"))
    return {**fields, **fields.get("text_config", {})}


def _max_positions(folder: str) -> int:
    found = _text_fields(folder).get("max_position_embeddings")
    return int(found) if found is not None else _MAX_CONTEXT_TOKENS_BY_DEFAULT


def tensor_parallel_sizes(folder: str) -> list[int]:
    """The numbers of ranks among which a checkpoint's attention heads can be divided, by its config.json."""
    fields = _text_fields(folder)
    counts = [fields.get("num_attention_heads"), fields.get("num_key_value_heads")]
    if fields.get("attention_k_eq_v") is not False:  # else the full layers have the sliding layers' heads
        counts.append(fields.get("num_global_key_value_heads"))
    most = gcd(*(int(count) for count in counts if count))
    return [size for size in range(1, most + 1) if most % size == 0] or [1]


def _check_shares(size: int, folder: str) -> None:
    if size != 1 and size not in (sizes := tensor_parallel_sizes(folder)):
        can = ", ".join(str(size) for size in sizes)
        raise ConfigError(f"verifier.tensor_parallel_size: {size} does not divide the model's heads; choose of {can}")
