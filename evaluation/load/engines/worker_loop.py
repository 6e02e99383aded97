"""The inside of a worker: one JSON line in, one out. Standard library only, for it runs in peers' environments too."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

Answerer = Callable[[dict[str, Any]], dict[str, Any]]


def serve(load: Callable[[], tuple[Answerer, dict[str, str]]]) -> None:
    """Load, say so with the versions of what was loaded, and answer requests until standard input ends.

    Whatever the engine's libraries print goes to standard error; standard output is for answers alone.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(record: dict[str, Any]) -> None:
        answers.write(json.dumps(record) + "\n")
        answers.flush()

    answer, versions = load()
    say({"ready": versions})
    for line in sys.stdin:
        try:
            say(answer(json.loads(line)))
        except Exception as error:
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"})
