"""Threads of verifier and drafter, live: deployments that differ in them stand side by side and answer in turn.

    python -m evaluation.load.threads [--threads 1/1,2/1,2/2] [--streams 1,4,16] [--lookahead 4] [--inflated]

Each setting (verifier's / drafter's threads) has roles of its own as plain processes; those that are not asked sleep.
Ratios are of runs in the same repeat, to the first setting.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from deployments.config import OutriderConfig, load
from deployments.ingress.generation import RouterClient
from evaluation.load.bursts import Cell
from evaluation.load.engines.records import INFLATED, POCKET
from evaluation.load.engines.run import pair_folder
from evaluation.load.lookaheads import TASKS, Prompt, answer_all, prompts_of
from evaluation.load.roles import running_roles

Results = dict[Cell, dict[str, list[float]]]
"""Tokens/s of each setting's repeats."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of every setting."""

    tasks: Sequence[str]
    streams: Sequence[int]
    lookahead: str
    num_repeats: int
    max_tokens: int
    target: str

    def prompts(self, task: str, num_streams: int, repeat: int) -> list[Prompt]:
        """Of one run; every repeat has its own."""
        return prompts_of(self.target, task, max(4, 2 * num_streams), 1 + repeat)


def with_threads(config: OutriderConfig, setting: str) -> OutriderConfig:
    """The configuration with "verifier/drafter" threads; "null" leaves a role its default."""
    verifier, drafter = (None if part == "null" else int(part) for part in setting.split("/"))
    return config.with_changes(verifier={"num_threads": verifier}, drafter={"num_threads": drafter})


async def measure(clients: dict[str, RouterClient], plan: Plan) -> Results:
    """All cells, all settings, all repeats; every other repeat in reverse."""
    results: Results = defaultdict(lambda: {setting: [] for setting in clients})
    for client in clients.values():  # allocators, caches, what roles learn of their steps
        await answer_all(client, plan.prompts("structured", 8, 0), 8, 16, plan.lookahead)
    for repeat in range(plan.num_repeats):
        for task in plan.tasks:
            for num_streams in plan.streams:
                prompts = plan.prompts(task, num_streams, repeat)
                for setting in list(clients) if repeat % 2 == 0 else list(clients)[::-1]:
                    burst = await answer_all(clients[setting], prompts, num_streams, plan.max_tokens, plan.lookahead)
                    results[task, num_streams][setting].append(burst.tokens_per_s)
    return results


def table(results: Results) -> str:
    """Markdown: medians of tokens/s, and of each setting's ratios to the first."""
    settings = list(next(iter(results.values())))
    columns = ["class", "streams", *settings, *(f"{setting} to {settings[0]}" for setting in settings[1:])]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for (task, num_streams), runs in results.items():
        speeds = [f"{median(runs[setting]):.0f}" for setting in settings]
        first = runs[settings[0]]
        ratios = [f"{median(a / b for a, b in zip(runs[setting], first, strict=True)):.2f}" for setting in settings[1:]]
        lines.append("| " + " | ".join([task, str(num_streams), *speeds, *ratios]) + " |")
    return "\n".join(lines)


async def compare(config: OutriderConfig, settings: Sequence[str], plan: Plan) -> Results:
    """Start the roles of every setting, measure, and end them."""
    with ExitStack() as stack:
        clients = {}
        for setting in settings:  # an invitation does not last until all are up
            roles = stack.enter_context(running_roles(with_threads(config, setting)))
            clients[setting], link = await roles.connect()
            stack.callback(link.close)
        return await measure(clients, plan)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.load.threads", description=__doc__)
    parser.add_argument("--config", type=Path, help="a configuration (the pocket pair)")
    parser.add_argument("--inflated", action="store_true", help="the pair inflated to 150 million parameters")
    parser.add_argument("--threads", default="1/1,2/1,2/2", help="verifier's/drafter's, comma separated (%(default)s)")
    parser.add_argument("--streams", default="1,4,16", help="comma separated (%(default)s)")
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma separated (%(default)s)")
    parser.add_argument("--lookahead", default="4", help="a number, or auto (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="%(default)s")
    parser.add_argument("--max-tokens", type=int, default=64, help="per answer (%(default)s)")
    args = parser.parse_args(arguments)
    config = load(args.config).resolve()
    with pair_folder(INFLATED if args.inflated else POCKET, print) as folder:
        if args.inflated:
            sources = {"model_source": str(folder / "target"), "assistant_source": str(folder / "assistant")}
            config = config.with_changes(model=sources)
        plan = Plan(
            args.tasks.split(","),
            [int(one) for one in args.streams.split(",")],
            args.lookahead,
            args.repeats,
            args.max_tokens,
            config.model.model_source,
        )
        print(table(asyncio.run(compare(config, args.threads.split(","), plan))))


if __name__ == "__main__":
    main()
