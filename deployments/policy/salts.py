"""Who may share the KV entries of equal beginnings: a tenant's requests, or those of them that named the same salt."""

from __future__ import annotations

_BETWEEN = "/"  # in no tenant's name


def salt_of(tenant: str, own: str | None) -> str:
    """The salt of a tenant's request; `own` is what it gave itself, None for nothing."""
    return tenant if own is None else f"{tenant}{_BETWEEN}{own}"


def tenant_in(salt: str) -> str:
    """The tenant whose salt this is: a request's own part buys no turns."""
    return salt.partition(_BETWEEN)[0]
