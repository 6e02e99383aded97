"""Can a port of this machine be listened on, and which are free for a server that starts in a moment?"""

from __future__ import annotations

import itertools
import random
import socket

_FREE = range(31_000, 32_768)
"""Where `free_ports` looks. A port of 0 would not do: the kernel gives it, once it is let go, to whichever outgoing
connection or server comes first, and a Ray cluster opens hundreds while it starts. Outgoing connections and ports of 0
begin at 32,768 (on Linux), Ray's workers end at 19,999; cluster/front.py has what lies between."""
_turns = itertools.count(random.randrange(len(_FREE)))


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


def free_ports(count: int) -> list[int]:
    """Different ports on which nobody listens, none of them given before in this process.

    Raises OSError where all are taken.
    """
    turns = itertools.islice(_turns, len(_FREE))
    candidates = (_FREE[turn % len(_FREE)] for turn in turns)
    ports = list(itertools.islice((port for port in candidates if can_listen("", port)), count))
    if len(ports) < count:
        raise OSError(f"fewer than {count} ports from {_FREE[0]} to {_FREE[-1]} are free")
    return ports


def free_block(ports: range, size: int) -> range:
    """`size` ports in a row on which nobody listens; by chance, as another process may be looking just now."""
    blocks = [ports[start : start + size] for start in range(0, len(ports), size)]
    random.shuffle(blocks)
    free = (block for block in blocks if all(can_listen("", port) for port in block))
    return next(free, ports[:size])
