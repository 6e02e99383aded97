"""A verifier engine whose target lies in shares on several ranks: every call goes to all of them, in order.

Each rank runs an engine of its own on its share of the heads and layers' widths; the collectives inside the model make
their logits equal, so all decide alike, and a difference is a fault. Losing one rank is losing the target.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from deployments.memory import MemoryUse
from deployments.messages import KvRange, SamplingParams, SessionId
from deployments.paged.prefix_index import Prefix
from deployments.verifier.engine import Chunk, Outcome
from deployments.verifier.rank_calls import Connection, RankLost, Ready, decode_result, encode_call, socket_path

_POLL_S = 0.2
Result = TypeVar("Result")


class ParallelEngine:
    """Implements `VerifierEngine` over ranks; `on_lost` is told why when they are a target no longer.

    `timeout_s` bounds every call, a step included.
    """

    def __init__(
        self, ranks: Sequence[Connection], ready: Sequence[Ready], *, timeout_s: float, on_lost: Callable[[str], None]
    ) -> None:
        self._ranks = ranks
        self._ready = ready[0]
        self.memory = sum((rank.memory for rank in ready), MemoryUse())
        self._timeout_s = timeout_s
        self._on_lost = on_lost

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Notice a rank that goes while nothing is asked of it. The loop must be the one that makes the calls."""
        for rank in self._ranks:
            loop.add_reader(rank.fileno(), self._on_unasked, loop, rank)

    def _on_unasked(self, loop: asyncio.AbstractEventLoop, rank: Connection) -> None:
        loop.remove_reader(rank.fileno())
        self._on_lost(f"{rank.name} has ended")

    def shut_down(self) -> None:
        """Let the ranks go. Idempotent."""
        for rank in self._ranks:
            rank.close()

    @property
    def vocab_size(self) -> int:
        """Token ids are in [0, vocab_size)."""
        return self._ready.vocab_size

    @property
    def follows_grammars(self) -> bool:
        """Whether sessions may ask for a grammar."""
        return self._ready.follows_grammars

    @property
    def max_context_tokens(self) -> int:
        """The longest context a single session may have."""
        return self._ready.max_context_tokens

    @property
    def num_kv_tokens(self) -> int:
        """How many entries the KV cache holds; every rank has a share of each."""
        return self._ready.num_kv_tokens

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache that open sessions hold, 0 to 1; all ranks keep the same books."""
        usage: float = self._call("kv_usage", ranks=self._ranks[:1])[0]
        return usage

    def can_open(self, num_tokens: int, prefix: Prefix | None = None, num_growing: int = 0) -> bool:
        """Whether a session with room for `num_tokens` fits beside those that are open."""
        fits: bool = self._call("can_open", num_tokens, prefix, num_growing, ranks=self._ranks[:1])[0]
        return fits

    def open(self, session: SessionId, params: SamplingParams, num_tokens: int, prefix: Prefix | None = None) -> int:
        """Begin a session on every rank; all of them know the same prefixes."""
        return self._agreed("a prefix", self._call("open", session, params, num_tokens, prefix))

    def grow(self, session: SessionId, num_tokens: int) -> int:
        """Ask every rank for room."""
        return self._agreed("the room that is left", self._call("grow", session, num_tokens))

    def close(self, session: SessionId) -> None:
        """Free a session's room on every rank. Idempotent."""
        self._call("close", session)

    def rollback(self, session: SessionId, computed_len: int) -> None:
        """Forget cache entries from `computed_len` on. Idempotent."""
        self._call("rollback", session, computed_len)

    def step(self, chunks: Sequence[Chunk]) -> list[Outcome]:
        """One forward pass on all ranks together; RankLost when they do not decide alike."""
        outcomes: list[list[Outcome]] = self._call("step", chunks)
        if any(other != outcomes[0] for other in outcomes[1:]):
            self._lose("the ranks disagree about a step")
        return outcomes[0]

    def shadow(self, session: SessionId, start: int, stop: int) -> tuple[KvRange, ...]:
        """Entries [start, stop) of the shadow layers, the heads of all ranks side by side."""
        shares: list[tuple[KvRange, ...]] = self._call("shadow", session, start, stop)
        return tuple(_joined(ranges) for ranges in zip(*shares, strict=True))

    def hidden(self, session: SessionId) -> bytes:
        """The target's state at the last computed position; every rank has the whole of it."""
        state: bytes = self._call("hidden", session, ranks=self._ranks[:1])[0]
        return state

    def caller(self, engine: str, protocol: type) -> Callable[..., Any]:
        """Calls another engine, which the first rank holds: (method, arguments) -> its result, or its ValueError."""

        def call(name: str, *arguments: object) -> Any:
            (data,) = self._ask(encode_call(name, arguments, engine), self._ranks[:1])
            return self._checked(lambda: decode_result(name, data, protocol))

        return call

    def _call(self, name: str, *arguments: object, ranks: Sequence[Connection] | None = None) -> list[Any]:
        """Ask the ranks (None: all) and gather their answers in rank order."""
        answers = self._ask(encode_call(name, arguments), self._ranks if ranks is None else ranks)
        return self._checked(lambda: [decode_result(name, data) for data in answers])

    def _ask(self, data: bytes, ranks: Sequence[Connection]) -> list[bytes]:
        def ask() -> list[bytes]:
            for rank in ranks:
                rank.send(data)
            return [rank.receive(self._timeout_s) for rank in ranks]

        return self._checked(ask)

    def _checked(self, work: Callable[[], Result]) -> Result:
        """What the work returns; a rank that is lost on the way is told of."""
        try:
            return work()
        except RankLost as error:
            self._lose(str(error))
            raise

    def _agreed(self, what: str, answers: Sequence[int]) -> int:
        if any(other != answers[0] for other in answers[1:]):
            self._lose(f"the ranks disagree about {what}")
        return answers[0]

    def _lose(self, reason: str) -> None:
        self._on_lost(reason)
        raise RankLost(reason)


class RankListener:
    """Where the ranks of one replica report, in a folder of this user's."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(socket_path(folder))
        self._socket.listen()

    def engine(
        self,
        num_ranks: int,
        *,
        start_timeout_s: float,
        timeout_s: float,
        failure: Callable[[], str | None],
        on_lost: Callable[[str], None],
    ) -> ParallelEngine:
        """Wait until all ranks have loaded their shares; RankLost if `failure` names a reason, or in the end."""
        connections: dict[int, tuple[Connection, Ready]] = {}
        deadline_s = time.monotonic() + start_timeout_s
        self._socket.settimeout(_POLL_S)
        while len(connections) < num_ranks:
            if (reason := failure()) is not None:
                raise RankLost(reason)
            if time.monotonic() > deadline_s:
                raise RankLost(f"{len(connections)} of {num_ranks} ranks were ready after {start_timeout_s} s")
            with contextlib.suppress(TimeoutError):
                connection = Connection(self._socket.accept()[0], "a rank")
                ready = msgspec.msgpack.decode(connection.receive(timeout_s), type=Ready)
                connection.name = f"rank {ready.rank}"
                connections[ready.rank] = (connection, ready)
        self._socket.close()
        ranks, words = zip(*(connections[rank] for rank in sorted(connections)), strict=True)
        return ParallelEngine(ranks, words, timeout_s=timeout_s, on_lost=on_lost)


def _joined(shares: Sequence[KvRange]) -> KvRange:
    """One range from every rank's share of its heads."""
    first = shares[0]
    return msgspec.structs.replace(
        first,
        keys=_side_by_side([share.keys for share in shares], first.stop - first.start),
        values=_side_by_side([share.values for share in shares], first.stop - first.start),
    )


def _side_by_side(shares: Sequence[bytes], num_positions: int) -> bytes:
    """Shares of shape (positions, heads of a rank, head dim), joined along the heads."""
    if num_positions == 0:
        return b""
    rows = [np.frombuffer(share, dtype=np.uint8).reshape(num_positions, -1) for share in shares]
    return np.concatenate(rows, axis=1).tobytes()
