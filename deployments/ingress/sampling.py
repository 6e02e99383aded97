"""How a request wants its tokens to be chosen: from a checked body to SamplingParams, over the model's own defaults."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from deployments.ingress.context import IngressContext, ModelCard
from deployments.ingress.errors import invalid
from deployments.ingress.schemas import ChatRequest, CompletionRequest
from deployments.ingress.tokenizer import Tokenizer
from deployments.messages import SamplingParams, Token

_MAX_SEED = 2**64
_LOWEST_TEMPERATURE = 2.0**-126  # what float32 cannot tell from 0 is greedy everywhere
_MAX_TOLD = 8
_MAX_TOLD_CHARS = 64


def check_tokens(param: str, tokens: Iterable[Token], vocab_size: int) -> None:
    """ApiError for the first id that is no token."""
    outside = next((token for token in tokens if not 0 <= token < vocab_size), None)
    if outside is not None:
        raise invalid(
            param,
            f"{param!r} has the token id {outside}, which is out of vocabulary; the vocabulary has {vocab_size} ids.",
            "invalid_value",
        )


def stop_token_ids_of(model: ModelCard, body: ChatRequest | CompletionRequest) -> tuple[Token, ...]:
    """The tokens that end an answer; raises ApiError."""
    check_tokens("stop_token_ids", body.stop_token_ids, model.vocab_size)
    own = () if body.ignore_eos else model.stop_token_ids
    return tuple(dict.fromkeys((*own, *body.stop_token_ids)))


def _logit_bias(body: ChatRequest | CompletionRequest, vocab_size: int) -> tuple[tuple[Token, float], ...]:
    bias: dict[Token, float] = {}
    if wrong := [key for key in body.logit_bias if not (key.isascii() and key.isdigit())]:
        more = f" and {len(wrong) - _MAX_TOLD} more" if len(wrong) > _MAX_TOLD else ""
        told = ", ".join(repr(key[:_MAX_TOLD_CHARS]) for key in wrong[:_MAX_TOLD])
        message = f"'logit_bias' has the keys {told}{more}; keys are token ids, as strings."
        raise invalid("logit_bias", message, "invalid_value")
    for key, value in body.logit_bias.items():
        if int(key) in bias:
            raise invalid("logit_bias", f"'logit_bias' names the token {int(key)} twice.", "invalid_value")
        bias[int(key)] = value
    check_tokens("logit_bias", bias, vocab_size)
    return tuple((token, value) for token, value in bias.items() if value != 0)


def sampling_of(
    context: IngressContext,
    body: ChatRequest | CompletionRequest,
    num_prompt_tokens: int,
    stop_token_ids: tuple[Token, ...],
    bad_words: tuple[tuple[Token, ...], ...],
) -> SamplingParams:
    """The parameters of a choice after a prompt of so many tokens; raises ApiError."""
    model, grammar = context.model, body.grammar
    banned = stop_token_ids if body.min_tokens else ()
    check_tokens("allowed_token_ids", body.allowed_token_ids, model.vocab_size)
    never = {*banned, *(word[0] for word in bad_words if len(word) == 1)}
    if body.allowed_token_ids and never.issuperset(body.allowed_token_ids):
        message = "'allowed_token_ids' has only tokens that 'min_tokens' or 'bad_words' rule out; name another."
        raise invalid("allowed_token_ids", message, "invalid_value")
    temperature = model.temperature if body.temperature is None else body.temperature
    top_k = model.top_k if body.top_k is None else body.top_k
    return SamplingParams(
        temperature=0.0 if temperature < _LOWEST_TEMPERATURE else temperature,
        top_k=max(0, top_k),  # some clients write -1 for off
        top_p=model.top_p if body.top_p is None else body.top_p,
        min_p=model.min_p if body.min_p is None else body.min_p,
        # Drawn here and not at a router, so that a request repeats itself wherever it is resubmitted.
        seed=secrets.randbits(64) if body.seed is None else body.seed % _MAX_SEED,
        repetition_penalty=model.repetition_penalty if body.repetition_penalty is None else body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        num_prompt_tokens=num_prompt_tokens,
        logit_bias=_logit_bias(body, model.vocab_size),
        banned_token_ids=banned,
        banned_before=num_prompt_tokens + body.min_tokens if body.min_tokens else 0,
        num_logprobs=max((num for num in (body.num_logprobs, body.prompt_logprobs) if num is not None), default=None),
        grammar="" if grammar is None else grammar.text,
        allowed_token_ids=tuple(dict.fromkeys(body.allowed_token_ids)),
        bad_words=bad_words,
    )


def bad_words_of(tokenizer: Tokenizer, words: Iterable[str]) -> tuple[tuple[Token, ...], ...]:
    """Each word's usual tokens, at the beginning of a text and after a blank, as vLLM has it."""
    found = [
        tuple(tokenizer.encode(before + word.lstrip(), add_special_tokens=False))
        for word in words
        for before in ("", " ")
    ]
    return tuple(dict.fromkeys(word for word in found if word))
