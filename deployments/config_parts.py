"""Parts of the configuration that stand on their own; config.py composes them."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from deployments.messages import Acceptance, DrafterKind, DrafterName, PolicyName

Port = Annotated[int, Field(ge=1, le=65_535)]
Name = Annotated[str, Field(min_length=1)]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^\s/]+)$")]
VariantName = Annotated[str, Field(pattern=r"^[a-z0-9_.-]{1,32}$")]
MAX_VARIANTS = 8
"""Each has time series of its own."""


class Part(BaseModel):
    """Base of everything in the tree: frozen, and an unknown field is an error, as is true or false for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        kind = cls.model_fields[info.field_name or ""].annotation
        is_section = isinstance(kind, type) and issubclass(kind, Part)  # whose own error says what belongs there
        if isinstance(value, bool) and kind is not bool and not is_section:
            raise ValueError("true and false are no values of this field")
        return value


class VariantConfig(Part):
    """Settings of `speculation` that some requests get in the place of its own; None leaves that one's."""

    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    policy: PolicyName | None = None
    num_speculative_tokens: Annotated[int, Field(ge=0)] | Literal["auto"] | None = None
    drafter: DrafterName | None = None
    acceptance: Acceptance | None = None


Variants = Annotated[dict[VariantName, VariantConfig], Field(max_length=MAX_VARIANTS)]


class SpeculationConfig(Part):
    """Who drafts for requests that leave it open, and how far ahead.

    `drafter` auto leaves that to the router, session by session. `drafters` are the kinds that are
    loaded; "auto": the one that `drafter` names, mtp where it names none. `acceptance` is that of
    requests that leave it open, `acceptances` what they may ask for; for rejection a remote drafter
    draws from its `max_distribution_tokens` likeliest tokens. Requests are split among the
    `variants`, which Serve's `user_config` may change.
    """

    drafter: DrafterName = "mtp"
    drafters: tuple[DrafterKind, ...] | Literal["auto"] = "auto"
    acceptance: Acceptance = "coupled"
    acceptances: Annotated[tuple[Acceptance, ...], Field(min_length=1)] = get_args(Acceptance)
    max_distribution_tokens: Annotated[int, Field(ge=1, le=4096)] = 128
    policy: PolicyName = "adaptive"
    num_speculative_tokens: Annotated[int, Field(ge=0)] = 4
    max_speculative_tokens: Annotated[int, Field(ge=0, le=64)] = 16
    variants: Variants = Field(default_factory=dict)


class LogsConfig(Part):
    """What replicas write into their log files; DEBUG adds a line per round and step."""

    format: Literal["json", "text"] = "json"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class StreamsTlsConfig(Part):
    """PEM files for mutual TLS between replicas, at the same paths on every node: all three, or none for plain TCP."""

    ca_file: Name | None = None
    cert_file: Name | None = None
    key_file: Name | None = None

    @property
    def files(self) -> tuple[Path, Path, Path] | None:
        """The three paths, or None without TLS."""
        if self.ca_file is None or self.cert_file is None or self.key_file is None:
            return None
        return Path(self.ca_file), Path(self.cert_file), Path(self.key_file)


class StreamsConfig(Part):
    """The data plane.

    `host` is what every replica listens on, or "node" for its node's own address. `port_range` is
    (first, last).
    """

    host: str = "127.0.0.1"
    port_range: tuple[Port, Port] = (23_700, 23_899)
    insecure_streams: bool = False
    tls: StreamsTlsConfig = StreamsTlsConfig()
    max_frame_bytes: Annotated[int, Field(ge=1 << 16, le=1 << 30)] = 64 << 20
    max_buffer_bytes: Annotated[int, Field(ge=1 << 20)] = 256 << 20

    @property
    def ports(self) -> range:
        """The port range as Python has it."""
        return range(self.port_range[0], self.port_range[1] + 1)

    def on_node(self, address: str) -> StreamsConfig:
        """The same, with "node" replaced by the node's own address."""
        return self.model_copy(update={"host": address}) if self.host == "node" else self

    @property
    def is_loopback(self) -> bool:
        """Whether the streams stay on one machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class AutoscalingConfig(Part):
    """One policy for verifiers and drafters together; seconds, and shares from 0 to 1.

    Verifiers keep `first_token_s` and `token_s` (a token's mean time in an answer) for all but `tolerance` of
    requests, and are filled to `target_load`. Drafters keep sessions waiting at most `drafter_queue_share` of a
    verify step. A wish has to stand for a delay and a cool-down after the last change; what was learnt to be too
    much for a replica is remembered for `memory_s`. Replicas tell their signals every `period_s`, and `look_back_s`
    are averaged.
    """

    enabled: bool = False
    min_verifiers: PositiveInt = 1
    max_verifiers: PositiveInt = 4
    min_drafters: PositiveInt = 1
    max_drafters: PositiveInt = 8
    first_token_s: PositiveFloat = 2.0
    token_s: PositiveFloat = 0.05
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.05
    target_load: Annotated[float, Field(gt=0, le=1)] = 0.8
    drafter_queue_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    up_delay_s: Annotated[float, Field(ge=0)] = 10.0
    up_cooldown_s: Annotated[float, Field(ge=0)] = 30.0
    down_delay_s: Annotated[float, Field(ge=0)] = 120.0
    down_cooldown_s: Annotated[float, Field(ge=0)] = 60.0
    memory_s: PositiveFloat = 1800.0
    period_s: PositiveFloat = 2.0
    look_back_s: PositiveFloat = 20.0


class KernelsConfig(Part):
    """Compiled CPU kernels, for models whose layers they know.

    They are built once, at the first start, by the machine's C++ compiler and kept in `cache_folder`
    (None: the user's cache folder on each node).
    """

    compiled: bool = True
    cache_folder: Name | None = None

    @property
    def folder(self) -> Path | None:
        """The cache folder, None for the user's own."""
        return None if self.cache_folder is None else Path(self.cache_folder).expanduser()
