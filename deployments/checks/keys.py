"""The API keys: readable, of somebody, and good today."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from deployments.checks.finding import Finding, ok, problem, warning
from deployments.config import OutriderConfig
from deployments.ingress.tenants import KeyRing, read_tenants


def check_keys(config: OutriderConfig, now: datetime | None = None) -> list[Finding]:
    """Whether anybody would be let in, and nobody else."""
    file, host = config.ingress.keys_file, config.ingress.host
    if file is None:
        if host in ("127.0.0.1", "localhost", "::1"):
            return [ok("keys", "the endpoint stays on the loopback and asks for none")]
        remedy = "`outrider keys new TENANT --file keys.yaml`, and set ingress.keys_file"
        return [
            warning("keys", f"whoever reaches {host}:{config.ingress.port} may use it: no key is asked for", remedy)
        ]
    try:
        tenants = read_tenants(Path(file))
        KeyRing(tenants, config.ingress.num_replicas)
    except (OSError, ValueError) as error:
        return [
            problem(
                "keys",
                f"ingress.keys_file: {error}",
                "docs/security.md says what the file holds; `outrider keys` writes it",
            )
        ]
    keys = [key for tenant in tenants.tenants for key in tenant.keys]
    good = [key for key in keys if key.expires is None or key.expires > (now or datetime.now(UTC))]
    if not good:
        detail = f"{file} has {len(keys)} keys and none is good today: every request gets a 401"
        return [problem("keys", detail, f"`outrider keys new TENANT --file {file}`")]
    return [ok("keys", f"{len(good)} of {len(keys)} keys of {len(tenants.tenants)} tenants are good")]
