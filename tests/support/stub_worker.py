"""A worker without an engine, for tests of the process around one: it does what the request says."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from evaluation.load.engines.worker_loop import Answerer, serve


def load() -> tuple[Answerer, dict[str, str]]:
    print("a library greets on standard output")
    return answer, {"stub": "1.0"}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    match request["do"]:
        case "fail":
            raise ValueError("no such prompt")
        case "leave":
            print("last words", file=sys.stderr, flush=True)
            os._exit(7)
        case "sleep":
            time.sleep(60)
    os.write(1, b"a library prints past Python\n")
    return {"echo": request["do"], "path": [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]}


if __name__ == "__main__":
    serve(load)
