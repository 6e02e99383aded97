"""Variants: ways to have the same cases answered, a base and what is compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import yaml

from evaluation.quality.suite import JsonValue

BASE = "base"


class VariantError(ValueError):
    """A variant cannot be used; the text names it and the field."""


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to ask: another `speculation`, another endpoint or model, or other fields of the request's body.

    What is None is as the command line says.
    """

    name: str
    speculation: dict[str, JsonValue] | None = None
    url: str | None = None
    model: str | None = None
    body: dict[str, JsonValue] = {}

    def to_body(self) -> dict[str, JsonValue]:
        """The fields that this variant adds to a request."""
        return self.body if self.speculation is None else {**self.body, "speculation": self.speculation}


ALONE = Variant(name=BASE)
"""The endpoint as it is, with nothing that only Outrider knows: what runs without variants."""
OFF = Variant(name=BASE, speculation={"num_speculative_tokens": 0})
"""What others are compared with, unless a variant of this name says otherwise."""


def read_variants(file: Path | None, texts: Sequence[str]) -> tuple[Variant, ...]:
    """The variants of a YAML or JSON file (a mapping by name) and of `name=json` texts, base first.

    Without any there is only the endpoint as it is. Raises VariantError.
    """
    fields: dict[str, object] = {}
    if file is not None:
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise VariantError(f"{file}: {error}") from error
        if not isinstance(content, dict):
            raise VariantError(f"{file}: variants are a mapping by name")
        fields.update({str(name): value for name, value in content.items()})
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise VariantError(f"--variant {text!r}: is written name=json")
        try:
            fields[name] = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise VariantError(f"--variant {name}: not JSON: {error}") from error
    if not fields:
        return (ALONE,)
    made = {name: _variant(name, value) for name, value in fields.items()}
    base = made.pop(BASE, OFF)
    return (base, *made.values())


def _variant(name: str, value: object) -> Variant:
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise VariantError(f"variant {name}: is an object with speculation, url, model or body")
    try:
        return msgspec.convert({**value, "name": name}, Variant)
    except msgspec.ValidationError as error:
        raise VariantError(f"variant {name}: {error}") from error
