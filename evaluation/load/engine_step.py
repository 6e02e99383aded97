"""How near a verifier's step is to its matrix products: `python -m evaluation.load.engine_step`.

The products alone are the model's linear layers with oneDNN's packed weights, one call each; a step is
`PagedEngine.step`, decision included, greedy. Both in turns: medians, and the best, which other load on the machine
moves least.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import deployments.models
from deployments.kernels.library import Kernels
from deployments.messages import SamplingParams, Token
from deployments.models.cpu_kernels import PackedLinear, use_cpu_kernels
from deployments.models.loading import load_target
from deployments.verifier.engine import Chunk
from deployments.verifier.paged_engine import CacheLimits, PagedEngine

_POCKET = Path(deployments.models.__file__).parent / "pocket" / "target"
_PREFILL_TOKENS = 256
# Rows of a step: (sessions, lookahead).
_BATCHES = {1: (1, 0), 5: (1, 4), 20: (4, 4), 80: (16, 4)}


class Steps:
    """An engine whose sessions stand at one context, stepped again and again from there."""

    def __init__(self, folder: Path, kernels: Kernels) -> None:
        target = load_target(str(folder), dtype=torch.float32, device="cpu")
        limits = CacheLimits(max_context_tokens=2048, num_kv_tokens=1 << 15)
        self._engine = PagedEngine(target, limits, kernels)
        self._rng = random.Random(0)

    def open(self, num_sessions: int, context: int) -> None:
        """Sessions with this many computed tokens each."""
        for session in range(num_sessions):
            self._engine.open(session, SamplingParams(), context + 64)
            for start in range(0, context, _PREFILL_TOKENS):
                tokens = self._tokens(min(_PREFILL_TOKENS, context - start))
                self._engine.step([Chunk(session=session, start=start, tokens=tokens, is_partial=True)])

    def close(self, num_sessions: int) -> None:
        """Forget them."""
        for session in range(num_sessions):
            self._engine.close(session)

    def step_ms(self, num_sessions: int, context: int, lookahead: int) -> float:
        """One verification of random proposals, undone afterwards."""
        chunks = [
            Chunk(session=session, start=context, tokens=self._tokens(1 + lookahead), num_drafted=lookahead)
            for session in range(num_sessions)
        ]
        elapsed_ms = _timed_ms(lambda: self._engine.step(chunks))
        for session in range(num_sessions):
            self._engine.rollback(session, context)
        return elapsed_ms

    def _tokens(self, count: int) -> tuple[Token, ...]:
        return tuple(self._rng.randrange(6, self._engine.vocab_size) for _ in range(count))


class Products:
    """The linear layers of a model, packed by oneDNN."""

    def __init__(self, folder: Path) -> None:
        model = load_target(str(folder), dtype=torch.float32, device="cpu").model
        use_cpu_kernels(model)
        self._linears = [module for module in model.modules() if isinstance(module, PackedLinear)]

    @torch.inference_mode()
    def run_ms(self, num_rows: int) -> float:
        """All of them once."""
        inputs = {linear.in_features: torch.randn(num_rows, linear.in_features) for linear in self._linears}
        return _timed_ms(lambda: [linear(inputs[linear.in_features]) for linear in self._linears])


def _timed_ms(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return (time.perf_counter() - started_s) * 1e3


Times = list[float]


def measure(steps: Steps, products: Products, *, num_rows: int, context: int, repeats: int) -> tuple[Times, Times]:
    """What steps and their products took, ms."""
    num_sessions, lookahead = _BATCHES[num_rows]
    steps.open(num_sessions, context)
    taken = [(steps.step_ms(num_sessions, context, lookahead), products.run_ms(num_rows)) for _ in range(repeats)]
    steps.close(num_sessions)
    return [step_ms for step_ms, _ in taken], [products_ms for _, products_ms in taken]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per context and number of rows."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.load.engine_step", description=__doc__)
    parser.add_argument("--model", type=Path, default=_POCKET, help="folder of the target (the pocket target)")
    parser.add_argument("--intermediate-size", type=int, help="inflate the target to this width first, e.g. 32000")
    parser.add_argument("--rows", type=int, nargs="+", default=list(_BATCHES), choices=list(_BATCHES))
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--library", action="store_true", help="the library's layers instead of compiled kernels")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory(prefix="outrider-inflated-") as scratch:
        folder = chosen.model
        if chosen.intermediate_size:
            from evaluation.pocket.inflate import inflate

            inflate(folder.parent, Path(scratch), intermediate_size=chosen.intermediate_size)
            folder = Path(scratch) / "target"
        steps = Steps(folder, Kernels(compiled=not chosen.library, num_threads=chosen.threads))
        products = Products(folder)
    for context in chosen.contexts:
        for num_rows in chosen.rows:
            taken = measure(steps, products, num_rows=num_rows, context=context, repeats=chosen.repeats)
            step_ms, products_ms = (statistics.median(times) for times in taken)
            best_ms, best_products_ms = (min(times) for times in taken)
            print(
                f"context {context:5}  rows {num_rows:3}  step {step_ms:7.2f} ms, best {best_ms:7.2f}  "
                f"products {products_ms:7.2f} ms, best {best_products_ms:7.2f}  "
                f"ratio {step_ms / products_ms:.2f}, of the best {best_ms / best_products_ms:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
