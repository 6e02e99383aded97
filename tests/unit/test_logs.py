"""Log lines: what each says, where it goes, and that a whole request can be found in them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from deployments.config_parts import LogsConfig
from deployments.link import Identity
from deployments.logs import OWN_LOGGERS, about, epoch_name, session_name, set_up

VERIFIER = Identity("a1b2", "verifier")


class Lines(logging.Handler):
    """Keeps what it would write."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Buffering(logging.Handler):
    """Passes records on to its target, as Serve's handler does."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self.target = target

    def emit(self, record: logging.LogRecord) -> None:
        self.target.handle(record)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What set_up changes is the whole process's."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines_of(logs: LogsConfig) -> list[str]:
    handler = Lines()
    set_up(logs, VERIFIER, 3, [Buffering(handler)])
    logger = logging.getLogger("deployments.verifier.service")
    logger.debug("step", extra=about(step=1))
    logger.info("session opens", extra=about(session=session_name(255), epoch=epoch_name((7, 2)), drafter=None))
    try:
        raise ValueError("no weights\nat all")
    except ValueError:
        logger.exception("it broke %d times", 2)
    logging.getLogger("somebody.else").info("not ours")
    return handler.lines


def test_json_lines_say_who_what_and_about_what() -> None:
    opens, broke = (json.loads(line) for line in lines_of(LogsConfig()))
    assert opens.pop("time").endswith("Z")
    assert opens == {
        "level": "INFO",
        "role": "verifier",
        "replica": "a1b2",
        "rank": 3,
        "logger": "deployments.verifier.service",
        "message": "session opens",
        "session": "ff",
        "epoch": "2",
    }
    assert broke["message"] == "it broke 2 times"
    assert "ValueError: no weights" in broke["exception"]


def test_text_lines_say_the_same() -> None:
    opens, broke = lines_of(LogsConfig(format="text"))
    assert opens.endswith("INFO verifier session opens session=ff epoch=2")
    assert broke.splitlines()[0].endswith("ERROR verifier it broke 2 times")
    assert broke.splitlines()[-1] == "at all"


def test_the_level_is_that_of_our_own_lines() -> None:
    assert len(lines_of(LogsConfig(level="DEBUG"))) == 3
    assert len(lines_of(LogsConfig(level="ERROR"))) == 1
