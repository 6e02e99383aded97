"""From a checked request body to a GenerateRequest for each choice: tokens and limits.

What cannot be served is refused here.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from deployments.config_parts import VariantConfig
from deployments.ingress import permissions
from deployments.ingress.chat_template import TemplateRefusal
from deployments.ingress.context import IngressContext
from deployments.ingress.errors import ApiError, context_length_exceeded, invalid
from deployments.ingress.generation import GenerateRequest
from deployments.ingress.sampling import bad_words_of, check_tokens, sampling_of, stop_token_ids_of
from deployments.ingress.schemas import ChatRequest, CompletionRequest, Conversation, Message
from deployments.ingress.structured_output import check_grammar
from deployments.ingress.tenants import Tenant
from deployments.measures import NO_VARIANT
from deployments.messages import Acceptance, DrafterName, PolicyName, Priority, RequestClass, Token
from deployments.policy.classes import classify
from deployments.policy.salts import salt_of

_LONG_PROMPT_CHARS = 20_000
_UNBOUNDED_OUTPUT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request gets of speculation, whose it is, and how many choices it wants."""

    tenant: Tenant
    lookahead: int | None
    drafter: DrafterName
    acceptance: Acceptance
    request_class: RequestClass
    priority: Priority
    num_choices: int
    policy: PolicyName | None = None
    variant: str = NO_VARIANT


def check(context: IngressContext, body: ChatRequest | CompletionRequest, tenant: Tenant) -> Asked:
    """Refuse what can be refused without tokenising; raises ApiError."""
    limits = context.limits
    check_model(context, body.model)
    permissions.check_model(tenant, context.model.id)
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
    _check_served("speculation.drafter", drafter, limits.drafters)
    asked = body.speculation.acceptance
    acceptance = limits.acceptances[0] if asked == "auto" else asked
    _check_served("speculation.acceptance", acceptance, limits.acceptances)
    num_prompts = len(body.prompts) if isinstance(body, CompletionRequest) else 1
    if (num_choices := num_prompts * body.n) > limits.max_choices:
        message = f"{num_prompts} prompts with 'n' {body.n} are {num_choices} choices; at most {limits.max_choices} "
        raise invalid("n" if num_prompts == 1 else "prompt", message + "are possible in one request.", "invalid_value")
    priority = permissions.priority_for(tenant, body.speculation)
    name, variant = context.variants.choose(body.speculation, body.user, body.seed)
    if asked == "auto" and variant.acceptance is not None:
        acceptance = variant.acceptance
    own = Asked(tenant, lookahead, drafter, acceptance, class_of(body), priority, num_choices, variant=name)
    return _varied(own, variant)


def _varied(asked: Asked, variant: VariantConfig) -> Asked:
    """With what its variant says of drafting, where request and key leave it open."""
    lookahead, drafter, most = asked.lookahead, asked.drafter, asked.tenant.max_speculative_tokens
    if lookahead is None and isinstance(variant.num_speculative_tokens, int):
        lookahead = variant.num_speculative_tokens if most is None else min(variant.num_speculative_tokens, most)
    if drafter == "auto" and variant.drafter is not None:
        drafter = variant.drafter
    return replace(asked, lookahead=lookahead, drafter=drafter, policy=variant.policy)


def _check_served(param: str, value: str, served: Sequence[str]) -> None:
    if value not in served:
        message = f"{param!r} is {value!r}, which is not served here; one of {', '.join(served)} is."
        raise invalid(param, message, "invalid_value")


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
        text = next((prompt for prompt in body.prompts if isinstance(prompt, str)), "")
    return classify(text, wants_schema=body.grammar is not None, temperature=body.temperature)


@dataclass(frozen=True, slots=True)
class PlannedChoice:
    """One choice to generate, and what the answer is to repeat: its prompt's text, or a chat's last message."""

    request: GenerateRequest
    prompt_text: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A response to be: its id, and its choices in the order of their index, n for each prompt.

    `num_likely_tokens` is what the answers are taken for before they are there: as long as was asked for, else
    of some length that fits.
    """

    id: str
    choices: tuple[PlannedChoice, ...]
    num_prompt_tokens: int
    num_likely_tokens: int


async def plan(context: IngressContext, body: ChatRequest | CompletionRequest, asked: Asked) -> Plan:
    """Decide everything about a generation before it begins; raises ApiError.

    Without a seed every prompt gets one of its own; choices of one prompt differ by their index in
    the noise. So several prompts in a request answer as requests of their own with the same seed.
    """
    model, limits, tenant = context.model, context.limits, asked.tenant
    prompt_param = "messages" if isinstance(body, ChatRequest) else "prompt"
    if (grammar := body.grammar) is not None:
        await check_grammar(context.grammars, grammar)
    prompts = await _encode(context, body)
    wanted = permissions.output_bound(tenant, limits.max_output_tokens, body.wanted_tokens, body.max_tokens_param)
    response_id = ("chatcmpl-" if isinstance(body, ChatRequest) else "cmpl-") + uuid.uuid4().hex
    stop_token_ids = stop_token_ids_of(model, body)
    bad_words = bad_words_of(context.tokenizer, body.bad_words)
    choices: list[PlannedChoice] = []
    for prompt in prompts:
        num_tokens = len(prompt.tokens)
        permissions.check_prompt(tenant, limits.max_prompt_tokens, num_tokens, prompt_param)
        params = sampling_of(context, body, num_tokens, stop_token_ids, bad_words)
        max_context_tokens = _max_context_tokens(model.max_model_len, num_tokens, body, wanted)
        for index in range(body.n):
            request = GenerateRequest(
                id=f"{response_id}-{len(choices)}",
                prompt=prompt.tokens,
                max_context_tokens=max_context_tokens,
                params=msgspec.structs.replace(
                    params,
                    choice_index=index,
                    acceptance=asked.acceptance,
                    # One of a prompt's choices scores it for all, but for an echo, where each does so for itself.
                    scores_prompt=body.scores_echo or (index == 0 and body.prompt_logprobs is not None),
                ),
                stop_token_ids=stop_token_ids,
                num_speculative_tokens=asked.lookahead,
                drafter=asked.drafter,
                max_speculative_tokens=tenant.max_speculative_tokens,
                request_class=asked.request_class,
                priority=asked.priority,
                policy=asked.policy,
                variant=asked.variant,
                salt=salt_of(tenant.name, body.cache_salt),
            )
            choices.append(PlannedChoice(request, prompt.text))
    rooms = [choice.request.max_context_tokens - len(choice.request.prompt) for choice in choices]
    return Plan(
        id=response_id,
        choices=tuple(choices),
        num_prompt_tokens=sum(len(prompt.tokens) for prompt in prompts),
        num_likely_tokens=sum(min(room, room if body.wanted_tokens else _UNBOUNDED_OUTPUT_TOKENS) for room in rooms),
    )


@dataclass(frozen=True, slots=True)
class _Prompt:
    tokens: tuple[Token, ...]
    text: str | None = None  # what an answer repeats, if it shall


async def _encode(context: IngressContext, body: ChatRequest | CompletionRequest) -> list[_Prompt]:
    if isinstance(body, CompletionRequest):
        return [await _encode_prompt(context, body, prompt) for prompt in body.prompts]
    encode = partial(encode_conversation, context, body)
    is_long = _is_long(str(body.messages))
    tokens = await asyncio.to_thread(encode) if is_long else encode()
    return [_Prompt(tuple(_cut(context, body, tokens)), body.echoed)]


def _cut(context: IngressContext, body: ChatRequest | CompletionRequest, tokens: list[Token]) -> list[Token]:
    """What the request wants kept of a prompt that is too long for it."""
    most = body.truncate_prompt_tokens
    if most is None:
        return tokens
    if most == -1:  # what fits beside the answer
        most = max(1, context.model.max_model_len - (body.wanted_tokens or 1))
    return tokens[:most] if body.truncation_side == "right" else tokens[-most:]


def encode_conversation(
    context: IngressContext, body: Conversation, *, add_special_tokens: bool = False
) -> list[Token]:
    """The ids that the model's chat template makes of a conversation; raises ApiError."""
    messages, rendering = plain_messages(body.messages), body.rendering
    try:
        return context.tokenizer.encode_chat(messages, rendering, add_special_tokens=add_special_tokens)
    except TemplateRefusal as error:
        what = "these messages" if error.param == "messages" else f"this value of {error.param!r}"
        raise invalid(error.param, f"The model's chat template refuses {what}: {error}.") from error


async def _encode_prompt(context: IngressContext, body: CompletionRequest, prompt: str | list[Token]) -> _Prompt:
    tokenizer = context.tokenizer
    if isinstance(prompt, list):
        check_tokens("prompt", prompt, context.model.vocab_size)
        tokens = prompt
    else:
        encode = partial(tokenizer.encode, prompt, add_special_tokens=body.add_special_tokens)
        tokens = await asyncio.to_thread(encode) if _is_long(prompt) else encode()
        if not tokens:
            raise invalid("prompt", "The prompt has no tokens; send at least one character.", "invalid_value")
    kept = _cut(context, body, tokens)
    if not body.echo:
        return _Prompt(tuple(kept))
    if isinstance(prompt, str) and len(kept) == len(tokens):
        return _Prompt(tuple(kept), prompt)
    decoder = tokenizer if body.skip_special_tokens else tokenizer.verbatim
    return _Prompt(tuple(kept), decoder.decode(kept))


def check_model(context: IngressContext, model: str | None) -> None:
    """ApiError for the name of a model that is not served."""
    if model is not None and model != context.model.id:
        message = f"The model {model!r} does not exist; this service has {context.model.id!r} (see /v1/models)."
        raise ApiError(404, message, param="model", code="model_not_found")


def plain_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as chat templates take them."""
    plain = [message.model_dump(exclude_none=True) for message in messages]
    for turn in plain:
        if turn["role"] == "developer":  # OpenAI's newer word for it, which templates do not know
            turn["role"] = "system"
    return plain


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
            f"This model's maximum context length is {max_model_len} tokens, and {num_prompt_tokens} in the "
            f"{prompt_param} leave no room for an answer; shorten the {prompt_param}."
        )
        raise context_length_exceeded(prompt_param, message)
    if wanted is None or body.wanted_tokens is None:
        wanted = room if wanted is None else min(wanted, room)
    elif wanted > room:
        message = (
            f"This model's maximum context length is {max_model_len} tokens; {num_prompt_tokens} in the {prompt_param} "
            f"and {wanted} wanted are more. Set {body.max_tokens_param} to at most {room}, "
            f"or shorten the {prompt_param}."
        )
        raise context_length_exceeded(body.max_tokens_param, message)
    if body.min_tokens > wanted:
        message = f"'min_tokens' is {body.min_tokens}, more than the {wanted} tokens that the answer may have."
        raise invalid("min_tokens", message, "invalid_value")
    # One that only repeats its prompt generates a token that nobody sees.
    return num_prompt_tokens + max(1, wanted)
