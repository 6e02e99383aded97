"""Packed passes compute what the library computes: logits, hidden states, keys and values, for every shape."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from deployments.kernels.library import Kernels
from deployments.messages import SamplingParams, Token
from deployments.models.loading import cache_keyword, kv_shape, load_target
from deployments.paged.build import build_forward
from deployments.paged.compiled_forward import CompiledForward
from deployments.paged.forward import PagedForward
from deployments.paged.kv_cache import BlockTables, KvPools
from deployments.verifier.engine import Chunk
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from tests.support.choosers import ARCHITECTURES
from tests.support.equality import POCKET, Reference
from tests.support.tiny_models import save_tiny_target

TOLERANCE = 1e-4
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "shared_kv_and_per_layer_inputs": {
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "num_kv_shared_layers": 3,
        "hidden_size_per_layer_input": 8,
        "use_double_wide_mlp": True,
    },
    "keys_are_values": {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "final_logit_softcapping": 30.0},
    "experts": {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 24},
}


WIDE = {"head_dim": 16, "global_head_dim": 32}
COMPILED_SHAPES: dict[str, dict[str, Any]] = {
    "wide": WIDE,
    "wide_keys_are_values": WIDE | SHAPES["keys_are_values"],
    "wide_many_heads": WIDE | {"num_attention_heads": 20, "num_key_value_heads": 2, "global_head_dim": 80},
}


OLDER = {
    f"{name} {architecture}": architecture
    for architecture in ARCHITECTURES[1:]
    for name in ("wide_many_heads", "pocket")
}
"""The same on kernels that are compiled for older processors."""


@pytest.fixture(scope="module", params=[*SHAPES, *COMPILED_SHAPES, "llama", "pocket", "pocket_library", *OLDER])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name: str = request.param.split()[0]
    if name.startswith("pocket"):
        return POCKET / "target"
    path = tmp_path_factory.mktemp(name)
    return save_llama(path) if name == "llama" else save_tiny_target(path, **(SHAPES | COMPILED_SHAPES)[name])


def save_llama(path: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, initializer_range=0.3)).save_pretrained(path)
    return path


@dataclass(slots=True)
class Bench:
    """A runner over churned block tables, beside the reference."""

    forward: PagedForward
    tables: BlockTables
    reference: Reference
    vocab_size: int

    def run(self, chunks: Sequence[Chunk]) -> list[torch.Tensor]:
        """One pass; the logits of each chunk that is not partial, as the engine would cut them."""
        output = self.forward.forward(chunks)
        sizes = [1 + chunk.num_drafted for chunk in chunks if not chunk.is_partial]
        return list(output.logits_RV[: sum(sizes)].split(sizes))


@pytest.fixture
def bench(folder: Path, request: pytest.FixtureRequest) -> Bench:
    param: str = request.node.callspec.params["folder"]
    name = param.split()[0]
    target = load_target(str(folder), dtype=torch.float32, device="cpu")
    config = target.text_config
    tables = BlockTables(num_blocks=700, block_size=4, max_sessions=12, max_session_tokens=320)
    churn(tables)
    num_own = config.num_hidden_layers - getattr(config, "num_kv_shared_layers", 0)
    shapes = {layer: kv_shape(config, layer) for layer in range(num_own)}
    pools = KvPools(layer_shapes=shapes, num_slots=701 * 4, dtype=torch.float32, device="cpu")
    kernels = Kernels(compiled=name != "pocket_library", num_threads=2, architecture=OLDER.get(param, "native"))
    forward = build_forward(target, tables, pools, kernels)
    assert isinstance(forward, CompiledForward) == (name in COMPILED_SHAPES or name == "pocket")
    return Bench(forward, tables, Reference(folder), config.vocab_size)


def churn(tables: BlockTables) -> None:
    """Open and close sessions so that later ones get their blocks in no order."""
    rng = random.Random(3)
    for _ in range(40):
        sessions = list(range(100, 112))
        for session in sessions:
            tables.reserve(session, rng.randrange(1, 100))
        rng.shuffle(sessions)
        for session in sessions:
            tables.release(session)


def test_mixed_batches_with_rollbacks_equal_teacher_forcing(bench: Bench) -> None:
    rng = random.Random(2)
    longest = 300 if bench.vocab_size > 1000 else 90
    lengths = [longest, longest - 7, 60, 33, 20, 9, 1, 2]
    known = {i: [rng.randrange(bench.vocab_size) for _ in range(n)] for i, n in enumerate(lengths)}
    for session in known:
        bench.tables.reserve(session, 320)
    num_compared = 0
    for _ in range(12):
        chunks = [random_chunk(bench, session, tokens, rng) for session, tokens in known.items()]
        rng.shuffle(chunks)
        for chunk, logits in zip([c for c in chunks if not c.is_partial], bench.run(chunks), strict=True):
            drafted = chunk.tokens[len(chunk.tokens) - chunk.num_drafted :]
            expected = bench.reference.logits([*known[chunk.session], *drafted])[-1 - chunk.num_drafted :]
            assert (logits - expected).abs().max() <= TOLERANCE
            num_compared += len(logits)
        for chunk in chunks:
            computed_len = chunk.start + len(chunk.tokens)
            if not chunk.is_partial:
                num_accepted = rng.randrange(chunk.num_drafted + 1)
                first_drafted = len(chunk.tokens) - chunk.num_drafted
                known[chunk.session] += chunk.tokens[first_drafted : first_drafted + num_accepted]
                known[chunk.session].append(rng.randrange(bench.vocab_size))
                computed_len -= chunk.num_drafted - num_accepted
            bench.tables.set_computed_len(chunk.session, computed_len)
    assert num_compared > 150
    bench.tables.check_integrity()


def random_chunk(bench: Bench, session: int, known: Sequence[Token], rng: random.Random) -> Chunk:
    """The next piece of a prompt, of any size, or a verification of up to 8 garbage tokens."""
    start = bench.tables.computed_len(session)
    size = rng.choice((1, 3, 16, 17, 40, 120))
    if size < len(known) - start:
        return Chunk(session=session, start=start, tokens=tuple(known[start : start + size]), is_partial=True)
    drafted = [rng.randrange(bench.vocab_size) for _ in range(rng.choice((0, 0, 1, 3, 8)))]
    return Chunk(session=session, start=start, tokens=(*known[start:], *drafted), num_drafted=len(drafted))


@pytest.mark.parametrize("size", [1, 5, 16, 64, 200])
def test_any_chunking_of_a_prompt_yields_the_same(bench: Bench, size: int) -> None:
    rng = random.Random(size)
    prompt = [rng.randrange(bench.vocab_size) for _ in range(80)]
    bench.tables.reserve(0, 320)
    logits: list[torch.Tensor] = []
    for start in range(0, len(prompt), size):
        tokens = tuple(prompt[start : start + size])
        chunk = Chunk(session=0, start=start, tokens=tokens, is_partial=start + size < len(prompt))
        logits = bench.run([chunk])
        bench.tables.set_computed_len(0, start + len(tokens))
    assert (logits[0] - bench.reference.logits(prompt)[-1:]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("shape", ["plain", "shared_kv_and_per_layer_inputs", "keys_are_values", "pocket"])
def test_shadow_and_hidden_state_are_the_librarys(shape: str, tmp_path: Path) -> None:
    folder = POCKET / "target" if shape == "pocket" else save_tiny_target(tmp_path, **SHAPES[shape])
    engine = PagedEngine(
        load_target(str(folder), dtype=torch.float32, device="cpu"),
        CacheLimits(max_context_tokens=300, num_kv_tokens=2_000),
    )
    rng = random.Random(4)
    prompt = [rng.randrange(engine.vocab_size) for _ in range(280)]
    engine.open(7, SamplingParams(), 300)
    engine.step([Chunk(session=7, start=0, tokens=tuple(prompt[:150]), is_partial=True)])
    hidden_150 = engine.hidden(7)
    reference = Reference(folder)
    right = reference.generate(prompt, SamplingParams(), 2)
    (outcome,) = engine.step([Chunk(session=7, start=150, tokens=(*prompt[150:], *right, 8), num_drafted=3)])
    assert outcome.num_accepted == 2
    config = reference.model.config
    window, num_own = config.sliding_window, config.num_hidden_layers - config.num_kv_shared_layers
    cache = DynamicCache()  # without a configuration it keeps every entry of every layer
    with torch.inference_mode():
        inputs = {"input_ids": torch.tensor([prompt + right]), cache_keyword(reference.model): cache}
        output = reference.model(**inputs, output_hidden_states=True)
    hidden = output.hidden_states[-1][0]
    assert_close(hidden_150, hidden[149])
    assert_close(engine.hidden(7), hidden[281])
    num_gone = max(0, 282 - window - 16) // 16 * 16  # the session may roll back 16 entries

    for start, stop in ((0, 280), (0, 20), (100, 279), (279, 280), (30, 30)):
        ranges = engine.shadow(7, start, stop)
        assert [entry.layer_type for entry in ranges] == ["sliding_attention", "full_attention"]
        for entry in ranges:
            layer = max(i for i in range(num_own) if config.layer_types[i] == entry.layer_type)
            is_sliding = entry.layer_type == "sliding_attention"
            # What is let go of nobody needs who will have the last window.
            first = min(stop, max(start, stop - window, num_gone)) if is_sliding else start
            assert (entry.start, entry.stop) == (first, stop)
            assert_close(entry.keys, cache.layers[layer].keys[0, :, first:stop].transpose(0, 1))
            assert_close(entry.values, cache.layers[layer].values[0, :, first:stop].transpose(0, 1))


def assert_close(raw: bytes, expected: torch.Tensor) -> None:
    assert len(raw) == expected.numel() * 4
    if raw:
        got = torch.frombuffer(bytearray(raw), dtype=torch.float32).view(expected.shape)
        assert (got - expected).abs().max() <= TOLERANCE


def test_a_context_without_shadow_layers_says_so(tmp_path: Path) -> None:
    target = load_target(str(save_llama(tmp_path)), dtype=torch.float32, device="cpu")
    engine = PagedEngine(target, CacheLimits(max_context_tokens=100, num_kv_tokens=200))
    engine.open(1, SamplingParams(), 50)
    engine.step([Chunk(session=1, start=0, tokens=(5, 6), is_partial=True)])
    with pytest.raises(ValueError, match="set the drafter to none"):
        engine.shadow(1, 0, 2)
