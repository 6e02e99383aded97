"""Log lines: JSON, or text for the eye; each says which replica wrote it and, in fields, what it is about.

    logger.info("session opens", extra=about(session=session.id, request=request))

One request is followed by its name: the ingress writes it beside the client's x-request-id, the router beside the
session it makes of it, verifier and drafter beside that session. Prompts, outputs and keys are never written.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from typing import Any, Literal

from deployments.config_parts import LogsConfig
from deployments.link_tokens import Identity
from deployments.messages import Epoch, SessionId

OWN_LOGGERS = ("outrider", "deployments", "cluster")
Field = Literal["request_id", "request", "session", "epoch", "round", "peer", "reason"] | str
_ATTRIBUTE = "outrider_fields"
_OF_SERVE = ("request_id", "route")
"""Attributes that Serve puts on its own records, the access log among them."""


def about(**fields: str | float | bool | None) -> dict[str, dict[str, object]]:
    """What a line is about, for `extra`. None is left out."""
    return {_ATTRIBUTE: {name: value for name, value in fields.items() if value is not None}}


def session_name(session: SessionId) -> str:
    """A session as every role writes it."""
    return f"{session:x}"


def epoch_name(epoch: Epoch) -> str:
    """An epoch as every role writes it: its counter, as the instance is in the session's name."""
    return str(epoch[1])


class _Formatter(logging.Formatter):
    def __init__(self, identity: Identity, rank: int) -> None:
        super().__init__()
        self._who: dict[str, object] = {"role": identity.role, "replica": identity.peer, "rank": rank}

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = {name: getattr(record, name) for name in _OF_SERVE if getattr(record, name, None)}
        fields.update(getattr(record, _ATTRIBUTE, {}))
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return fields

    @staticmethod
    def _time(record: logging.LogRecord) -> str:
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


class JsonFormatter(_Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": self._time(record),
            "level": record.levelname,
            **self._who,
            "logger": record.name,
            "message": record.getMessage(),
            **self._fields(record),
        }
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(_Formatter):
    """The same for the eye: fields come last, as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback follows on lines of its own."""
        fields = self._fields(record)
        trace = fields.pop("exception", None)
        words = [self._time(record), record.levelname, str(self._who["role"]), record.getMessage()]
        words += [f"{name}={value}" for name, value in fields.items()]
        return " ".join(words) + (f"\n{trace}" if trace else "")


def set_up(logs: LogsConfig, identity: Identity, rank: int, handlers: Sequence[logging.Handler] = ()) -> None:
    """Send this process's lines to the handlers (none: standard error), in the configured format."""
    make = JsonFormatter if logs.format == "json" else TextFormatter
    formatter = make(identity, rank)
    for handler in (chosen := list(handlers) or [logging.StreamHandler()]):
        # Serve's handlers hold lines back for a file handler, which is the one that formats.
        getattr(handler, "target", handler).setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = chosen
    root.setLevel(logging.WARNING)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logs.level)
