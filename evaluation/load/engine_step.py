"""How near a verifier's step is to its matrix products: `python -m evaluation.load.engine_step`.

The products alone are the model's linear layers with oneDNN's packed weights, one call each; attention alone is
torch's own over dense entries of the same sizes, one call a layer; a step is `PagedEngine.step`, decision included,
greedy. In turns: medians, and the best, which other load on the machine moves least.

Shapes: B sessions, Q queries of each, H heads, G kv heads, L entries, D head dimension.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

import deployments.models
from deployments.kernels.library import Kernels
from deployments.messages import SamplingParams, Token
from deployments.models.cpu_kernels import PackedLinear, use_cpu_kernels
from deployments.models.loading import load_target
from deployments.verifier.engine import Chunk
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from evaluation.load.stopwatch import timed_ms

_POCKET = Path(deployments.models.__file__).parent / "pocket" / "target"
ROOM = 64
"""Tokens that a session has room for beyond its context."""
# Rows of a step: (sessions, lookahead).
_BATCHES = {1: (1, 0), 5: (1, 4), 20: (4, 4), 80: (16, 4)}


class Steps:
    """An engine whose sessions stand at one context, stepped again and again from there."""

    def __init__(self, engine: PagedEngine, prompt_tokens: int = 256) -> None:
        self._engine = engine
        self._prompt_tokens = prompt_tokens
        self._rng = random.Random(0)

    def open(self, num_sessions: int, context: int) -> list[float]:
        """Sessions with this many computed tokens each; what each chunk of `prompt_tokens` took, ms."""
        for session in range(num_sessions):
            self._engine.open(session, SamplingParams(), context + ROOM)
        size = self._prompt_tokens
        return [
            self._prompt_ms(session, start, min(size, context - start))
            for session in range(num_sessions)
            for start in range(0, context, size)
        ]

    def prompt_ms(self, session: int, num_tokens: int) -> float:
        """A prompt's first chunk of so many tokens, of a session that is not open before nor afterwards."""
        self._engine.open(session, SamplingParams(), num_tokens + ROOM)
        elapsed_ms = self._prompt_ms(session, 0, num_tokens)
        self._engine.close(session)
        return elapsed_ms

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
        elapsed_ms = timed_ms(lambda: self._engine.step(chunks))
        for session in range(num_sessions):
            self._engine.rollback(session, context)
        return elapsed_ms

    def _prompt_ms(self, session: int, start: int, num_tokens: int) -> float:
        chunk = Chunk(session=session, start=start, tokens=self._tokens(num_tokens), is_partial=True)
        return timed_ms(lambda: self._engine.step([chunk]))

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
        return timed_ms(lambda: [linear(inputs[linear.in_features]) for linear in self._linears])


class Attention:
    """Every layer's attention over dense keys and values: what reading that many entries takes at least."""

    def __init__(self, folder: Path) -> None:
        self._target = load_target(str(folder), dtype=torch.float32, device="cpu")
        self._inputs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def open(self, num_sessions: int, context: int, lookahead: int) -> None:
        """Queries of one step and what they see."""
        config = self._target.text_config
        self._inputs = []
        for layer, kind in enumerate(config.layer_types):
            kv_heads, dim = self._target.kv_shape(layer)
            length = context + 1 + lookahead
            if kind == "sliding_attention":
                length = min(length, config.sliding_window + lookahead)
            query_BHQD = torch.randn(num_sessions, config.num_attention_heads, 1 + lookahead, dim)
            keys_BGLD, values_BGLD = torch.randn(2, num_sessions, kv_heads, length, dim)
            self._inputs.append((query_BHQD, keys_BGLD, values_BGLD))

    @torch.inference_mode()
    def run_ms(self) -> float:
        """All layers once."""
        return timed_ms(lambda: [scaled_dot_product_attention(*layer, enable_gqa=True) for layer in self._inputs])


@dataclass(frozen=True, slots=True)
class Taken:
    """What steps, their products and their attention took, ms, in turns."""

    step_ms: list[float]
    products_ms: list[float]
    attention_ms: list[float]

    def line(self, context: int, num_rows: int) -> str:
        """For the table: medians, the best, and the step against what it is made of."""
        parts = [f"context {context:5}  rows {num_rows:3}"]
        for name, times in (("step", self.step_ms), ("products", self.products_ms), ("attention", self.attention_ms)):
            parts.append(f"{name} {statistics.median(times):7.2f} ms, best {min(times):7.2f}")
        reductions: dict[str, Callable[[list[float]], float]] = {"ratio": statistics.median, "of the best": min}
        for name, reduced in reductions.items():
            step_ms, products_ms, attention_ms = map(reduced, (self.step_ms, self.products_ms, self.attention_ms))
            parts.append(
                f"{name} to products {step_ms / products_ms:.2f}, to both {step_ms / (products_ms + attention_ms):.2f}"
            )
        return "  ".join(parts)


def measure(
    steps: Steps, products: Products, attention: Attention, *, num_rows: int, context: int, repeats: int
) -> Taken:
    """Steps of so many rows at this context, beside their products and their attention."""
    num_sessions, lookahead = _BATCHES[num_rows]
    steps.open(num_sessions, context)
    attention.open(num_sessions, context, lookahead)
    taken = [
        (steps.step_ms(num_sessions, context, lookahead), products.run_ms(num_rows), attention.run_ms())
        for _ in range(repeats)
    ]
    steps.close(num_sessions)
    return Taken(*(list(times) for times in zip(*taken, strict=True)))


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
        target = load_target(str(folder), dtype=torch.float32, device="cpu")
        limits = CacheLimits(max_context_tokens=2048, num_kv_tokens=1 << 15)
        kernels = Kernels(compiled=not chosen.library, num_threads=chosen.threads)
        steps = Steps(PagedEngine(target, limits, kernels))
        products, attention = Products(folder), Attention(folder)
    for context in chosen.contexts:
        for num_rows in chosen.rows:
            taken = measure(steps, products, attention, num_rows=num_rows, context=context, repeats=chosen.repeats)
            print(taken.line(context, num_rows), flush=True)


if __name__ == "__main__":
    main()
