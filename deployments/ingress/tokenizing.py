"""/tokenize, /detokenize and /tokenizer_info, with vLLM's bodies: clients need no tokenizer of their own."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from deployments.ingress.checking import checked, json_object
from deployments.ingress.context import IngressContext
from deployments.ingress.errors import invalid
from deployments.ingress.parameters import TOKENIZE_CHAT_NEUTRAL_VALUES, without_neutral
from deployments.ingress.planning import check_model, encode_conversation
from deployments.ingress.sampling import check_tokens
from deployments.ingress.schemas import Conversation, TokenId, with_checked_messages
from deployments.ingress.strict import Strict
from deployments.messages import Token


class _Named(Strict):
    model: str | None = None


class _TokenizePrompt(_Named):
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class _TokenizeChat(Conversation, _Named):
    add_special_tokens: bool = False
    return_token_strs: bool = False


class _Detokenize(_Named):
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]


async def tokenize(context: IngressContext, body: bytes) -> dict[str, Any]:
    """The ids of a prompt, or of a conversation; raises ApiError."""
    given = {name: value for name, value in json_object(body).items() if value is not None}
    if ("messages" in given) == ("prompt" in given):
        raise invalid("prompt", "Send either 'prompt' or 'messages'.", "invalid_value")
    request: _TokenizeChat | _TokenizePrompt
    if "messages" in given:
        chat = with_checked_messages(without_neutral(given, TOKENIZE_CHAT_NEUTRAL_VALUES))
        request = checked(_TokenizeChat, chat)
    else:
        request = checked(_TokenizePrompt, given)
    check_model(context, request.model)
    # In a thread: a long text would hold up every other request of this ingress, and the encoder releases the GIL.
    tokens = await asyncio.to_thread(partial(_encode, context, request))
    texts = context.tokenizer.token_texts
    return {
        "count": len(tokens),
        "max_model_len": context.model.max_model_len,
        "tokens": tokens,
        "token_strs": [texts.name(token) for token in tokens] if request.return_token_strs else None,
    }


def _encode(context: IngressContext, request: _TokenizeChat | _TokenizePrompt) -> list[Token]:
    tokenizer = context.tokenizer
    if isinstance(request, _TokenizePrompt):
        return tokenizer.encode(request.prompt, add_special_tokens=request.add_special_tokens)
    return encode_conversation(context, request, add_special_tokens=request.add_special_tokens)


async def detokenize(context: IngressContext, body: bytes) -> dict[str, Any]:
    """The text of ids, special tokens included; raises ApiError."""
    request = checked(_Detokenize, {name: value for name, value in json_object(body).items() if value is not None})
    check_model(context, request.model)
    check_tokens("tokens", request.tokens, context.model.vocab_size)
    return {"prompt": await asyncio.to_thread(context.tokenizer.verbatim.decode, request.tokens)}


def tokenizer_info(context: IngressContext) -> dict[str, Any]:
    """The tokenizer's named tokens and chat template."""
    return {"model_max_length": context.model.max_model_len, "eos_token": None, **context.tokenizer.info()}
