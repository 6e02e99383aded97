"""Who is at the ends of a link, and the one-time tokens that let a peer dial."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from deployments.messages import Role

_MAX_TOKENS_PER_PEER = 16


class Identity(NamedTuple):
    """Who one end of a link is: a peer name, unique in the application, and its role."""

    peer: str
    role: Role


class Invitation(NamedTuple):
    """What a lease hands out: whom to dial, where, and the one-time token to say Hello with."""

    peer: Identity
    host: str
    port: int
    token: str


class TokenBook:
    """One-time tokens that prove a dialling peer was let in by a lease; may be used from any thread."""

    def __init__(self, lifetime_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: dict[Identity, list[tuple[str, float]]] = {}

    def issue(self, identity: Identity) -> str:
        """A new token that this peer, and no other, can redeem once before it expires."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._drop_expired()
            kept = self._tokens.setdefault(identity, [])
            kept.append((token, self._clock() + self._lifetime_s))
            del kept[:-_MAX_TOKENS_PER_PEER]
        return token

    def redeem(self, identity: Identity, token: str) -> bool:
        """Whether the token was issued to this peer, is unused and has not expired; it is used up now."""
        presented = token.encode()
        with self._lock:
            self._drop_expired()
            held = self._tokens.get(identity, [])
            # compare_digest takes the same time wherever the first difference is.
            matching = [entry for entry in held if hmac.compare_digest(entry[0].encode(), presented)]
            for entry in matching:
                held.remove(entry)
        return bool(matching)

    def _drop_expired(self) -> None:
        now = self._clock()
        for identity, entries in list(self._tokens.items()):
            entries[:] = [entry for entry in entries if entry[1] > now]
            if not entries:
                del self._tokens[identity]
