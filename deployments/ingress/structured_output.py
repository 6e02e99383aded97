"""What an answer's text is to look like: OpenAI's `response_format`, vLLM's `structured_outputs`, as one grammar."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from llguidance import LLMatcher, grammar_from
from pydantic import Field, StringConstraints

from deployments.grammars import MAX_GRAMMAR_CHARS, Grammars
from deployments.ingress.errors import ApiError, invalid
from deployments.ingress.strict import Options

MAX_CHOICES = 1024
# As JSON is written by whoever writes it: a blank, or a new line and what it is indented by. Models that lose their way
# between two of JSON's tokens write blanks without end where they may.
_WHITESPACE = r" |\r?\n[ \t]{0,20}"

Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_GRAMMAR_CHARS)]
# GBNF is translated in Python, 16,000 characters in 40 ms, in which no other request gets on.
GrammarText = Annotated[str, StringConstraints(min_length=1, max_length=16_384)]


class NamedSchema(Options):
    """A JSON schema as OpenAI wants it. It is followed, `strict` or not; `name` and `description` change nothing."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema", default_factory=dict)]
    strict: bool = False


class ResponseFormat(Options):
    """OpenAI's parameter."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class StructuredOutputs(Options):
    """vLLM's parameter: one of the first five, and how JSON is spaced."""

    json_: Annotated[dict[str, Any] | Text | None, Field(alias="json")] = None
    regex: Text | None = None
    choice: Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)] | None = None
    grammar: GrammarText | None = None
    json_object: bool = False
    whitespace_pattern: Text | None = None
    disable_any_whitespace: bool = False


@dataclass(frozen=True, slots=True)
class OutputGrammar:
    """A grammar in llguidance's form, and the parameter that asks for it."""

    param: str
    text: str


def output_grammar(
    response_format: ResponseFormat | None, structured_outputs: StructuredOutputs | None
) -> OutputGrammar | None:
    """The grammar that a request asks for, if any; ApiError where it asks for two."""
    first, second = _of_response_format(response_format), _of_structured_outputs(structured_outputs)
    if first is not None and second is not None:
        message = f"'response_format' and {second.param!r} both say what the answer looks like; leave one out."
        raise invalid(second.param, message, "invalid_value")
    return first or second


async def check_grammar(grammars: Grammars | None, wanted: OutputGrammar) -> None:
    """ApiError for a grammar that cannot be followed; compiling it holds nobody up."""
    if grammars is None:
        message = "This model's tokenizer is of a kind that structured outputs cannot be made with; leave it out."
        raise invalid(wanted.param, message, "unsupported_parameter")
    objection = await asyncio.to_thread(grammars.objection, wanted.text)
    if objection is not None:
        raise invalid(wanted.param, f"{wanted.param!r} cannot be followed: {objection}.", "invalid_value")


def _of_response_format(wanted: ResponseFormat | None) -> OutputGrammar | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return OutputGrammar("response_format", _json({"type": "object"}, _WHITESPACE))
    if wanted.json_schema is None:
        param = "response_format.json_schema"
        raise invalid(param, f"{param!r} is needed for this type: {{'name': ..., 'schema': ...}}.", "invalid_value")
    return OutputGrammar("response_format.json_schema.schema", _json(wanted.json_schema.schema_, _WHITESPACE))


def _of_structured_outputs(wanted: StructuredOutputs | None) -> OutputGrammar | None:
    if wanted is None:
        return None
    whitespace = None if wanted.disable_any_whitespace else wanted.whitespace_pattern or _WHITESPACE
    made = {
        "json": lambda: _json(_schema(wanted.json_), whitespace),
        "regex": lambda: LLMatcher.grammar_from_regex(wanted.regex or ""),
        "choice": lambda: grammar_from("choice", json.dumps(wanted.choice)),
        "grammar": lambda: _converted(wanted.grammar or ""),
        "json_object": lambda: _json({"type": "object"}, whitespace),
    }
    given = [name for name in made if getattr(wanted, "json_" if name == "json" else name)]
    if len(given) > 1:
        message = f"'structured_outputs' has {' and '.join(given)}; leave all but one out."
        raise invalid("structured_outputs", message, "invalid_value")
    return OutputGrammar(f"structured_outputs.{given[0]}", made[given[0]]()) if given else None


def _json(schema: dict[str, Any], whitespace: str | None) -> str:
    """JSON as a schema describes it; between its tokens may be what the pattern says, or nothing."""
    options = {"whitespace_flexible": False} if whitespace is None else {"whitespace_pattern": whitespace}
    return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)  # type: ignore[arg-type]


def _schema(given: dict[str, Any] | str | None) -> dict[str, Any]:
    """A schema, which may come as the text of one."""
    schema = given
    if isinstance(given, str):
        try:
            schema = json.loads(given)
        except ValueError as error:
            raise _refused("json", f"it is no JSON ({error})") from error
    if not isinstance(schema, dict):
        raise _refused("json", "a schema is a JSON object")
    return schema


def _converted(grammar: str) -> str:
    try:
        return grammar_from("grammar", grammar)
    except ValueError as error:
        raise _refused("grammar", str(error).split("\n", 1)[0]) from error


def _refused(name: str, reason: str) -> ApiError:
    param = f"structured_outputs.{name}"
    return invalid(param, f"{param!r} cannot be followed: {reason}.", "invalid_value")
