"""Two gloo ranks with half of the target each: the tokens, and the shadows, of one."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.config import ConfigError, OutriderConfig, parse
from deployments.drafter import building
from deployments.drafter.mtp_engine import load_mtp_engine
from deployments.ingress.generation import GenerateRequest
from deployments.messages import KvRange, SamplingParams, Token
from deployments.metering import Meter
from deployments.verifier.building import build_engine
from deployments.verifier.engine import Chunk, VerifierEngine
from deployments.verifier.rank_calls import RankLost
from tests.integration import test_preemption
from tests.support.equality import POCKET
from tests.support.pocket import chat_prompts
from tests.support.ranks import running_ranks
from tests.support.rig import running_rig
from tests.support.served_shapes import SMALL_STEPS, check
from tests.support.shapes import GEMMA_4, save_pair

SAMPLED = SamplingParams(temperature=0.9, seed=11)
TWO_GLOBAL_HEADS = {"num_global_key_value_heads": 2}
"""The miniatures of some shapes have a single global head, which two ranks cannot share."""
SHAPES = {
    "E4B": GEMMA_4["E4B"],
    **{
        name: dataclasses.replace(
            GEMMA_4[name],
            target={**GEMMA_4[name].target, **TWO_GLOBAL_HEADS},
            assistant={**GEMMA_4[name].assistant, **TWO_GLOBAL_HEADS},
        )
        for name in ("26B-A4B", "31B")
    },
}


def configured(folder: Path, num_ranks: int) -> OutriderConfig:
    return parse(
        {
            "model": {
                "model_source": str(folder),
                "assistant_source": f"{folder}-assistant",
                "max_context_tokens": 256,
            },
            "verifier": {"tensor_parallel_size": num_ranks, "kv_cache": {"num_tokens": 4096, "block_size": 4}},
        }
    ).resolve()


@pytest.mark.system  # two processes that start torch, per shape
@pytest.mark.parametrize("name", SHAPES)
async def test_the_text_of_two_ranks_is_the_librarys(tmp_path: Path, name: str) -> None:
    target = save_pair(tmp_path, SHAPES[name])
    drafter = load_mtp_engine(str(target), f"{target}-assistant", dtype=torch.float32, shadow_bytes=1 << 22)
    with running_ranks(configured(target, 2), tmp_path) as ranks:
        async with running_rig(verifiers=[ranks.engine], drafters=[drafter]) as rig:
            await check(rig, target)
            assert rig.of("drafter")[0].service.stats.num_draft_tokens > 0
        assert ranks.losses == []


@pytest.mark.system
async def test_drafters_inside_draft_for_all_ranks(tmp_path: Path) -> None:
    """Both kinds in the first rank's process, their services here: the library's text, and drafts that hold."""
    inside = {"placement": "colocated"}
    config = parse(
        {
            "model": {"max_context_tokens": 256},
            "speculation": {"drafters": ["mtp", "draft_model"]},
            "verifier": {"tensor_parallel_size": 2, "kv_cache": {"num_tokens": 4096}},
            "drafter": inside,
            "draft_model": inside,
        }
    ).resolve()
    with running_ranks(config, tmp_path) as ranks:
        services = {
            kind: building.service_over(config, kind, Meter(), ranks.engine.caller) for kind in config.colocated_kinds
        }
        async with running_rig(verifiers=[ranks.engine], inside=lambda: services) as rig:  # type: ignore[arg-type]
            for kind, service in services.items():
                await check(rig, POCKET / "target", kind)
                assert service.stats.num_draft_tokens > 0  # type: ignore[attr-defined]
            commits = [
                commit
                async for commit in rig.client.generate(
                    GenerateRequest(
                        id="rejection",
                        prompt=chat_prompts(1)[0][:200],
                        max_context_tokens=250,
                        params=SamplingParams(temperature=0.7, seed=3, acceptance="rejection"),
                        num_speculative_tokens=4,
                    )
                )
            ]
            assert sum(commit.num_accepted for commit in commits) > 5
        assert ranks.losses == []


@pytest.mark.system  # two processes that start torch
async def test_ranks_agree_on_who_makes_way(tmp_path: Path) -> None:
    target = save_pair(tmp_path, SHAPES["31B"])
    small = configured(target, 2).with_changes(
        model={"max_context_tokens": 192},
        speculation={"max_speculative_tokens": 8},
        verifier={"kv_cache": {"num_tokens": test_preemption.SMALL.num_kv_tokens}},
    )
    with running_ranks(small, tmp_path) as ranks:
        async with running_rig(verifiers=[ranks.engine], verifier=SMALL_STEPS) as rig:
            await test_preemption.check(rig, target)  # it sees that sessions have made way
        assert ranks.losses == []
        assert ranks.engine.memory.weights_bytes > 0


def test_steps_shadows_and_states_are_those_of_one_rank(tmp_path: Path) -> None:
    folder = POCKET / "target"
    fields = {"model": {"max_context_tokens": 512}, "verifier": {"kv_cache": {"num_tokens": 2048}}}
    alone = build_engine(parse(fields).resolve())
    shared = parse({**fields, "verifier": {**fields["verifier"], "tensor_parallel_size": 2}}).resolve()
    assert shared.model.model_source == str(folder)
    prompt = tuple(random.Random(5).randrange(6, 4096) for _ in range(290))
    with running_ranks(shared, tmp_path) as ranks:
        for engine in (alone, ranks.engine):
            engine.open(3, SAMPLED, 400)
        assert ranks.engine.kv_usage == alone.kv_usage > 0
        first, second = (drive(engine, prompt) for engine in (alone, ranks.engine))
        assert first == second
        for start, stop in ((0, 290), (283, 290), (12, 12)):
            for one, other in zip(alone.shadow(3, start, stop), ranks.engine.shadow(3, start, stop), strict=True):
                assert (one.layer_type, one.start, one.stop) == (other.layer_type, other.start, other.stop)
                assert_close(one, other)
        np.testing.assert_allclose(floats(alone.hidden(3)), floats(ranks.engine.hidden(3)), atol=1e-4)
        ranks.engine.close(3)
        assert ranks.engine.kv_usage == 0


def drive(engine: VerifierEngine, prompt: Sequence[Token]) -> list[tuple[int, Token]]:
    """A prompt in two chunks, then a proposal of which a part may hold, then a rollback and the same again."""
    decided = []
    engine.step([Chunk(session=3, start=0, tokens=tuple(prompt[:285]), is_partial=True)])
    for num_drafted in (4, 0):
        (outcome,) = engine.step([Chunk(session=3, start=285, tokens=tuple(prompt[285:]), num_drafted=num_drafted)])
        decided.append((outcome.num_accepted, outcome.next_token))
        engine.rollback(3, 285)
    engine.step([Chunk(session=3, start=285, tokens=tuple(prompt[285:]))])
    return decided


def floats(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype=np.float32)


def assert_close(one: KvRange, other: KvRange) -> None:
    np.testing.assert_allclose(floats(one.keys), floats(other.keys), atol=1e-4)
    np.testing.assert_allclose(floats(one.values), floats(other.values), atol=1e-4)


async def test_a_dead_rank_is_noticed_at_once_idle_or_not(tmp_path: Path) -> None:
    config = parse({"verifier": {"tensor_parallel_size": 2}}).resolve()
    with running_ranks(config, tmp_path) as ranks:
        ranks.engine.watch(asyncio.get_running_loop())
        ranks.engine.open(1, SAMPLED, 64)
        killed_s = time.monotonic()
        ranks.processes[1].kill()
        while not ranks.losses:
            assert time.monotonic() - killed_s < 10.0, "long before a step would time out"
            await asyncio.sleep(0.01)
        with pytest.raises(RankLost, match="rank 1 is gone"):
            ranks.engine.step([Chunk(session=1, start=0, tokens=(5, 6, 7))])


def test_a_size_that_cannot_divide_the_heads_names_those_that_can() -> None:
    with pytest.raises(ConfigError, match=r"tensor_parallel_size: 3 does not divide the model's heads; choose of 1, 2"):
        parse({"verifier": {"tensor_parallel_size": 3}}).resolve()
