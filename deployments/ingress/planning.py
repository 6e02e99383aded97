"""From a checked request body to a GenerateRequest: tokens, limits, seed. What cannot be served is refused here."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from dataclasses import dataclass

from deployments.ingress import permissions
from deployments.ingress.chat_template import TemplateRefusal
from deployments.ingress.context import IngressContext
from deployments.ingress.errors import ApiError, context_length_exceeded, invalid
from deployments.ingress.generation import GenerateRequest
from deployments.ingress.schemas import ChatRequest, CompletionRequest
from deployments.ingress.tenants import Tenant
from deployments.messages import DrafterName, Priority, RequestClass, SamplingParams, Token
from deployments.policy.classes import classify

_LONG_PROMPT_CHARS = 20_000
_MAX_SEED = 2**64
_UNBOUNDED_OUTPUT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request gets of speculation, and whose it is."""

    tenant: Tenant
    lookahead: int | None
    drafter: DrafterName
    request_class: RequestClass
    priority: Priority


def check(context: IngressContext, body: ChatRequest | CompletionRequest, tenant: Tenant) -> Asked:
    """Refuse what can be refused without tokenising; raises ApiError."""
    model, limits = context.model, context.limits
    if body.model != model.id:
        message = f"The model {body.model!r} does not exist; this service has {model.id!r} (see /v1/models)."
        raise ApiError(404, message, param="model", code="model_not_found")
    permissions.check_model(tenant, body.model)
    num_speculative_tokens = body.speculation.num_speculative_tokens
    if num_speculative_tokens == "auto":
        lookahead = None
    elif num_speculative_tokens <= limits.max_num_speculative_tokens:
        lookahead = num_speculative_tokens
    else:
        param = "speculation.num_speculative_tokens"
        message = f"{param!r} is at most {limits.max_num_speculative_tokens} here, or 'auto'."
        raise invalid(param, message, "invalid_value")
    permissions.check_lookahead(tenant, body.speculation)
    drafter = permissions.drafter_for(tenant, body.speculation)
    if drafter not in limits.drafters:
        param = "speculation.drafter"
        message = f"{param!r} is {drafter!r}, which is not served here; "
        message += f"one of {', '.join(limits.drafters)} is."
        raise invalid(param, message, "invalid_value")
    priority = permissions.priority_for(tenant, body.speculation)
    return Asked(tenant, lookahead, drafter, class_of(body), priority)


def class_of(body: ChatRequest | CompletionRequest) -> RequestClass:
    """The class that the request names, else the one that its text and parameters suggest."""
    if body.speculation.request_class != "auto":
        return body.speculation.request_class
    if isinstance(body, ChatRequest):
        # The task is in the system prompt or in the last turn; what lies between is about other tasks.
        turns = [message for message in body.messages if message.role in ("system", "developer")][:1]
        turns += [message for message in body.messages if message.role == "user"][-1:]
        text = "\n".join(message.text for message in turns)
    else:
        text = body.prompt if isinstance(body.prompt, str) else ""
    return classify(text, temperature=body.temperature)


async def plan(context: IngressContext, body: ChatRequest | CompletionRequest, asked: Asked) -> GenerateRequest:
    """Decide everything about a generation before it begins; raises ApiError."""
    model, limits, tenant = context.model, context.limits, asked.tenant
    prompt_param = "messages" if isinstance(body, ChatRequest) else "prompt"
    prompt = await _encode(context, body)
    permissions.check_prompt(tenant, limits.max_prompt_tokens, len(prompt), prompt_param)
    wanted = permissions.output_bound(tenant, limits.max_output_tokens, body.wanted_tokens, body.max_tokens_param)
    return GenerateRequest(
        id=("chatcmpl-" if isinstance(body, ChatRequest) else "cmpl-") + uuid.uuid4().hex,
        prompt=tuple(prompt),
        max_context_tokens=_max_context_tokens(model.max_model_len, len(prompt), body, wanted),
        params=_sampling(context, body),
        stop_token_ids=model.stop_token_ids,
        num_speculative_tokens=asked.lookahead,
        drafter=asked.drafter,
        max_speculative_tokens=tenant.max_speculative_tokens,
        request_class=asked.request_class,
        priority=asked.priority,
        salt=tenant.name,
    )


def likely_tokens(planned: GenerateRequest, body: ChatRequest | CompletionRequest) -> int:
    """What the answer is taken for before it is there: as long as was asked for, else of some length that fits."""
    room = planned.max_context_tokens - len(planned.prompt)
    return room if body.wanted_tokens is not None else min(room, _UNBOUNDED_OUTPUT_TOKENS)


async def _encode(context: IngressContext, body: ChatRequest | CompletionRequest) -> list[Token]:
    tokenizer = context.tokenizer
    if isinstance(body, CompletionRequest):
        if isinstance(body.prompt, list):
            outside = [token for token in body.prompt if token >= context.model.vocab_size]
            if outside:
                message = f"'prompt' has the token id {outside[0]}; the vocabulary has {context.model.vocab_size} ids."
                raise invalid("prompt", message, "invalid_value")
            return body.prompt
        text = body.prompt
        prompt = await asyncio.to_thread(tokenizer.encode, text) if _is_long(text) else tokenizer.encode(text)
        if not prompt:
            raise invalid("prompt", "The prompt has no tokens; send at least one character.", "invalid_value")
        return prompt
    messages = [message.model_dump() for message in body.messages]
    for turn in messages:
        if turn["role"] == "developer":  # OpenAI's newer word for it, which templates do not know
            turn["role"] = "system"
    try:
        if _is_long(str(messages)):
            return await asyncio.to_thread(tokenizer.encode_chat, messages)
        return tokenizer.encode_chat(messages)
    except TemplateRefusal as error:
        raise invalid("messages", f"The model's chat template refuses these messages: {error}.") from error


def _is_long(text: str) -> bool:
    # Encoding a long text would hold up every other request of this ingress; the encoder releases the GIL.
    return len(text) > _LONG_PROMPT_CHARS


def _max_context_tokens(
    max_model_len: int, num_prompt_tokens: int, body: ChatRequest | CompletionRequest, wanted: int | None
) -> int:
    prompt_param = "messages" if isinstance(body, ChatRequest) else "prompt"
    room = max_model_len - num_prompt_tokens
    if room < 1:
        message = (
            f"This model's maximum context length is {max_model_len} tokens, and your {prompt_param} have "
            f"{num_prompt_tokens}, which leaves no room for an answer; shorten the {prompt_param}."
        )
        raise context_length_exceeded(prompt_param, message)
    if wanted is None:
        return max_model_len
    if body.wanted_tokens is None:
        return num_prompt_tokens + min(wanted, room)
    if wanted > room:
        message = (
            f"This model's maximum context length is {max_model_len} tokens; {num_prompt_tokens} in the {prompt_param} "
            f"and {wanted} wanted are more. Set {body.max_tokens_param} to at most {room}, "
            f"or shorten the {prompt_param}."
        )
        raise context_length_exceeded(body.max_tokens_param, message)
    return num_prompt_tokens + wanted


def _sampling(context: IngressContext, body: ChatRequest | CompletionRequest) -> SamplingParams:
    model = context.model
    top_k = model.top_k if body.top_k is None else body.top_k
    return SamplingParams(
        temperature=model.temperature if body.temperature is None else body.temperature,
        top_k=max(0, top_k),  # some clients write -1 for off
        top_p=model.top_p if body.top_p is None else body.top_p,
        min_p=model.min_p if body.min_p is None else body.min_p,
        # Drawn here and not at a router, so that a request repeats itself wherever it is resubmitted.
        seed=secrets.randbits(64) if body.seed is None else body.seed % _MAX_SEED,
    )
