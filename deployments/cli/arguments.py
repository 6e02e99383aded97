"""What several verbs share on their command lines: types of arguments, each of which says what it wants."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from types import FrameType

_MAX_DAYS = 36_500


def positive(text: str) -> int:
    """A count of at least 1."""
    return _whole(text, 1)


def count(text: str) -> int:
    """A count of at least 0."""
    return _whole(text, 0)


def positives(text: str) -> tuple[int, ...]:
    """Counts of at least 1, separated by commas."""
    return tuple(positive(part) for part in text.split(","))


def counts(text: str) -> tuple[int, ...]:
    """Counts of at least 0, separated by commas."""
    return tuple(count(part) for part in text.split(","))


def number(text: str) -> float:
    """A number that ends."""
    value = _number(text)
    if math.isnan(value):
        raise argparse.ArgumentTypeError(f"must be a number, not {text}")
    return value


def above_zero(text: str) -> float:
    """A number above 0, such as seconds to wait."""
    value = _number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text}")
    return value


def at_least_zero(text: str) -> float:
    """A number that is not negative."""
    value = _number(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, not {text}")
    return value


def days(text: str) -> float:
    """A time from now that a calendar has."""
    value = _number(text)
    if not 0 < value <= _MAX_DAYS:
        raise argparse.ArgumentTypeError(f"must be days from now, above 0 and at most {_MAX_DAYS}, not {text}")
    return value


def port(text: str) -> int:
    """A port that a server can have."""
    value = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is no port; choose one from 1 to 65535")
    return value


def output_file(text: str) -> Path:
    """A file that can be written; told before there is something to write, which may take hours."""
    file = Path(text)
    was_there = file.exists()
    try:
        with file.open("ab"):
            pass
        if not was_there:
            file.unlink()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {error.strerror}") from None
    return file


def exit_on_signal(signum: int, frame: FrameType | None) -> None:
    """Leave through the interpreter's own exit, so that every `finally` runs."""
    sys.exit(128 + signum)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, not {text}")
    return value


def _number(text: str) -> float:
    """NaN for what is none, infinity included."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
