"""Who is asking: the tenant of the key in a request's Authorization header."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from starlette.datastructures import Headers

from deployments.ingress import errors
from deployments.ingress.tenants import EVERYBODY, KeyRing, Tenant, read_tenants
from deployments.watched import Watched

_OPEN_PATHS = frozenset({"/", "/health", "/ready", "/version"})
"""For probes, balancers and browsers: they tell nothing of anybody's requests."""
_HOW = "send it in the header 'Authorization: Bearer <key>'"


class Access:
    """The keys of a file that may change at any time; without a file everybody is let in."""

    def __init__(
        self,
        keys: Watched[KeyRing] | None = None,
        *,
        metrics_need_key: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._keys = keys
        self._open_paths = _OPEN_PATHS if metrics_need_key else _OPEN_PATHS | {"/metrics"}
        self._now = now

    @classmethod
    def load(cls, file: Path | None, *, num_replicas: int, metrics_need_key: bool) -> Access:
        """Read the file, if there is one, and again whenever it changes; OSError or ValueError if it cannot be used."""
        keys = None if file is None else Watched([file], lambda: KeyRing(read_tenants(file), num_replicas))
        return cls(keys, metrics_need_key=metrics_need_key)

    def tenant_of(self, path: str, headers: Headers) -> Tenant:
        """Who sends a request for this path; ApiError 401 if that cannot be told and matters."""
        if self._keys is None or path in self._open_paths:
            return EVERYBODY
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not (key := key.strip()):
            raise errors.not_authenticated(f"This service needs an API key; {_HOW}.")
        tenant = self._keys.value().tenant_of(key, self._now())
        if tenant is None:
            raise errors.not_authenticated(f"The API key is wrong, has expired or was revoked; {_HOW}.")
        return tenant
