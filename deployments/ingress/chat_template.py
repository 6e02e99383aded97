"""Chat templates: messages in, prompt text out, as transformers' `apply_chat_template` renders them.

Written against jinja2 alone: importing transformers' tokenizers takes 5.1 s and pulls in torch,
`tokenizers` and jinja2 together 0.15 s (2 shared cores). A test compares the ids of both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox

ChatMessage = Mapping[str, Any]


_FINAL_MARK = "\x00the answer goes on here\x00"
"""Stands, with a space behind it, after a message that is to be gone on with; no client's text has it by chance."""


class TemplateRefusal(ValueError):
    """The template does not take these messages, or the parameter `param`, and says why."""

    def __init__(self, reason: str, param: str = "messages") -> None:
        super().__init__(reason)
        self.param = param


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """How a conversation becomes a prompt.

    It ends where the assistant's answer begins, or with `continues_final` within the last message, which the answer
    goes on with. `variables` are the template's own, such as Gemma 4's `enable_thinking`.
    """

    adds_generation_prompt: bool = True
    continues_final: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)


AS_USUAL = Rendering()


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
        self._special_tokens = dict(special_tokens)
        ours = {"messages", "tools", "documents", "add_generation_prompt", *special_tokens, *environment.globals}
        tree = environment.parse(source)
        self._variables = jinja2.meta.find_undeclared_variables(tree) - ours
        # What a branch of the template sets may come from outside, or be its own business.
        self._set = {name.name for name in tree.find_all(jinja2.nodes.Name) if name.ctx == "store"}
        self._template = environment.from_string(tree)
        # A template that looks at the type of a part knows lists of parts; others expect plain strings.
        self._takes_parts = "'type'" in source or '"type"' in source or ".type" in source

    def render(self, messages: Sequence[ChatMessage], rendering: Rendering = AS_USUAL) -> str:
        """The prompt; raises TemplateRefusal."""
        self._check(rendering.variables)
        plain = [message if self._takes_parts else _flattened(message) for message in messages]
        if rendering.continues_final:
            plain[-1] = _marked(plain[-1])
        try:
            text = self._template.render(
                messages=plain,
                tools=None,
                documents=None,
                add_generation_prompt=rendering.adds_generation_prompt,
                **self._special_tokens,
                **{name: value for name, value in rendering.variables.items() if name in self._variables},
            )
        except jinja2.TemplateError as error:
            raise TemplateRefusal(str(error)) from error
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            if not rendering.variables:
                raise
            raise TemplateRefusal(f"the template cannot use these values: {error}", "chat_template_kwargs") from error
        if not rendering.continues_final:
            return text
        head, mark, tail = text.rpartition(_FINAL_MARK)
        if not mark:
            raise TemplateRefusal("it does not show the last message as it is", "continue_final_message")
        return head if tail.startswith(" ") else head.rstrip()  # as the template does with what it trims

    def _check(self, variables: Mapping[str, Any]) -> None:
        """Refuse a variable that would change nothing; one that is off may be sent to any model."""
        for name, value in variables.items():
            if name not in self._variables and value not in (None, False):
                known = ", ".join(sorted(self._variables - self._set)) or "none"
                raise TemplateRefusal(f"it has no variable {name!r} (it has: {known})", "chat_template_kwargs")


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's text for training; here it only passes it on."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass_on"), [], [], body).set_lineno(line)

    def _pass_on(self, caller: Any) -> str:
        return str(caller())


def _marked(message: ChatMessage) -> ChatMessage:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": f"{content}{_FINAL_MARK} "}
    *others, last = content
    return {**message, "content": [*others, {**last, "text": f"{last['text']}{_FINAL_MARK} "}]}


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
