"""From the bytes of a body to a model of it, or to one error that names what is at fault, without taking long."""

from __future__ import annotations

from typing import Any, TypeVar, get_args

import pydantic_core
from pydantic import BaseModel, ValidationError

from deployments.ingress.errors import ApiError, invalid

MAX_JSON_DEPTH = 64
MAX_JSON_KEYS = 2048
_MAX_DETAILS = 8
_MAX_NAME_CHARS = 64

Model = TypeVar("Model", bound=BaseModel)


def json_object(body: bytes) -> dict[str, Any]:
    """The body's fields; raises ApiError."""
    try:
        given = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(None, f"The body is not valid JSON: {error}.", "invalid_json") from error
    if not isinstance(given, dict):
        raise invalid(None, "The body must be a JSON object.", "invalid_json")
    level: list[Any] = [given]
    for _ in range(MAX_JSON_DEPTH):
        if any(isinstance(part, dict) and len(part) > MAX_JSON_KEYS for part in level):
            raise invalid(None, f"An object in the body has more than {MAX_JSON_KEYS} keys.", "invalid_json")
        values = (value for part in level for value in (part.values() if isinstance(part, dict) else part))
        level = [value for value in values if isinstance(value, dict | list)]
        if not level:
            return given
    raise invalid(None, f"The body nests deeper than {MAX_JSON_DEPTH} levels; flatten it.", "invalid_json")


def checked(model: type[Model], given: dict[str, Any]) -> Model:
    """The body as a model; raises ApiError."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _to_api_error(error, model) from error


def _to_api_error(error: ValidationError, model: type[BaseModel]) -> ApiError:
    """One error that names every parameter at fault; `param` is the first."""
    found: dict[str, str] = {}
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        param = _param(detail["loc"])
        text = detail["msg"]
        if detail["type"] == "extra_forbidden":
            known = "known are " + ", ".join(_known_fields(model, detail["loc"]))
            text = f"Unknown parameter; {known}"
        elif detail["type"] == "missing":
            text = "This parameter is required"
        # A union reports one line for each type it allows.
        found[param] = f"{found[param]}, or: {text}" if param in found and text not in found[param] else text
    # Where one type of a union fits but for an element, the element is at fault.
    parents = {param[:at] for param in found for at, character in enumerate(param) if character == "."}
    found = {param: text for param, text in found.items() if param not in parents}
    shown = list(found.items())[:_MAX_DETAILS]
    message = "; ".join(f"{param!r}: {text}" for param, text in shown)
    if len(found) > len(shown):
        message += f"; and {len(found) - len(shown)} more"
    code = "unknown_parameter" if "Unknown parameter" in shown[0][1] else "invalid_value"
    return invalid(shown[0][0], f"Invalid request: {message}.", code)


def _param(location: tuple[int | str, ...]) -> str:
    """The path a client would recognise: pydantic adds the type it tried in a union."""
    tried = ("list[", "function-", "constrained-", "literal[")
    return ".".join(
        str(part)[:_MAX_NAME_CHARS]
        for part in location
        if isinstance(part, int) or (part not in ("str", "int", "float", "bool") and not part.startswith(tried))
    )


def _known_fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The fields of the object in which something unknown was found."""
    for part in location[:-1]:
        field = next((field for name, field in model.model_fields.items() if part in (name, field.alias)), None)
        model = _model_in(field.annotation) or model if field is not None else model
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field's type allows, alone or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
