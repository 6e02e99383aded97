"""A link without a stream: it remembers what was sent over it."""

from __future__ import annotations

from typing import TypeVar

from deployments.link import LinkClosed
from deployments.messages import Message, Role

M = TypeVar("M")


class FakeLink:
    """Stands in for deployments.link.Link in unit tests."""

    is_local = False

    def __init__(self, peer: str, role: Role) -> None:
        self.peer = peer
        self.role = role
        self.is_closed = False
        self.sent: list[Message] = []
        self.num_sent_bytes = 0
        self.num_received_bytes = 0

    def send(self, message: Message) -> None:
        if self.is_closed:
            raise LinkClosed(self.peer)
        self.sent.append(message)

    def close(self) -> None:
        self.is_closed = True

    def fail(self, reason: str) -> None:
        self.is_closed = True

    def take(self, kind: type[M]) -> list[M]:
        """The messages of one kind that were sent since the last call for it."""
        taken = [message for message in self.sent if isinstance(message, kind)]
        self.sent = [message for message in self.sent if not isinstance(message, kind)]
        return taken

    def take_one(self, kind: type[M]) -> M:
        (message,) = self.take(kind)
        return message
