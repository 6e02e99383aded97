"""Request bodies of /v1/chat/completions and /v1/completions: bytes in, checked models or ApiError out."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from deployments.ingress.chat_template import Rendering
from deployments.ingress.checking import checked, json_object
from deployments.ingress.errors import invalid
from deployments.ingress.parameters import (
    CHAT_NEUTRAL_VALUES,
    COMPLETION_NEUTRAL_VALUES,
    MESSAGE_NEUTRAL_VALUES,
    unsupported,
    without_neutral,
)
from deployments.ingress.strict import Options, Strict
from deployments.ingress.structured_output import OutputGrammar, ResponseFormat, StructuredOutputs, output_grammar
from deployments.messages import Acceptance, DrafterName, Priority, RequestClass

MAX_STOPS = 16
MAX_STOP_TOKENS = 128
MAX_BIASES = 1024
MAX_ALLOWED_TOKENS = 4096
MAX_BAD_WORDS = 128
MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20


class Speculation(Options):
    """How a request wants to be drafted for.

    It changes the speed, never the output; but with `acceptance` rejection only the output's distribution is kept.
    """

    num_speculative_tokens: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    drafter: DrafterName = "auto"
    acceptance: Acceptance | Literal["auto"] = "auto"
    request_class: RequestClass | Literal["auto"] = "auto"
    priority: Priority | Literal["auto"] = "auto"
    variant: Annotated[str, StringConstraints(max_length=64)] | None = None


class StreamOptions(Options):
    """What a stream carries besides the text.

    `include_token_kinds` adds `outrider: {"segments": [{"text", "kind"}, ...]}` to every chunk that
    has text: the same text, cut by where it came from (accepted, recovered, bonus, plain).
    `continuous_usage_stats` adds the usage so far to every chunk, if there is `include_usage`. Nothing is padded, so
    `include_obfuscation` is there to be switched off.
    """

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_token_kinds: bool = False
    include_obfuscation: Literal[False] = False


Stop = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
BadWord = Annotated[str, StringConstraints(min_length=1, max_length=256)]
PositiveInt = Annotated[int, Field(ge=1)]
TokenId = Annotated[int, Field(ge=0)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
CacheSalt = Annotated[str, StringConstraints(min_length=1, max_length=256)]
NumLogprobs = Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)]


class _Request(Strict):
    """What both endpoints take. None means: the model's default."""

    model: Annotated[str, StringConstraints(min_length=1)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    max_tokens: PositiveInt | None = None
    truncate_prompt_tokens: PositiveInt | Literal[-1] | None = None
    truncation_side: Literal["left", "right"] = "left"
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] = Field(default_factory=list)
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=MAX_BIASES)] = Field(default_factory=dict)
    allowed_token_ids: Annotated[list[TokenId], Field(max_length=MAX_ALLOWED_TOKENS, fail_fast=True)] = Field(
        default_factory=list
    )
    bad_words: Annotated[list[BadWord], Field(max_length=MAX_BAD_WORDS, fail_fast=True)] = Field(default_factory=list)
    min_tokens: Annotated[int, Field(ge=0)] = 0
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS)] = Field(default_factory=list)
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    prompt_logprobs: NumLogprobs | None = None
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    # They say something about the request, and change nothing in its answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    cache_salt: CacheSalt | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    speculation: Speculation = Speculation()

    @property
    def stops(self) -> list[str]:
        """The stop strings, however they were given."""
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @cached_property
    def grammar(self) -> OutputGrammar | None:
        """What the answer has to follow; ApiError where other parameters may leave nothing that can come next."""
        wanted = output_grammar(self.response_format, self.structured_outputs)
        for param in ("min_tokens", "ignore_eos", "allowed_token_ids", "bad_words"):
            if wanted is not None and getattr(self, param):
                message = f"{param!r} may rule out all that {wanted.param!r} allows next; leave one of them out."
                raise invalid(param, message, "invalid_value")
        return wanted

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a chunk that carries the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def includes_usage_so_far(self) -> bool:
        """Whether every chunk of a stream carries the usage so far."""
        return self.includes_usage and self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def includes_token_kinds(self) -> bool:
        """Whether chunks tell where their tokens came from."""
        return self.stream_options is not None and self.stream_options.include_token_kinds


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """One turn of a conversation. What becomes of `name` is the chat template's business."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]
    name: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class Conversation(Strict):
    """Messages, and how the chat template makes a prompt of them."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)

    @property
    def rendering(self) -> Rendering:
        """What is wanted of the template; ApiError if that contradicts itself."""
        if self.continue_final_message and self.add_generation_prompt:
            message = "The last message is not ended where it is continued; leave 'add_generation_prompt' out."
            raise invalid("add_generation_prompt", message, "invalid_value")
        adds = not self.continue_final_message if self.add_generation_prompt is None else self.add_generation_prompt
        return Rendering(
            adds_generation_prompt=adds,
            continues_final=self.continue_final_message,
            variables=self.chat_template_kwargs,
        )


class ChatRequest(Conversation, _Request):
    """Body of /v1/chat/completions."""

    max_completion_tokens: PositiveInt | None = None
    logprobs: bool = False
    top_logprobs: NumLogprobs = 0
    echo: bool = False

    @property
    def echoed(self) -> str | None:
        """What the answer begins with: the last message, if that is the assistant's."""
        last = self.messages[-1]
        if not self.echo or last.role != "assistant":
            return None
        return last.content if isinstance(last.content, str) else "".join(part.text for part in last.content)

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens to report with each; None for no report."""
        return self.top_logprobs if self.logprobs else None

    @property
    def scores_echo(self) -> bool:
        """Whether the answer's log-probabilities begin with the prompt's."""
        return False

    @property
    def wanted_tokens(self) -> int | None:
        """The bound on the output, None for all that fits."""
        bounds = [bound for bound in (self.max_completion_tokens, self.max_tokens) if bound is not None]
        return min(bounds, default=None)

    @property
    def max_tokens_param(self) -> str:
        """The parameter that sets the bound."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"


# Lists end with their first fault: one with a hundred thousand of them would hold up every other request.
Prompt = str | Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


class CompletionRequest(_Request):
    """Body of /v1/completions; a prompt is text or token ids, and there may be several."""

    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=0)] = 16
    best_of: PositiveInt | None = None
    logprobs: NumLogprobs | None = None
    echo: bool = False
    add_special_tokens: bool = True

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, however they were given."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [one for one in self.prompt if isinstance(one, int)]
        return [ids] if ids else [one for one in self.prompt if not isinstance(one, int)]

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens to report with each; None for no report."""
        return self.logprobs

    @property
    def scores_echo(self) -> bool:
        """Whether the answer's log-probabilities begin with the prompt's."""
        return self.echo and self.logprobs is not None

    @property
    def wanted_tokens(self) -> int | None:
        """The bound on the output."""
        return self.max_tokens

    @property
    def max_tokens_param(self) -> str:
        """The parameter that sets the bound."""
        return "max_tokens"


def parse_chat(body: bytes) -> ChatRequest:
    """Check a chat request; raises ApiError."""
    given = without_neutral(json_object(body), CHAT_NEUTRAL_VALUES)
    request = checked(ChatRequest, with_checked_messages(given))
    _check_stream(request)
    if request.top_logprobs and not request.logprobs:
        raise invalid("top_logprobs", "'top_logprobs' needs 'logprobs': true; set it, or leave top_logprobs out.")
    return request


def parse_completion(body: bytes) -> CompletionRequest:
    """Check a completion request; raises ApiError."""
    request = checked(CompletionRequest, without_neutral(json_object(body), COMPLETION_NEUTRAL_VALUES))
    _check_stream(request)
    if request.best_of not in (None, request.n):
        raise invalid("best_of", "'best_of' other than n is not supported; leave it out.", "unsupported_parameter")
    if request.max_tokens == 0 and not request.echo:
        raise invalid(
            "max_tokens", "'max_tokens' is 0, which leaves nothing to answer without 'echo'.", "invalid_value"
        )
    return request


def with_checked_messages(given: dict[str, Any]) -> dict[str, Any]:
    """The same body, once nothing in its messages is of a kind that is not supported; raises ApiError."""
    if isinstance(messages := given.get("messages"), list):
        return {**given, "messages": [_message(message, f"messages.{i}.") for i, message in enumerate(messages)]}
    return given


def _message(message: Any, prefix: str) -> Any:
    if not isinstance(message, dict):
        return message
    if message.get("role") in ("tool", "function"):
        raise unsupported(f"{prefix}role", ("system", "developer", "user", "assistant"))
    content = message.get("content")
    for i, part in enumerate(content) if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            param = f"{prefix}content.{i}.type"
            reason = f"{param!r} is {kind!r}, but this model reads text only; send parts of type 'text'."
            raise invalid(param, reason, "unsupported_content")
    return without_neutral(message, MESSAGE_NEUTRAL_VALUES, prefix)


def _check_stream(request: _Request) -> None:
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "stream_options needs 'stream': true; set it, or leave stream_options out.")
    if request.prompt_logprobs is not None and request.stream:
        message = "'prompt_logprobs' are not there in a stream; leave 'stream' out."
        raise invalid("prompt_logprobs", message, "invalid_value")
