"""Records how well answers can be drafted, token by token: texts for autoscaling/simulator (its recorded.json).

    python -m evaluation.load.texts --out recorded.json [--answers 60] [--max-tokens 300]

Every round of an answer asks for the longest lookahead, so that it goes on to the next token that the drafter gets
wrong. Of an answer the lengths of its runs are kept: so many tokens that hold, one that does not, and so on to its end.
Answers for part of which nobody drafted are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from deployments.config import OutriderConfig, load
from deployments.ingress.generation import RouterClient
from evaluation.load.lookaheads import TASKS, Prompt, prompts_of
from evaluation.load.roles import running_roles


async def runs_of(client: RouterClient, name: str, prompt: Prompt, lookahead: int, max_tokens: int) -> list[int] | None:
    """One greedy answer; None if a round of it had no proposal.

    A token that the target adds to a proposal which held whole counts as one that holds, as does the first.
    """
    runs, is_whole, num_rounds = [0], True, 0
    async for commit in client.generate(prompt.request(name, max_tokens, lookahead)):
        num_rounds += 1
        is_whole = is_whole and (commit.num_drafted > 0 or num_rounds == 1 or commit.finish_reason is not None)
        runs[-1] += len(commit.tokens)
        if commit.num_accepted < commit.num_drafted and len(commit.tokens) > commit.num_accepted:
            runs[-1] -= 1
            runs.append(0)
    return runs if is_whole else None


async def record(config: OutriderConfig, num_answers: int, max_tokens: int, seed: int) -> dict[str, list[list[int]]]:
    """So many answers of each task, one at a time."""
    lookahead = config.speculation.max_speculative_tokens
    recorded: dict[str, list[list[int]]] = {}
    with running_roles(config) as roles:
        client, link = await roles.connect()
        for task in TASKS:
            prompts: Sequence[Prompt] = prompts_of(config.model.model_source, task, num_answers, seed)
            answers = [
                await runs_of(client, f"{task}-{index}", prompt, lookahead, max_tokens)
                for index, prompt in enumerate(prompts)
            ]
            recorded[task] = [runs for runs in answers if runs is not None]
        link.close()
    return recorded


def main() -> None:
    """Parse the arguments, start the roles, record, write."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.load.texts", description=__doc__)
    parser.add_argument("--config", type=Path, help="a configuration (the pocket pair)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--answers", type=int, default=60, help="of each task (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=300, help="per answer (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the prompts (%(default)s)")
    args = parser.parse_args()
    config = load(args.config).resolve()
    recorded = asyncio.run(record(config, args.answers, args.max_tokens, args.seed))
    lines = [
        f"    {json.dumps(task)}: {json.dumps(answers, separators=(',', ':'))}" for task, answers in recorded.items()
    ]
    args.out.write_text('{\n  "runs": {\n' + ",\n".join(lines) + "\n  }\n}\n")


if __name__ == "__main__":
    main()
