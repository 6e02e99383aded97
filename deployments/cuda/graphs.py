"""A function of static tensors, captured once and replayed: one launch for all of its kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

Result = TypeVar("Result")

_NUM_WARM_UPS = 2


class Graph(Generic[Result]):
    """`run` as a CUDA graph. What it reads and writes keeps its address; `result` is overwritten by each replay.

    Graphs that share a `pool` share the memory of their intermediate results: none may be replayed
    between another's replay and the last reading of that one's result.
    """

    def __init__(self, run: Callable[[], Result], pool: Any) -> None:
        # Libraries allocate workspaces, and kernels are compiled, at the first call: neither can be captured.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_NUM_WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Only this thread is kept from what cannot be captured: others may be using the device.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self.result = run()

    def replay(self) -> Result:
        """Launch it; returns what was captured, whose contents are those of this replay once it has run."""
        self._graph.replay()
        return self.result
