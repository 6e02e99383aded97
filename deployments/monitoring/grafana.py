"""The dashboard's way into a Grafana: only what is different is written, so pushing twice is pushing once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from grafana_api.grafana_api import GrafanaException
from grafana_api.grafana_face import GrafanaFace

FOLDER_UID = "outrider"
T = TypeVar("T")

_HINTS = {
    401: "the token is not accepted; make one for a service account with the role Editor",
    403: "the token's service account may not do this; give it the role Editor",
    412: "the dashboard was changed there in the meantime; try again",
}


class GrafanaFailed(RuntimeError):
    """Grafana did not do what it was asked; the text says what to mend."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The dashboard as a Grafana has it."""

    dashboard: Mapping[str, Any]
    folder_uid: str


class Grafana:
    """One Grafana server, addressed with a service account's token."""

    def __init__(self, url: str, token: str, timeout_s: float = 10.0) -> None:
        try:
            parts = urlsplit(url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # of brackets, and of a port
            is_address = False
        if not is_address:
            raise GrafanaFailed(f"{url!r} is no address of a Grafana; give it as https://grafana.example.org")
        self._url = url
        path = parts.path.strip("/")
        self._face = GrafanaFace(
            auth=token,
            host=parts.hostname,
            port=parts.port,
            protocol=parts.scheme,
            url_path_prefix=f"{path}/" if path else "",
            timeout=timeout_s,
        )

    def stored(self, uid: str) -> Stored | None:
        """The dashboard with this uid, or None."""
        found = self._ask("read the dashboard", lambda: self._face.dashboard.get_dashboard(uid), may_lack=True)
        if found is None:
            return None
        return Stored(found["dashboard"], str(found["meta"].get("folderUid", "")))

    def push(self, dashboard: Mapping[str, Any], folder_title: str) -> bool:
        """Make the stored dashboard what is given; False if it was so already."""
        before = self.stored(str(dashboard["uid"]))
        if (
            before is not None
            and before.folder_uid == FOLDER_UID
            and not list(differences(dashboard, before.dashboard))
        ):
            return False
        self._make_folder(folder_title)
        body: dict[str, Any] = {
            "dashboard": dict(dashboard),
            "folderUid": FOLDER_UID,
            "message": "outrider dashboards push",
        }
        # With the version that was read, a change made there since then is noticed and not overwritten unseen.
        body["dashboard"]["version"] = before.dashboard.get("version", 0) if before is not None else 0
        self._ask("write the dashboard", lambda: self._face.dashboard.update_dashboard(body))
        return True

    def _make_folder(self, title: str) -> None:
        found = self._ask("read the folder", lambda: self._face.folder.get_folder(FOLDER_UID), may_lack=True)
        if found is None:
            self._ask("make the folder", lambda: self._face.folder.create_folder(title, FOLDER_UID))

    def _ask(self, what: str, call: Callable[[], T], *, may_lack: bool = False) -> T | None:
        try:
            return call()
        except GrafanaException as error:
            if error.status_code == 404 and may_lack and _is_grafana(error.response):
                return None
            hint = _HINTS.get(error.status_code, f"it says: {error.message}")
            raise GrafanaFailed(f"cannot {what} at {self._url} (HTTP {error.status_code}): {hint}") from None
        except requests.Timeout:
            raise GrafanaFailed(f"cannot {what}: {self._url} does not answer in time") from None
        except requests.ConnectionError:
            raise GrafanaFailed(f"cannot {what}: nothing answers at {self._url}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise GrafanaFailed(f"cannot {what}: what answers at {self._url} is no Grafana") from None


def _is_grafana(response: object) -> bool:
    """Grafana's own 404 has a message; that of some other server is a page."""
    return isinstance(response, dict) and "message" in response


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Where the stored dashboard is not what we say. What a server adds is its own business, a newer schema too."""
    if isinstance(ours, Mapping):
        if not isinstance(theirs, Mapping):
            yield f"{path}: {_short(theirs)} -> {_short(ours)}"
            return
        for name, value in ours.items():
            where = f"{path}.{name}" if path else str(name)
            if name not in theirs:
                yield f"{where}: nothing -> {_short(value)}"
            elif name == "schemaVersion" and isinstance(theirs[name], int) and theirs[name] >= value:
                continue
            else:
                yield from differences(value, theirs[name], where)
    elif isinstance(ours, list):
        if not isinstance(theirs, list) or len(theirs) != len(ours):
            yield f"{path}: {_short(theirs)} -> {_short(ours)}"
            return
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(mine, other, f"{path}[{_name_of(mine, index)}]")
    elif ours != theirs:
        yield f"{path}: {_short(theirs)} -> {_short(ours)}"


def _name_of(item: Any, index: int) -> str:
    return str(item["title"]) if isinstance(item, Mapping) and "title" in item else str(index)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} entries"
    text = repr(value)
    return text if len(text) <= 90 else f"{text[:87]}..."
