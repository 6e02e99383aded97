"""One rank of a tensor-parallel verifier: joins the process group, loads its share, then does as it is told."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed

from deployments.config import parse
from deployments.verifier.building import build_engine
from deployments.verifier.engine import VerifierEngine
from deployments.verifier.rank_calls import (
    Connection,
    RankLost,
    Ready,
    encode_error,
    encode_result,
    perform,
    socket_path,
)


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Which of how many, and the folder in which the ranks of one replica meet."""

    rank: int
    num_ranks: int
    folder: str


def serve_share(fields: Mapping[str, Any], folder: str, rank: int) -> None:
    """What a worker process does for its whole life; `fields` are those of a resolved configuration."""
    config = parse(fields)
    place = RankPlace(rank, config.verifier.num_ranks, folder)
    join(place, config.verifier.device)
    serve_rank(place, lambda: build_engine(config))


def join(place: RankPlace, device: str) -> None:
    """Meet the other ranks. They are all on this machine, so nothing listens beyond the loopback."""
    is_alone_with_its_gpu = device == "cuda" and torch.cuda.device_count() == 1
    os.environ.update(
        RANK=str(place.rank),
        LOCAL_RANK="0" if is_alone_with_its_gpu else str(place.rank),
        WORLD_SIZE=str(place.num_ranks),
        GLOO_SOCKET_IFNAME="lo",
    )
    torch.distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{Path(place.folder) / 'rendezvous'}",
        rank=place.rank,
        world_size=place.num_ranks,
    )


def serve_rank(place: RankPlace, build: Callable[[], VerifierEngine]) -> None:
    """Answer calls in order until the scheduling process lets this one go; a call that fails is answered with why."""
    engine = build()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(socket_path(Path(place.folder)))
    scheduler = Connection(sock, "the scheduling process")
    ready = Ready(rank=place.rank, vocab_size=engine.vocab_size, max_context_tokens=engine.max_context_tokens)
    scheduler.send(msgspec.msgpack.encode(ready))
    while True:
        try:
            data = scheduler.receive(None)  # it may be idle for days; its end closes the socket
        except RankLost:
            return
        try:
            answer = encode_result(perform(engine, data))
        except Exception as error:
            answer = encode_error(error)
        scheduler.send(answer)
