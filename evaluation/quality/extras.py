"""Packages of the extra `eval`, loaded when they are first needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class ExtraMissingError(ImportError):
    """A package of the extra is not installed; the text says how to mend it."""


def load(module: str) -> Any:
    """Import a module of the extra `eval`."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ExtraMissingError(f"{package} is not installed: pip install 'outrider[eval]'") from error
