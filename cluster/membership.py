"""Who is in a deployment, as this process knows it. No ray here.

Serve pickles a request router by value, so what it learns is kept here, in a module that every
importer shares.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeAlias

Metadata: TypeAlias = Mapping[str, object]
Replicas: TypeAlias = Mapping[str, Metadata]
"""By replica name, what each replica recorded about itself when it became ready."""
Listener: TypeAlias = Callable[[Replicas], None]


class Membership:
    """The replicas of one deployment; thread-safe.

    Listeners are called in order, on whichever thread publishes, and must not block.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replicas: Replicas = {}
        self._listeners: list[Listener] = []

    def publish(self, replicas: Replicas) -> None:
        """Replace what is known."""
        with self._lock:
            self._replicas = dict(replicas)
            for listener in self._listeners:
                listener(self._replicas)

    def subscribe(self, listener: Listener) -> None:
        """Call the listener now, and whenever the membership is published."""
        with self._lock:
            self._listeners.append(listener)
            listener(self._replicas)


_lock = threading.Lock()
_memberships: dict[tuple[str, str], Membership] = {}


def membership_of(app: str, deployment: str) -> Membership:
    """The one Membership of this deployment in this process."""
    with _lock:
        return _memberships.setdefault((app, deployment), Membership())
