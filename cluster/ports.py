"""Can a port of this machine be listened on?"""

from __future__ import annotations

import socket


def refusal(host: str, port: int) -> OSError | None:
    """Why no server could start there now; None if one could. "" is every interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do; TIME_WAIT is no obstacle
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def can_listen(host: str, port: int) -> bool:
    """Whether a server could start there now."""
    return refusal(host, port) is None
