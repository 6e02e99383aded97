"""What a check found, and how to mend it."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["ok", "warning", "problem", "unknown"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One result. A problem keeps the service from starting or working, a warning will; `remedy` says what to do.

    "unknown" is what could not be looked at from here; its remedy says from where it can.
    """

    check: str
    state: State
    detail: str
    remedy: str = ""


def ok(check: str, detail: str) -> Finding:
    """Nothing to do."""
    return Finding(check=check, state="ok", detail=detail)


def problem(check: str, detail: str, remedy: str) -> Finding:
    """Something to mend."""
    return Finding(check=check, state="problem", detail=detail, remedy=remedy)


def warning(check: str, detail: str, remedy: str) -> Finding:
    """Something to mend before it becomes a problem."""
    return Finding(check=check, state="warning", detail=detail, remedy=remedy)


def unknown(check: str, detail: str, remedy: str) -> Finding:
    """Something that cannot be seen from here."""
    return Finding(check=check, state="unknown", detail=detail, remedy=remedy)
