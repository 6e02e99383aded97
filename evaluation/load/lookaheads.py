"""Live adaptive lookahead against fixed ones: roles as plain processes, settings in turn on the same prompts.

    python -m evaluation.load.lookaheads [--streams 1,4,8] [--lookaheads 0,2,3,5] [--repeats 5]

A repeat answers each cell's prompts once per setting, in an order that turns around every other repeat; every repeat
has prompts of its own. Ratios are of runs in the same repeat, so that a slow minute of the machine counts for nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from deployments.config import OutriderConfig, load
from deployments.ingress.generation import GenerateRequest, RouterClient
from deployments.messages import RequestClass, SamplingParams, Token
from deployments.policy.classes import classify
from evaluation.load.roles import running_roles

AUTO = "auto"
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


@dataclass(slots=True)
class Runs:
    """What one setting did in one cell: tokens/s of each repeat, and drafted and committed tokens and rounds in all."""

    tokens_per_s: list[float] = field(default_factory=list)
    num_tokens: int = 0
    num_rounds: int = 0
    num_drafted: int = 0


Cell = tuple[str, int]
"""(task, streams)."""
Results = dict[Cell, dict[str, Runs]]


def prompts_of(target: str, task: str, count: int, seed: int) -> list[Prompt]:
    """Held-out chat prompts of one task, or of all in turn."""
    if task == MIXED:
        each = [prompts_of(target, one, -(-count // len(TASKS)), seed) for one in TASKS]
        return [prompt for row in zip(*each, strict=True) for prompt in row][:count]
    from transformers import AutoTokenizer

    from evaluation.pocket.prompts import held_out

    tokenizer = AutoTokenizer.from_pretrained(target)
    stop = tuple(tokenizer.convert_tokens_to_ids(["<eos>", "<turn|>"]))
    return [
        Prompt(
            tuple(tokenizer.apply_chat_template(e.prompt_messages, add_generation_prompt=True, return_dict=False)),
            classify("\n".join(message["content"] for message in e.prompt_messages)),
            stop,
        )
        for e in held_out(task, count, seed)  # type: ignore[arg-type]
    ]


async def answer_all(
    client: RouterClient, prompts: Sequence[Prompt], num_streams: int, max_tokens: int, setting: str, runs: Runs
) -> None:
    """Keep `num_streams` requests in flight until all prompts are answered; adds one repeat to `runs`."""
    queue = iter(prompts)
    num_tokens = 0

    async def stream() -> None:
        nonlocal num_tokens
        for prompt in queue:
            lookahead = None if setting == AUTO else int(setting)
            request = prompt.request(f"r{time.perf_counter_ns()}", max_tokens, lookahead)
            async for commit in client.generate(request):
                num_tokens += len(commit.tokens)
                runs.num_rounds += 1
                runs.num_drafted += commit.num_drafted

    started_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(num_streams):
            group.create_task(stream())
    runs.tokens_per_s.append(num_tokens / (time.perf_counter() - started_s))
    runs.num_tokens += num_tokens


async def measure(client: RouterClient, args: argparse.Namespace, target: str) -> Results:
    """All cells, all settings, all repeats."""
    settings = [AUTO, *args.lookaheads.split(",")]
    results: Results = defaultdict(lambda: {setting: Runs() for setting in settings})
    for repeat in range(args.repeats):
        for task in args.tasks.split(","):
            for num_streams in (int(one) for one in args.streams.split(",")):
                prompts = prompts_of(target, task, max(args.prompts, 2 * num_streams), 1 + repeat)
                for setting in settings if repeat % 2 == 0 else settings[::-1]:
                    runs = results[task, num_streams][setting]
                    await answer_all(client, prompts, num_streams, args.max_tokens, setting, runs)
    return results


def table(results: Results) -> str:
    """Markdown: medians, the best fixed lookahead, and medians of auto's ratios to off and to that."""
    settings = list(next(iter(results.values())))
    fixed = settings[1:]
    columns = ["class", "streams", *settings, "drafted per round", "auto / off", "best k", "auto / best k"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for (task, num_streams), runs in results.items():
        speeds = {setting: median(runs[setting].tokens_per_s) for setting in settings}
        best = max(fixed, key=speeds.__getitem__)
        auto = runs[AUTO]
        cells = [task, str(num_streams), *(f"{speeds[setting]:.0f}" for setting in settings)]
        cells += [f"{auto.num_drafted / max(1, auto.num_rounds):.2f}"]
        for other in ("0", best) if "0" in fixed else (best,):
            ratios = [a / b for a, b in zip(auto.tokens_per_s, runs[other].tokens_per_s, strict=True)]
            cells += [*([best] if len(cells) > len(settings) + 3 or "0" not in fixed else []), f"{median(ratios):.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def without_prefix_reuse(config: OutriderConfig) -> OutriderConfig:
    """The same prompts come once per setting: none shall find what another one before it has read."""
    verifier = config.verifier.model_copy(update={"prefix_reuse": False})
    return config.model_copy(update={"verifier": verifier})


def main() -> None:
    """Parse the arguments, start the roles, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.load.lookaheads", description=__doc__)
    parser.add_argument("--config", type=Path, help="a configuration (the pocket pair)")
    parser.add_argument("--streams", default="1,4,8", help="comma separated (%(default)s)")
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma separated, mixed too (%(default)s)")
    parser.add_argument("--lookaheads", default="0,2,3,5", help="fixed ones, comma separated (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="%(default)s")
    parser.add_argument("--prompts", type=int, default=4, help="per run, at least two per stream (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=64, help="per answer (%(default)s)")
    args = parser.parse_args()
    config = without_prefix_reuse(load(args.config)).resolve()

    async def run() -> Results:
        with running_roles(config) as roles:
            client, link = await roles.connect()
            for setting in (AUTO, "4"):  # allocators, caches, lazily built kernels
                warm = prompts_of(config.model.model_source, "structured", 8, 0)
                await answer_all(client, warm, 8, 16, setting, Runs())
            try:
                return await measure(client, args, config.model.model_source)
            finally:
                link.close()

    print(table(asyncio.run(run())))


if __name__ == "__main__":
    main()
