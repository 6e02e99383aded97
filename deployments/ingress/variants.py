"""Named variants of the speculation settings, and which of them a request gets."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from deployments.config_parts import VariantConfig
from deployments.ingress.errors import invalid
from deployments.ingress.schemas import Speculation
from deployments.measures import NO_VARIANT
from deployments.policy.variants import assign

_NONE = VariantConfig()


class Variants:
    """What requests are split among. Replaced as a whole, while requests run: each keeps what it began with."""

    def __init__(self, variants: Mapping[str, VariantConfig] | None = None) -> None:
        self.replace(variants or {})

    def replace(self, variants: Mapping[str, VariantConfig]) -> None:
        """New requests are split among these."""
        self._variants = dict(variants)
        self._weights = {name: variant.weight for name, variant in variants.items()}

    def choose(self, asked: Speculation, user: str | None, seed: int | None) -> tuple[str, VariantConfig]:
        """The variant that a request names, or falls on: the same for a user, else for a seed, else by chance.

        A request that says itself how it is to be drafted for takes no part. ApiError for a name that there is not.
        """
        if asked.variant is not None:
            if asked.variant not in self._variants:
                raise _unknown(asked.variant, self._variants)
            return asked.variant, self._variants[asked.variant]
        if asked.num_speculative_tokens != "auto" or asked.drafter != "auto":
            return NO_VARIANT, _NONE
        name = assign(self._weights, _key(user, seed))
        return (NO_VARIANT, _NONE) if name is None else (name, self._variants[name])


def _key(user: str | None, seed: int | None) -> bytes:
    if user is not None:
        return b"user " + user.encode(errors="surrogatepass")
    return secrets.token_bytes(16) if seed is None else b"seed %d" % seed


def _unknown(name: str, variants: Mapping[str, VariantConfig]) -> Exception:
    param, known = "speculation.variant", ", ".join(sorted(variants))
    served = f"one of {known} is" if known else "none are configured"
    return invalid(param, f"{param!r} is {name[:64]!r}, which is not served here; {served}.", "invalid_value")
