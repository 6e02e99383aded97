"""An OpenAI-compatible endpoint whose every answer is a function of the request, for tests of what asks one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.http_server import serving


@dataclass
class Reply:
    """A status, a body, and headers beside it."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Script = Callable[[str, dict[str, Any]], Reply]


def chat(text: str, **choice: Any) -> Reply:
    """A chat completion of this text."""
    return Reply({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **choice}]})


def refusal(status: int, message: str = "no", **headers: str) -> Reply:
    """An error in OpenAI's shape; header names are written with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply({"error": {"message": message, "type": "error", "param": None, "code": None}}, status, named)


def prompt_of(body: dict[str, Any]) -> str:
    """The last thing that a request asks."""
    return str(body["messages"][-1]["content"] if "messages" in body else body["prompt"])


@dataclass
class ScriptedEndpoint:
    """The address, and all that was asked there: path, body and headers."""

    url: str
    script: Script
    requests: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    metrics: Callable[[], str] = str
    in_flight: int = 0
    most_in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self.lock:
            self.requests.append((path, body, headers))
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return self.script(path, body)
        finally:
            with self.lock:
                self.in_flight -= 1


@contextmanager
def scripted_endpoint(script: Script) -> Iterator[ScriptedEndpoint]:
    """Serve on a free port of 127.0.0.1 for the length of a test."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            is_metrics = self.path == "/metrics"
            self.reply(Reply(endpoint.metrics().encode() if is_metrics else {"data": [{"id": "scripted"}]}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(endpoint.answer(self.path, body, {name.lower(): value for name, value in self.headers.items()}))

        def reply(self, reply: Reply) -> None:
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test output clean."""

    endpoint = ScriptedEndpoint("", script)
    with serving(Handler) as endpoint.url:
        yield endpoint
