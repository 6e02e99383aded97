"""Records how well answers can be drafted, at every token: texts for autoscaling/simulator (its recorded.json).

    python -m evaluation.load.texts --out recorded.json [--answers 30] [--max-tokens 300]

The target of the pocket pair writes greedy answers to held-out prompts, and at every token of them its assistant drafts
as far as it may, through the very engines that serve. Of each draft it is kept how many tokens hold, and how sure the
drafter was of each: of a few more than hold, as a draft may go on behind a miss.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from deployments.config import OutriderConfig, load
from deployments.drafter.engine import Draft, DraftRequest
from deployments.messages import SamplingParams, Token
from deployments.paged.chunk import Chunk
from deployments.policy.confidence import CONFIDENCE_EDGES, bin_of
from evaluation.load.lookaheads import TASKS, Prompt, prompts_of
from evaluation.pocket.acceptance import Bench

_SESSION = 1
_BEHIND = 2
"""Tokens behind a miss whose confidence is kept: drafts seldom go on for longer."""


def answer_of(bench: Bench, prompt: Prompt, lookahead: int, max_tokens: int) -> tuple[list[int], list[str]]:
    """One answer: by the tokens that it has already, how many of a draft's hold, and the bins of its confidences."""
    text, unread = list(prompt.tokens), 0
    most = len(text) + max_tokens + 1
    bench.verifier.open(_SESSION, SamplingParams(), most)
    bench.mtp.attach(_SESSION, SamplingParams())
    drafts: list[Draft] = []
    while len(text) < len(prompt.tokens) + max_tokens:
        (outcome,) = bench.verifier.step([Chunk(session=_SESSION, start=unread, tokens=tuple(text[unread:]))])
        text.append(outcome.next_token)
        if outcome.next_token in prompt.stop_token_ids:
            break
        bench.mtp.extend(_SESSION, bench.verifier.shadow(_SESSION, unread, len(text) - 1))
        unread = len(text) - 1
        hidden = bench.verifier.hidden(_SESSION)
        asked = DraftRequest(
            session=_SESSION, context_len=len(text), last_token=text[-1], lookahead=lookahead, hidden=hidden
        )
        drafts += bench.mtp.draft([asked])
    bench.verifier.close(_SESSION)
    bench.mtp.detach(_SESSION)
    answer = text[len(prompt.tokens) :]
    held = [0] + [_num_held(draft.tokens, answer[position:]) for position, draft in enumerate(drafts, start=1)]
    bins = [""] + [
        "".join(str(bin_of(confidence)) for confidence in draft.confidences[: count + 1 + _BEHIND])
        for draft, count in zip(drafts, held[1:], strict=True)
    ]
    return held[: len(answer)], bins[: len(answer)]


def _num_held(drafted: Sequence[Token], text: Sequence[Token]) -> int:
    for count, (token, wanted) in enumerate(zip(drafted, text, strict=False)):
        if token != wanted:
            return count
    return min(len(drafted), len(text))


def record(config: OutriderConfig, num_answers: int, max_tokens: int, seed: int) -> dict[str, object]:
    """So many answers of each task."""
    target = config.model.model_source
    bench = Bench(Path(target).parent)
    lookahead = config.speculation.max_speculative_tokens
    prompts = {task: prompts_of(target, task, num_answers, seed) for task in TASKS}
    answers = {
        task: [answer_of(bench, prompt, lookahead, max_tokens) for prompt in asked] for task, asked in prompts.items()
    }
    return {
        "edges": CONFIDENCE_EDGES,
        "answers": {
            task: [{"held": held, "confidences": " ".join(bins)} for held, bins in found]
            for task, found in answers.items()
        },
    }


def main() -> None:
    """Parse the arguments, record, write."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.load.texts", description=__doc__)
    parser.add_argument("--config", type=Path, help="a configuration (the pocket pair)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--answers", type=int, default=30, help="of each task (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=300, help="per answer (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the prompts (%(default)s)")
    args = parser.parse_args()
    recorded = record(load(args.config).resolve(), args.answers, args.max_tokens, args.seed)
    args.out.write_text(json.dumps(recorded, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
