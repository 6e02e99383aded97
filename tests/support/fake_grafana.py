"""A Grafana as far as the dashboard needs one: it refuses every call that Grafana 11, 12 or 13 would refuse.

Written from Grafana's HTTP API reference (folders by uid, dashboards by uid, /dashboards/db with folderUid, versions
that must match, bearer tokens); calls that those releases have deprecated or dropped are answered with a 404 here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "glsa_0123456789abcdef"
_MAX_UID_CHARS = 40


@dataclass
class FakeGrafana:
    """What is stored, and which calls came."""

    url: str = ""
    folders: dict[str, str] = field(default_factory=dict)
    dashboards: dict[str, dict[str, Any]] = field(default_factory=dict)
    placed: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    may_write: bool = True
    schema_version: int = 39
    path_prefix: str = ""

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [call for call in self.calls if call[0] != "GET"]

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        match method, path.removeprefix(self.path_prefix).split("/"):
            case "GET", ["", "api", "folders", uid]:
                return (200, {"uid": uid, "title": self.folders[uid]}) if uid in self.folders else _absent("folder")
            case "POST", ["", "api", "folders"]:
                return self._make_folder(body)
            case "GET", ["", "api", "dashboards", "uid", uid]:
                if uid not in self.dashboards:
                    return _absent("Dashboard")
                return 200, {"dashboard": self.dashboards[uid], "meta": {"folderUid": self.placed[uid], "version": 1}}
            case "POST", ["", "api", "dashboards", "db"]:
                return self._save(body)
        return 404, {"message": "Not found"}

    def _make_folder(self, body: Any) -> tuple[int, Any]:
        if not self.may_write:
            return 403, {"message": "You'll need additional permissions to perform this action."}
        assert set(body) <= {"uid", "title", "parentUid", "description"}, body
        if body["uid"] in self.folders:
            return 412, {"message": "the folder has been changed by someone else"}
        self.folders[body["uid"]] = body["title"]
        return 200, {"uid": body["uid"], "title": body["title"], "version": 1}

    def _save(self, body: Any) -> tuple[int, Any]:
        if not self.may_write:
            return 403, {"message": "You'll need additional permissions to perform this action."}
        assert set(body) <= {"dashboard", "folderUid", "message", "overwrite"}, body
        dashboard = dict(body["dashboard"])
        if not dashboard.get("title"):
            return 400, {"message": "Dashboard title cannot be empty"}
        if "id" in dashboard or len(dashboard["uid"]) > _MAX_UID_CHARS:
            return 400, {"message": "bad request data"}
        if body["folderUid"] not in self.folders:
            return 400, {"message": "folder not found"}
        stored = self.dashboards.get(dashboard["uid"])
        if stored is not None and not body.get("overwrite") and dashboard.get("version") != stored["version"]:
            return 412, {"message": "The dashboard has been changed by someone else", "status": "version-mismatch"}
        version = stored["version"] + 1 if stored is not None else 1
        # As newer servers do: a numeric id, defaults that were left open, the schema of today.
        kept = {**dashboard, "id": 17, "version": version, "schemaVersion": self.schema_version, "links": []}
        self.dashboards[dashboard["uid"]] = kept
        self.placed[dashboard["uid"]] = body["folderUid"]
        return 200, {"id": 17, "uid": dashboard["uid"], "status": "success", "version": version, "slug": "outrider"}


def _absent(what: str) -> tuple[int, Any]:
    return 404, {"message": f"{what} not found"}


@contextmanager
def fake_grafana(path_prefix: str = "") -> Iterator[FakeGrafana]:
    """A server on a free loopback port."""
    grafana = FakeGrafana(path_prefix=path_prefix)

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            grafana.calls.append((self.command, self.path))
            if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                status, answer = grafana.answer(self.command, self.path, body)
            else:
                status, answer = 401, {"message": "Invalid API key"}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _do

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        grafana.url = f"http://127.0.0.1:{server.server_port}{path_prefix}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield grafana
        finally:
            server.shutdown()
            thread.join()
