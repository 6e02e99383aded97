"""What the kinds of bench share on their command lines."""

from __future__ import annotations

import argparse
import sys
from types import FrameType


def positive(text: str) -> int:
    """A count of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def exit_on_signal(signum: int, frame: FrameType | None) -> None:
    """Leave through the interpreter's own exit, so that every `finally` runs."""
    sys.exit(128 + signum)
