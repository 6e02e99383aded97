"""The keys file: tenants, the hashes of their keys, and their bounds.

A key has 256 random bits, so its SHA-256 cannot be turned back or guessed; a slow hash, which is
for what people choose, would only let strangers burn the ingress's time with wrong keys.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AwareDatetime, Field, PositiveInt, ValidationError, field_validator, model_validator

from deployments.config_parts import Name, Part
from deployments.messages import DrafterName

MAX_FILE_BYTES = 1 << 20
"""What a Secret may have; some six thousand keys."""
_ID_CHARS = 8


class ApiKey(Part):
    """One key, as its hash. `expires` None means never."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime | None = None
    expires: AwareDatetime | None = None

    @property
    def id(self) -> str:
        """What lists and revocations call the key."""
        return self.sha256[:_ID_CHARS]


class Tenant(Part):
    """Who may ask, and for how much; None means no bound but the deployment's.

    `max_concurrent_requests` and `tokens_per_minute` (prompt and output) bound the deployment, not
    each replica. `drafters` are the values that requests may have for `speculation.drafter`; the
    first stands for "auto" where that is not among them. `priority` is the most urgent one that
    requests may have.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    keys: tuple[ApiKey, ...] = ()
    models: tuple[Name, ...] | None = None
    max_concurrent_requests: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    max_prompt_tokens: PositiveInt | None = None
    max_output_tokens: PositiveInt | None = None
    max_speculative_tokens: Annotated[int, Field(ge=0)] | None = None
    drafters: Annotated[tuple[DrafterName, ...], Field(min_length=1)] | None = None
    priority: Literal["interactive", "batch"] = "interactive"


class Tenants(Part):
    """Everything in the keys file."""

    tenants: tuple[Tenant, ...] = ()

    @field_validator("tenants")
    @classmethod
    def _check_names(cls, tenants: tuple[Tenant, ...]) -> tuple[Tenant, ...]:
        _refuse_repeats("the name", (tenant.name for tenant in tenants))
        return tenants

    @model_validator(mode="after")
    def _check_keys(self) -> Tenants:
        _refuse_repeats("the key", (key.id for tenant in self.tenants for key in tenant.keys))
        return self


EVERYBODY = Tenant(name="everybody")
"""Whoever asks where no keys are configured."""


class KeyRing:
    """Whose key is whose; `num_replicas` ingress replicas share each tenant's bounds."""

    def __init__(self, tenants: Tenants, num_replicas: int = 1) -> None:
        """Raises ValueError for a bound that cannot be shared among the replicas."""
        for tenant in tenants.tenants:
            if (most := tenant.max_concurrent_requests) is not None and most < num_replicas:
                raise ValueError(
                    f"tenant {tenant.name}: max_concurrent_requests {most} leaves nothing for some of {num_replicas} "
                    "ingress replicas; raise it or lower ingress.num_replicas"
                )
        self._keys = [(bytes.fromhex(key.sha256), key, tenant) for tenant in tenants.tenants for key in tenant.keys]

    def tenant_of(self, presented: str, now: datetime | None = None) -> Tenant | None:
        """The tenant of a key that is known and has not expired; takes the same time whichever it is."""
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).digest()
        found: tuple[ApiKey, Tenant] | None = None
        for known, key, tenant in self._keys:
            if hmac.compare_digest(known, digest):
                found = key, tenant
        if found is None:
            return None
        key, tenant = found
        return None if key.expires is not None and key.expires <= (now or datetime.now(UTC)) else tenant


def new_key() -> str:
    """A key nobody has: 256 random bits, recognisable in a leak."""
    return f"outrider-{secrets.token_urlsafe(32)}"


def hash_of(key: str) -> str:
    """What the keys file has of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_tenants(file: Path) -> Tenants:
    """Read a keys file, YAML or JSON; OSError, or ValueError that names what is wrong and quotes none of it."""
    content = file.read_bytes()
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{file}: larger than {MAX_FILE_BYTES} bytes")
    if not content.strip():  # caught in the moment before it is written: that must not lock everybody out
        raise ValueError(f"{file}: is empty; `tenants: []` is how it says that nobody has a key")
    try:
        fields = yaml.load(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"{file}: no YAML" + (f" at line {mark.line + 1}" if mark else "")) from None
    try:
        return Tenants.model_validate({} if fields is None else fields)
    except ValidationError as error:
        raise ValueError("\n".join(f"{file}: {line}" for line in _lines(error))) from None


def _lines(error: ValidationError) -> list[str]:
    # Without what was found there: it may be a key that somebody has pasted.
    lines = []
    for detail in error.errors(include_input=False, include_url=False, include_context=False):
        where: Any = ".".join(str(part) for part in detail["loc"]) or "tenants"
        lines.append(f"{where}: {detail['msg'].removeprefix('Value error, ')}")
    return lines


def _refuse_repeats(what: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{what} {value} is there twice")
        seen.add(value)
