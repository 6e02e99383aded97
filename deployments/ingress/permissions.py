"""What a tenant may ask for: refused by name where it asks for more (403), never quietly changed.

What a request leaves open is kept within the tenant's bounds instead.
"""

from __future__ import annotations

from deployments.ingress.errors import ApiError, invalid, not_allowed
from deployments.ingress.schemas import Speculation
from deployments.ingress.tenants import Tenant
from deployments.messages import DrafterName, Priority


def check_model(tenant: Tenant, model_id: str) -> None:
    """ApiError unless the tenant may use the model."""
    if tenant.models is not None and model_id not in tenant.models:
        raise not_allowed(
            "model", f"This API key may not use the model {model_id!r}; ask its administrator for access."
        )


def check_lookahead(tenant: Tenant, asked: Speculation) -> None:
    """ApiError unless the tenant may look that far ahead."""
    most, wanted = tenant.max_speculative_tokens, asked.num_speculative_tokens
    if most is not None and wanted != "auto" and wanted > most:
        param = "speculation.num_speculative_tokens"
        raise not_allowed(param, f"{param!r} is at most {most} with this API key, or 'auto'.")


def drafter_for(tenant: Tenant, asked: Speculation) -> DrafterName:
    """What is to draft for the request; ApiError where the tenant may not have it."""
    if tenant.drafters is None or asked.drafter in tenant.drafters:
        return asked.drafter
    if "drafter" not in asked.model_fields_set or asked.drafter == "auto":
        return tenant.drafters[0]
    param = "speculation.drafter"
    allowed = " or ".join(map(repr, tenant.drafters))
    raise not_allowed(param, f"{param!r} may not be {asked.drafter!r} with this API key; send {allowed}.")


def priority_for(tenant: Tenant, asked: Speculation) -> Priority:
    """How urgent the request is; ApiError where the tenant may not have it so urgent."""
    if asked.priority == "auto":
        return tenant.priority
    if asked.priority == "interactive" and tenant.priority == "batch":
        param = "speculation.priority"
        raise not_allowed(param, f"{param!r} may not be 'interactive' with this API key; send 'batch'.")
    return asked.priority


def check_prompt(tenant: Tenant, most_here: int | None, num_tokens: int, param: str) -> None:
    """ApiError for a prompt over the deployment's bound (400) or the tenant's (403)."""
    for most, whose in ((most_here, "here"), (tenant.max_prompt_tokens, "with this API key")):
        if most is not None and num_tokens > most:
            message = f"{param!r} has {num_tokens} tokens; at most {most} are allowed {whose}. Shorten it."
            raise _over(whose, param, message)


def output_bound(tenant: Tenant, most_here: int | None, wanted: int | None, param: str) -> int | None:
    """The longest answer to a request that wants `wanted` tokens, None for all that fits; ApiError as for prompts."""
    bounds = []
    for most, whose in ((most_here, "here"), (tenant.max_output_tokens, "with this API key")):
        if most is not None and wanted is not None and wanted > most:
            raise _over(whose, param, f"{param!r} is at most {most} {whose}.")
        if most is not None:
            bounds.append(most)
    return wanted if wanted is not None else min(bounds, default=None)


def _over(whose: str, param: str, message: str) -> ApiError:
    return invalid(param, message, "invalid_value") if whose == "here" else not_allowed(param, message)
