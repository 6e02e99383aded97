"""Live adaptive lookahead against fixed ones: roles as plain processes, short bursts on the same prompts.

    python -m evaluation.load.lookaheads [--streams 1,4,8] [--lookaheads 0,2,3,5] [--seconds 300 | --repeats 20]

In a turn all settings answer the same prompts, fresh ones each turn, in an order that is drawn for it; cells take
turns. Ratios are of bursts in the same turn, so that a slow second of the machine counts for nobody (`bursts.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.cli.arguments import above_zero, counts, output_file, positive, positives
from deployments.config import OutriderConfig, load
from deployments.ingress.generation import GenerateRequest, RouterClient
from deployments.messages import RequestClass, SamplingParams, Token
from deployments.policy.classes import classify
from evaluation.load.bursts import AUTO, Burst, Cells, rows, table
from evaluation.load.roles import running_roles

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TASKS = ("structured", "code", "prose")
MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, where the answer ends, and what the ingress would take the text for."""

    tokens: tuple[Token, ...]
    request_class: RequestClass
    stop_token_ids: tuple[Token, ...]

    def request(self, name: str, max_tokens: int, lookahead: int | None) -> GenerateRequest:
        """Ask for a greedy answer; None leaves the lookahead to the router."""
        return GenerateRequest(
            id=name,
            prompt=self.tokens,
            max_context_tokens=len(self.tokens) + max_tokens,
            params=SamplingParams(),
            stop_token_ids=self.stop_token_ids,
            request_class=self.request_class,
            num_speculative_tokens=lookahead,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked: no sweep over the cells begins after so many seconds or repeats, but one there is."""

    tasks: Sequence[str]
    streams: Sequence[int]
    lookaheads: Sequence[int]
    num_prompts: int
    max_tokens: int
    seconds: float = math.inf
    num_repeats: float = math.inf

    @property
    def settings(self) -> tuple[str, ...]:
        """Auto, then each fixed lookahead once."""
        return (AUTO, *dict.fromkeys(str(lookahead) for lookahead in self.lookaheads))

    def sweeps(self) -> Iterator[int]:
        """Count the sweeps as long as there is to be another one."""
        end_s = time.monotonic() + self.seconds
        for number in count():
            if number and (number >= self.num_repeats or time.monotonic() >= end_s):
                return
            yield number


def prompts_of(target: str, task: str, count: int, seed: int) -> list[Prompt]:
    """Held-out chat prompts of one task, or of all in turn."""
    if task == MIXED:
        each = [prompts_of(target, one, -(-count // len(TASKS)), seed) for one in TASKS]
        return [prompt for row in zip(*each, strict=True) for prompt in row][:count]
    from evaluation.pocket.prompts import held_out

    tokenizer = _tokenizer(target)
    stop = tuple(tokenizer.convert_tokens_to_ids(["<eos>", "<turn|>"]))
    return [
        Prompt(
            tuple(tokenizer.apply_chat_template(e.prompt_messages, add_generation_prompt=True, return_dict=False)),
            classify("\n".join(message["content"] for message in e.prompt_messages)),
            stop,
        )
        for e in held_out(task, count, seed)  # type: ignore[arg-type]
    ]


@lru_cache(maxsize=1)
def _tokenizer(target: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer  # here: role processes import this module too

    return AutoTokenizer.from_pretrained(target)


async def answer_all(
    client: RouterClient, prompts: Sequence[Prompt], num_streams: int, max_tokens: int, setting: str
) -> Burst:
    """Keep `num_streams` requests in flight until all prompts are answered."""
    queue = iter(prompts)
    lookahead = None if setting == AUTO else int(setting)
    num_tokens = num_rounds = num_drafted = 0

    async def stream() -> None:
        nonlocal num_tokens, num_rounds, num_drafted
        for prompt in queue:
            request = prompt.request(f"r{time.perf_counter_ns()}", max_tokens, lookahead)
            async for commit in client.generate(request):
                num_tokens += len(commit.tokens)
                num_rounds += 1
                num_drafted += commit.num_drafted

    started_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(num_streams):
            group.create_task(stream())
    return Burst(num_tokens, num_rounds, num_drafted, time.perf_counter() - started_s)


async def measure(client: RouterClient, plan: Plan, supply: Callable[[str, int, int], Sequence[Prompt]]) -> Cells:
    """Sweep over the cells, a turn each; `supply` has prompts by task, count and seed, which is each turn's own."""
    cells = defaultdict(list)
    order = random.Random(0)
    seeds = count(1)
    for _ in plan.sweeps():
        for task in plan.tasks:
            for num_streams in plan.streams:
                prompts = supply(task, max(plan.num_prompts, 2 * num_streams), next(seeds))
                cells[task, num_streams].append(
                    {
                        setting: await answer_all(client, prompts, num_streams, plan.max_tokens, setting)
                        for setting in order.sample(plan.settings, len(plan.settings))
                    }
                )
    return cells


def without_prefix_reuse(config: OutriderConfig) -> OutriderConfig:
    """The same prompts come once per setting: none shall find what another one before it has read."""
    verifier = config.verifier.model_copy(update={"prefix_reuse": False})
    return config.model_copy(update={"verifier": verifier})


async def compare(config: OutriderConfig, plan: Plan) -> Cells:
    """Start the roles, let every setting answer once for nothing, measure, and end them."""
    with running_roles(config) as roles:
        client, link = await roles.connect()
        supply = partial(prompts_of, config.model.model_source)
        try:
            for setting in plan.settings:  # allocators, caches, lazily built kernels
                await answer_all(client, supply("structured", 8, 0), 8, 16, setting)
            return await measure(client, plan, supply)
        finally:
            link.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, measure, write, print."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.load.lookaheads", description=__doc__)
    parser.add_argument("--config", type=Path, help="a configuration (the pocket pair)")
    parser.add_argument("--streams", type=positives, default="1,4,8", help="comma separated (%(default)s)")
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma separated, mixed too (%(default)s)")
    parser.add_argument(
        "--lookaheads", type=counts, default="0,2,3,5", help="fixed ones, comma separated; 0 is off (%(default)s)"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=above_zero, default=300, help="to the last sweep's beginning (%(default)s)")
    length.add_argument("--repeats", type=positive, help="sweeps over the cells, instead of --seconds")
    parser.add_argument("--prompts", type=positive, default=24, help="per burst, at least two a stream (%(default)s)")
    parser.add_argument("--max-tokens", type=positive, default=64, help="per answer (%(default)s)")
    parser.add_argument("--out", type=output_file, metavar="FILE", help="also write every burst to this JSON file")
    args = parser.parse_args(arguments)
    plan = Plan(
        tasks=args.tasks.split(","),
        streams=args.streams,
        lookaheads=args.lookaheads,
        num_prompts=args.prompts,
        max_tokens=args.max_tokens,
        seconds=math.inf if args.repeats else args.seconds,
        num_repeats=args.repeats or math.inf,
    )
    cells = asyncio.run(compare(without_prefix_reuse(load(args.config)).resolve(), plan))
    if args.out is not None:
        args.out.write_text(json.dumps(rows(cells), indent=1) + "\n")
    print(table(cells))


if __name__ == "__main__":
    main()
