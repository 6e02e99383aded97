"""Chat templates: messages in, prompt text out, as transformers' `apply_chat_template` renders them.

Written against jinja2 alone: importing transformers' tokenizers takes 5.1 s and pulls in torch,
`tokenizers` and jinja2 together 0.15 s (2 shared cores). A test compares the ids of both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

ChatMessage = Mapping[str, Any]


class TemplateRefusal(ValueError):
    """The template does not take these messages, and says why."""


class ChatTemplate:
    """A compiled chat template; it runs in a sandbox, as templates come with downloaded models."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self.source = source
        self._template = environment.from_string(source)
        self._special_tokens = dict(special_tokens)
        # A template that looks at the type of a part knows lists of parts; others expect plain strings.
        self._takes_parts = "'type'" in source or '"type"' in source or ".type" in source

    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool = True) -> str:
        """The prompt, by default up to where the assistant's answer begins; raises TemplateRefusal."""
        plain = [message if self._takes_parts else _flattened(message) for message in messages]
        try:
            return self._template.render(
                messages=plain,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except jinja2.TemplateError as error:
            raise TemplateRefusal(str(error)) from error


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's text for training; here it only passes it on."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass_on"), [], [], body).set_lineno(line)

    def _pass_on(self, caller: Any) -> str:
        return str(caller())


def _flattened(message: ChatMessage) -> ChatMessage:
    content = message["content"]
    if isinstance(content, str):
        return message
    return {**message, "content": "".join(part["text"] for part in content)}


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # jinja2's own filter escapes HTML characters, which a prompt must not have.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(reason: str) -> None:
    raise jinja2.TemplateError(reason)
