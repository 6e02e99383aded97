"""The compiled pass gives a position the same bits whatever is beside it, cut however, on however many threads."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.kernels.library import Kernels
from deployments.messages import Token
from deployments.models.loading import kv_shape, load_target
from deployments.paged.build import build_forward
from deployments.paged.chunk import Chunk
from deployments.paged.compiled_forward import CompiledForward
from deployments.paged.kv_cache import BlockTables, KvPools
from tests.support.choosers import ARCHITECTURES
from tests.support.equality import POCKET
from tests.support.tiny_models import save_tiny_target

WIDE = {"head_dim": 16, "global_head_dim": 96, "hidden_size": 48, "num_attention_heads": 6}


class Passes:
    """One model on pools of its own."""

    def __init__(
        self, folder: Path, *, num_threads: int, block_size: int, architecture: str = "native", max_tokens: int = 400
    ) -> None:
        target = load_target(str(folder), dtype=torch.float32, device="cpu")
        config: Any = target.text_config
        self.vocab_size: int = config.vocab_size
        num_blocks = 10 * max_tokens // block_size
        self.tables = BlockTables(
            num_blocks=num_blocks, block_size=block_size, max_sessions=8, max_session_tokens=max_tokens
        )
        pools = KvPools(
            layer_shapes={layer: kv_shape(config, layer) for layer in range(config.num_hidden_layers)},
            num_slots=(num_blocks + 1) * block_size,
            dtype=torch.float32,
            device="cpu",
        )
        kernels = Kernels(num_threads=num_threads, architecture=architecture)
        self.forward = build_forward(target, self.tables, pools, kernels)
        assert isinstance(self.forward, CompiledForward)

    def run(self, chunks: Sequence[Chunk]) -> list[torch.Tensor]:
        """Logits of each chunk that is not partial; computed lengths move to the chunks' ends."""
        output = self.forward.forward(chunks)
        for chunk in chunks:
            self.tables.set_computed_len(chunk.session, chunk.start + len(chunk.tokens))
        sizes = [1 + chunk.num_drafted for chunk in chunks if not chunk.is_partial]
        return list(output.logits_RV.split(sizes))

    def logits(self, session: int, tokens: Sequence[Token], size: int) -> torch.Tensor:
        """The last position's logits after a prompt cut into chunks of `size`."""
        found: list[torch.Tensor] = []
        for start in range(0, len(tokens), size):
            piece = tuple(tokens[start : start + size])
            is_partial = start + size < len(tokens)
            found = self.run([Chunk(session=session, start=start, tokens=piece, is_partial=is_partial)])
        return found[0][0]


@pytest.fixture(scope="module", params=["pocket", "tiny"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return POCKET / "target" if request.param == "pocket" else save_tiny_target(tmp_path_factory.mktemp("t"), **WIDE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_bits_depend_on_the_context_alone(folder: Path, architecture: str) -> None:
    rng = random.Random(1)
    alone = Passes(folder, num_threads=1, block_size=16, architecture=architecture)
    tokens = [rng.randrange(alone.vocab_size) for _ in range(330)]
    others = [[rng.randrange(alone.vocab_size) for _ in range(n)] for n in (301, 9, 64)]
    for session in range(4):
        alone.tables.reserve(session, 400)
    expected = alone.logits(0, tokens, 400)
    for num_threads, block_size, size in ((1, 16, 7), (2, 16, 1), (3, 16, 100), (2, 4, 33)):
        passes = Passes(folder, num_threads=num_threads, block_size=block_size, architecture=architecture)
        for session in range(4):
            passes.tables.reserve(session, 400)
        for session, other in enumerate(others, 1):
            passes.run([Chunk(session=session, start=0, tokens=tuple(other), is_partial=True)])
        assert torch.equal(passes.logits(0, tokens, size), expected)
        # Again as a proposal's third row among other sessions' tokens.
        passes.tables.set_computed_len(0, 327)
        crowd = [
            Chunk(session=session, start=len(other), tokens=tuple(other[:5]), num_drafted=4)
            for session, other in enumerate(others, 1)
        ]
        mine = Chunk(session=0, start=327, tokens=(*tokens[327:], 5, 6), num_drafted=4)
        assert torch.equal(passes.run([crowd[0], mine, *crowd[1:]])[1][2], expected)


def test_the_bits_of_a_long_context_depend_on_it_alone(tmp_path: Path) -> None:
    """So long a one that fewer rows are attended together, and its window begins anywhere in a vector."""
    folder = save_tiny_target(tmp_path, **WIDE, sliding_window=100, max_position_embeddings=4096)
    rng = random.Random(2)
    tokens = [rng.randrange(97) for _ in range(3001)]
    found = []
    for num_threads, block_size, size in ((1, 16, 3001), (2, 16, 700), (1, 4, 97), (2, 16, 64)):
        passes = Passes(folder, num_threads=num_threads, block_size=block_size, max_tokens=3200)
        passes.tables.reserve(0, 3200)
        found.append(passes.logits(0, tokens, size))
    assert all(torch.equal(logits, found[0]) for logits in found[1:])


def test_a_context_that_differs_gives_other_bits(folder: Path) -> None:
    passes = Passes(folder, num_threads=1, block_size=16)
    passes.tables.reserve(0, 400)
    tokens = [5] * 100
    first = passes.logits(0, tokens, 400)
    assert not torch.equal(passes.logits(0, [6, *tokens[1:]], 400), first)
