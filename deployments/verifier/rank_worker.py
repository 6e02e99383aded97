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

from deployments.config import OutriderConfig, parse
from deployments.messages import DrafterKind
from deployments.verifier.building import build_engine
from deployments.verifier.engine import VerifierEngine
from deployments.verifier.rank_calls import TARGET, Connection, Held, RankLost, Ready, perform, socket_path


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Which of how many, and the folder in which the ranks of one replica meet."""

    rank: int
    num_ranks: int
    folder: str


HoldDrafter = Callable[[OutriderConfig, DrafterKind], tuple[object, type]]
"""Loads a drafter's engine; returns it and the Protocol that it implements."""


def serve_share(fields: Mapping[str, Any], folder: str, rank: int, hold: HoldDrafter) -> None:
    """What a worker process does for its whole life; `fields` are those of a resolved configuration.

    The first rank also holds the engines of the drafters that are inside the verifier.
    """
    config = parse(fields)
    place = RankPlace(rank, config.verifier.num_ranks, folder)
    join(place, config.verifier.device)
    engine = build_engine(config)
    kinds = config.colocated_kinds if rank == 0 else ()
    serve_rank(place, engine, {kind: Held(*hold(config, kind)) for kind in kinds})


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


def serve_rank(place: RankPlace, engine: VerifierEngine, drafters: Mapping[str, Held]) -> None:
    """Answer calls in order until the scheduling process lets this one go; a call that fails is answered with why."""
    engines = {TARGET: Held(engine, VerifierEngine), **drafters}
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(socket_path(Path(place.folder)))
    scheduler = Connection(sock, "the scheduling process")
    ready = Ready(
        rank=place.rank,
        vocab_size=engine.vocab_size,
        num_kv_tokens=engine.num_kv_tokens,
        max_context_tokens=engine.max_context_tokens,
        memory=engine.memory,
        follows_grammars=engine.follows_grammars,
    )
    scheduler.send(msgspec.msgpack.encode(ready))
    while True:
        try:
            data = scheduler.receive(None)  # it may be idle for days; its end closes the socket
        except RankLost:
            return
        scheduler.send(perform(engines, data))
