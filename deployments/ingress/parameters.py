"""Parameters that clients send although this service does not have them yet.

Their neutral values change nothing and are accepted, since many clients always send them; any
other value is refused by name. So every parameter is honoured or refused, never ignored.
"""

from __future__ import annotations

import json
from typing import Any

from deployments.ingress.errors import ApiError, invalid

_SAMPLING: dict[str, tuple[Any, ...]] = {
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "spaces_between_special_tokens": (True,),
    "logprob_token_ids": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_decoding_backend": (),
    "guided_whitespace_pattern": (),
    "kv_transfer_params": ({},),
    "vllm_xargs": ({},),
    "watermarking": (False,),
    "repetition_detection": (),
    "thinking_token_budget": (-1,),
    "stream_interval": (1,),
    "session_id": (),
    "priority": (0,),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "request_id": (),
}
_REMEDIES = {
    "guided_json": "send 'structured_outputs': {'json': ...}",
    "guided_regex": "send 'structured_outputs': {'regex': ...}",
    "guided_choice": "send 'structured_outputs': {'choice': ...}",
    "guided_grammar": "send 'structured_outputs': {'grammar': ...}",
    "guided_whitespace_pattern": "send 'structured_outputs': {'whitespace_pattern': ...}",
}
CHAT_NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    **_SAMPLING,
    "best_of": (1,),
    "add_special_tokens": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "include_reasoning": (True,),
    "verbosity": ("medium",),
    "web_search_options": (),
    "chat_template": (),
    "documents": ([],),
    "mm_processor_kwargs": ({},),
    "media_io_kwargs": ({},),
}
COMPLETION_NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    **_SAMPLING,
    "suffix": ("",),
    "prompt_embeds": (),
}
TOKENIZE_CHAT_NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    name: CHAT_NEUTRAL_VALUES[name] for name in ("tools", "chat_template", "mm_processor_kwargs")
}
MESSAGE_NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    # What a client feeds back of an earlier answer.
    "refusal": (),
    "audio": (),
    "annotations": ([],),
    "tool_calls": ([],),
    "tool_call_id": (),
    "function_call": (),
    "reasoning": (),
    "reasoning_content": (),
}


def without_neutral(
    given: dict[str, Any], neutral_values: dict[str, tuple[Any, ...]], prefix: str = ""
) -> dict[str, Any]:
    """The parameters that remain for the schema; raises ApiError for one that is not supported yet.

    `null` means not given, as in the OpenAI API. Of several the first in `neutral_values` is told: tools, and not the
    choice among them.
    """
    for name, neutral_here in neutral_values.items():
        value = given.get(name)
        if value is not None and not any(_is_same(value, neutral) for neutral in neutral_here):
            raise unsupported(prefix + name, neutral_here)
    return {name: value for name, value in given.items() if value is not None and name not in neutral_values}


def unsupported(param: str, neutral_values: tuple[Any, ...] = ()) -> ApiError:
    """The refusal of a known parameter, naming the values that would do."""
    allowed = " or ".join(map(json.dumps, neutral_values))
    remedy = _REMEDIES.get(param) or (f"send {allowed}" if allowed else "leave it out")
    return invalid(param, f"This value of {param!r} is not supported yet; {remedy}.", "unsupported_parameter")


def _is_same(value: Any, neutral: Any) -> bool:
    # In Python True equals 1 and False equals 0; in JSON they do not.
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)
