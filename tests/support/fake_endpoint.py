"""An OpenAI endpoint that answers from a script, for tests of what talks to one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.http_server import serving


@dataclass
class FakeEndpoint:
    """What the endpoint was asked, and how it answers."""

    url: str = ""
    owner: str = "outrider"
    delay_s: float = 0.0
    status: int = 200
    key: str = ""
    """The one that completions need, "" for none."""
    chunk_s: float = 0.0
    """Between two chunks of a stream."""
    ends_streams: bool = True
    """Whether a stream has its [DONE]."""
    metrics: list[str] = field(default_factory=list)
    """What /metrics returns, one text per scrape, the last one for ever."""
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    num_in_flight: int = 0
    max_in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def complete(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ten tokens in four rounds with six accepted tokens, or undrafted if the request says so."""
        with self.lock:
            self.requests.append((path, body))
            self.num_in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.num_in_flight)
        time.sleep(self.delay_s)
        with self.lock:
            self.num_in_flight -= 1
        is_drafted = body.get("speculation", {}).get("num_speculative_tokens") != 0
        speculation = {
            "num_spec_steps": 4 if is_drafted else 10,
            "num_draft_tokens": 12 if is_drafted else 0,
            "num_accepted_draft_tokens": 6 if is_drafted else 0,
        }
        prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        text = f"answer to {prompt}"
        choice = {"message": {"content": text}} if "messages" in body else {"text": text}
        return {
            "choices": [choice],
            "usage": {"completion_tokens": 10},
            "metrics": {"speculative_decoding": speculation},
        }


def events_of(completion: dict[str, Any]) -> list[dict[str, Any]]:
    """A completion as a stream: its text in two chunks of five tokens, then what the last chunk carries."""
    choice = completion["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    events: list[dict[str, Any]] = []
    for index, part in enumerate((text[:5], text[5:])):
        piece = {"delta": {"content": part}} if "message" in choice else {"text": part}
        events.append({"choices": [piece], "usage": {"completion_tokens": 5 * (index + 1)}})
    return [*events, {"choices": [], "usage": completion["usage"], "metrics": completion["metrics"]}]


def handler_for(endpoint: FakeEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self.reply(200, json.dumps({"data": [{"id": "pocket", "owned_by": endpoint.owner}]}))
            elif self.path == "/metrics":
                text = endpoint.metrics.pop(0) if len(endpoint.metrics) > 1 else "".join(endpoint.metrics)
                self.reply(200, text)
            else:
                self.reply(200, "{}")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if endpoint.status != 200:
                self.reply(endpoint.status, '{"error": {"message": "no room"}}')
            elif endpoint.key and self.headers["Authorization"] != f"Bearer {endpoint.key}":
                self.reply(401, '{"error": {"message": "no such key"}}')
            elif body.get("stream"):
                self.stream(events_of(endpoint.complete(self.path, body)))
            else:
                self.reply(200, json.dumps(endpoint.complete(self.path, body)))

        def stream(self, events: list[dict[str, Any]]) -> None:
            """As server-sent events, with a pause between two."""
            lines = [f"data: {json.dumps(event)}\n\n" for event in events]
            if endpoint.ends_streams:
                lines.append("data: [DONE]\n\n")
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            with suppress(OSError):  # the client may have left
                for line in lines:
                    self.wfile.write(line.encode())
                    self.wfile.flush()
                    time.sleep(endpoint.chunk_s)
            self.close_connection = True

        def reply(self, status: int, text: str) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test output clean."""

    return Handler


@contextmanager
def fake_endpoint(**settings: Any) -> Iterator[FakeEndpoint]:
    """Serve a FakeEndpoint on a free port for the length of a test."""
    endpoint = FakeEndpoint(**settings)
    with serving(handler_for(endpoint)) as endpoint.url:
        yield endpoint
