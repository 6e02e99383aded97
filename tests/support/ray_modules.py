"""Ray's modules in a test's own process."""

from __future__ import annotations

import importlib
import warnings
from typing import Any


def ray_module(name: str) -> Any:
    """Import it; the warnings that it gives while it loads are not ours to fix."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)
